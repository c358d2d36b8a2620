# SPDX-License-Identifier: Apache-2.0
"""ROLL: probe and temperature in its rollout loop, own temperature and clip ratio per row in its actor worker.

    user_defined_rollout_loop_cls: my_module.Loop  # class Loop(ProbedLoop, UserDefinedRolloutLoop), with a gate
    actor_train.worker_cls: my_module.Worker  # class Worker(RowSettings, ActorWorker)
    is_num_return_sequences_expand: true  # one request per response
    use_pg_clip_range: true  # the loss reads pg_clip_low and pg_clip_high

docs/stacks.md lists what ROLL's hooks do not support.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch

from examples.stacks.probe_gate import ProbeGate

TAU, EPS_LOW, EPS_HIGH = "agpo_tau", "agpo_eps_low", "agpo_eps_high"  # columns of a batch, [B, 1] each


class ProbedLoop:
    """Mixin for ROLL's rollout loop; one object serves all prompts of the scheduler."""

    gate: ProbeGate
    _agpo_step: int | None = None

    async def process_new_prompt(self, context: Any) -> Any:
        """All responses of a prompt, with the columns above. A new step first folds in the last step's probes."""
        step = context.meta_info["global_step"]
        if not context.is_val and step != self._agpo_step:
            if self._agpo_step is not None:
                self.gate.close_step()
            self._agpo_step = step
        responses = await super().process_new_prompt(context)  # type: ignore[misc]
        if responses is None or context.is_val:
            return responses
        low, high = self.gate.clip_ratios(context.prompt_id)
        for response in responses:
            response.batch[EPS_LOW], response.batch[EPS_HIGH] = torch.tensor([[low]]), torch.tensor([[high]])
        return responses

    async def _generate_and_reward(self, context: Any, req: Any, domain: str) -> Any:
        base = super()
        if context.is_val:
            return await base._generate_and_reward(context, req, domain)  # type: ignore[attr-defined]
        started = context.__dict__.setdefault("agpo_started", Counter())
        member, started["responses"] = started["responses"], started["responses"] + 1

        async def generate(temperature: float) -> Any:
            req.meta_info["generation_config"]["temperature"] = temperature
            responses = await base._generate_and_reward(context, req, domain)  # type: ignore[attr-defined]
            for response in responses or []:
                response.batch[TAU] = torch.tensor([[temperature]])
            return responses

        return await self.gate.run(context.prompt_id, member, generate, judged)


def judged(responses: Any) -> tuple[float, str | None]:
    """Outcome of the one response of a request; ROLL's rewards name no answer, so there are no votes."""
    if not responses:
        return float("nan"), None
    return float(responses[0].batch["response_level_rewards"]), None


class RowSettings:
    """Mixin for ROLL's ``ActorWorker``: each row's logits at its temperature, its ratio within its clip ratios."""

    pipeline_config: Any

    def forward_func_log_probs(self, data: Any, output_tensor: torch.Tensor) -> Any:
        return super().forward_func_log_probs(data, at_own_temperature(data, output_tensor))  # type: ignore[misc]

    def loss_func(self, data: Any, output_tensor: torch.Tensor) -> Any:
        usual = self.pipeline_config
        if EPS_LOW in data.batch.keys():
            self.pipeline_config = copy.copy(usual)
            self.pipeline_config.pg_clip_low = data.batch[EPS_LOW]
            self.pipeline_config.pg_clip_high = data.batch[EPS_HIGH]
        try:
            return super().loss_func(data, at_own_temperature(data, output_tensor))  # type: ignore[misc]
        finally:
            self.pipeline_config = usual


def at_own_temperature(data: Any, logits_BTV: torch.Tensor) -> torch.Tensor:
    """Logits over the temperature of their row."""
    return logits_BTV / data.batch[TAU].unsqueeze(-1) if TAU in data.batch.keys() else logits_BTV
