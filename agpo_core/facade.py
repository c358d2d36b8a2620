# SPDX-License-Identifier: Apache-2.0
"""The whole method for the training loop of any stack: probe, decide, update."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from agpo_core.allocation import allocate
from agpo_core.clipping import ClipDecision, decide_clip
from agpo_core.config import AGPOConfig, resolve
from agpo_core.controller import merge_stats, probe_statistics, update_state
from agpo_core.records import ControllerState, ProbeStats, StepSignals
from agpo_core.state import resume_state, save_state
from agpo_core.temperature import TemperatureDecision, decide_temperature
from agpo_core.votes import vote_classes


class Controller:
    """Settings, the framework's values, and the state of one run. One step:

        stats = controller.probe(outcomes, keys)         # of settings.probe_size responses per prompt, at tau_base
        tau = controller.decide_temperature(stats).tau   # temperature of each prompt's further responses
        more = controller.sizes(stats)                   # number of each prompt's further responses
        clip = controller.decide_clip(stats, signals)    # after the old policy's entropy is known
        ...                                              # updates, at learning rate times controller.lr_scale
        controller.update(stats, signals)                # once, from the whole batch

    Only `update` and `load` change the state, so all prompts of a step use the same one.

    Attributes:
        config: the method's settings.
        settings: the config with the framework's values filled in (`resolve`).
        state: state at the start of the current step.
    """

    def __init__(
        self,
        config: AGPOConfig,
        *,
        temperature: float,
        clip_low: float,
        clip_high: float,
        group_size: int,
        lr: float | None = None,
        prefix: str = "",
    ) -> None:
        """Start at the state before the first step.

        Args:
            config: the method's settings.
            temperature, clip_low, clip_high, group_size, prefix: as in `resolve`, which also says what is raised.
            lr: the configured learning rate, from which the adaptive step size starts; see `initial_step_size`.
        """
        self.config = config
        self.settings = resolve(
            config,
            temperature=temperature,
            clip_low=clip_low,
            clip_high=clip_high,
            group_size=group_size,
            prefix=prefix,
        )
        self.state = ControllerState.initial(config, lr)

    @property
    def lr_scale(self) -> float:
        """Factor on the learning rate of this step's updates; 1 if the adaptive step size is off."""
        return self.state.step_size.scale

    def probe(
        self,
        outcomes_PG: Tensor,
        keys: Sequence[Sequence[str | None]] | Tensor | None = None,
        mask_PG: Tensor | None = None,
    ) -> ProbeStats:
        """Compute the statistics of the probe of P prompts; see `probe_statistics`.

        Args:
            outcomes_PG: [P, G] verifier outcomes.
            keys: canonical answers, per prompt and response (None or "": no answer), or their `vote_classes` [P, G];
                None: no votes.
            mask_PG: bool [P, G], responses that count; None: all.
        """
        classes = keys if keys is None or isinstance(keys, Tensor) else vote_classes(keys)
        return probe_statistics(outcomes_PG, classes, mask_PG, config=self.config)

    def decide_temperature(self, stats: ProbeStats) -> TemperatureDecision:
        """The temperature of each prompt's further responses; see `agpo_core.decide_temperature`."""
        return decide_temperature(stats, self.state, self.config, self.settings.tau_base)

    def decide_clip(self, stats: ProbeStats, signals: StepSignals) -> ClipDecision:
        """The clip ratios of each prompt's responses; see `agpo_core.decide_clip`."""
        return decide_clip(stats, signals, self.state, self.config, self.settings.clip_low, self.settings.clip_high)

    def sizes(self, stats: ProbeStats) -> list[int]:
        """Number of further responses of each prompt: the rest of its group, or its share of `allocate`.

        With `probe.reuse` false the probe is not trained on, and a whole group follows it. For `allocate`, outcomes are
        scaled to [0, 1] by `advantage.outcome_min` and `outcome_max`. With every controller off it is 0.
        """
        size, group = self.settings.probe_size, self.settings.group_size
        if not self.config.adaptive:
            return [0] * len(stats)
        if not self.config.probe.reuse:
            return [group] * len(stats)
        if not self.config.allocation.enabled:
            return [group - size] * len(stats)
        low, high = self.config.advantage.outcome_min, self.config.advantage.outcome_max
        share = ((stats.mean - low) / (high - low)).clamp(0.0, 1.0)
        right = (share * stats.count).tolist()
        return allocate(right, stats.count.tolist(), probe_size=size, group_size=group, config=self.config.allocation)

    def update(self, stats: ProbeStats | Sequence[ProbeStats], signals: StepSignals) -> None:
        """Go to the next step; see `update_state`.

        Args:
            stats: statistics of all prompts that were trained on, in a fixed order.
            signals: measured in the updates of the step.
        """
        whole = stats if isinstance(stats, ProbeStats) else merge_stats(stats)
        self.state = update_state(whole, signals, self.state, self.config)

    def save(self, path: str | os.PathLike[str], extra: Mapping[str, Any] | None = None) -> None:
        """Write state and settings atomically. extra: any JSON values to keep in the same file."""
        settings = {"config": self.config.to_dict()}
        save_state(path, self.state, self.config.fingerprint(), settings | dict(extra or {}))

    def load(self, path: str | os.PathLike[str], *, keep: bool = False) -> None:
        """Continue from a saved state.

        Raises:
            StateError: (a ValueError) the file is damaged, or was written with other settings and `keep` is false. The
                state is then unchanged.
        """
        self.state = resume_state(path, self.config, keep=keep)
