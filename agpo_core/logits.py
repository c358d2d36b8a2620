# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities and entropy from logits, with a temperature per response.

Shapes: _B rows, _T tokens, _V vocabulary. Results are in nats, computed in float32 or wider.
"""

from __future__ import annotations

import torch
from torch import Tensor

from agpo_core.losses import widened


def _scaled(logits_BTV: Tensor, tau: float | Tensor) -> Tensor:
    """The logits divided by their temperature, float32 or wider."""
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
    """Log-probability of each token at its sampling temperature: log softmax(logits/tau)[token].

    Args:
        logits_BTV: [B, T, V], the logits that predict tokens_BT (already shifted by one). Gradients flow to them.
        tokens_BT: int [B, T], within [0, V), also where they are masked.
        tau: temperature > 0: a number, [B], [B, 1], or [B, T] (packed responses: `per_token`). 0 in a tensor gives NaN,
            which the losses leave out.

    Returns:
        [B, T] in nats.

    Raises:
        ValueError: a shape does not fit, or a temperature given as a number is not finite and above 0.
    """
    if tokens_BT.shape != logits_BTV.shape[:2]:
        raise ValueError(f"tokens: expected {tuple(logits_BTV.shape[:2])}, got {tuple(tokens_BT.shape)}")
    logits = _scaled(logits_BTV, tau)
    return logits.gather(-1, tokens_BT.long().unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)


def token_entropy(logits_BTV: Tensor, tau: float | Tensor = 1.0) -> Tensor:
    """Full-vocabulary entropy at each position, at temperature `tau`: -sum_v p_v ln p_v.

    A logit of -inf (a token that was ruled out) counts as p = 0. `StepSignals.policy_entropy` is its mean at
    temperature 1 over the tokens that are trained on, under the old policy.

    Args:
        logits_BTV: [B, T, V].
        tau: as in `log_probs_at`.

    Returns:
        [B, T] in nats.

    Raises:
        ValueError: as in `log_probs_at`.
    """
    log_p = torch.log_softmax(_scaled(logits_BTV, tau), dim=-1)
    return -(log_p.exp() * log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(-1)
