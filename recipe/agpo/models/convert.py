# SPDX-License-Identifier: Apache-2.0
"""A GGUF file as an ordinary checkpoint, with the special tokens that the model was trained with.

transformers reads weights and vocabulary. It gets two things wrong that training depends on: its tokenizer calls the
first special token that it meets both BOS and end, so that nothing ever stops, and it splits text as GPT-2 does,
whatever the file says. Both are set here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipe.agpo.models.catalog import ModelError, SpecialTokens

# tokenizer.ggml.pre -> whether digits are split off, each alone, before GPT-2's own rule.
_SPLITS_DIGITS = {"smollm": True, "gpt-2": False, "default": False}


def convert(gguf_file: Path, folder: Path, tokens: SpecialTokens) -> None:
    """Write ``gguf_file`` as a checkpoint in bfloat16 to ``folder``.

    Raises:
        ModelError: the file cannot be read, or it names other special tokens than ``tokens``.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    metadata = _metadata(gguf_file)
    try:
        where: dict[str, Any] = {"pretrained_model_name_or_path": gguf_file.parent, "gguf_file": gguf_file.name}
        tokenizer = AutoTokenizer.from_pretrained(**where)
        model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.bfloat16)
    except (ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"{gguf_file.name}: transformers cannot read it ({' '.join(str(error).split())[:300]})"
        ) from None
    set_special_tokens(tokenizer, tokens)
    _set_splitting(tokenizer, metadata)
    for name, key in (("bos", "bos_token_id"), ("eos", "eos_token_id")):
        stated, ours = metadata.get(f"tokenizer.ggml.{key}"), getattr(tokenizer, key)
        if stated is not None and ours is not None and stated != ours:
            raise ModelError(
                f"{gguf_file.name} says {name} is token {stated}, expected {getattr(tokens, name)} ({ours})"
            )
    tokenizer.clean_up_tokenization_spaces = False  # it removes spaces before punctuation
    context = getattr(model.config, "max_position_embeddings", None)
    if context:
        tokenizer.model_max_length = context
    _set_ids(model, tokenizer, tokens)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def set_special_tokens(tokenizer: Any, tokens: SpecialTokens) -> None:
    """Name the special tokens of a tokenizer.

    Raises:
        ModelError: the vocabulary has no such token, or splits it.
    """
    vocabulary = tokenizer.get_vocab()
    for text in filter(None, (tokens.bos, tokens.eos, tokens.pad, *tokens.stop)):
        if text not in vocabulary or tokenizer.encode(text, add_special_tokens=False) != [vocabulary[text]]:
            raise ModelError(f"special token {text!r} is not one token of the vocabulary")
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token = tokens.bos, tokens.eos, tokens.pad


def _set_ids(model: Any, tokenizer: Any, tokens: SpecialTokens) -> None:
    """The same tokens in the model's two configs, where vLLM and ``generate`` look for them."""
    stops = [tokenizer.eos_token_id, *(tokenizer.convert_tokens_to_ids(text) for text in tokens.stop)]
    for config in (model.config, model.generation_config):
        config.bos_token_id, config.pad_token_id = tokenizer.bos_token_id, tokenizer.pad_token_id
        config.eos_token_id = stops if len(stops) > 1 else stops[0]


def _set_splitting(tokenizer: Any, metadata: dict[str, Any]) -> None:
    """How text is split before merges, as the file says; only for byte-level vocabularies."""
    if metadata.get("tokenizer.ggml.model") != "gpt2":
        return
    from tokenizers import decoders, pre_tokenizers

    rule = metadata.get("tokenizer.ggml.pre", "default")
    if rule not in _SPLITS_DIGITS:
        raise ModelError(f"the file splits text by rule {rule!r}; known are {', '.join(_SPLITS_DIGITS)}")
    bytes_first = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    digits = [pre_tokenizers.Digits(individual_digits=True)] if _SPLITS_DIGITS[rule] else []
    inner = tokenizer.backend_tokenizer
    inner.pre_tokenizer = pre_tokenizers.Sequence([*digits, bytes_first])
    inner.decoder = decoders.ByteLevel()


def _metadata(gguf_file: Path) -> dict[str, Any]:
    """The scalar fields of a GGUF file."""
    try:
        from gguf import GGUFReader
    except ImportError:
        raise ModelError("the package gguf is not installed: python -m pip install 'gguf==0.19.0'") from None
    try:
        fields = GGUFReader(gguf_file).fields
    except (ValueError, IndexError, OSError) as error:
        raise ModelError(f"{gguf_file.name} is no GGUF file that can be read ({error})") from None
    wanted = ("general.", "tokenizer.ggml.model", "tokenizer.ggml.pre")
    return {
        name: field.contents()
        for name, field in fields.items()
        if name.startswith(wanted) or name.endswith("_token_id")
    }
