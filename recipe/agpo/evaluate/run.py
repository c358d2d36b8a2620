# SPDX-License-Identifier: Apache-2.0
"""One evaluation: generate missing responses, judge them, compute the figures.

The result depends only on responses and verdicts, not on their order: an evaluation that was
interrupted and resumed ends with the same ``eval.json`` as one that was not, if the model gave the same responses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.agpo.evaluate.data import Benchmark, Problem
from recipe.agpo.evaluate.generate import Generator, MakeGenerator, from_record, to_record
from recipe.agpo.evaluate.judge import Judge
from recipe.agpo.evaluate.metrics import Sample, summarise
from recipe.agpo.evaluate.protocols import Protocol
from recipe.agpo.evaluate.store import REPORT, VERSION, Header, Store

JUDGE_AT_ONCE = 512  # responses


@dataclass(frozen=True)
class Task:
    """What to evaluate.

    Attributes:
        benchmarks: their problems.
        protocol: sampling settings.
        header: identity of the evaluation; see :func:`header`.
        pass_at, maj_at: values of k.
        chunk: problems between two saves.
    """

    benchmarks: Sequence[Benchmark]
    protocol: Protocol
    header: Header
    pass_at: tuple[int, ...]
    maj_at: tuple[int, ...]
    chunk: int


def header(
    model: str,
    model_hashes: dict[str, str],
    engine: dict[str, str],
    template: str,
    benchmarks: Sequence[Benchmark],
    protocol: Protocol,
    limit: int | None,
    judging: dict[str, str],
) -> Header:
    """The settings that responses and verdicts depend on."""
    return Header(
        model=model,
        generation={
            **{f"model {name}": value for name, value in model_hashes.items()},
            **engine,
            "template": template,
            "protocol": str(protocol),
            "limit": "none" if limit is None else str(limit),
            **{f"prompts of {benchmark.name}": benchmark.prompts_hash for benchmark in benchmarks},
        },
        judging={
            **judging,
            **{f"reference answers of {benchmark.name}": benchmark.golds_hash for benchmark in benchmarks},
        },
    )


def evaluate(
    out: Path,
    task: Task,
    make_generator: MakeGenerator,
    judge: Judge,
    *,
    rejudge: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Run the evaluation in ``out``, or continue it; returns the result.

    Args:
        out: folder of the evaluation.
        task: what to evaluate.
        make_generator: called with all problems if a response is missing; starting a model is the slow part.
        judge: closed by the caller.
        rejudge: judge kept responses again.
        progress: show a bar, if stderr is a terminal.

    Raises:
        EvaluationError: the folder belongs to another evaluation.
        KeyboardInterrupt: re-raised; complete responses and verdicts are on disk.
    """
    from tqdm import tqdm

    asked = [(benchmark.name, problem) for benchmark in task.benchmarks for problem in benchmark.problems]
    store = Store(out, task.header, rejudge=rejudge)
    if len(store.verdicts) < len(asked):
        (out / REPORT).unlink(missing_ok=True)  # its presence says that the evaluation is finished
    bar = tqdm(total=len(asked), desc="evaluating", unit="problem", disable=None if progress else True)
    try:
        bar.update(len(store.verdicts))
        unjudged = [item for item in asked if _key(item) in store.responses and _key(item) not in store.verdicts]
        for part in _parts(unjudged, max(1, JUDGE_AT_ONCE // task.protocol.samples)):
            _judge(part, store, judge)
            bar.update(len(part))
        missing = [item for item in asked if _key(item) not in store.responses]
        if missing:
            generator = make_generator([problem for _, problem in asked])
            for part in _parts(missing, task.chunk):
                _generate(part, store, generator, task.protocol.samples)
                _judge(part, store, judge)
                bar.update(len(part))
        return result(task, store)
    finally:
        bar.close()
        store.close()


def result(task: Task, store: Store) -> dict[str, Any]:
    """The content of ``eval.json`` from a complete folder."""
    benchmarks = [_benchmark(benchmark, task, store) for benchmark in task.benchmarks]
    accuracies = [row["accuracy"]["value"] for row in benchmarks]
    return {
        "version": VERSION,
        "model": task.header.model,
        "protocol": task.protocol.to_dict(),
        "fingerprint": task.header.fingerprint,
        "generation": task.header.generation,
        "judging": task.header.judging,
        "confidence": 0.95,
        "benchmarks": benchmarks,
        "average_accuracy": math.fsum(accuracies) / len(accuracies),
    }


def samples_of(response: dict[str, Any], verdict: dict[str, Any]) -> list[Sample]:
    """The K samples of a problem from its two lines; none if the prompt was too long."""
    return [
        Sample(
            outcome=judged["outcome"],
            vote_key=key,
            status=judged["status"],
            format=judged["format"],
            tokens=answer["tokens"],
            truncated=answer["finish"] == "length",
        )
        for answer, judged, key in zip(response["responses"], verdict["verdicts"], verdict["classes"], strict=True)
    ]


def _benchmark(benchmark: Benchmark, task: Task, store: Store) -> dict[str, Any]:
    rows = []
    too_long, shortened, unjudged = [], 0, []
    for problem in benchmark.problems:
        response = store.responses[benchmark.name, problem.id]
        samples = samples_of(response, store.verdicts[benchmark.name, problem.id])
        if not samples:
            too_long.append({"row": problem.index, "prompt_tokens": response["prompt_tokens"]})
            continue
        rows.append(samples)
        shortened += response["max_tokens"] < task.protocol.max_tokens
        if any(sample.outcome is None for sample in samples):
            statuses = sorted({sample.status for sample in samples if sample.outcome is None})
            unjudged.append({"row": problem.index, "statuses": statuses})
    figures = summarise(
        rows,
        samples=task.protocol.samples,
        pass_at=task.pass_at,
        maj_at=task.maj_at,
        too_long=len(too_long),
    )
    return {
        "name": benchmark.name,
        "path": benchmark.path,
        "rows_in_file": benchmark.rows,
        "data_sources": sorted({problem.data_source for problem in benchmark.problems}),
        **figures,
        "responses_limited_by_context": shortened * task.protocol.samples,
        "rows_too_long": too_long,
        "rows_unjudged": unjudged,
    }


def _generate(part: Sequence[tuple[str, Problem]], store: Store, generator: Generator, samples: int) -> None:
    found = generator([problem for _, problem in part])
    if len(found) != len(part) or any(len(one.responses) not in (0, samples) for one in found):
        raise RuntimeError(f"the generator must return {samples} responses, or none, for each of {len(part)} problems")
    store.add_responses(
        {"benchmark": name, "problem": problem.id, "row": problem.index, **to_record(one)}
        for (name, problem), one in zip(part, found, strict=True)
    )


def _judge(part: Sequence[tuple[str, Problem]], store: Store, judge: Judge) -> None:
    texts = [[r.text for r in from_record(store.responses[_key(item)]).responses] for item in part]
    pairs = [(item[1], text) for item, row in zip(part, texts, strict=True) for text in row]
    verdicts = iter(judge(pairs))
    lines = []
    for (name, problem), row in zip(part, texts, strict=True):
        judged = [next(verdicts) for _ in row]
        lines.append(
            {
                "benchmark": name,
                "problem": problem.id,
                "gold": problem.gold_hash,
                "verdicts": [{k: _finite(v) for k, v in one.to_dict().items()} for one in judged],
                "classes": judge.merge([one.vote_key for one in judged]),
            }
        )
    store.add_verdicts(lines)


def _finite(value: float | str) -> float | str | None:
    """Replace NaN by null, because JSON has no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _key(item: tuple[str, Problem]) -> tuple[str, str]:
    return item[0], item[1].id


def _parts(items: Sequence[tuple[str, Problem]], size: int) -> Iterator[Sequence[tuple[str, Problem]]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
