# SPDX-License-Identifier: Apache-2.0
"""Time to judge responses, also with answers that never end, in comparison with plain math-verify.

    .venv/bin/python benchmarks/verifier_speed.py

10,000 responses in the style of GSM8K, judged by two workers; the same with 1 % answers that never end, which must
change no other verdict and cost at most their own time limit divided by the number of workers; and plain math-verify
(parse and verify, in this process) on a part of them, as the alternative. Everything runs in one process, in turn.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import time
from pathlib import Path

from recipe.agpo.arguments import finite, positive, whole
from recipe.agpo.rewards import Item, Verifier
from recipe.agpo.rewards import maths as maths_module
from recipe.agpo.rewards.verdict import Judgement, Work

RESULTS = Path(__file__).resolve().parent / "results"
ENDINGS = (
    "#### {a}",
    "So the total is \\boxed{{{a}}}.",
    "The answer is ${a}$.",
    "The answer is \\${a:,}.",
    "**Answer:** {a}",
)
HANG = "\\boxed{never ends}"


def responses(count: int, seed: int) -> list[tuple[str, str]]:
    """(response, gold), about half of them right."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        x, y, z = (draw.randint(2, 99) for _ in range(3))
        gold = x * y + z
        answer = gold if draw.random() < 0.5 else gold + draw.randint(1, 9)
        work = (
            f"Each of the {x} boxes holds {y} apples, so there are {x} * {y} = {x * y} apples in the boxes.\n"
            f"Together with the {z} apples on the table there are {x * y} + {z} = {answer} apples.\n"
        )
        made.append((work + draw.choice(ENDINGS).format(a=answer), str(gold)))
    return made


def timed(verifier: Verifier, items: list[Item]) -> tuple[float, list[tuple[float, str]]]:
    started = time.perf_counter()
    verdicts = verifier.verify_many(items)
    return time.perf_counter() - started, [(v.outcome, v.status) for v in verdicts]


def judge_or_hang(original):  # type: ignore[no-untyped-def]
    """The grader, but for one answer that stands in for every computation that never ends."""

    def judge(response, gold, args):  # type: ignore[no-untyped-def]
        if response.endswith(HANG):
            return Work("recipe.agpo.rewards.self_test:hang", [], lambda _: Judgement(0.0, True, ""))
        return original(response, gold, args)

    return judge


def plain_math_verify(pairs: list[tuple[str, str]]) -> tuple[float, list[float]]:
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    from math_verify import parse, verify

    parse("$1$")
    started = time.perf_counter()
    found = [float(verify(parse(gold), parse(response))) for response, gold in pairs]
    return time.perf_counter() - started, found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--responses", type=positive, default=10_000)
    parser.add_argument("--alternative", type=positive, default=500, help="responses for plain math-verify")
    parser.add_argument("--workers", type=positive, default=2)
    parser.add_argument("--time-limit", type=finite, default=1.0, help="seconds of a hanging answer")
    parser.add_argument("--seed", type=whole, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "verifier_speed.json")
    arguments = parser.parse_args()

    pairs = responses(arguments.responses, arguments.seed)
    items = [Item(response, gold, "math") for response, gold in pairs]
    hanging = set(random.Random(arguments.seed).sample(range(len(items)), len(items) // 100))
    mixed = [Item(i.response + HANG, i.gold, i.kind) if k in hanging else i for k, i in enumerate(items)]

    with_limits = Verifier(workers=arguments.workers, time_limit_s=arguments.time_limit)
    with_limits.verify("\\boxed{\\sqrt{8}}", "2\\sqrt{2}", "math")  # workers and parser are up
    clean_s, clean = timed(with_limits, items)
    maths_module.judge = judge_or_hang(maths_module.judge)
    mixed_s, found = timed(with_limits, mixed)
    with_limits.close()
    plain_s, plain = plain_math_verify(pairs[: arguments.alternative])

    allowed = len(hanging) * arguments.time_limit / arguments.workers
    ours_each, plain_each = clean_s / len(items), plain_s / arguments.alternative
    result = {
        "responses": len(items),
        "workers": arguments.workers,
        "seconds": round(clean_s, 2),
        "right": sum(outcome == 1.0 for outcome, _ in clean),
        "hanging": len(hanging),
        "time_limit_s": arguments.time_limit,
        "seconds_with_hanging": round(mixed_s, 2),
        "extra_seconds": round(mixed_s - clean_s, 2),
        "allowed_extra_seconds": allowed,
        "other_verdicts_changed": sum(clean[k] != found[k] for k in range(len(items)) if k not in hanging),
        "hanging_timed_out": sum(found[k][1] == "timeout" for k in hanging),
        "plain_math_verify_ratio": round(ours_each / plain_each, 4),
        "disagreements_with_plain": sum(clean[k][0] != plain[k] for k in range(arguments.alternative)),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print("| what | figure |\n|---|---|")
    print("\n".join(f"| {key.replace('_', ' ')} | {value} |" for key, value in result.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
