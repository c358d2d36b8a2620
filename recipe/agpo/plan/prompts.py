# SPDX-License-Identifier: Apache-2.0
"""The first prompts of a run as verl will render them: for the plan, and for the checks before Ray starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipe.agpo.data import DataError
from recipe.agpo.data.rows import iter_rows
from recipe.agpo.prompts import length_lines, shown, start_tokens, summary
from recipe.agpo.verl_api.chat import IN_KWARGS, SINGLE_TURN, TOOL_AGENT, RunPrompts, load_processor, load_tools

FILES = ("train_files", "val_files")
MAX_PROMPTS = 1000
NOT_HERE: Any = object()
MAX_SHOWN = 2000  # characters of the prompt that the plan prints
Row = dict[str, Any]


class NotRendered(Exception):
    """There is nothing to render here; the message says why."""


@dataclass(frozen=True)
class Prompt:
    """One row.

    Attributes:
        file, row: where it is.
        messages: as verl reads them.
        ids: of the prompt; None if verl's agent loop cannot build it, or builds it in a way that we do not know.
        error: why it cannot.
        kept: length that ``data.filter_overlong_prompts`` compares with the limit; None if the template raises.
        filter_error: what it raises. The agent loop has a second try, after an empty user message; the filter has not.
        agent, selection: the row's agent loop, and the tools that it selects.
    """

    file: str
    row: int
    messages: Any
    agent: str = SINGLE_TURN
    selection: Sequence[str] | None = None
    ids: tuple[int, ...] | None = None
    error: str = ""
    kept: int | None = None
    filter_error: str = ""

    @property
    def is_conversation(self) -> bool:
        return is_conversation(self.messages)

    @property
    def roles(self) -> list[str]:
        return [str(message.get("role")) for message in self.messages]

    @property
    def text(self) -> str:
        return "\n".join(str(message.get("content")) for message in self.messages)


@dataclass
class Examined:
    """The run's rendering and its first prompts.

    Attributes:
        run: tokenizer, template, token builder.
        own: the same without the template that the config gives; None where it gives none.
        start: tokens that the model was trained to see first, usually BOS.
        prompts: by ``train_files`` and ``val_files``, at most :data:`MAX_PROMPTS` of each.
        tools_error: why verl cannot load the tools.
        builder_error: why verl's token builder refuses the tokenizer.
    """

    run: RunPrompts
    own: RunPrompts | None
    start: list[int]
    prompts: dict[str, list[Prompt]] = field(default_factory=dict)
    tools_error: str = ""
    builder_error: str = ""


def model_path(config: DictConfig) -> str:
    """Where verl loads the tokenizer from."""
    model = config.actor_rollout_ref.model
    return str(model.get("tokenizer_path") or model.path)


def examine(config: DictConfig) -> Examined:
    """Load what the run renders with, and render its first prompts. The last result is kept.

    Raises:
        NotRendered: the tokenizer is not on this machine, or a data set class of the user's makes the prompts.
    """
    key = _key(config)
    if key not in _last:
        found = _examine(config)
        _last.clear()
        _last[key] = found
    return _last[key]


_last: dict[str, Examined] = {}


def rows_of(config: DictConfig, key: str) -> Iterator[tuple[str, int, Row]]:
    """(file, number, row) of the local files of ``data.<key>``, with the columns that decide a prompt.

    With ``data.<split>_max_samples`` and no shuffling verl takes the first rows; drawn rows are not foreseen.
    """
    names = [str(config.data.get(f"{media}_key") or f"{media}s") for media in ("image", "video", "audio")]
    columns = [str(config.data.get("prompt_key", "prompt")), "agent_name", "extra_info", *names]

    def rows() -> Iterator[tuple[str, int, Row]]:
        for file in listed(config, key):
            path = Path(os.path.expanduser(file))
            if "://" in file or path.suffix not in (".parquet", ".jsonl") or not path.is_file():
                continue
            try:
                for number, row in enumerate(iter_rows(path, columns=columns)):
                    yield file, number, row
            except DataError:  # said by the check of the files
                continue

    samples = config.data.get(f"{key.partition('_')[0]}_max_samples", -1)
    first = isinstance(samples, int) and samples > 0 and not config.data.get("shuffle")
    return islice(rows(), samples) if first else rows()


def listed(config: DictConfig, key: str) -> list[str]:
    """The files of ``data.<key>``, which verl takes as one or as a list."""
    files = config.data.get(key)
    return [files] if isinstance(files, str) else [str(file) for file in files or ()]


def messages_of(config: DictConfig, row: Row) -> Any:
    """The conversation of a row; :data:`NOT_HERE` without one, or with images, video or audio, which are not loaded."""
    media = [row.get(str(config.data.get(f"{kind}_key") or f"{kind}s")) for kind in ("image", "video", "audio")]
    return NOT_HERE if any(media) else row.get(str(config.data.get("prompt_key", "prompt")), NOT_HERE)


def is_conversation(messages: Any) -> bool:
    return isinstance(messages, list) and bool(messages) and all(isinstance(m, dict) for m in messages)


def lines(config: DictConfig) -> Iterator[str]:
    """One rendered prompt with its special tokens, and the lengths of the prompts of each split."""
    try:
        found = examine(config)
    except NotRendered as reason:
        yield f"prompts         {reason}: no rendered prompt, no lengths"
        return
    limit = config.data.get("max_prompt_length")
    rendered = [p for key in FILES for p in found.prompts[key] if p.ids is not None]
    if not rendered:
        failed = next((p.error or p.filter_error for key in FILES for p in found.prompts[key] if p.error), "")
        yield f"prompts         {failed or 'no row here that can be rendered'}: no rendered prompt, no lengths"
        return
    first, tokenizer = rendered[0], found.run.tokenizer
    yield f"prompt          {first.file}, row {first.row}: {summary(tokenizer, first.ids or ())}"
    text = shown(tokenizer, first.ids or ())
    cut = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}... ({len(text)} characters)"
    yield from (f"  | {line}" for line in cut.split("\n"))
    for key in FILES:
        lengths = [len(p.ids) for p in found.prompts[key] if p.ids is not None]
        if lengths:
            head, *bars = length_lines(lengths, limit if isinstance(limit, int) else None)
            yield f"{key:<16}{'first ' if len(found.prompts[key]) == MAX_PROMPTS else ''}{head}"
            yield from bars


def _examine(config: DictConfig) -> Examined:
    data, model = config.data, config.actor_rollout_ref.model
    if (data.get("custom_cls") or {}).get("path"):
        raise NotRendered(f"data.custom_cls.path={data.custom_cls.path} makes the prompts")
    path, trusted = model_path(config), bool(model.get("trust_remote_code", False))
    tokenizer = _local(path, trusted)
    processor = load_processor(os.path.expanduser(path), trusted)
    if processor is not None and not getattr(processor, "chat_template", None):
        processor.chat_template = getattr(tokenizer, "chat_template", None)
    multi_turn = config.actor_rollout_ref.rollout.get("multi_turn") or {}
    tools_error, tools = "", tuple[tuple[str, dict[str, Any]], ...]()
    try:
        tools = load_tools(multi_turn.get("tool_config_path"), multi_turn.get("function_tool_path"))
    except Exception as error:  # whatever the files of the user raise
        tools_error = _said(error)
    kwargs = data.get("apply_chat_template_kwargs") or {}
    own = RunPrompts(
        tokenizer,
        processor,
        _model_type(str(model.get("hf_config_path") or model.path), trusted),
        {name: value for name, value in kwargs.items() if name != IN_KWARGS},
        data.get("mm_processor_kwargs") or {},
        tools,
    )
    custom = model.get("custom_chat_template")
    run = own if custom is None else own.with_template(str(custom))
    if kwargs.get(IN_KWARGS) is not None:
        own, run = run, replace(run, template_kwargs=kwargs)
    found = Examined(run, None if own is run else own, start_tokens(tokenizer), {key: [] for key in FILES}, tools_error)
    try:
        _ = run.builder
    except Exception as error:  # of any family's builder
        found.builder_error = _said(error)
        return found
    for key in FILES:
        for file, number, row in islice(rows_of(config, key), MAX_PROMPTS):
            messages = messages_of(config, row)
            if messages is not NOT_HERE:
                prompt = Prompt(file, number, messages, *_agent_of(config, row))
                found.prompts[key].append(render(run, prompt) if prompt.is_conversation else prompt)
    return found


def _agent_of(config: DictConfig, row: Row) -> tuple[str, Sequence[str] | None]:
    """The row's agent loop, and the tools that it selects."""
    agent = row.get("agent_name") or config.actor_rollout_ref.rollout.agent.get("default_agent_loop", SINGLE_TURN)
    info = row.get("extra_info")
    return str(agent), (info.get("tool_selection") if isinstance(info, dict) else None)


def render(run: RunPrompts, prompt: Prompt) -> Prompt:
    """The same row with its tokens as its agent loop builds them, and its length as the filter counts it."""
    ids, error = None, ""
    if prompt.agent in (SINGLE_TURN, TOOL_AGENT):
        tools = run.agent_tools(prompt.agent, prompt.selection)
        ids, error = _tried(lambda: tuple(run.tokens(prompt.messages, tools)))
    kept, filter_error = _tried(lambda: run.filter_length(prompt.messages))
    return replace(prompt, ids=ids, error=error, kept=kept, filter_error=filter_error)


def _tried(compute: Callable[[], Any]) -> tuple[Any, str]:
    try:
        return compute(), ""
    except Exception as error:  # whatever a template raises
        return None, _said(error)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _local(path: str, trusted: bool) -> Any:
    from transformers import AutoTokenizer

    try:
        # Local files only: a check must not wait for a download, or for retries without a network.
        tokenizer = AutoTokenizer.from_pretrained(
            os.path.expanduser(path), trust_remote_code=trusted, local_files_only=True
        )
    except Exception as error:  # missing, damaged, gated: each with an exception of its own
        raise NotRendered(f"the tokenizer of {path} is not on this machine ({type(error).__name__})") from error
    if tokenizer.pad_token is None:  # as verl does; a template may print it
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _model_type(path: str, trusted: bool) -> str | None:
    from transformers import PretrainedConfig

    try:
        found, _ = PretrainedConfig.get_config_dict(os.path.expanduser(path), local_files_only=True)
    except (OSError, ValueError):
        return None
    return found.get("model_type")


def _key(config: DictConfig) -> str:
    """Everything that the result depends on."""
    rollout = config.actor_rollout_ref.rollout
    parts = [config.data, config.actor_rollout_ref.model, rollout.get("multi_turn"), rollout.get("agent")]
    paths = [Path(os.path.expanduser(file)) for key in FILES for file in listed(config, key)]
    model = Path(os.path.expanduser(model_path(config)))
    times = [(str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in (*paths, *sorted(model.glob("*"))) if p.exists()]
    return "\n".join([*(OmegaConf.to_yaml(part) for part in parts if part is not None), str(times)])
