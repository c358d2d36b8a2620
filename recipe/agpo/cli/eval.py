# SPDX-License-Identifier: Apache-2.0
"""``agpo eval``: accuracy of a checkpoint on benchmarks, with intervals; resumable."""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
from pathlib import Path
from typing import Any

from recipe.agpo.arguments import INTERRUPTED, finite, json_object, whole
from recipe.agpo.arguments import shown as cut
from recipe.agpo.files import FileError, check_folder, read_text


def register(commands: Any) -> None:
    """Add the subcommand to ``agpo``'s."""
    parser = commands.add_parser(
        "eval",
        help="evaluate a checkpoint on data files: accuracy with interval, pass@k, maj@k, tokens",
        description="Evaluate a checkpoint in HF format with vLLM. The same command continues after an interruption.",
    )
    parser.add_argument("--model", required=True, help="folder in HF format, verl checkpoint folder, or hub id")
    parser.add_argument(
        "--data", required=True, nargs="+", type=Path, metavar="FILE", help="parquet files in verl's schema"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of this evaluation")

    parser.add_argument(
        "--weights",
        choices=("auto", "average", "raw"),
        default="auto",
        help="of a checkpoint with an average of the weights: which of the two (auto: the average)",
    )

    asked = parser.add_argument_group("what is asked")
    asked.add_argument("--protocol", choices=("greedy", "sampled"), default="greedy")
    asked.add_argument("--samples", type=whole, metavar="K", help="responses a problem (sampled: 8)")
    asked.add_argument("--temperature", type=finite, help="sampled: 1")
    asked.add_argument("--top-p", type=finite, help="sampled: 1")
    asked.add_argument("--max-tokens", type=whole, help="generated tokens at most (2048)")
    asked.add_argument("--seed", type=whole, help="of the sampling (0)")
    asked.add_argument("--limit", type=whole, metavar="N", help="only N problems of each file, at even distances")
    asked.add_argument(
        "--template",
        choices=("auto", "chat", "plain"),
        default="auto",
        help="chat template, or BOS and the messages, a line each (auto: chat if the tokenizer has one)",
    )
    asked.add_argument(
        "--chat-template", metavar="FILE_OR_TEXT", help="in place of the tokenizer's, as model.custom_chat_template"
    )
    asked.add_argument(
        "--chat-template-kwargs", metavar="JSON", help="for the template, as data.apply_chat_template_kwargs"
    )

    judged = parser.add_argument_group("how it is judged")
    judged.add_argument("--pass-at", type=whole, nargs="+", metavar="K", help="pass@k for these k (powers of 2)")
    judged.add_argument("--maj-at", type=whole, nargs="+", metavar="K", help="maj@k for these k (powers of 2)")
    judged.add_argument("--reward", metavar="PKG:FUNCTION", help="a reward function in place of the rows' verifiers")
    judged.add_argument("--rejudge", action="store_true", help="judge the responses that DIR holds again")
    judged.add_argument("--compare", type=Path, metavar="OTHER_DIR", help="paired difference to a finished evaluation")

    engine = parser.add_argument_group("vLLM")
    engine.add_argument("--platform", choices=("auto", "cpu", "gpu"), default="auto")
    engine.add_argument("--dtype", default="auto", help="vLLM's dtype (auto; float32 stays float32 on the CPU)")
    engine.add_argument("--tensor-parallel-size", type=whole, default=1, metavar="GPUS")
    engine.add_argument("--gpu-memory-utilization", type=finite, default=0.9, metavar="SHARE")
    engine.add_argument("--max-model-len", type=whole, metavar="TOKENS", help="context (as long as needed)")
    engine.add_argument("--chunk", type=whole, metavar="PROBLEMS", help="problems between two saves")


def run(arguments: argparse.Namespace) -> int:
    """Returns the exit code: 0: success; 1: refused, with the reason; 130: interrupted, can be continued."""
    from recipe.agpo.evaluate.errors import EvaluationError

    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        _evaluate(arguments)
        return 0
    except (EvaluationError, FileError) as error:
        print(f"agpo eval: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nagpo eval: interrupted; the same command continues in {arguments.out}", file=sys.stderr)
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, previous)


def _evaluate(arguments: argparse.Namespace) -> None:
    from recipe.agpo.evaluate import checkpoint, compare, data, generate, judge, protocols, report
    from recipe.agpo.evaluate import run as runs
    from recipe.agpo.evaluate.errors import EvaluationError

    # Check all arguments before the model is loaded.
    protocol = protocols.protocol(
        arguments.protocol,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        samples=arguments.samples,
        max_tokens=arguments.max_tokens,
        seed=arguments.seed,
    )
    print(f"protocol  {protocol}")
    pass_at = protocols.steps(protocol.samples, arguments.pass_at, "pass")
    maj_at = protocols.steps(protocol.samples, arguments.maj_at, "maj")
    if arguments.chunk is not None and arguments.chunk < 1:
        raise EvaluationError(f"--chunk must be at least 1, got {arguments.chunk}")
    if arguments.compare is not None:
        if os.path.realpath(arguments.compare) == os.path.realpath(arguments.out):
            raise EvaluationError("--compare names the folder of --out: a run cannot be compared with itself")
        compare.check(arguments.compare)
    check_folder(arguments.out)
    model = checkpoint.find(arguments.model, arguments.weights)
    benchmarks = data.load(arguments.data, arguments.limit)
    judging = judge.RowJudge(arguments.reward)
    for benchmark in benchmarks:
        try:
            judging.check(benchmark.problems)
        except EvaluationError as error:
            raise EvaluationError(f"{benchmark.path}: {error}") from error
    platform = generate.choose_platform(arguments.platform)
    generate.check_memory(model, platform)
    chat_template = _chat_template(arguments.chat_template)
    if chat_template is not None and arguments.template == "plain":
        raise EvaluationError("--chat-template and --template plain exclude each other: leave one out")
    has_template = chat_template is not None or model.template_hash() != "none"
    settings = generate.EngineSettings(
        platform=platform,
        dtype=generate.choose_dtype(arguments.dtype, platform, model.config),
        template=generate.choose_template(arguments.template, has_template),
        tensor_parallel_size=arguments.tensor_parallel_size,
        gpu_memory_utilization=arguments.gpu_memory_utilization,
        max_model_len=arguments.max_model_len,
        chat_template=chat_template,
        template_kwargs=_template_kwargs(arguments.chat_template_kwargs),
    )
    if platform == "cpu" and settings.tensor_parallel_size != 1:
        raise EvaluationError("--tensor-parallel-size is for GPUs; on the CPU platform it is 1")
    print(f"model     {model.folder}" + (f" ({model.averaged})" if model.averaged else ""))
    print(f"platform  {platform}, {settings.identity()['engine']}, {settings.dtype}, template {settings.template}")
    for benchmark in benchmarks:
        print(f"data      {benchmark.name}: {len(benchmark.problems)} of {benchmark.rows} problems")

    header = runs.header(
        arguments.model + (f" ({model.averaged})" if model.averaged else ""),
        model.fingerprint(),
        settings.identity(),
        generate.template_identity(settings, model.template_hash()),
        benchmarks,
        protocol,
        arguments.limit,
        judging.identity(),
    )
    chunk = arguments.chunk or max(1, generate.CHUNK_RESPONSES[platform] // protocol.samples)
    task = runs.Task(benchmarks, protocol, header, pass_at, maj_at, chunk)
    try:
        result = runs.evaluate(
            arguments.out,
            task,
            lambda problems: generate.VllmGenerator(model, protocol, settings, problems),
            judging,
            rejudge=arguments.rejudge,
        )
        report.write(arguments.out, result)
        if arguments.compare is not None:
            result["comparison"] = compare.compare(arguments.out, arguments.compare)
            report.write(arguments.out, result)
    finally:
        judging.close()
    print()
    _print_markdown(report.markdown(result))
    print(f"\nwritten to {arguments.out}: eval.json, eval.md, eval.png")


def _print_markdown(text: str) -> None:
    """Drawn by rich on a terminal, as it is on a pipe."""
    if sys.stdout.isatty() and importlib.util.find_spec("rich") is not None:
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(text))
    else:
        print(text, end="")


def _chat_template(given: str | None) -> str | None:
    """The text of a template that is given as text or as a file."""
    from recipe.agpo.evaluate.errors import EvaluationError

    if given is None or "{{" in given or "{%" in given:
        return given
    if not Path(given).is_file():
        raise EvaluationError(f"--chat-template {cut(given)}: neither a file nor a template with {{{{ or {{%")
    return read_text(Path(given))


def _template_kwargs(text: str | None) -> dict[str, Any]:
    from recipe.agpo.evaluate.errors import EvaluationError
    from recipe.agpo.prompts import PASSED_BY_VERL

    try:
        found = json_object("--chat-template-kwargs", text)
    except ValueError as error:
        raise EvaluationError(str(error)) from None
    if taken := [name for name in PASSED_BY_VERL if name in found]:
        raise EvaluationError(f"--chat-template-kwargs: {', '.join(taken)} cannot be chosen; leave it out")
    return found


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
