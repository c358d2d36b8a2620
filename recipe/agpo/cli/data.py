# SPDX-License-Identifier: Apache-2.0
"""``agpo data``: prepare, check, mix and show data sets, and list the benchmarks."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from recipe.agpo.arguments import json_object, shown, whole
from recipe.agpo.cli.rows import draw
from recipe.agpo.files import write_text


def register(commands: Any) -> None:
    """Add ``data`` and its own commands to ``agpo``'s."""
    data = commands.add_parser("data", help="prepare, check, mix and show data sets")
    actions = data.add_subparsers(dest="action", required=True)

    prepare = actions.add_parser("prepare", help="a benchmark or a generated task as verl parquet with a manifest")
    prepare.add_argument("name", metavar="NAME", help="see `agpo data list`; or reasoning_gym:<task>")
    prepare.add_argument("--from", dest="source", metavar="SOURCE", help="file, folder, hub id, or hub")
    prepare.add_argument("--out", type=Path, required=True, metavar="DIR", help="writes DIR/NAME/<split>.parquet")
    prepare.add_argument("--split", metavar="NAME", help="only this split; or the split of a file that does not say")
    prepare.add_argument("--revision", help="of the hub data set (default: its newest)")
    prepare.add_argument("--limit", type=whole, metavar="N", help="at most N rows: the first, or with --seed drawn")
    prepare.add_argument("--seed", type=whole, help="draws the rows of --limit, or the problems of a generated task")
    prepare.add_argument("--max-prompt-tokens", type=whole, metavar="N", help="skip longer prompts; needs --tokenizer")
    prepare.add_argument("--tokenizer", metavar="PATH", help="folder or hub id of the tokenizer that counts")
    prepare.add_argument("--template", metavar="NAME", help="prompt template in place of the benchmark's own")
    prepare.add_argument("--system", metavar="TEXT", help="a system message before every question; '' for an empty one")
    prepare.add_argument(
        "--example",
        nargs=2,
        action="append",
        default=[],
        metavar=("QUESTION", "ANSWER"),
        help="a solved example, shown before every question as turns of the chat; may be repeated",
    )
    prepare.add_argument("--against", type=Path, nargs="+", default=[], metavar="EVAL", help="skip rows that overlap")
    prepare.add_argument("--n", type=whole, default=13, help="tokens of an n-gram for --against (default 13)")
    prepare.add_argument("--keep-duplicates", action="store_true", help="write rows that equal an earlier one too")
    prepare.add_argument(
        "--custom", action="store_true", help="a selection of your own: any number of records, unreadable ones skipped"
    )
    prepare.add_argument("--allow-test-for-training", action="store_true", help="mark test data as allowed")
    prepare.add_argument("--size", type=whole, metavar="N", help="generated tasks: number of problems")
    prepare.add_argument("--config", metavar="JSON", help="generated tasks: the task's own settings")

    check = actions.add_parser("check", help="n-gram overlap of training with evaluation files (exit 1 if any)")
    check.add_argument("train", type=Path, nargs="+", metavar="TRAIN")
    check.add_argument("--against", type=Path, nargs="+", required=True, metavar="EVAL")
    check.add_argument("--n", type=whole, default=13, help="tokens of an n-gram (default 13)")
    check.add_argument("--json", type=Path, metavar="PATH", help="also write the report to PATH")
    check.add_argument("--show", type=whole, default=10, metavar="N", help="print at most N pairs (default 10)")

    mix = actions.add_parser("mix", help="one training file out of several, in given shares")
    mix.add_argument("weights", nargs="+", metavar="NAME=WEIGHT")
    mix.add_argument("--from", dest="source", type=Path, required=True, metavar="DIR", help="where prepare wrote to")
    mix.add_argument("--out", type=Path, required=True, metavar="DIR")
    mix.add_argument("--size", type=whole, required=True, metavar="N")
    mix.add_argument("--seed", type=whole, default=0)
    mix.add_argument("--split", default="train")
    mix.add_argument("--no-repeat", action="store_true", help="stop before any row is used twice")

    show = actions.add_parser("show", help="print rows as the model will see them")
    show.add_argument("file", type=Path, metavar="FILE")
    show.add_argument("-n", type=whole, default=3, help="number of rows (default 3)")
    show.add_argument("--tokenizer", metavar="PATH", help="apply its chat template and count tokens")

    actions.add_parser("list", help="the benchmarks, their splits and licence notes")


def run(arguments: argparse.Namespace) -> int:
    """Run one of them; returns the exit code (0 success, 1 overlap found, 2 error)."""
    from recipe.agpo.data import DataError

    actions = {"prepare": _prepare, "check": _check, "mix": _mix, "show": _show, "list": _list}
    try:
        return actions[arguments.action](arguments)
    except DataError as error:
        print(f"agpo data {arguments.action}: {error}", file=sys.stderr)
        return 2


def counts_line(manifest: dict[str, Any]) -> str:
    """One line on a prepared split: read, written, and every reason that occurred."""
    counts = manifest["counts"]
    reasons = ", ".join(f"{count} {reason}" for reason, count in counts["skipped"].items() if count)
    name = f"{manifest['name']}/{manifest['split']}"
    return f"{name}: {counts['read']} read, {counts['written']} written, skipped: {reasons or 'none'}"


def _prepare(arguments: argparse.Namespace) -> int:
    from recipe.agpo.data import DataError, Options, benchmark, prepare, prepare_gym

    options = Options(
        limit=arguments.limit,
        seed=arguments.seed,
        max_prompt_tokens=arguments.max_prompt_tokens,
        tokenizer=arguments.tokenizer,
        template=arguments.template,
        system=arguments.system,
        examples=tuple((question, answer) for question, answer in arguments.example),
        allow_test=arguments.allow_test_for_training,
        against=tuple(arguments.against),
        n=arguments.n,
        keep_duplicates=arguments.keep_duplicates,
        custom=arguments.custom,
    )
    if benchmark(arguments.name).kind == "gym":
        if arguments.source is not None or arguments.size is None:
            raise DataError(f"{arguments.name} is generated: give --size (and --seed), no --from")
        if arguments.limit is not None:
            raise DataError("--limit has no meaning for a generated task: use --size")
        manifests = [
            prepare_gym(
                arguments.name,
                arguments.out,
                size=arguments.size,
                seed=arguments.seed or 0,
                split=arguments.split or "train",
                config=_settings(arguments.config),
                options=options,
            )
        ]
    else:
        if arguments.source is None:
            raise DataError("--from SOURCE is missing: a file, a folder, a hub id, or hub")
        if arguments.size is not None or arguments.config is not None:
            raise DataError("--size and --config are for generated tasks: use --limit")
        manifests = prepare(
            arguments.name,
            arguments.source,
            arguments.out,
            split=arguments.split,
            revision=arguments.revision,
            options=options,
        )
    for manifest in manifests:
        print(counts_line(manifest))
        for entry in manifest["skipped"][:5]:
            print(f"  {entry['place']}: {entry['reason']}: {entry['detail'][:100]}")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from recipe.agpo.data import DataError
    from recipe.agpo.data.overlap import check_overlap, report_table

    inputs = [path for path in (*arguments.train, *arguments.against) if path.exists()]
    if arguments.json is not None and arguments.json.exists() and any(map(arguments.json.samefile, inputs)):
        raise DataError(f"--json {arguments.json} is one of the files to check: name another one")
    if arguments.show < 0:
        raise DataError(f"--show {arguments.show}: must be at least 0")
    report = check_overlap(arguments.train, arguments.against, arguments.n)
    if arguments.json is not None:
        write_text(arguments.json, json.dumps(report, ensure_ascii=False, indent=2) + "\n")
    print(report_table(report, arguments.show))
    return 1 if report["train_rows_overlapping"] else 0


def _mix(arguments: argparse.Namespace) -> int:
    from recipe.agpo.data import mix

    manifest = mix(
        _weights(arguments.weights),
        arguments.source,
        arguments.out,
        size=arguments.size,
        seed=arguments.seed,
        split=arguments.split,
        repeat=not arguments.no_repeat,
    )
    print(f"{arguments.out / arguments.split}.parquet: {manifest['rows']} of {arguments.size} rows")
    for part in manifest["parts"]:
        repeated = f", each row up to {part['times_repeated'] + 1} times" if part["times_repeated"] else ""
        print(
            f"  {part['name']}: {part['rows']} rows, share {part['share']:.4f}, of {part['available']} there{repeated}"
        )
    if manifest["rows"] < arguments.size:
        print("  stopped there: a set is used up (--no-repeat)")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from recipe.agpo.data import DataError
    from recipe.agpo.data.prepare import load_tokenizer
    from recipe.agpo.data.show import shown as rows_shown

    if arguments.n < 1:
        raise DataError(f"-n {arguments.n}: must be at least 1")
    tokenizer = load_tokenizer(arguments.tokenizer) if arguments.tokenizer else None
    print(rows_shown(arguments.file, arguments.n, tokenizer))
    return 0


def _list(_: argparse.Namespace) -> int:
    from recipe.agpo.data import BENCHMARKS

    generated = ("reasoning_gym:TASK", "gym", "en", "train, validation, test (generated)")
    rows = [
        (item.name, item.kind, item.language, ", ".join(item.splits), item.hub_id or "none known", item.licence)
        for item in BENCHMARKS.values()
    ]
    if draw([*rows, (*generated, "", "")], head=("name", "kind", "language", "splits", "hub", "licence")):
        return 0
    for item in BENCHMARKS.values():
        print(f"{item.name:<18} {item.kind:<8} {item.language}  {', '.join(item.splits)}")
        print(f"{'':<18} hub: {item.hub_id or 'none known'}; template {item.template}; licence: {item.licence}")
    print("{:<18} {:<8} {}  {}".format(*generated))
    return 0


def _settings(text: str | None) -> dict[str, Any]:
    from recipe.agpo.data import DataError

    try:
        return json_object("--config", text)
    except ValueError as error:
        raise DataError(str(error)) from None


def _weights(items: list[str]) -> dict[str, float]:
    from recipe.agpo.data import DataError

    found: dict[str, float] = {}
    for item in items:
        name, mark, weight = item.rpartition("=")
        try:
            value = float(weight)
        except ValueError:
            value = float("nan")
        if not mark or not name or value != value:
            raise DataError(f"{shown(item)}: must be NAME=WEIGHT, e.g. gsm8k=0.7")
        if name in found:
            raise DataError(f"{name} is there twice")
        found[name] = value
    return found
