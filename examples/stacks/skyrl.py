# SPDX-License-Identifier: Apache-2.0
"""SkyRL: advantages and loss through its registries, probe and temperature in the generator, state with the trainer.

    AdvantageEstimatorRegistry.register("agpo", agpo_advantage)
    PolicyLossRegistry.register("agpo", agpo_policy_loss)
    class Generator(ProbedGenerator, SkyRLGymGenerator): ...
    class Trainer(StateWithTrainer, RayPPOTrainer): ...

docs/stacks.md lists what SkyRL's hooks do not support.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import torch

from agpo_core import clipped_surrogate, group_advantages
from examples.stacks.probe_gate import ProbeGate


def agpo_advantage(
    token_level_rewards: torch.Tensor, response_mask: torch.Tensor, index: Any, **kwargs: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """(advantages, returns), both [B, T]; the rewards of a response are summed."""
    normalise = kwargs.get("grpo_norm_by_std", True)
    rewards = token_level_rewards.sum(dim=-1)
    per_row = group_advantages(rewards, list(index), scale="std" if normalise else "none")
    advantages = per_row.unsqueeze(-1) * response_mask
    return advantages, advantages


def agpo_policy_loss(
    log_probs: torch.Tensor,
    old_log_probs: torch.Tensor,
    advantages: torch.Tensor,
    config: Any,
    loss_mask: torch.Tensor | None = None,
    rollout_logprobs: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, float]]:
    """The clipped surrogate, summed: SkyRL has scaled the advantages so that the sum is the wanted mean.

    ``config.eps_clip_low`` and ``eps_clip_high`` are numbers in SkyRL; [B] tensors work as well.
    """
    mask = torch.ones_like(log_probs) if loss_mask is None else loss_mask
    output = clipped_surrogate(
        log_probs, old_log_probs, advantages, mask, config.eps_clip_low, config.eps_clip_high, dual_clip=None
    )
    clipped = output.clip_fraction_low + output.clip_fraction_high
    return output.loss_BT.sum(), {"clip_ratio": clipped.item(), "agpo_step_kl": output.step_kl.item()}


class ProbedGenerator:
    """Mixin for a generator: repetitions 0..probe_size-1 of every prompt first, then the others at its temperature."""

    gate: ProbeGate

    async def generate(self, input_batch: dict[str, Any]) -> dict[str, Any]:
        """SkyRL's own generation, in two phases; outputs in the order of the batch."""
        metadata, ids = input_batch["batch_metadata"], input_batch["trajectory_ids"]
        if ids is None or (metadata is not None and metadata.training_phase == "eval"):
            return await super().generate(input_batch)  # type: ignore[misc]
        from skyrl.train.generators.utils import concatenate_generator_outputs

        size = self.gate.settings.probe_size
        probe = [row for row, each in enumerate(ids) if each.repetition_id < size]
        prompts = list(dict.fromkeys(each.instance_id for each in ids))
        first = await super().generate(_rows(input_batch, probe, self.gate.settings.tau_base))  # type: ignore[misc]
        rewards = [sum(reward) if isinstance(reward, list) else reward for reward in first["rewards"]]
        by_row = dict(zip(probe, rewards, strict=True))
        order, parts = list(probe), []
        for prompt in prompts:
            mine = [row for row, each in enumerate(ids) if each.instance_id == prompt]
            tau = await self._temperature(prompt, [by_row[row] for row in mine if row in by_row])
            rest = [row for row in mine if row not in by_row]
            order += rest
            if rest:
                parts.append(super().generate(_rows(input_batch, rest, tau)))  # type: ignore[misc]
        self.gate.close_step()
        whole = concatenate_generator_outputs([first, *await asyncio.gather(*parts)])
        place = sorted(range(len(order)), key=order.__getitem__)
        return {
            name: [value[i] for i in place] if isinstance(value, list) and len(value) == len(order) else value
            for name, value in whole.items()
        }

    async def _temperature(self, prompt: str, outcomes: list[float]) -> float:
        async def known(_: float, outcome: float) -> float:
            return outcome

        for member, outcome in enumerate(outcomes):
            await self.gate.run(prompt, member, lambda tau, o=outcome: known(tau, o), lambda o: (o, None))  # type: ignore[misc]
        return self.gate.temperature(prompt, len(outcomes))


class StateWithTrainer:
    """Mixin for a trainer whose generator is a ``ProbedGenerator``."""

    def save_checkpoints(self) -> str:
        folder = str(super().save_checkpoints())  # type: ignore[misc]
        self.generator.gate.save(Path(folder) / "agpo_state.json")  # type: ignore[attr-defined]
        return folder

    def load_checkpoints(self) -> tuple[int, str]:
        step, folder = super().load_checkpoints()  # type: ignore[misc]
        if step:
            self.generator.gate.load(Path(folder) / "agpo_state.json")  # type: ignore[attr-defined]
        return step, folder


def _rows(batch: dict[str, Any], rows: list[int], temperature: float) -> dict[str, Any]:
    """These rows of the batch, to be sampled at this temperature."""
    count = len(batch["prompts"])
    part = {
        name: [value[row] for row in rows] if isinstance(value, list) and len(value) == count else value
        for name, value in batch.items()
    }
    return {**part, "sampling_params": {**(batch["sampling_params"] or {}), "temperature": temperature}}
