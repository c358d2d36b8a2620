# SPDX-License-Identifier: Apache-2.0
"""A small Qwen2 and a byte-level tokenizer that vLLM, verl and AutoTokenizer load like any other checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# One turn is <|im_start|>content<|im_end|>; role names would only add tokens.
CHAT_TEMPLATE = (
    "{% for message in messages %}" + START + "{{ message['content'] }}" + END + "{% endfor %}"
    "{% if add_generation_prompt %}" + START + "{% endif %}"
)
VOCAB_SIZE = 264  # 256 bytes, 3 special tokens, rounded up to a multiple of 8


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the Qwen2 model; the defaults have 0.33 million parameters."""

    hidden_size: int = 128
    intermediate_size: int = 256
    layers: int = 2
    heads: int = 4
    key_value_heads: int = 2
    max_positions: int = 512


def build_tokenizer() -> Any:
    """One token per byte plus Qwen's special tokens.

    verl's token builder for Qwen needs ``"\\n"`` to be exactly one token; a byte-level BPE without merges is the
    simplest tokenizer that AutoTokenizer maps to Qwen's own class and that satisfies this.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([PAD, START, END])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token=PAD, eos_token=END)
    tokenizer.chat_template = CHAT_TEMPLATE
    if len(tokenizer.encode("\n")) != 1:
        raise RuntimeError('the tokenizer must encode "\\n" as one token: verl fails every rollout otherwise')
    return tokenizer


def build_model(config: ModelConfig, seed: int) -> Any:
    """A freshly initialised float32 Qwen2ForCausalLM; the same seed gives the same weights."""
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    tokenizer = build_tokenizer()
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=VOCAB_SIZE,
                hidden_size=config.hidden_size,
                intermediate_size=config.intermediate_size,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                num_key_value_heads=config.key_value_heads,
                max_position_embeddings=config.max_positions,
                tie_word_embeddings=True,
                pad_token_id=pad,
                eos_token_id=end,
                bos_token_id=None,
                attn_implementation="sdpa",
            )
        )
    model.generation_config = GenerationConfig(pad_token_id=pad, eos_token_id=end)
    return model
