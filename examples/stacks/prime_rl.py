# SPDX-License-Identifier: Apache-2.0
"""prime-rl: the clipped surrogate as its custom loss.

    [trainer.loss]
    type = "custom"
    import_path = "examples.stacks.prime_rl.agpo_clip_loss"
    kwargs = { clip_low = 0.2, clip_high = 0.28 }

What prime-rl's hooks cannot carry (the probe, and with it both controllers) is in docs/stacks.md.
"""

from __future__ import annotations

from typing import Any

from agpo_core import clipped_surrogate


def agpo_clip_loss(inputs: Any, clip_low: float = 0.2, clip_high: float = 0.2) -> Any:
    """Loss of one sequence: the sum over its tokens, which the trainer divides by the tokens of the batch.

    The ratio is to the policy that sampled (``inference_logprobs``), as everywhere in prime-rl.
    """
    from prime_rl.trainer.rl.loss import LossOutputs

    output = clipped_surrogate(
        inputs.trainer_logprobs.unsqueeze(0),
        inputs.inference_logprobs.unsqueeze(0),
        inputs.advantages.unsqueeze(0),
        inputs.loss_mask.unsqueeze(0),
        clip_low,
        clip_high,
        dual_clip=None,
        weights=None if inputs.loss_weights is None else inputs.loss_weights.unsqueeze(0),
    )
    metrics = {name: value for name, value in output.metrics().items() if name != "dual_clip_fraction"}
    return LossOutputs(loss=output.loss_BT.sum(), metrics=metrics)
