# SPDX-License-Identifier: Apache-2.0
"""OpenRLHF: probe and temperature per response in the agent executor (``--train.agent_func_path``).

    # my_agent.py
    class AgentExecutor(ProbedExecutor, SingleTurnAgentExecutor):
        gate = ProbeGate(config, temperature=1.0, clip_low=0.2, clip_high=0.2, group_size=8)
        groups_per_step = 32  # rollout batch size / number of vLLM engines

Each vLLM engine holds an executor of its own, so each has its own state. What else OpenRLHF's hooks cannot carry is in
docs/stacks.md.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

from examples.stacks.probe_gate import ProbeGate


class ProbedExecutor:
    """Mixin for an executor: the first responses of a prompt are its probe, the others wait for them.

    The engine starts all responses of a prompt at once, so the n-th call with a prompt is the n-th of its group; the
    same prompt drawn twice makes two groups, one after the other.
    """

    gate: ProbeGate
    groups_per_step: int  # an executor does not see the steps; it folds its state after so many groups
    _agpo_finished = 0

    async def execute(
        self,
        prompt: str,
        label: Any,
        sampling_params: Any,
        max_length: int,
        hf_tokenizer: Any,
        llm_engine: Any,
        images: Any = None,
    ) -> dict[str, Any]:
        """One response at its temperature; ``extra_logs`` says which."""
        calls = self.__dict__.setdefault("_agpo_calls", Counter())
        place = calls[(prompt, label)]
        calls[(prompt, label)] += 1
        group, member = divmod(place, self.gate.settings.group_size)
        step = super()

        async def generate(temperature: float) -> dict[str, Any]:
            params = copy.deepcopy(sampling_params)
            params.temperature = temperature
            response = await step.execute(prompt, label, params, max_length, hf_tokenizer, llm_engine, images)  # type: ignore[attr-defined]
            logs = {**response["extra_logs"], "agpo_tau": temperature}
            return {**response, "extra_logs": logs}

        response = await self.gate.run(((prompt, label), group), member, generate, judged)
        self._agpo_finished += 1
        if self._agpo_finished % (self.groups_per_step * self.gate.settings.group_size) == 0:
            self.gate.close_step()
        return response


def judged(response: dict[str, Any]) -> tuple[float, str | None]:
    """Outcome and vote key of a response; a reward function names the key in its ``extra_logs``."""
    score = response["scores"]
    return float("nan" if score is None else score), response["extra_logs"].get("vote_key")
