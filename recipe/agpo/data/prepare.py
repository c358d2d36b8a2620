# SPDX-License-Identifier: Apache-2.0
"""``agpo data prepare``: a benchmark's public files, or a reasoning-gym task, as verl parquet with a manifest.

Every record that was read is either written or listed with its reason; the counts add up, always.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import os
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recipe.agpo.data.benchmarks import GYM, MAX_TESTS, Benchmark, benchmark
from recipe.agpo.data.example import BadRow, DataError, Example, gold_problem
from recipe.agpo.data.manifest import FORMAT, dump, manifest_path, package_version
from recipe.agpo.data.overlap import OverlapIndex, index_files
from recipe.agpo.data.rows import Row, RowWriter, make_row, row_bytes
from recipe.agpo.data.sources import Record, Source, file_sha256, open_sources
from recipe.agpo.data.templates import Template, template
from recipe.agpo.files import Replacement
from recipe.agpo.prompts import render, template_for

BAD_JSON = "bad_json"  # the record cannot be read
BAD_ROW = "bad_row"  # a key is missing, null, or of another type
GOLD = "unparseable_gold"  # no response could be judged against its gold
DUPLICATE = "duplicate"  # an earlier row has the same prompt and gold
CONFLICT = "conflicting_duplicate"  # an earlier row has the same prompt and another gold
TOO_LONG = "too_long"  # more than max_prompt_tokens
OVERLAP = "overlap"  # shares an n-gram with an evaluation set
NOT_SAMPLED = "not_sampled"  # left out by limit with a seed
REASONS = (BAD_JSON, BAD_ROW, GOLD, DUPLICATE, CONFLICT, TOO_LONG, OVERLAP, NOT_SAMPLED)
UNREADABLE = (BAD_JSON, BAD_ROW, GOLD)
MOST_UNREADABLE = 0.1  # share of the records; more means another format than the benchmark's
SIZE_TOLERANCE = 0.1  # by which a source's number of records may differ from the benchmark's
LISTED = 20  # skipped rows in the manifest itself; all of them are in <split>.skipped.jsonl
GYM_PATIENCE = 20_000  # draws without a new problem before a task counts as exhausted
_GYM_SPLITS = {"test": range(0, 2), "validation": range(2, 4), "train": range(4, 16)}  # sixteenths of all problems


@dataclass(frozen=True)
class Options:
    """How to prepare.

    Attributes:
        limit: write at most so many rows; None for all. Without a seed the first ones, and reading stops there.
        seed: with ``limit``, which rows are drawn; they keep their order. For generated tasks which problems are made.
        max_prompt_tokens: longer prompts are skipped; needs ``tokenizer``.
        tokenizer: folder or hub id of a tokenizer; its chat template counts.
        template: None for the benchmark's own.
        system: a system message before the question, for all rows. ``""``: an empty one, for a chat template that
            otherwise writes a text of its own there. None: no system message.
        examples: (question, answer) pairs, shown before every question as turns of the chat.
        allow_test: mark test data as allowed for training.
        against: parquet files of evaluation sets; rows that share an n-gram with them are skipped.
        n: length of an n-gram.
        keep_duplicates: write rows that an earlier row equals; scores on public test sets are over all of them.
        custom: the source is a selection of one's own: any number of records, any share of them unreadable.
    """

    limit: int | None = None
    seed: int | None = None
    max_prompt_tokens: int | None = None
    tokenizer: str | None = None
    template: str | None = None
    system: str | None = None
    examples: tuple[tuple[str, str], ...] = ()
    allow_test: bool = False
    against: tuple[Path, ...] = ()
    n: int = 13
    keep_duplicates: bool = False
    custom: bool = False

    def __post_init__(self) -> None:
        for name in ("limit", "max_prompt_tokens", "n"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DataError(f"{name}={value}: must be at least 1")
        if self.max_prompt_tokens is not None and self.tokenizer is None:
            raise DataError("max_prompt_tokens needs a tokenizer to count with")

    def before(self) -> list[dict[str, str]]:
        """The messages before a row's question, the same for all rows."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        turns = [
            {"role": role, "content": text}
            for example in self.examples
            for role, text in zip(("user", "assistant"), example, strict=True)
        ]
        return [*system, *turns]


def folder_of(out: Path, name: str) -> Path:
    """``<out>/gsm8k``; ``<out>/reasoning_gym/chain_sum`` for ``reasoning_gym:chain_sum``.

    Raises:
        DataError: the name would lead to another place.
    """
    return out.joinpath(*(plain_name(part, "data set") for part in name.split(":")))


def plain_name(name: str, what: str) -> str:
    """The name, if it can be part of a path: letters, digits and ``_ . -``, the first no dot.

    Raises:
        DataError: it cannot.
    """
    if not re.fullmatch(r"[\w-][\w.-]*", name) or len(name) > 100:
        raise DataError(f"{what} {name[:100]!r}: a name has letters, digits, _ . and -, at most 100 of them")
    return name


def prepare(
    name: str,
    source: str,
    out: Path,
    *,
    split: str | None = None,
    revision: str | None = None,
    options: Options | None = None,
) -> list[dict[str, Any]]:
    """Prepare the splits that ``source`` has.

    Args:
        name: of the benchmark.
        source: file, folder, hub id, or ``hub``.
        out: files go to ``<out>/<name>/<split>.parquet`` with ``.manifest.json`` and ``.skipped.jsonl``.
        split: only this one.
        revision: of the hub data set.
        options: see :class:`Options`.

    Returns:
        The manifests.

    Raises:
        DataError: the source is not there, its splits cannot be told, it does not look like the benchmark, or an option
            makes no sense. No file is replaced then.
    """
    bench = benchmark(name)
    if bench.kind == "gym":
        raise DataError(f"{name} is generated and takes no source: use --size and --seed")
    sources = open_sources(bench, str(source), split, revision)
    return prepare_sources(bench, sources, out, options or Options())


def prepare_gym(
    name: str,
    out: Path,
    *,
    size: int,
    seed: int = 0,
    split: str = "train",
    config: Mapping[str, Any] | None = None,
    options: Options | None = None,
) -> dict[str, Any]:
    """Generate ``size`` distinct problems of a reasoning-gym task.

    A problem's hash decides its split, so the splits stay disjoint whatever their seeds and sizes: two sixteenths of
    all problems are test, two validation, twelve training problems.

    Args:
        name: ``reasoning_gym:<task>``.
        out, options: as for :func:`prepare`.
        size: how many problems.
        seed: which ones.
        split: ``train``, ``validation`` or ``test``.
        config: the task's own settings, without ``seed`` and ``size``.

    Raises:
        DataError: no such task, a setting it does not know, or fewer distinct problems than ``size``.
    """
    bench = benchmark(name)
    if bench.kind != "gym":
        raise DataError(f"{name} is no generated task: give --from SOURCE")
    if split not in bench.splits:
        raise DataError(f"split {split!r}: there are {', '.join(bench.splits)}")
    if size < 1:
        raise DataError(f"size={size}: must be at least 1")
    task, settings = name.partition(":")[2], dict(config or {})
    info = {"kind": "generated", "task": task, "config": settings, "size": size, "version": _gym_version()}
    source = Source(split, info, lambda: _gym_records(task, settings, split, seed, size))
    chosen = replace(options or Options(), limit=None, seed=seed)
    return prepare_sources(bench, [source], out, chosen)[0]


def prepare_sources(
    bench: Benchmark, sources: Sequence[Source], out: Path, options: Options, max_rows: int | None = None
) -> list[dict[str, Any]]:
    """Prepare splits, all or none; see :func:`prepare`. ``max_rows``: rows held at once, None for the default."""
    finals = [folder_of(Path(out), bench.name) / f"{source.split}.parquet" for source in sources]
    with Replacement() as aside:
        manifests = [
            _write_aside(bench, source, final, options, aside, max_rows)
            for source, final in zip(sources, finals, strict=True)
        ]
        # A stopped run never leaves a manifest beside rows that it does not describe: it goes first and comes last.
        for final in finals:
            manifest_path(final).unlink(missing_ok=True)
        aside.commit()
    return manifests


def _write_aside(
    bench: Benchmark, source: Source, final: Path, options: Options, aside: Replacement, max_rows: int | None
) -> dict[str, Any]:
    wording = template(options.template or bench.template)
    if any(os.path.realpath(path) == os.path.realpath(final) for path in source.paths):
        raise DataError(f"{final} would be written over its own source: name another folder with --out")
    skipped_file = final.with_name(f"{source.split}.skipped.jsonl")
    part = aside.add(final)
    with aside.add(skipped_file).open("w", encoding="utf-8", errors="backslashreplace") as stream:
        log = _Log(stream.write)
        writer = RowWriter(part, max_rows) if max_rows else RowWriter(part)
        kinds: Counter[str] = Counter()
        try:
            for row in _sampled(_accepted(bench, source, wording, options, log), options, log):
                writer.add(row)
                kinds[row["extra_info"]["verifier"]] += 1
        finally:
            content = writer.close()
    skipped = {reason: log.reasons[reason] for reason in REASONS}
    # The promise of this module; a fault here must not become a file.
    if log.read != writer.rows + sum(skipped.values()):
        raise RuntimeError(f"{log.read} rows read, {writer.rows} written, skipped {skipped}: a row is lost")
    _check_counts(bench, source.split, options, writer.rows, log)
    manifest = {
        "format": FORMAT,
        "name": bench.name,
        "split": source.split,
        "rows": writer.rows,
        "kinds": dict(sorted(kinds.items())),
        "counts": {"read": log.read, "written": writer.rows, "skipped": skipped},
        "skipped": log.first,
        "skipped_file": skipped_file.name,
        "content_sha256": content,
        "source": source.info,
        "template": wording.describe(),
        "before": options.before(),
        "options": _options_info(bench, options),
        "seed": options.seed,
        "training_allowed": source.split == "train" or options.allow_test,
        "licence": bench.licence,
        "package_version": package_version(),
    }
    aside.add(manifest_path(final)).write_text(dump(manifest), encoding="utf-8")
    return manifest


def _check_counts(bench: Benchmark, split: str, options: Options, rows: int, log: _Log) -> None:
    """Raise DataError for a split without rows, and for a source that does not look like the benchmark."""
    name, read = f"{bench.name}/{split}", log.read
    example = "; the first: {place}: {detail}".format(**log.first[0]) if log.first else ""
    if not rows:
        raise DataError(
            f"{name}: not a single row of {read} was usable{example}. Is this the benchmark's public format? Nothing "
            "was replaced"
        )
    if options.custom or bench.kind == "gym":
        return
    way_out = "Nothing was replaced. If it is a selection of your own, add --custom"
    bad = sum(log.reasons[reason] for reason in UNREADABLE)
    if bad > MOST_UNREADABLE * read:
        raise DataError(
            f"{name}: {bad} of {read} records are unreadable, more than {MOST_UNREADABLE:.0%}{example}. Is this the "
            f"benchmark's public format? {way_out}"
        )
    sizes = bench.sizes.get(split, ())
    stopped = options.limit is not None and options.seed is None and rows == options.limit
    if sizes and not any(
        (stopped or read >= (1 - SIZE_TOLERANCE) * size) and read <= (1 + SIZE_TOLERANCE) * size for size in sizes
    ):
        raise DataError(
            f"{name}: the source has {read} records, the benchmark {' or '.join(map(str, sizes))}. Is it complete, and "
            f"is it this benchmark? {way_out}"
        )


def token_counter(tokenizer: Any) -> Callable[[list[dict[str, str]]], int]:
    """How many tokens a prompt has for the model: with its chat template, or the plain one where it has none."""
    template = template_for(tokenizer)

    def count(messages: list[dict[str, str]]) -> int:
        try:
            return len(render(tokenizer, messages, chat_template=template))
        except Exception as error:  # whatever a template raises
            raise DataError(f"the tokenizer's chat template raises {type(error).__name__}: {error}") from error

    return count


def load_tokenizer(name: str) -> Any:
    """A tokenizer from a folder or the hub.

    Raises:
        DataError: it cannot be loaded.
    """
    try:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(name)
    except Exception as error:  # missing package, missing folder, no connection: one message
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise DataError(f"tokenizer {name}: {type(error).__name__}: {reason}") from error


def same_text(text: str) -> str:
    """Equal for texts that differ only in spaces and in the encoding of the same characters."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFC", text)).strip()


class _Log:
    """Counts what is read and writes what is skipped."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self.read = 0
        self.reasons: Counter[str] = Counter()
        self.first: list[dict[str, Any]] = []

    def skip(self, index: int, place: str, reason: str, detail: str) -> None:
        entry = {"index": index, "place": place, "reason": reason, "detail": _clean(detail)}
        self.reasons[reason] += 1
        if len(self.first) < LISTED and reason != NOT_SAMPLED:
            self.first.append(entry)
        self._write(json.dumps(entry, ensure_ascii=False, sort_keys=True) + "\n")


def _accepted(
    bench: Benchmark, source: Source, wording: Template, options: Options, log: _Log
) -> Iterator[tuple[int, str, Row]]:
    """(index, place, row) of every record that passes all checks; the others go to the log."""
    seen: dict[bytes, bytes] = {}
    count_tokens = token_counter(load_tokenizer(options.tokenizer)) if options.tokenizer else None
    evaluation = index_files(options.against, options.n) if options.against else None
    for index, record in enumerate(source.records()):
        log.read += 1
        place = record.place
        if record.value is None:
            log.skip(index, place, BAD_JSON, record.problem)
            continue
        try:
            example = bench.read(record.value)
            row = make_row(bench.name, source.split, index, example, wording, options.before())
            row_bytes(row)
        except BadRow as error:
            log.skip(index, place, BAD_ROW, str(error))
            continue
        except UnicodeEncodeError as error:
            log.skip(index, place, BAD_ROW, f"text that is no Unicode: {error.reason}")
            continue
        place = f"{place} (id {example.raw_id})" if example.raw_id else place
        refusal = _refusal(example, row, seen, count_tokens, evaluation, options)
        if refusal:
            log.skip(index, place, *refusal)
        else:
            yield index, place, row


def _refusal(
    example: Example,
    row: Row,
    seen: dict[bytes, bytes],
    count_tokens: Callable[[list[dict[str, str]]], int] | None,
    evaluation: OverlapIndex | None,
    options: Options,
) -> tuple[str, str] | None:
    """Reason and detail, None for a row that is fine. Remembers the row's prompt in ``seen``."""
    problem = gold_problem(example)
    if problem:
        return GOLD, problem
    prompt, gold = _digest(row["prompt"][-1]["content"]), _digest(example.gold)
    earlier = seen.setdefault(prompt, gold)
    if earlier is not gold and not options.keep_duplicates:
        if earlier == gold:
            return DUPLICATE, "an earlier row has the same prompt and gold"
        return CONFLICT, f"an earlier row has the same prompt and another gold; here it is {example.gold[:80]!r}"
    if count_tokens is not None and options.max_prompt_tokens is not None:
        tokens = count_tokens(row["prompt"])
        if tokens > options.max_prompt_tokens:
            return TOO_LONG, f"{tokens} tokens, at most {options.max_prompt_tokens}"
    if evaluation is not None:
        shared = evaluation.shared(row)
        if shared:
            place, count = max(shared.items(), key=lambda item: (item[1], item[0]))
            return OVERLAP, f"{count} n-grams of {evaluation.name_of(place)}"
    return None


def _sampled(rows: Iterable[tuple[int, str, Row]], options: Options, log: _Log) -> Iterator[Row]:
    if options.limit is None:
        yield from (row for _, _, row in rows)
    elif options.seed is None:
        written = 0
        for _, _, row in rows:
            yield row
            written += 1
            if written == options.limit:
                return  # before another record is read
    else:
        yield from _drawn(rows, options.limit, options.seed, log)


def _drawn(rows: Iterable[tuple[int, str, Row]], limit: int, seed: int, log: _Log) -> Iterator[Row]:
    """``limit`` rows by the smallest hash of seed and row; holds that many. In the order of the source."""
    heap: list[tuple[int, int, str, Row]] = []  # the worst of the chosen first; indices differ, so rows never compare
    for index, place, row in rows:
        rank = int.from_bytes(hashlib.sha256(b"%d:" % seed + row_bytes(row)).digest()[:8], "big")
        item = (-rank, index, place, row)
        out = heapq.heappushpop(heap, item) if len(heap) >= limit else None
        if out is None:
            heapq.heappush(heap, item)
        else:
            log.skip(out[1], out[2], NOT_SAMPLED, f"not among the {limit} rows drawn with seed {seed}")
    yield from (row for _, _, _, row in sorted(heap, key=lambda item: item[1]))


def _gym_records(task: str, config: dict[str, Any], split: str, seed: int, size: int) -> Iterator[Record]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of its dependencies, not of anything here
            import reasoning_gym

        # Problem i is drawn from seed + i: far apart, or two seeds share most of their problems.
        far = int.from_bytes(hashlib.sha256(f"{split}:{seed}".encode()).digest()[:6], "big")
        dataset = reasoning_gym.create_dataset(task, **config, seed=far, size=2**31)
    except Exception as error:  # unknown task, unknown setting, bad value, not installed
        raise DataError(f"reasoning-gym task {task!r} with {config}: {type(error).__name__}: {error}") from error
    seen: set[bytes] = set()
    index = last_new = 0
    while len(seen) < size:
        if index - last_new > GYM_PATIENCE:
            raise DataError(f"only {len(seen)} distinct {split} problems of {task} with {config}: ask for fewer")
        entry = dict(dataset[index])
        index += 1
        digest = _digest(str(entry.get("question")))
        if digest in seen or digest[0] % 16 not in _GYM_SPLITS[split]:
            continue
        seen.add(digest)
        last_new = index
        yield Record(f"draw {index - 1}", {"dataset": task, "config": config, "entry": entry})


def _gym_version() -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version("reasoning-gym")
    except importlib.metadata.PackageNotFoundError:
        raise DataError("reasoning-gym is not installed") from None


def _options_info(bench: Benchmark, options: Options) -> dict[str, Any]:
    """For the manifest, without paths of this machine."""
    return {
        "limit": options.limit,
        "keep_duplicates": options.keep_duplicates,
        "custom": options.custom,
        "max_prompt_tokens": options.max_prompt_tokens,
        "tokenizer": options.tokenizer and Path(options.tokenizer).name,
        "against": [{"name": f"{p.parent.name}/{p.name}", "sha256": file_sha256(p)} for p in options.against],
        "n": options.n if options.against else None,
        "max_tests": MAX_TESTS if bench.kind == "code" else None,
        "generator": bench.name.partition(":")[2] if bench.name.startswith(GYM) else None,
    }


def _digest(text: str) -> bytes:
    return hashlib.sha256(same_text(text).encode("utf-8", "replace")).digest()[:16]


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")[:400]
