# SPDX-License-Identifier: Apache-2.0
"""Two evaluations on the same problems."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from recipe.agpo.evaluate.errors import EvaluationError
from recipe.agpo.evaluate.metrics import FULL_MARKS, paired
from recipe.agpo.evaluate.store import HEADER, REPORT, RESPONSES, VERDICTS, Key, read_header, read_lines


def compare(here: Path, other: Path, *, seed: int = 0) -> dict[str, Any]:
    """Paired comparison of two finished evaluations, benchmark by benchmark.

    Problems are matched by their text, within benchmarks of the same name. A problem that only one run has is left out
    and counted.

    Args:
        here, other: folders; the difference is ``here - other``.
        seed: of the bootstrap.

    Raises:
        EvaluationError: there is no finished evaluation in ``other``, no common benchmark or problem, or a common
            problem was judged against different reference answers.
    """
    a, b = _accuracies(here), _accuracies(other)
    ours, theirs = read_header(here), read_header(other)
    assert ours is not None and theirs is not None  # _accuracies has looked
    shared = [name for name in a if name in b]
    if not shared:
        raise EvaluationError(f"no common benchmark: {', '.join(a)} here, {', '.join(b)} in {other}")
    rows = []
    for name in shared:
        common = a[name].keys() & b[name].keys()
        if not common:
            raise EvaluationError(f"{name}: the two runs have no problem in common")
        moved = [problem for problem in common if a[name][problem][1] != b[name][problem][1]]
        if moved:
            raise EvaluationError(
                f"{name}: {len(moved)} problems were judged against other reference answers in {other}; judge it "
                "again from the same data file with --rejudge"
            )
        found = paired(
            {problem: value for problem, (value, _) in a[name].items()},
            {problem: value for problem, (value, _) in b[name].items()},
            seed=seed,
        )
        only = {"only_here": len(a[name]) - len(common), "only_there": len(b[name]) - len(common)}
        rows.append({"name": name, **asdict(found), **only})
    protocols = ours.generation["protocol"], theirs.generation["protocol"]
    return {
        "other": str(other),
        "other_model": theirs.model,
        "other_fingerprint": theirs.fingerprint,
        "other_protocol": protocols[1],
        "same_protocol": protocols[0] == protocols[1],
        "same_judging": _rules(ours.judging) == _rules(theirs.judging),
        "benchmarks": rows,
        "not_compared": sorted(set(a) ^ set(b)),
    }


def check(other: Path) -> None:
    """Raise EvaluationError if ``other`` is no finished evaluation."""
    _accuracies(other)


def _accuracies(folder: Path) -> dict[str, dict[str, tuple[float, str]]]:
    """Benchmark -> problem -> (accuracy, hash of the reference answer). Not judged and not asked count as wrong."""
    if not (folder / HEADER).is_file() or not (folder / REPORT).is_file():
        raise EvaluationError(f"{folder} is no finished evaluation: it has no {HEADER} or no {REPORT}")
    read_header(folder)
    verdicts: dict[Key, dict[str, Any]] = read_lines(folder / VERDICTS)
    if missing := len(read_lines(folder / RESPONSES).keys() - verdicts.keys()):
        raise EvaluationError(f"{folder} has {missing} responses without a verdict: run its evaluation to the end")
    found: dict[str, dict[str, tuple[float, str]]] = {}
    for (benchmark, problem), line in verdicts.items():
        try:
            right = [(verdict["outcome"] or 0.0) >= FULL_MARKS for verdict in line["verdicts"]]
            found.setdefault(benchmark, {})[problem] = (sum(right) / len(right) if right else 0.0, str(line["gold"]))
        except (KeyError, TypeError) as error:
            raise EvaluationError(
                f"{folder / VERDICTS}: the verdicts on {benchmark} {problem} are damaged ({type(error).__name__}: "
                f"{error}); judge that evaluation again with --rejudge"
            ) from error
    return found


def _rules(judging: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in judging.items() if not name.startswith("reference answers")}
