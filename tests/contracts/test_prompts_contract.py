# SPDX-License-Identifier: Apache-2.0
"""One prompt, three readers: verl's rollout, verl's filter, and ours (evaluation, data) give the same tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from recipe.agpo.evaluate import generate
from recipe.agpo.plan.compose import compose
from recipe.agpo.prompts import plain_template, render, template_for
from recipe.agpo.verl_api.chat import RunPrompts
from tests.standins import tokenizers as standins

CONVERSATIONS = {"user": standins.USER, "system": standins.WITH_SYSTEM, "turns": standins.TURNS}
TOOL = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}}


def builder(tokenizer: Any, model_type: str, kwargs: dict[str, Any] | None = None) -> Any:
    """What verl's agent loop builds prompts with."""
    from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

    return create_continuous_token_builder(tokenizer, hf_model_type=model_type, chat_template_kwargs=kwargs or {})


@pytest.mark.parametrize("conversation", CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.parametrize("base", [False, True], ids=["chat", "base"])
@pytest.mark.parametrize("model_type", standins.FAMILIES)
def test_evaluation_reads_what_the_rollout_reads(
    model_type: str, base: bool, conversation: list[dict[str, str]], tmp_path: Path
) -> None:
    """A base model trains with the plain template as ``custom_chat_template``."""
    from transformers import AutoTokenizer

    build = standins.FAMILIES[model_type]
    folder = standins.save(build(None) if base else build(), tmp_path, model_type)
    ours, theirs = (AutoTokenizer.from_pretrained(folder) for _ in range(2))
    if base:
        theirs.chat_template = plain_template(ours)
    rollout = builder(theirs, model_type).build_initial_tokens(conversation)
    assert generate.encode(ours, conversation, "plain" if base else "chat") == rollout
    assert render(ours, conversation, chat_template=template_for(ours)) == rollout
    run = RunPrompts(theirs, None, model_type, {}, {})
    assert run.tokens(conversation, None) == rollout
    if model_type == "gemma2" and not base and conversation is standins.WITH_SYSTEM:
        with pytest.raises(Exception, match="System role"):  # the filter has no second try
            run.filter_length(conversation)
    else:
        assert run.filter_length(conversation) == len(rollout)


@pytest.mark.parametrize("kwargs", [{}, {"enable_thinking": False}, {"chat_template": "{{ messages[0]['content'] }}"}])
def test_arguments_of_the_template_and_tools(kwargs: dict[str, Any]) -> None:
    tokenizer = standins.qwen()
    for tools in (None, [], [TOOL]):
        theirs = builder(tokenizer, "qwen2", kwargs).build_initial_tokens(standins.USER, tools=tools)
        assert render(tokenizer, standins.USER, tools=tools, template_kwargs=kwargs) == theirs
        assert RunPrompts(tokenizer, None, "qwen2", kwargs, {}).tokens(standins.USER, tools) == theirs


def test_a_template_that_needs_a_user_is_tried_a_second_time() -> None:
    template = "{{ raise_exception('no user') if messages | length == 1 }}" + standins.QWEN_TEMPLATE
    tokenizer, alone = standins.qwen(template), [{"role": "assistant", "content": "2"}]
    with pytest.raises(Exception, match="no user"):
        tokenizer.apply_chat_template(alone)
    for build in (lambda: builder(tokenizer, "qwen2").build_initial_tokens(alone), lambda: render(tokenizer, alone)):
        with pytest.raises(Exception, match="no user"):  # the empty user message alone is refused as well
            build()
    tokenizer.chat_template = standins.QWEN_TEMPLATE.replace(
        "{% for", "{{ raise_exception('no user') if messages[0]['role'] != 'user' }}{% for", 1
    )
    assert render(tokenizer, alone) == builder(tokenizer, "qwen2").build_initial_tokens(alone)


@pytest.mark.parametrize(("config", "build"), [("llama8b", standins.llama3), ("gemma9b", standins.gemma2)])
def test_the_shipped_configs_of_base_models_train_with_one_bos(config: str, build: Any) -> None:
    tokenizer = build(None)
    template = compose(config).actor_rollout_ref.model.custom_chat_template
    tokenizer.chat_template = template
    for conversation in CONVERSATIONS.values():
        ids = builder(tokenizer, "llama").build_initial_tokens(conversation)
        assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1
        assert ids == generate.encode(build(None), conversation, "plain"), "evaluation of the base model"


def test_the_filter_of_the_data_set_counts_as_we_do(tmp_path: Path) -> None:
    """verl's own data set on a file of which some rows are too long and some raise."""
    import pandas
    from verl.utils.dataset.rl_dataset import RLHFDataset

    tokenizer = standins.gemma2()
    rows = [standins.USER, standins.WITH_SYSTEM, standins.TURNS, [{"role": "user", "content": "x"}]]
    file = tmp_path / "train.parquet"
    pandas.DataFrame({"prompt": rows}).to_parquet(file)
    run = RunPrompts(tokenizer, None, "gemma2", {}, {})
    lengths = {}
    for row, messages in enumerate(rows):
        if messages is not standins.WITH_SYSTEM:
            lengths[row] = run.filter_length(messages)
    assert len(set(lengths.values())) == 3
    for limit in sorted(lengths.values()):
        config = OmegaConf.create(
            {
                "cache_dir": str(tmp_path),
                "max_prompt_length": limit,
                "filter_overlong_prompts": True,
                "filter_overlong_prompts_workers": None,
            }
        )
        kept = RLHFDataset([str(file)], tokenizer, config)
        assert len(kept) == sum(length <= limit for length in lengths.values())
