# SPDX-License-Identifier: Apache-2.0
"""The method around one run of any stack: probe, decide, update."""

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
    """Settings, the framework's own values, and the state; one step is:

        stats = controller.probe(outcomes, keys)         # of settings.probe_size responses a prompt, at tau_base
        tau = controller.decide_temperature(stats).tau   # of the responses that follow,
        more = controller.sizes(stats)                   # so many of each prompt
        clip = controller.decide_clip(stats, signals)    # once the old policy's entropy is known
        ...                                              # updates, learning rate times controller.lr_scale
        controller.update(stats, signals)                # once, from the whole batch

    Every method but `update` and `load` leaves the state alone, so all prompts of a step see the same one.

    Attributes:
        config: the method's settings.
        settings: what they mean with the framework's own values (`resolve`).
        state: of the step that is being made.
    """

    def __init__(
        self,
        config: AGPOConfig,
        *,
        temperature: float,
        clip_low: float,
        clip_high: float,
        group_size: int,
        prefix: str = "",
    ) -> None:
        """temperature, clip_low, clip_high, group_size, prefix: as for `resolve`."""
        self.config = config
        self.settings = resolve(
            config,
            temperature=temperature,
            clip_low=clip_low,
            clip_high=clip_high,
            group_size=group_size,
            prefix=prefix,
        )
        self.state = ControllerState.initial(config)

    @property
    def lr_scale(self) -> float:
        """Factor on the learning rate of this step's updates; 1 with the adaptive step size off."""
        return self.state.step_size.scale

    def probe(
        self,
        outcomes_PG: Tensor,
        keys: Sequence[Sequence[str | None]] | Tensor | None = None,
        mask_PG: Tensor | None = None,
    ) -> ProbeStats:
        """Summarise the probe of P prompts; see `probe_statistics`.

        keys: canonical answers, per prompt and response (None or "": no answer), or their `vote_classes` [P, G];
        None: no votes.
        """
        classes = keys if keys is None or isinstance(keys, Tensor) else vote_classes(keys)
        return probe_statistics(outcomes_PG, classes, mask_PG, config=self.config)

    def decide_temperature(self, stats: ProbeStats) -> TemperatureDecision:
        """The temperature of each prompt's further responses; see the function of this name."""
        return decide_temperature(stats, self.state, self.config, self.settings.tau_base)

    def decide_clip(self, stats: ProbeStats, signals: StepSignals) -> ClipDecision:
        """The clip ratios of each prompt's responses; see the function of this name."""
        return decide_clip(
            stats, signals, self.state, self.config, self.settings.clip_low, self.settings.clip_high
        )

    def sizes(self, stats: ProbeStats) -> list[int]:
        """How many more responses each prompt gets: the rest of its group, or its part of `allocate`.

        A probe that does not train (`probe.reuse` false) is followed by a whole group. For `allocate` outcomes are
        scaled to [0, 1] by `advantage.outcome_min` and `outcome_max`.
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
        return allocate(
            right, stats.count.tolist(), probe_size=size, group_size=group, config=self.config.allocation
        )

    def update(self, stats: ProbeStats | Sequence[ProbeStats], signals: StepSignals) -> None:
        """Go on to the next step; see `update_state`. stats: of all prompts that trained, in a fixed order."""
        whole = stats if isinstance(stats, ProbeStats) else merge_stats(stats)
        self.state = update_state(whole, signals, self.state, self.config)

    def save(self, path: str | os.PathLike[str], extra: Mapping[str, Any] | None = None) -> None:
        """Write the state and the settings, atomically; extra: any JSON values to keep beside them."""
        settings = {"config": self.config.to_dict()}
        save_state(path, self.state, self.config.fingerprint(), settings | dict(extra or {}))

    def load(self, path: str | os.PathLike[str], *, keep: bool = False) -> None:
        """Go on from a saved state. Raises StateError (a ValueError) for a damaged file, and for one of other settings
        unless `keep`; the state is then as it was."""
        self.state = resume_state(path, self.config, keep=keep)
