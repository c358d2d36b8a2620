# SPDX-License-Identifier: Apache-2.0
"""NeMo-RL: an advantage estimator, and a loss that clips each row at its own ratio if the batch says so.

    grpo_train(..., loss_fn=RowClipLoss(config), ...)  # class RowClipLoss(RowClip, ClippedPGLossFn): ...

``grpo_train`` fills its training batch from a fixed list of columns, so nothing but a change of NeMo-RL itself brings
``agpo_eps_low`` there; and its estimators are a closed list. See docs/stacks.md.
"""

from __future__ import annotations

from typing import Any

import torch

from agpo_core import group_advantages

EPS_LOW, EPS_HIGH = "agpo_eps_low", "agpo_eps_high"  # columns of a batch, [B] each


class AGPOAdvantage:
    """Advantages of `agpo_core`, with the estimators' interface."""

    def compute_advantage(self, prompt_ids: Any, rewards: torch.Tensor, mask: torch.Tensor, **kwargs: Any) -> Any:
        """[B, T], the same for every token of a response. prompt_ids: integers [B], or rows of tokens [B, L]."""
        index = prompt_ids if prompt_ids.dim() == 1 else [tuple(row) for row in prompt_ids.tolist()]
        return group_advantages(rewards, index).unsqueeze(-1).expand(mask.shape)


class RowClip:
    """Mixin for ``ClippedPGLossFn``."""

    ratio_clip_min: Any
    ratio_clip_max: Any

    def __call__(
        self, next_token_logprobs: torch.Tensor, data: Any, global_valid_seqs: Any, global_valid_toks: Any
    ) -> Any:
        usual = self.ratio_clip_min, self.ratio_clip_max
        if EPS_LOW in data:
            self.ratio_clip_min, self.ratio_clip_max = data[EPS_LOW].unsqueeze(-1), data[EPS_HIGH].unsqueeze(-1)
        try:
            return super().__call__(next_token_logprobs, data, global_valid_seqs, global_valid_toks)  # type: ignore[misc]
        finally:
            self.ratio_clip_min, self.ratio_clip_max = usual
