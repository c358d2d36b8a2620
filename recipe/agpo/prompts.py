# SPDX-License-Identifier: Apache-2.0
"""A prompt as the model reads it: rendered, and shown to a reader.

verl 0.9.1 renders a row's messages with the chat template, tokenises the result without adding special tokens, and
sends token ids to vLLM. So a BOS token is in the prompt only if the template writes it. :func:`render` does the same
without verl, for evaluation and data; ``tests/contracts`` compares it with verl's own path.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

MESSAGES_ONLY = '{% for message in messages %}{{ message["content"] }}{{ "\\n" }}{% endfor %}'
# Some templates need a user message. Where a conversation cannot be rendered alone, verl renders it after this one
# and cuts that off.
_ANY_USER = [{"role": "user", "content": [{"type": "text", "text": ""}]}]
# Arguments that verl passes itself; a second value is a TypeError in every rollout.
PASSED_BY_VERL = ("add_generation_prompt", "return_dict", "tokenize", "tools")
BINS, BAR = 8, 40


def render(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    chat_template: str | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
) -> list[int]:
    """Token ids of a prompt, as verl's rollout builds them for a model without images.

    Args:
        tokenizer: of transformers.
        messages: the conversation to continue.
        tools: JSON schemas, None where the agent loop passes none.
        chat_template: in place of the tokenizer's.
        template_kwargs: ``data.apply_chat_template_kwargs``.

    Raises:
        Exception: whatever the template raises, and ValueError without a template.
    """
    optional = {"chat_template": chat_template, "tools": tools}
    given = {**{name: value for name, value in optional.items() if value is not None}, **(template_kwargs or {})}

    def ids(conversation: list[Any], generation: bool) -> list[int]:
        found = tokenizer.apply_chat_template(
            conversation, tokenize=True, add_generation_prompt=generation, return_dict=False, **given
        )
        return [int(token) for token in found]

    conversation = [dict(message) for message in messages]
    try:
        return ids(conversation, True)
    except Exception as error:
        try:
            return ids(_ANY_USER + conversation, True)[len(ids(_ANY_USER, False)) :]
        except Exception:
            raise error from None


def start_tokens(tokenizer: Any) -> list[int]:
    """Special tokens that the tokenizer puts before every text, usually BOS: the model was trained with them.

    They come from its post-processor or its flag ``add_bos_token``; empty for models without BOS.
    """
    whole, text = (list(tokenizer.encode("a", add_special_tokens=added)) for added in (True, False))
    found = next((whole[:i] for i in range(len(whole)) if text and whole[i : i + len(text)] == text), [])
    # Flag and post-processor together add it twice; no model was trained so.
    return found[:1] if len(set(found)) == 1 else found


def start_expression(tokenizer: Any, tokens: Sequence[int]) -> str:
    """What a template writes to begin with these tokens."""
    if not tokens:
        return ""
    if list(tokens) == [getattr(tokenizer, "bos_token_id", None)]:
        return "{{ bos_token }}"
    return str(tokenizer.decode(list(tokens), skip_special_tokens=False))


def plain_template(tokenizer: Any) -> str:
    """For a base model, which has no template of its own: its BOS if it has one, then the messages, a line each.

    The configs of base models write the same as ``custom_chat_template``.
    """
    return start_expression(tokenizer, start_tokens(tokenizer)) + MESSAGES_ONLY


def template_for(tokenizer: Any) -> str | None:
    """The template to give to :func:`render`: None for the tokenizer's own, the plain one where it has none."""
    return None if getattr(tokenizer, "chat_template", None) else plain_template(tokenizer)


def shown(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of these tokens, special tokens included."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def summary(tokenizer: Any, ids: Sequence[int]) -> str:
    """Number of tokens and the first of them, which says whether there is a BOS."""
    if not ids:
        return "0 tokens"
    first = tokenizer.convert_ids_to_tokens(int(ids[0]))
    bos = ", its BOS" if ids[0] == getattr(tokenizer, "bos_token_id", None) else ""
    return f"{len(ids)} tokens, the first is {first!r} (id {ids[0]}{bos})"


def quantile(ordered: Sequence[int], share: float) -> int:
    """The smallest value that at least this share of the sorted values does not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def length_lines(lengths: Sequence[int], limit: int | None = None) -> list[str]:
    """Minimum, median, 95th percentile and maximum of the lengths, and a histogram in text.

    Args:
        lengths: tokens of each prompt.
        limit: the longest that is allowed, None where there is none.
    """
    if not lengths:
        return ["no prompts"]
    ordered = sorted(lengths)
    low, high = ordered[0], ordered[-1]
    over = "" if limit is None else f"; {sum(length > limit for length in ordered)} over the limit of {limit}"
    lines = [
        f"{len(ordered)} prompts: min {low}, p50 {quantile(ordered, 0.5)}, p95 {quantile(ordered, 0.95)}, max {high} "
        f"tokens{over}"
    ]
    width = max(1, math.ceil((high - low + 1) / BINS))
    counts = [0] * ((high - low) // width + 1)
    for length in ordered:
        counts[(length - low) // width] += 1
    digits, most = len(str(high)), max(counts)
    for i, count in enumerate(counts):
        first, last = low + i * width, min(high, low + (i + 1) * width - 1)
        bar = "#" * math.ceil(BAR * count / most)
        span = f"{first:>{digits}} to {last:>{digits}}" if width > 1 else f"{first:>{digits}}"
        lines.append(f"  {span}  {bar:<{BAR}} {count}")
    return lines
