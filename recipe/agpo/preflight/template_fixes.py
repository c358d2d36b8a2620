# SPDX-License-Identifier: Apache-2.0
"""A chat template that fixes what is wrong with a run's prompts, as an override to paste.

Each candidate is tried on the run's own prompts; only one that renders them with the BOS that the model expects is
offered.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from recipe.agpo.plan.prompts import Examined, Prompt
from recipe.agpo.prompts import MESSAGES_ONLY, start_expression
from recipe.agpo.verl_api.chat import IN_KWARGS, RunPrompts

KEY = "actor_rollout_ref.model.custom_chat_template"
# Two signs: the key is in no config, and may have been added already.
KEY_IN_KWARGS = f"++data.apply_chat_template_kwargs.{IN_KWARGS}"
NO_BOS = '{% set bos_token = "" %}'
# The system text goes in front of the first turn.
MERGE_SYSTEM = (
    '{% if messages[0]["role"] == "system" and messages | length > 1 %}{% set messages = [{"role": '
    'messages[1]["role"], "content": messages[0]["content"] + "\\n\\n" + messages[1]["content"]}] + messages[2:] %}'
    "{% endif %}"
)
# Texts of the data that are BOS themselves are cut out of it.
CLEAN = (
    "{% set clean = namespace(turns=[]) %}{% for message in messages %}{% set clean.turns = clean.turns + "
    '[{"role": message["role"], "content": message["content"] | replace(bos_token, "")}] %}{% endfor %}'
    "{% set messages = clean.turns %}"
)
_BOS = re.compile(r"\{\{-?\s*bos_token\s*-?\}\}")
Good = Callable[[RunPrompts, Prompt], bool]


def override(text: str | None, key: str = KEY) -> str:
    """The override for a shell: Hydra's quotes inside the shell's."""
    if text is None:
        return f"{key}=null"
    # Hydra: a quote is escaped, and so are the backslashes before one; OmegaConf: an interpolation is escaped.
    quote = "'" if "'" in text else '"'
    body = text.replace("${", "\\${")
    escaped = re.sub(rf"(\\*)({quote}|\Z)", lambda run: run[1] * 2 + (f"\\{quote}" if run[2] else ""), body)
    return shlex.quote(f"{key}={quote}{escaped}{quote}")


def fix(found: Examined, prompts: Sequence[Prompt], good: Good, own_first: bool) -> str | None:
    """The override of the first candidate with which every prompt is good; None if there is none.

    Args:
        found: the run.
        prompts: to be rendered with each candidate.
        good: whether a prompt is, with that candidate.
        own_first: try the model's own template before changes to ``custom_chat_template``.
    """
    own = [] if found.own is None else [(None, found.own)]
    changed = list(_changed(found))
    for template, run in [*own, *changed] if own_first else [*changed, *own]:
        try:
            if all(good(run, prompt) for prompt in prompts):
                return override(template, KEY_IN_KWARGS if IN_KWARGS in found.run.template_kwargs else KEY)
        except Exception:  # whatever a candidate raises
            continue
    return None


def _changed(found: Examined) -> Iterator[tuple[str | None, RunPrompts]]:
    """Changed templates, from the mildest change to the strongest, each once."""
    run = found.run
    bos = getattr(run.tokenizer, "bos_token", None)
    start = start_expression(run.tokenizer, found.start)
    # Where the tokenizer adds nothing, the model's own template may begin with BOS.
    starts = [start] if start or not bos else ["", "{{ bos_token }}"]
    texts: list[str] = []
    for text in (template_text(run), found.own and template_text(found.own)):
        if not text:
            continue
        bare = text.replace(bos, "") if bos else text
        texts += [start + text for start in starts]
        texts += [_BOS.sub("", text, count=1), NO_BOS + text]
        texts += [start + NO_BOS + body for start in starts for body in (text, bare)]
        texts += [MERGE_SYSTEM + text, *(start + NO_BOS + MERGE_SYSTEM + bare for start in starts)]
        texts += [CLEAN + text, *(CLEAN + start + NO_BOS + bare for start in starts)] if bos else []
    texts += [start + MESSAGES_ONLY for start in starts]
    texts += [CLEAN + start + MESSAGES_ONLY for start in starts] if bos else []
    for text in dict.fromkeys(texts):
        yield text, run.with_template(text)


def template_text(run: RunPrompts) -> str | None:
    """The template that renders the prompts, None if there is none."""
    holder: Any = run.processor or run.tokenizer
    if not isinstance(run.template, dict):
        return run.template
    try:
        return str(holder.get_chat_template(tools=[schema for _, schema in run.tools] or None))
    except ValueError:
        return None
