# SPDX-License-Identifier: Apache-2.0
"""Tokenizers with the special tokens, post-processor and chat template of well-known families, built without downloads.

One token per byte; what matters to prompts is around the text. The templates are ours, of the same kind as the
families': who emits BOS, which roles are accepted, what ends a turn.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

USER = [{"role": "user", "content": "What is 1+1?\nThink."}]
WITH_SYSTEM = [{"role": "system", "content": "Be brief."}, *USER]
TURNS = [*USER, {"role": "assistant", "content": "2"}, {"role": "user", "content": "And 2+2?"}]

LLAMA3_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n{{ message['content'] | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA2_TEMPLATE = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{{ message['content'] | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
QWEN_TEMPLATE = (
    "{% if tools %}<|im_start|>system\nTools: {{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}"
)


def byte_level(special: list[str], *, adds_bos: bool = False, template: str | None = None, **tokens: str | None) -> Any:
    """One token per byte after the special ones; ``adds_bos``: the post-processor puts ``bos_token`` before a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate([*special, *alphabet])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(special)
    bos = tokens.get("bos_token")
    if adds_bos and bos:
        inner.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, vocabulary[bos])]
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **{k: v for k, v in tokens.items() if v is not None})
    tokenizer.chat_template = template
    return tokenizer


def llama3(template: str | None = LLAMA3_TEMPLATE) -> Any:
    """BOS from the post-processor and from the template; a system role. ``template=None``: the base model."""
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    return byte_level(special, adds_bos=True, template=template, bos_token=special[0], eos_token=special[1])


def gemma2(template: str | None = GEMMA2_TEMPLATE) -> Any:
    """BOS from the post-processor and from the template, which refuses a system role and turns out of order."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    return byte_level(
        special,
        adds_bos=True,
        template=template,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
    )


def qwen(template: str | None = QWEN_TEMPLATE) -> Any:
    """No BOS at all; tools and a switch of thinking in the template."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return byte_level(special, template=template, eos_token="<|im_end|>", pad_token="<|endoftext|>")


FAMILIES = {"llama": llama3, "gemma2": gemma2, "qwen2": qwen}


def save(tokenizer: Any, folder: Path, model_type: str) -> Path:
    """A model folder that has everything but weights."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return folder
