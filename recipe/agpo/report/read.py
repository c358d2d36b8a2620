# SPDX-License-Identifier: Apache-2.0
"""Read a run folder: missing data stays empty, damaged data is counted and named.

No content of a file raises an exception, because the page is often needed for runs that crashed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipe.agpo.files import FileError, kind_of, parse_json
from recipe.agpo.report.decisions import Decisions
from recipe.agpo.report.jsonl import FileNote, finite, read_lines, step_of
from recipe.agpo.report.samples import Sample, read_samples
from recipe.agpo.report.settings import Settings
from recipe.agpo.run_folder import CHECKPOINTS, DECISIONS_FILE, LEDGER_FILE, RUN_FILE, STATE_FILE, launches_in

Record = tuple[int, Mapping[str, Any]]
Series = list[tuple[float, float]]
TRAINING = "training/global_step"  # verl logs it in every training step and in no other record
TOKENS = "agpo/tokens/generated_cumulative"


@dataclass
class Run:
    """One training run.

    Attributes:
        name: what the page calls it.
        records: (step, logged values) in order of step, attempts merged.
        starts: first step of each attempt that logged anything.
        superseded: steps that an earlier attempt had logged and a later one, going on from before them, did not reach.
        decisions: what the decisions file says; None without one.
        settings: ``algorithm.agpo``, of ``run.json`` or the newest checkpoint; empty without both.
        ledger: (step, counts) of the newest checkpoint's token ledger; None without one.
        identity: what the quickstart wrote about the run (method, seed).
        launches: what ``run.json`` says about each start, the newest last.
        samples: responses from verl's dumps.
        prompts: texts of prompts by their id, from the dumps.
        files: every file that was read.
        problems: what could not be read, in words.
    """

    name: str
    records: list[Record] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    superseded: int = 0
    decisions: Decisions | None = None
    settings: Settings = field(default_factory=Settings)
    ledger: tuple[int, dict[str, int]] | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)
    launches: list[dict[str, Any]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    prompts: dict[str, str] = field(default_factory=dict)
    files: list[FileNote] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.training = [record for record in self.records if TRAINING in record[1]]
        self.known = sorted({key for _, data in self.records for key in data})

    def series(self, *keys: str) -> Series:
        """[(step, value), ...] of the first of ``keys`` that was logged with finite numbers."""
        for key in keys:
            found = ((step, finite(data.get(key))) for step, data in self.records)
            points = [(float(step), number) for step, number in found if number is not None]
            if points:
                return points
        return []

    def keys(self, pattern: str) -> list[str]:
        """Logged keys that match a regular expression as a whole, sorted."""
        return [key for key in self.known if re.fullmatch(pattern, key)]

    @property
    def steps(self) -> int:
        """The last training step; 0 before the first."""
        return self.training[-1][0] if self.training else 0

    @property
    def adaptive(self) -> bool:
        """Whether a controller was on."""
        return bool(self.keys(r"agpo/(tau|eps)/mean"))

    @property
    def method(self) -> str:
        """The name of the run's method, if it is known."""
        estimator = self.configured("algorithm.adv_estimator")
        if self.settings.preset and estimator in (None, "agpo"):
            return self.settings.preset
        return str(self.identity.get("method") or estimator or ("agpo" if self.adaptive else "baseline"))

    @property
    def launch(self) -> Mapping[str, Any]:
        """What ``run.json`` says about the newest start; empty without the file."""
        return self.launches[-1] if self.launches else {}

    def configured(self, key: str) -> Any:
        """A value of the run's configuration by its dotted key; None if it is not recorded."""
        return below(self.launch.get("config"), key)

    @property
    def planned_steps(self) -> int | None:
        """The steps that the launch announced."""
        return step_of(below(self.launch.get("planned"), "steps")) or None

    def problems_of(self, key: str) -> int | None:
        """How many problems stand behind a validation metric ``val-core/<source>/acc/...``."""
        counts = below(self.launch.get("planned"), "validation_problems")
        source = key.removeprefix("val-core/").rpartition("/acc/")[0]
        return step_of(counts.get(source)) or None if isinstance(counts, dict) else None

    def tokens(self) -> tuple[Series, bool]:
        """Cumulative generated tokens over steps, and whether they are estimated.

        The ledger counts all that was generated. Without one, a step generated its rows' tokens times the share of
        responses in them; what never became a row is then not counted.
        """
        if logged := self.series(TOKENS):
            return logged, False
        total, points = 0.0, []
        for step, data in self.training:
            rows = finite(data.get("perf/total_num_tokens"))
            response, prompt = finite(data.get("response_length/mean")), finite(data.get("prompt_length/mean"))
            if rows is None or response is None or prompt is None or response + prompt <= 0:
                continue
            total += rows * response / (response + prompt)
            points.append((float(step), total))
        return points, True


def read_run(path: Path, name: str | None = None) -> Run:
    """Read a run folder, or a single metrics file.

    Args:
        path: folder with ``metrics*.jsonl`` and ``checkpoints/``, or one file of verl's file logger.
        name: what to call the run; default: the folder's name.

    Raises:
        FileNotFoundError: nothing is there.
        FileError: it is neither a folder nor a regular file.
    """
    if not os.path.lexists(path):
        raise FileNotFoundError(f"{shown(path)}: no such run folder or metrics file")
    if not path.is_dir() and not path.is_file():
        raise FileError(f"{shown(path)} is {kind_of(path)}: name a run folder or a metrics file")
    files = sorted(path.glob("metrics*.jsonl"), key=_natural) if path.is_dir() else [path]
    notes: list[FileNote] = []
    if not path.is_dir():
        _check_metrics(path)
    records, starts, superseded = _merge([_attempt(file, notes) for file in files])
    run = Run(shown(name or _real(path).name), records, starts, superseded, files=notes)
    if path.is_dir():
        checkpoints = path / CHECKPOINTS if (path / CHECKPOINTS).is_dir() else path
        with _noted(run):
            _read_decisions(run, checkpoints / DECISIONS_FILE)
        with _noted(run):
            _read_checkpoint(run, checkpoints)
        with _noted(run):
            _read_launches(run, path)
        with _noted(run):
            run.samples, run.prompts = read_samples([path, *([checkpoints] if checkpoints != path else [])], run.files)
        if not any((files, run.launches, run.identity, run.decisions, run.samples, run.ledger)) and any(path.iterdir()):
            raise FileError(
                f"{shown(path)}: not a run folder: it has no metrics*.jsonl, no {RUN_FILE} and no checkpoint of AGPO. "
                "Name the folder that holds metrics*.jsonl (trainer.logger must contain file), or that file"
            )
    return run


@contextmanager
def _noted(run: Run) -> Iterator[None]:
    """A part of the run that may not be read, such as a folder of another user, becomes one of its problems."""
    try:
        yield
    except OSError as error:
        run.problems.append(f"{error.filename}: {error.strerror}")


def shown(text: object) -> str:
    """A path or a message in one line, with what cannot be printed spelt out."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in str(text))


def below(value: Any, key: str) -> Any:
    """The value under a dotted key of nested objects; None if there is none."""
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def read_runs(paths: list[Path]) -> list[Run]:
    """Read several runs; runs whose folders have the same name are told apart by their parents'."""
    names = [_real(path).name for path in paths]
    runs = []
    for i, path in enumerate(paths):
        name = names[i] if names.count(names[i]) == 1 else f"{_real(path).parent.name}/{names[i]}"
        runs.append(read_run(path, name))
    return runs


def _real(path: Path) -> Path:
    """The path without links; unlike ``Path.resolve`` it accepts links that lead to themselves."""
    return Path(os.path.realpath(path))


def _attempt(path: Path, notes: list[FileNote]) -> list[Record]:
    """The records of one file of verl's file logger, in the order in which they were written."""
    note = FileNote(path.name)
    notes.append(note)
    records: list[Record] = []
    for number, value in read_lines(path, note):
        step, data = step_of(value.get("step")), value.get("data")
        if step is not None and isinstance(data, dict):
            records.append((step, data))
        else:
            note.bad.append(number)
    return records


def _merge(attempts: list[list[Record]]) -> tuple[list[Record], list[int], int]:
    """One history from several attempts: (records, first step of each attempt, steps that were given up).

    An attempt that goes on from step s replaces what was logged after s. For s itself the last value of a key
    counts: the earlier attempt trained it, the later one validates it again.
    """
    by_step: dict[int, dict[str, Any]] = {}
    starts: list[int] = []
    given_up: set[int] = set()
    for attempt in attempts:
        if not attempt:
            continue
        first = attempt[0][0]
        starts.append(first)
        for step in [step for step in by_step if step > first]:
            del by_step[step]
            given_up.add(step)
        for step, data in attempt:
            by_step.setdefault(step, {}).update(data)
    return sorted(by_step.items()), starts, len(given_up - set(by_step))


def _read_decisions(run: Run, path: Path) -> None:
    if path.is_file():
        note = FileNote(path.name)
        run.files.append(note)
        run.decisions = Decisions.collect(path, note)


def _read_checkpoint(run: Run, checkpoints: Path) -> None:
    """Settings and ledger of the newest checkpoint that has them."""
    folders = [f for f in checkpoints.glob("global_step_*") if f.name.removeprefix("global_step_").isdecimal()]
    for folder in sorted(folders, key=lambda f: int(f.name.removeprefix("global_step_")), reverse=True):
        if not run.settings and (folder / STATE_FILE).is_file():
            run.settings = Settings.of(below(_document(run, folder / STATE_FILE), "extra.config"))
        if run.ledger is None and (folder / LEDGER_FILE).is_file():
            counts = _document(run, folder / LEDGER_FILE).get("ledger")
            if isinstance(counts, dict):
                whole = {str(k): v for k, v in counts.items() if isinstance(v, int) and finite(v) is not None}
                run.ledger = int(folder.name.removeprefix("global_step_")), whole


def _read_launches(run: Run, folder: Path) -> None:
    """``run.json``, and what the quickstart wrote; before ``run.json`` had a format it was the quickstart's."""
    document = _document(run, folder / RUN_FILE)
    run.launches = launches_in(document)
    run.identity = _document(run, folder / "quickstart.json") or ({} if run.launches else document)
    if isinstance(recorded := run.launch.get("settings"), dict):
        run.settings = Settings.of(recorded)


def _check_metrics(path: Path) -> None:
    """Raise FileError if a file that was named holds no record of verl's file logger."""
    note = FileNote(path.name)
    if not any(isinstance(value.get("data"), dict) for _, value in read_lines(path, note)):
        why = note.error or 'no line has the form {"step": ..., "data": {...}}'
        raise FileError(f"{shown(path)}: not a metrics file of verl's file logger: {why}. Name a run folder")


def _document(run: Run, path: Path) -> dict[str, Any]:
    """A small JSON file; empty if it is absent or damaged."""
    if not path.is_file():
        return {}
    try:
        value = parse_json(path.read_bytes().decode("utf-8", errors="replace"))
    except (OSError, ValueError) as error:
        run.problems.append(f"{path.parent.name}/{path.name}: not readable ({error})")
        return {}
    return value if isinstance(value, dict) else {}


def _natural(path: Path) -> list[tuple[int, int | str]]:
    """Sort key under which ``metrics.10`` follows ``metrics.9``."""
    return [(1, int(part)) if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", path.name)]
