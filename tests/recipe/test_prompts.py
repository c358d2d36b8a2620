# SPDX-License-Identifier: Apache-2.0
"""A prompt's first tokens, its text and the histogram of lengths."""

from __future__ import annotations

import pytest

from recipe.agpo import prompts
from tests.standins import tokenizers as standins


def test_the_tokens_that_a_tokenizer_puts_before_a_text() -> None:
    assert prompts.start_tokens(standins.llama3()) == [0]
    assert prompts.start_tokens(standins.gemma2(None)) == [2]
    assert prompts.start_tokens(standins.qwen()) == []
    # A BOS that is named and never added; one that flag and post-processor would both add.
    named = standins.byte_level(["<s>", "</s>"], bos_token="<s>", eos_token="</s>")
    assert prompts.start_tokens(named) == []
    twice = standins.byte_level(["<s>"], adds_bos=True, bos_token="<s>")
    twice.backend_tokenizer.post_processor = _processor("<s> <s> $A", "<s>")
    assert twice.encode("a")[:2] == [0, 0] and prompts.start_tokens(twice) == [0]


def _processor(single: str, token: str):
    from tokenizers import processors

    return processors.TemplateProcessing(single=single, pair="$A $B", special_tokens=[(token, 0)])


def test_the_plain_template_begins_as_the_tokenizer_does() -> None:
    assert prompts.plain_template(standins.llama3(None)).startswith("{{ bos_token }}{% for")
    assert prompts.plain_template(standins.qwen(None)).startswith("{% for")
    unnamed = standins.byte_level(["[gMASK]", "<sop>"])
    from tokenizers import processors

    unnamed.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[gMASK] <sop> $A", pair="$A $B", special_tokens=[("[gMASK]", 0), ("<sop>", 1)]
    )
    template = prompts.plain_template(unnamed)
    assert prompts.render(unnamed, standins.USER, chat_template=template)[:2] == [0, 1]


def test_special_tokens_are_shown() -> None:
    tokenizer = standins.gemma2()
    ids = prompts.render(tokenizer, standins.USER)
    assert prompts.shown(tokenizer, ids).startswith("<bos><start_of_turn>user\n")
    assert prompts.summary(tokenizer, ids) == f"{len(ids)} tokens, the first is '<bos>' (id 2, its BOS)"
    assert prompts.summary(tokenizer, []) == "0 tokens"


@pytest.mark.parametrize(
    ("lengths", "head", "bars"),
    [
        ([], "no prompts", 0),
        ([7], "1 prompts: min 7, p50 7, p95 7, max 7 tokens", 1),
        (list(range(1, 101)), "100 prompts: min 1, p50 50, p95 95, max 100 tokens", 8),
        ([5] * 9 + [1000], "10 prompts: min 5, p50 5, p95 1000, max 1000 tokens", 8),
        ([3, 4], "2 prompts: min 3, p50 3, p95 4, max 4 tokens", 2),
    ],
)
def test_lengths(lengths: list[int], head: str, bars: int) -> None:
    lines = prompts.length_lines(lengths)
    assert lines[0] == head and len(lines) == 1 + bars
    assert sum(int(line.split()[-1]) for line in lines[1:]) == len(lengths), "every prompt is in one bin"
    if bars:
        ends = [lines[i].partition("#")[0].split(" to ") for i in (1, -1)]
        assert int(ends[0][0]) == min(lengths) and int(ends[1][-1]) == max(lengths)


def test_lengths_over_a_limit_are_counted() -> None:
    assert prompts.length_lines([5, 9], 8)[0].endswith("; 1 over the limit of 8")
