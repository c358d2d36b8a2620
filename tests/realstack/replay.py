# SPDX-License-Identifier: Apache-2.0
"""A replayed rollout: responses read from a fixed rule instead of sampled.

vLLM's sampling is not deterministic, so a test of "the same decisions after a restart" needs responses that are.
This stands in for the sampling only: verl, Ray, TransferQueue, vLLM's servers and the weight sync all run.
"""

from __future__ import annotations

import hashlib
from typing import Any

from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopOutput

from recipe.agpo.quickstart.task import written_solution


def response_text(prompt: str, step: int, session: int) -> str:
    """Right, wrong or unparseable, and a little longer or shorter, decided by a hash of prompt, step and session."""
    digest = hashlib.sha256(f"{prompt}|{step}|{session}".encode()).digest()
    solution = written_solution(prompt)
    easy = digest[1] % 3 == 0
    if digest[0] % 8 < (6 if easy else 3):
        return "\n" * (digest[3] % 3) + solution
    if digest[0] % 8 == 7:
        return "no idea"
    return solution[: solution.rindex("#")] + f"#{digest[2] % 5}"


class WrittenAgentLoop(AgentLoopBase):
    """Single turn; the response is ``written`` instead of a generation."""

    def written(self, prompt: str, step: int, session: int) -> str:
        raise NotImplementedError

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        messages = list(kwargs["raw_prompt"])
        prompt_ids = await self.ct_build_initial_tokens(messages)
        step = int(kwargs["global_steps"])
        text = self.written(messages[-1]["content"], step, int(kwargs["session_id"]))
        ids = self.tokenizer.encode(text, add_special_tokens=False) + [self.tokenizer.eos_token_id]
        return AgentLoopOutput(
            prompt_ids=prompt_ids,
            response_ids=ids,
            response_mask=[1] * len(ids),
            num_turns=2,
            metrics={"generate_sequences": 0.0, "num_preempted": -1},
            extra_fields={
                "turn_scores": [],
                "tool_rewards": [],
                "min_global_steps": step - 1,
                "max_global_steps": step - 1,
                "global_steps": step - 1,
            },
        )


class ReplayAgentLoop(WrittenAgentLoop):
    """The responses of ``response_text``."""

    def written(self, prompt: str, step: int, session: int) -> str:
        return response_text(prompt, step, session)
