# SPDX-License-Identifier: Apache-2.0
"""Named protocols: sampling settings. Printed before the run and stored with the result.

Temperatures are those of the protocol; temperatures of a training run have no effect.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from recipe.agpo.evaluate.errors import EvaluationError

NAMES = ("greedy", "sampled")
SEED_BITS = 31


@dataclass(frozen=True)
class Protocol:
    """The sampling settings for each problem.

    Attributes:
        name: ``greedy`` or ``sampled``.
        temperature: 0 for greedy.
        top_p: nucleus.
        samples: responses per problem, K.
        max_tokens: largest number of generated tokens.
        seed: from which every request's own seed is derived.
    """

    name: str
    temperature: float
    top_p: float
    samples: int
    max_tokens: int
    seed: int

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise EvaluationError(f"protocol {self.name!r}: known are {', '.join(NAMES)}")
        if self.samples < 1 or self.max_tokens < 1:
            raise EvaluationError(f"samples and max-tokens must be at least 1, got {self.samples}, {self.max_tokens}")
        if not 0.0 < self.top_p <= 1.0:
            raise EvaluationError(f"top-p must be above 0 and at most 1, got {self.top_p}")
        if self.name == "greedy" and (self.temperature, self.top_p, self.samples) != (0.0, 1.0, 1):
            raise EvaluationError(
                "protocol greedy is temperature 0, one response a problem: for other values of temperature, top-p or "
                "samples take --protocol sampled"
            )
        if self.name == "sampled" and not 0.0 < self.temperature < float("inf"):
            raise EvaluationError(
                f"protocol sampled needs a temperature above 0, got {self.temperature}; for 0 take --protocol greedy"
            )

    @property
    def fingerprint(self) -> str:
        """Equal for equal protocols."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"fingerprint": self.fingerprint}

    def __str__(self) -> str:
        many = "1 response" if self.samples == 1 else f"{self.samples} responses"
        return (
            f"{self.name}: temperature {self.temperature:g}, top-p {self.top_p:g}, {many} a problem, "
            f"at most {self.max_tokens} tokens, seed {self.seed} [{self.fingerprint}]"
        )


def protocol(
    name: str,
    *,
    temperature: float | None = None,
    top_p: float | None = None,
    samples: int | None = None,
    max_tokens: int | None = None,
    seed: int | None = None,
) -> Protocol:
    """The named protocol with some values replaced; None keeps the protocol's value.

    ``greedy``: temperature 0, 1 response. ``sampled``: temperature 1, top-p 1, 8 responses. Both: 2,048 tokens, seed 0.
    """
    greedy = name == "greedy"
    return Protocol(
        name=name,
        temperature=(0.0 if greedy else 1.0) if temperature is None else float(temperature),
        top_p=1.0 if top_p is None else float(top_p),
        samples=(1 if greedy else 8) if samples is None else samples,
        max_tokens=2048 if max_tokens is None else max_tokens,
        seed=0 if seed is None else seed,
    )


def request_seed(seed: int, problem: str, sample: int) -> int:
    """Seed of one request, from the protocol's seed, the problem's id and the sample's number.

    It does not depend on chunks, on the order of the problems or on what was finished before an interruption.
    """
    digest = hashlib.sha256(f"{seed}:{problem}:{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - SEED_BITS)


def steps(samples: int, asked: Sequence[int] | None, what: str) -> tuple[int, ...]:
    """The values of k for pass@k and maj@k: those asked for, else the powers of two up to K and K itself.

    Raises:
        EvaluationError: a k that needs more samples than the protocol draws.
    """
    if asked is None:
        powers = [2**power for power in range(samples.bit_length())]
        return tuple(sorted({*powers, samples}))
    for k in asked:
        if k < 1:
            raise EvaluationError(f"{what}@{k}: k must be at least 1")
        if k > samples:
            raise EvaluationError(
                f"{what}@{k} needs at least {k} samples a problem and the protocol draws {samples}: "
                f"add --protocol sampled --samples {k}"
            )
    return tuple(sorted(set(asked)))
