# SPDX-License-Identifier: Apache-2.0
"""A temperature per row, for sampling and for log-probs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class RowTemperature:
    """Divides each row's logits by its own temperature, because TRL and ``generate`` accept only one number.

    The backbone's last hidden state is multiplied by base/tau. The output head is linear (``checks.check_head``), so
    this is the same as dividing the logits by tau/base; the caller then divides them by the base.
    """

    def __init__(self, model: Any, base: float) -> None:
        causal_lm = model.get_base_model() if hasattr(model, "peft_config") else model
        causal_lm.base_model.register_forward_hook(self._scale)
        self._base = base
        self._factors: torch.Tensor | None = None
        self._next = 0

    @contextmanager
    def at(self, tau_N: torch.Tensor) -> Iterator[None]:
        """Within the block the model may be called repeatedly on the N rows, whole or in consecutive chunks."""
        factors = self._base / tau_N.double()
        self._factors = None if bool((factors == 1.0).all()) else factors
        self._next = 0
        try:
            yield
        finally:
            self._factors = None

    def _scale(self, module: Any, args: Any, output: Any) -> Any:
        if self._factors is None:
            return output
        hidden = output.last_hidden_state
        rows = self._factors[self._next : self._next + len(hidden)]
        self._next = (self._next + len(hidden)) % len(self._factors)
        output.last_hidden_state = hidden * rows.to(hidden.device, hidden.dtype).view(-1, 1, 1)
        return output
