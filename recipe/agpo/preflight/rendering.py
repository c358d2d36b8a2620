# SPDX-License-Identifier: Apache-2.0
"""Checks of the prompts as verl will render them: template, BOS, roles, tools, lengths, and what its filter leaves."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from omegaconf import DictConfig

from recipe.agpo.plan.prompts import (
    FILES,
    NOT_HERE,
    Examined,
    NotRendered,
    Prompt,
    examine,
    listed,
    messages_of,
    model_path,
    render,
    rows_of,
)
from recipe.agpo.preflight.template_fixes import fix
from recipe.agpo.prompts import PASSED_BY_VERL
from recipe.agpo.settings import RunConfig
from recipe.agpo.verl_api.chat import IN_KWARGS, SINGLE_TURN, TOOL_AGENT, RunPrompts

TRIED = 64  # prompts that a fix is tried on
MAX_FILTERED = 100_000  # rows that are counted to find out whether the filter leaves a batch
SHOWN = 100


def rendered(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    """Render the first prompts of both splits as verl will, and say what is wrong with them."""
    try:
        found = examine(config)
    except NotRendered:
        return
    passed = [name for name in PASSED_BY_VERL if name in found.run.template_kwargs]
    if passed:
        yield (
            f"data.apply_chat_template_kwargs.{passed[0]}={found.run.template_kwargs[passed[0]]}: verl passes this "
            f"argument itself, so every rollout would end in a TypeError. Leave {', '.join(passed)} out of "
            "data.apply_chat_template_kwargs."
        )
        return
    if found.tools_error:
        if not found.tools_error.startswith("FileNotFoundError"):  # said by the check of the files
            yield _tools(config, found)
        return
    if found.builder_error:
        yield (
            f"actor_rollout_ref.model.path={model_path(config)}: verl's token builder for model_type="
            f"{found.run.model_type} refuses the tokenizer ({found.builder_error}): every rollout would fail. Set "
            "actor_rollout_ref.model.tokenizer_path to the model's own tokenizer."
        )
        return
    said: set[str] = set()
    for key in FILES:
        prompts = found.prompts[key]
        for kind, problem in (*_judged(config, found, key, prompts), *_lengths(config, found, key, prompts)):
            # What is wrong with the template is wrong in both splits, and has one fix.
            if kind not in said:
                yield problem
            if kind in ("template", "bos"):
                said.add(kind)


def warnings(config: DictConfig) -> Iterator[str]:
    """Prompts that work otherwise than their settings suggest."""
    try:
        found = examine(config)
    except NotRendered:
        return
    if found.builder_error or found.tools_error:
        return
    yield from _unused_tools(config, found)
    for key in FILES:
        prompts = [p for p in found.prompts[key] if p.is_conversation]
        left_out = [p for p in prompts if p.filter_error]
        if left_out and len(left_out) < len(prompts):
            yield (
                f"data.{key}: verl leaves out {len(left_out)} of the first {len(prompts)} prompts, because the chat "
                f"template raises ({left_out[0].filter_error}; first in row {left_out[0].row})."
            )
        limit = _prompt_length(config)
        cut = [p for p in prompts if p.ids is not None and limit is not None and len(p.ids) > limit]
        if cut and not _filters(config) and config.data.get("truncation", "error") != "error":
            yield (
                f"data.{key}: {len(cut)} of the first {len(prompts)} prompts are longer than {limit} tokens and lose "
                "their beginning, BOS included: verl 0.9.1 cuts on the left, whatever data.truncation says. "
                f"data.max_prompt_length={max(len(p.ids or ()) for p in cut)} holds them all."
            )


# ---- one row -------------------------------------------------------------------------------------------------------


def expected_start(found: Examined, prompt: Prompt) -> list[int]:
    """The tokens that the prompt has to begin with.

    Those that the tokenizer puts before every text; where it puts none, BOS if the model's own template begins with it.
    """
    if found.start or found.own is None:
        return found.start
    bos, end = (getattr(found.run.tokenizer, f"{name}_token_id", None) for name in ("bos", "eos"))
    try:
        ids = found.own.tokens(prompt.messages, None)
    except Exception:  # no template of its own, or one that raises
        return []
    # A token that also begins the later turns is a mark of turns, whatever the tokenizer calls it.
    begins = bos is not None and bos != end and ids[:1] == [bos] and ids.count(bos) == 1
    return [int(bos)] if begins and bos is not None else []


def bos_fault(found: Examined, run: RunPrompts, prompt: Prompt, ids: Sequence[int]) -> str:
    """``missing``, ``doubled`` or nothing."""
    start, ids = expected_start(found, prompt), list(ids)
    bos, end = (getattr(run.tokenizer, f"{name}_token_id", None) for name in ("bos", "eos"))
    if (start and ids[: 2 * len(start)] == start * 2) or (bos is not None and ids[:2] == [bos, bos]):
        return "doubled"
    if start and ids[: len(start)] != start:
        return "missing"
    # Some families begin every turn of a user with BOS, none more than that.
    turns = max(1, prompt.roles.count("user"))
    if bos in start and bos != end and ids.count(bos) > turns and run.tokenizer.bos_token not in prompt.text:
        return "doubled"
    return ""


def _good(found: Examined, run: RunPrompts, prompt: Prompt) -> bool:
    """Whether a prompt is fine with ``run``, which has another template."""
    tried = render(run, prompt)
    if tried.error or tried.filter_error or not tried.ids:
        return False
    return not bos_fault(found, run, prompt, tried.ids)


def _spoilt(found: Examined, prompt: Prompt) -> bool:
    """Whether verl's second try, after an empty user message, gives another prompt than the template was made for."""
    return _refuses_system(prompt) or bool(prompt.ids and bos_fault(found, found.run, prompt, prompt.ids))


def _refuses_system(prompt: Prompt) -> bool:
    error = (prompt.error or prompt.filter_error).lower()
    return "system" in prompt.roles and any(word in error for word in ("system", "alternat", "role"))


# ---- kinds of problems ---------------------------------------------------------------------------------------------


def _judged(config: DictConfig, found: Examined, key: str, prompts: Sequence[Prompt]) -> Iterator[tuple[str, str]]:
    texts = [p for p in prompts if not p.is_conversation]
    if texts:
        yield "text", _no_messages(config, key, texts[0])
        return
    # With the filter on, a row that raises is left out before its rollout.
    raises = [p for p in prompts if p.filter_error]
    if _filters(config):
        failed = raises if len(raises) == len(prompts) else []
        prompts = prompts if failed else [p for p in prompts if not p.filter_error]
    else:
        failed = [p for p in prompts if p.error or (p.filter_error and _spoilt(found, p))]
    if failed:
        yield "template", _raises(config, found, key, prompts, failed)
        return
    built = [p for p in prompts if p.ids is not None]
    same = len({p.text for p in built}) > 1 and len({p.ids for p in built}) == 1
    if same or any(not p.ids for p in built):
        yield (
            "template",
            f"data.{key}: {_template(config)} renders {'different' if same else 'a'} prompt{'s' if same else ''} as "
            f"{'the same' if same else 'no'} tokens: it does not use the messages."
            + _fixed(config, found, built, built, True),
        )
        return
    faults = [(p, fault) for p in built if (fault := bos_fault(found, found.run, p, p.ids or ()))]
    if faults:
        yield "bos", _bos(config, found, key, built, faults)


def _no_messages(config: DictConfig, key: str, prompt: Prompt) -> str:
    column, path = config.data.get("prompt_key", "prompt"), os.path.expanduser(prompt.file)
    value = repr(prompt.messages)[:SHOWN]
    fix_it = ""
    if isinstance(prompt.messages, str) and path.endswith(".parquet"):
        code = (
            f"import pandas; d = pandas.read_parquet({path!r}); d[{column!r}] = "
            f"[[dict(role='user', content=text)] for text in d[{column!r}]]; d.to_parquet({path!r})"
        )
        fix_it = f" This rewrites the file: python -c {shlex.quote(code)}"
    return (
        f"data.{key}={prompt.file}, row {prompt.row}: {column}={value} is {type(prompt.messages).__name__}, and verl "
        f'needs a list of {{"role": ..., "content": ...}}: it would read text letter by letter.{fix_it}'
    )


def _raises(config: DictConfig, found: Examined, key: str, prompts: Sequence[Prompt], failed: Sequence[Prompt]) -> str:
    first = failed[0]
    error = first.error or first.filter_error
    share = f"{len(failed)} of the first {len(prompts)} prompts (the first: {first.file}, row {first.row})"
    tools = f" with the {len(found.run.tools)} tool(s) of multi_turn" if _uses_tools(config, failed) else ""
    if found.run.template is None:
        what = f"{model_path(config)}: its tokenizer has no chat template, and verl renders every prompt with one"
        return f"actor_rollout_ref.model.path={what}.{_fixed(config, found, failed, prompts, True)}"
    if _filters(config):
        ending = "verl's filter leaves out every row that raises"
    elif first.error:
        ending = "their rollouts fail"
    else:
        ending = "verl renders them after an empty user message and cuts that off, a BOS included"
    verb = "refuses the role 'system' of" if _refuses_system(first) else "cannot render"
    what = f"{_template(config)} {verb} {share}{tools}: {error}; {ending}."
    fixed = _fixed(config, found, failed, prompts, True)
    # The agent loop's second try renders what the filter drops.
    second = [bool(p.ids) and not bos_fault(found, found.run, p, p.ids or ()) for p in failed]
    if _filters(config) and all(second) and not _refuses_system(first):
        fixed = " The rollout could render them: set data.filter_overlong_prompts=False."
    return f"data.{key}: {what}{fixed}"


def _bos(
    config: DictConfig,
    found: Examined,
    key: str,
    prompts: Sequence[Prompt],
    faults: Sequence[tuple[Prompt, str]],
) -> str:
    first, fault = faults[0]
    tokenizer = found.run.tokenizer
    start = expected_start(found, first) or [tokenizer.bos_token_id]
    name = repr(tokenizer.decode(start, skip_special_tokens=False))
    share = f"{len(faults)} of the first {len(prompts)} prompts"
    if fault == "missing":
        source = "the tokenizer puts it before every text" if found.start else "the model's own template begins with it"
        what = (
            f"BOS missing: {share} do not begin with {name}, though {source}. verl tokenises the rendered template "
            f"without special tokens, and {_template(config)} does not write it first."
        )
    elif tokenizer.bos_token and all(tokenizer.bos_token in p.text for p, _ in faults):
        what = (
            f"BOS doubled: {share} have {name} more than once, because the text of the data contains it as well "
            f"(the first: {first.file}, row {first.row}). Take it out of the data, or out of the template."
        )
    else:
        what = f"BOS doubled: {share} have {name} more than once. {_template(config)} writes it more than once."
    return f"data.{key}: {what}{_fixed(config, found, [p for p, _ in faults], prompts, False)}"


def _tools(config: DictConfig, found: Examined) -> str:
    multi_turn = config.actor_rollout_ref.rollout.multi_turn
    given = [f"{n}={multi_turn[n]}" for n in ("tool_config_path", "function_tool_path") if multi_turn.get(n)]
    return (
        f"actor_rollout_ref.rollout.multi_turn.{', '.join(given)}: verl cannot load the tools ({found.tools_error}). "
        "Every agent-loop worker would fail. A tool needs a name, a description and parameters with types "
        '({"type": "function", "function": {...}}); without tools set '
        + " ".join(f"actor_rollout_ref.rollout.multi_turn.{item.partition('=')[0]}=null" for item in given)
        + "."
    )


def _unused_tools(config: DictConfig, found: Examined) -> Iterator[str]:
    if not found.run.tools:
        return
    names = ", ".join(name for name, _ in found.run.tools)
    prompts = [p for key in FILES for p in found.prompts[key]]
    if prompts and all(p.agent == SINGLE_TURN for p in prompts):
        yield (
            f"tools {names}: the agent loop {SINGLE_TURN} passes no tools to the chat template. Set "
            f"actor_rollout_ref.rollout.agent.default_agent_loop={TOOL_AGENT}, or an agent_name in the rows."
        )
        return
    first = next((p for p in prompts if p.agent == TOOL_AGENT and p.ids), None)
    if first is not None and list(first.ids or ()) == found.run.tokens(first.messages, None):
        if not all(name in first.text for name, _ in found.run.tools):
            yield (
                f"tools {names}: {_template(config)} does not print tools, so the model is never told of them. Use a "
                "template that prints `tools`, or describe them in the prompts."
            )


# ---- lengths -------------------------------------------------------------------------------------------------------


def _lengths(config: DictConfig, found: Examined, key: str, prompts: Sequence[Prompt]) -> Iterator[tuple[str, str]]:
    limit, cap = _whole(config.data.get("max_prompt_length")), _prompt_length(config)
    if limit is None or not prompts or not all(p.is_conversation for p in prompts):
        return
    if _filters(config):
        yield from _left(config, found, key, prompts, limit)
        prompts = [p for p in prompts if p.kept is not None and p.kept <= limit]
    elif config.data.get("truncation", "error") != "error":
        return
    lengths = [len(p.ids) for p in prompts if p.ids is not None]
    over = [length for length in lengths if cap is not None and length > cap]
    if over:
        name = "data.max_prompt_length" if cap == limit else "actor_rollout_ref.rollout.prompt_length"
        drop = "" if _filters(config) else ", or data.filter_overlong_prompts=True to leave them out"
        yield (
            "long",
            f"data.{key}: {len(over)} of the first {len(lengths)} prompts are longer than {name}={cap} tokens (the "
            f"longest has {max(over)}), and verl would cut off their beginning. Set {name}={max(over)}{drop}, or "
            "data.truncation=left to accept it.",
        )


def _left(
    config: DictConfig, found: Examined, key: str, prompts: Sequence[Prompt], limit: int
) -> Iterator[tuple[str, str]]:
    """Whether the filter leaves a batch; the rows after the first are counted only as far as needed."""
    need = (_whole(config.data.get("train_batch_size")) or 1) if key == "train_files" else 1
    lengths = [p.kept for p in prompts if p.kept is not None]
    raising, total = [p for p in prompts if p.filter_error], len(prompts)
    kept = sum(length <= limit for length in lengths)
    if len(raising) == total:  # said with the template
        return
    for _, _, row in islice(rows_of(config, key), total, MAX_FILTERED):
        if kept >= need:
            return
        messages, length = messages_of(config, row), 0  # with images: counted as if it were kept
        total += 1
        if messages is not NOT_HERE:
            try:
                length = found.run.filter_length(messages)
            except Exception:  # left out, too
                continue
        lengths.append(length)
        kept += length <= limit
    if kept >= need or total < need or total == MAX_FILTERED or not _all_local(config, key):
        return
    if raising:
        yield "template", _raises(config, found, key, prompts, raising)
        return
    longest, shortest = max(lengths), min(lengths)
    if kept == 0:
        yield (
            "left",
            f"data.{key}: data.filter_overlong_prompts=True leaves none of {total} prompts: the shortest has "
            f"{shortest} tokens, the longest {longest}, and data.max_prompt_length={limit}. Set "
            f"data.max_prompt_length={longest}.",
        )
        return
    enough = sorted(lengths)[need - 1] if len(lengths) >= need else longest
    wider = f"data.max_prompt_length={enough}, or " if enough > limit else ""
    yield (
        "left",
        f"data.{key}: data.filter_overlong_prompts=True leaves {kept} of {total} prompts (data.max_prompt_length="
        f"{limit}), fewer than data.train_batch_size={need}: no batch can be formed. Set {wider}"
        f"data.train_batch_size={kept} or less.",
    )


# ---- the config ----------------------------------------------------------------------------------------------------


def _fixed(
    config: DictConfig, found: Examined, wrong: Sequence[Prompt], prompts: Sequence[Prompt], own_first: bool
) -> str:
    """The override that is known to work, tried on what is wrong and on what is not."""
    tried = [*wrong[:TRIED], *prompts[:TRIED]]
    text = fix(found, tried, lambda run, prompt: _good(found, run, prompt), own_first)
    return f" Set {text}" if text else " Give the model a chat template that renders them, or change the prompts."


def _template(config: DictConfig) -> str:
    if (config.data.get("apply_chat_template_kwargs") or {}).get(IN_KWARGS) is not None:
        return f"data.apply_chat_template_kwargs.{IN_KWARGS}"
    if config.actor_rollout_ref.model.get("custom_chat_template") is not None:
        return "actor_rollout_ref.model.custom_chat_template"
    return f"the chat template of {model_path(config)}"


def _uses_tools(config: DictConfig, prompts: Sequence[Prompt]) -> bool:
    return any(p.agent == TOOL_AGENT for p in prompts) and bool(
        config.actor_rollout_ref.rollout.multi_turn.get("tool_config_path")
        or config.actor_rollout_ref.rollout.multi_turn.get("function_tool_path")
    )


def _filters(config: DictConfig) -> bool:
    return bool(config.data.get("filter_overlong_prompts", True))


def _prompt_length(config: DictConfig) -> int | None:
    """Where the agent loop cuts a prompt."""
    return _whole(config.actor_rollout_ref.rollout.get("prompt_length", config.data.get("max_prompt_length")))


def _all_local(config: DictConfig, key: str) -> bool:
    return all(
        "://" not in file and file.endswith((".parquet", ".jsonl")) and os.path.isfile(os.path.expanduser(file))
        for file in listed(config, key)
    )


def _whole(value: Any) -> int | None:
    """A whole number, None for anything else: the checks of the settings say that."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None
