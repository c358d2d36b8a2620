# SPDX-License-Identifier: Apache-2.0
"""The token ledger: counts of generated tokens, so that methods can be compared at equal cost. [ours]"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LARGEST = 2**63 - 1


@dataclass(frozen=True)
class TokenLedger:
    """Tokens that the policy generated since the start of a run, including the runs it was resumed from.

    Attributes:
        generated: all tokens sampled for training, including probes and discarded responses.
        probe: of these, tokens of probe responses.
        discarded: of these, tokens of responses that are never trained on (a probe that is not reused).
        validation: tokens sampled for validation; not part of ``generated``.
        lost_sessions: responses that failed before they were complete; their tokens are not known.

    Raises:
        ValueError: a count is not a whole number from 0 to `LARGEST`.
    """

    generated: int = 0
    probe: int = 0
    discarded: int = 0
    validation: int = 0
    lost_sessions: int = 0

    def __post_init__(self) -> None:
        for name, value in self.to_dict().items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f"{name}={value!r}: must be a whole number >= 0")
            if value > LARGEST:
                raise ValueError(f"{name}: must be at most {LARGEST}")

    def __add__(self, other: TokenLedger) -> TokenLedger:
        mine, theirs = self.to_dict(), other.to_dict()
        return TokenLedger(**{name: mine[name] + theirs[name] for name in mine})

    def left(self, budget: int) -> int:
        """Tokens of ``budget`` that are left; 0 if it is used up."""
        return max(0, budget - self.generated)

    def to_dict(self) -> dict[str, int]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TokenLedger:
        """The inverse of `to_dict`.

        Raises:
            ValueError: unknown or missing names, or values that are not whole numbers >= 0.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"a token ledger is a mapping of counts, got {values!r:.80}")
        names = {field.name for field in dataclasses.fields(cls)}
        if set(values) != names:
            raise ValueError(f"a token ledger has the fields {sorted(names)}, got {sorted(values)}")
        return cls(**values)
