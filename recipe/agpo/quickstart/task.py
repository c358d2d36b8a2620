# SPDX-License-Identifier: Apache-2.0
"""The quickstart's task: chain sums from reasoning-gym, solved in a few written steps.

A prompt is ``7+9-4=``; a written solution adds from left to right, one step a line, and marks the answer::

    7+9=16
    16-4=12
    #12

Problems and the scorer are reasoning-gym's ``chain_sum``. Only the sentence around the expression ("State the final
answer to the following arithmetic problem: ...") is left out of the prompt, since the model reads characters.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from recipe.agpo.files import replacing

DATA_SOURCE = "chain_sum"
Split = Literal["val", "train", "warm_start"]
# The prompt decides its split, so the splits are disjoint for all sizes and seeds; in sixteenths.
_SIXTEENTHS: dict[Split, range] = {"val": range(0, 2), "train": range(2, 9), "warm_start": range(9, 16)}
_ANSWER_LINE = re.compile(r"#\s*([-+]?[\d,]*\d(?:\.\d+)?)\s*", re.ASCII)
_TERM = re.compile(r"[-+]?\d+", re.ASCII)


@dataclass(frozen=True)
class TaskConfig:
    """How hard the sums are (reasoning-gym's own keys)."""

    min_terms: int = 3
    max_terms: int = 5
    min_digits: int = 1
    max_digits: int = 1

    @property
    def max_prompt_tokens(self) -> int:
        """Characters of the longest prompt plus the three tokens of the chat template."""
        return self.max_terms * (self.max_digits + 1) + 3


@dataclass(frozen=True)
class Problem:
    """One problem: prompt, correct answer, and the entry for reasoning-gym's scorer."""

    prompt: str
    answer: str
    question: str
    metadata: str  # JSON

    @property
    def solution(self) -> str:
        return written_solution(self.prompt)


def written_solution(prompt: str) -> str:
    """The written steps for ``7+9-4=``: ``7+9=16``, ``16-4=12``, ``#12``, one a line."""
    terms = _TERM.findall(prompt)
    total, lines = int(terms[0]), []
    for term in terms[1:]:
        before, total = total, total + int(term)
        lines.append(f"{before}{term}={total}")
    return "\n".join([*lines, f"#{total}"])


def split_of(prompt: str) -> Split:
    """The split that a prompt belongs to, read from its hash."""
    sixteenth = hashlib.sha256(prompt.encode()).digest()[0] % 16
    return next(split for split, part in _SIXTEENTHS.items() if sixteenth in part)


def problems(split: Split, seed: int, config: TaskConfig | None = None) -> Iterator[Problem]:
    """Endless deterministic stream of distinct problems of ``split``.

    Ends with ValueError when the task has no unseen problems left (too few terms and digits for the size wanted).
    """
    from reasoning_gym.arithmetic.chain_sum import ChainSumConfig, ChainSumDataset

    config = config or TaskConfig()
    # reasoning-gym draws problem i from seed + i: far apart, or two seeds share most of their problems.
    far_seed = int.from_bytes(hashlib.sha256(f"{split}:{seed}".encode()).digest()[:6], "big")
    dataset = ChainSumDataset(
        ChainSumConfig(
            min_terms=config.min_terms,
            max_terms=config.max_terms,
            min_digits=config.min_digits,
            max_digits=config.max_digits,
            seed=far_seed,
            size=2**31,
        )
    )
    seen: set[str] = set()
    index = last_new = 0
    while index - last_new < 20_000:
        item = dataset[index]
        prompt = item["metadata"]["expression"].replace(" ", "") + "="
        if prompt not in seen and split_of(prompt) == split:
            seen.add(prompt)
            last_new = index
            metadata = json.dumps(item["metadata"], sort_keys=True)
            yield Problem(prompt, item["answer"], item["question"], metadata)
        index += 1
    raise ValueError(f"only {len(seen)} distinct {split} problems with {config}: ask for fewer, or raise max_terms")


def take(split: Split, seed: int, count: int, config: TaskConfig | None = None) -> list[Problem]:
    """The first ``count`` problems of a split."""
    if count < 1:
        raise ValueError(f"{split} needs at least 1 problem, got {count}")
    stream = problems(split, seed, config)
    return [next(stream) for _ in range(count)]


def data_paths(out_dir: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Where `make_data` writes training and validation rows."""
    return Path(out_dir) / "train.parquet", Path(out_dir) / "val.parquet"


def make_data(
    out_dir: str | os.PathLike[str],
    seed: int = 0,
    n_train: int = 4096,
    n_val: int = 256,
    config: TaskConfig | None = None,
) -> tuple[Path, Path]:
    """Write ``train.parquet`` and ``val.parquet`` in verl's schema; same arguments, same rows.

    The validation rows depend on the seed as well. Returns the two paths.
    """
    import pandas

    paths = data_paths(out_dir)
    sizes: tuple[tuple[Split, int], ...] = (("train", n_train), ("val", n_val))
    for path, (split, count) in zip(paths, sizes, strict=True):
        rows = [_row(problem, split, index) for index, problem in enumerate(take(split, seed, count, config))]
        with replacing(path) as part:  # a killed run never leaves half a file under the final name
            pandas.DataFrame(rows).to_parquet(part)
    return paths


def _row(problem: Problem, split: str, index: int) -> dict[str, Any]:
    return {
        "data_source": DATA_SOURCE,
        "prompt": [{"role": "user", "content": problem.prompt}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": problem.answer},
        "extra_info": {
            "split": split,
            "index": index,
            "question": problem.question,
            "metadata": problem.metadata,
        },
    }


def final_answer(response: str) -> str | None:
    """The number on the last non-empty line if that line is ``#<number>``, else None."""
    lines = [line.strip() for line in response.splitlines() if line.strip()]
    found = _ANSWER_LINE.fullmatch(lines[-1]) if lines else None
    return found.group(1).replace(",", "") if found else None


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    **_: Any,
) -> dict[str, Any]:
    """Verdict on one response, for verl's ``reward.custom_reward_function``.

    Args:
        data_source: must be ``chain_sum``.
        solution_str: decoded response without special tokens.
        ground_truth: the correct answer.
        extra_info: the row's extra_info; its ``metadata`` goes to reasoning-gym's scorer.

    Returns:
        score, acc: 1.0 if reasoning-gym's scorer gives the answer the full score, else 0.0 (its partial scores for
        answers that only contain the correct one are not used). vote_key: the answer in one spelling,
        ``""`` if there is none. format: 1.0 if the response ends with an answer line. status: ``ok`` or
        ``no_answer``.
    """
    if data_source != DATA_SOURCE:
        raise ValueError(f"data_source {data_source!r}: this verifier knows only {DATA_SOURCE!r}")
    answer = final_answer(solution_str)
    if answer is None:
        return {"score": 0.0, "acc": 0.0, "vote_key": "", "format": 0.0, "status": "no_answer"}
    metadata = json.loads((extra_info or {}).get("metadata") or "{}")
    marks = _scorer().score_answer(answer, {"answer": ground_truth, "metadata": metadata})
    outcome = 1.0 if marks >= 1.0 else 0.0
    return {"score": outcome, "acc": outcome, "vote_key": vote_key(answer), "format": 1.0, "status": "ok"}


def vote_key(answer: str) -> str:
    """One spelling for equal numbers: ``012``, ``+12`` and ``12.0`` are ``12``. Works on text of any length."""
    sign = "-" if answer.startswith("-") else ""
    whole, _, fraction = answer.lstrip("+-").partition(".")
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    if whole == "0" and not fraction:
        return "0"
    return sign + whole + (f".{fraction}" if fraction else "")


@cache
def _scorer() -> Any:
    """reasoning-gym's scorer; imported at the first parseable answer, because the import takes seconds."""
    from reasoning_gym.arithmetic.chain_sum import ChainSumConfig, ChainSumDataset

    return ChainSumDataset(ChainSumConfig(seed=0, size=1))
