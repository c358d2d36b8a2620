# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities and entropy from logits, each response at its own temperature.

Shapes: _B rows, _T tokens, _V vocabulary. All in nats, computed in float32 or wider.
"""

from __future__ import annotations

import torch
from torch import Tensor

from agpo_core.losses import widened


def _scaled(logits_BTV: Tensor, tau: float | Tensor) -> Tensor:
    """The logits over their temperature, float32 or wider."""
    if logits_BTV.dim() != 3:
        raise ValueError(f"logits: expected [B, T, V], got {tuple(logits_BTV.shape)}")
    logits = widened(logits_BTV)
    rows, tokens, _ = logits.shape
    if not isinstance(tau, Tensor):
        if not 0.0 < tau < float("inf"):
            raise ValueError(f"temperature {tau}: must be a finite number > 0")
        return logits if tau == 1.0 else logits / tau
    if tau.dim() == 1 and len(tau) == rows:
        tau = tau.unsqueeze(1)
    elif tau.dim() != 2 or tau.shape[0] != rows or tau.shape[1] not in (1, tokens):
        raise ValueError(f"temperature: expected [{rows}], [{rows}, 1] or [{rows}, {tokens}], got {tuple(tau.shape)}")
    return logits / tau.detach().to(logits.device, logits.dtype).unsqueeze(-1)


def log_probs_at(logits_BTV: Tensor, tokens_BT: Tensor, tau: float | Tensor = 1.0) -> Tensor:
    """Log-probability [B, T] of each token at the temperature that it was sampled at.

    log softmax(logits/tau)[token]. logits_BTV: those that predict tokens_BT, so already shifted by one; tokens_BT: int,
    within [0, V) also where they are masked; tau: a number, [B], [B, 1], or [B, T] (packed responses: `per_token`),
    above 0: a temperature of 0 gives NaN, which the losses leave out. A gradient reaches the logits.
    """
    if tokens_BT.shape != logits_BTV.shape[:2]:
        raise ValueError(f"tokens: expected {tuple(logits_BTV.shape[:2])}, got {tuple(tokens_BT.shape)}")
    logits = _scaled(logits_BTV, tau)
    return logits.gather(-1, tokens_BT.long().unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)


def token_entropy(logits_BTV: Tensor, tau: float | Tensor = 1.0) -> Tensor:
    """Full-vocabulary entropy [B, T] at each position, at temperature `tau` (as in `log_probs_at`).

    -sum_v p_v ln p_v; a logit of -inf (a token that was ruled out) counts as p = 0. `StepSignals.policy_entropy` is the
    mean of it at temperature 1 over the tokens that train, under the old policy.
    """
    log_p = torch.log_softmax(_scaled(logits_BTV, tau), dim=-1)
    return -(log_p.exp() * log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(-1)
