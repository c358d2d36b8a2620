# SPDX-License-Identifier: Apache-2.0
"""slime: probe and temperature per response in ``custom_generate``, the step in ``close_step``, the state in the data.

    --custom-generate-function-path examples.stacks.slime.custom_generate
    --rollout-all-samples-process-path examples.stacks.slime.close_step
    --data-source-path my_module.DataSource  # class DataSource(StateWithData, RolloutDataSourceWithBuffer): ...

docs/stacks.md lists what slime's hooks do not support.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from agpo_core import AGPOConfig
from examples.stacks.probe_gate import ProbeGate


@functools.cache
def _gate(temperature: float, group_size: int) -> ProbeGate:
    """slime calls the rollout of all prompts in one process, on one event loop."""
    config = AGPOConfig.from_dict({"clip": {"enabled": False}})
    return ProbeGate(config, temperature=temperature, clip_low=0.2, clip_high=0.2, group_size=group_size)


def gate_of(args: Any) -> ProbeGate:
    """The gate of a run."""
    return _gate(args.rollout_temperature, args.n_samples_per_prompt)


async def custom_generate(args: Any, sample: Any, sampling_params: dict[str, Any], evaluation: bool = False) -> Any:
    """slime's own generation, at the temperature for the sample's place in its group; probes are scored here."""
    from slime.rollout.rm_hub import async_rm
    from slime.rollout.sglang_rollout import generate

    if evaluation:
        return await generate(args, sample, sampling_params)

    async def scored(temperature: float) -> Any:
        done = await generate(args, sample, dict(sampling_params, temperature=temperature))
        done.reward = await async_rm(args, done)
        done.train_metadata = {**(done.train_metadata or {}), "agpo_tau": temperature}
        return done

    member = sample.index % args.n_samples_per_prompt
    return await gate_of(args).run(
        sample.group_index, member, scored, lambda done: (float(done.reward), done.metadata.get("vote_key"))
    )


def close_step(args: Any, samples: Any, data_source: Any) -> None:
    """After the rollout of a step: update the state with its probes."""
    gate_of(args).close_step()


class StateWithData:
    """Mixin for a data source, which slime saves and loads with every checkpoint."""

    args: Any

    def save(self, rollout_id: Any) -> None:
        gate_of(self.args).save(self._state_file(rollout_id))
        super().save(rollout_id)  # type: ignore[misc]

    def load(self, rollout_id: Any = None) -> None:
        super().load(rollout_id)  # type: ignore[misc]
        if rollout_id is not None:
            gate_of(self.args).load(self._state_file(rollout_id))

    def _state_file(self, rollout_id: Any) -> Path:
        return Path(self.args.save) / f"agpo_state_{rollout_id}.json"
