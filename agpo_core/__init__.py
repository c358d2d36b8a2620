# SPDX-License-Identifier: Apache-2.0
"""Adaptive group policy optimisation: statistics, controllers, advantages and losses. Needs torch only."""

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError(
        "agpo_core needs torch, which has separate builds for CPU and CUDA: install the one for your machine, or let "
        "pip choose one: pip install 'agpo-verl[core]'",
        name="torch",
    ) from None

from agpo_core.advantages import group_advantages, group_advantages_padded
from agpo_core.allocation import allocate, expected_variance
from agpo_core.averaging import AverageError, WeightAverage, averaging_rate
from agpo_core.clipping import ClipDecision, decide_clip
from agpo_core.config import PRESETS, AGPOConfig, Resolved, iter_fields, resolve
from agpo_core.controller import merge_stats, probe_statistics, update_state
from agpo_core.facade import Controller
from agpo_core.ledger import TokenLedger
from agpo_core.logits import log_probs_at, token_entropy
from agpo_core.losses import SurrogateOutput, aggregate, clipped_surrogate, importance_weights, policy_loss
from agpo_core.outcomes import ResponseAdvantages, response_advantages
from agpo_core.packing import per_token, sequence_ids
from agpo_core.records import ControllerState, ProbeStats, Reason, ReferenceState, StepSignals
from agpo_core.running import RunningStat
from agpo_core.sections import (
    AdvantageConfig,
    AllocationConfig,
    AverageConfig,
    ClipConfig,
    LengthConfig,
    LossConfig,
    ProbeConfig,
    ReferenceConfig,
    SignalConfig,
    StepSizeConfig,
    TemperatureConfig,
)
from agpo_core.state import (
    OtherSettings,
    StateError,
    load_state,
    resume_state,
    save_state,
    state_from_dict,
    state_to_dict,
)
from agpo_core.stats import dispersion, max_dispersion, pad_groups, skewness
from agpo_core.step_size import StepSize, initial_step_size, next_step_size, stops_updates
from agpo_core.temperature import TemperatureDecision, decide_temperature, uncertainty
from agpo_core.votes import vote_classes, vote_entropy
from agpo_core.weights import adaptive_loss, adaptive_weights, denominator_weights, group_losses, prompt_weights

__version__ = "0.1.0"

__all__ = [
    "AGPOConfig",
    "AdvantageConfig",
    "AllocationConfig",
    "AverageConfig",
    "AverageError",
    "ClipConfig",
    "ClipDecision",
    "Controller",
    "ControllerState",
    "LengthConfig",
    "LossConfig",
    "OtherSettings",
    "PRESETS",
    "ProbeConfig",
    "ProbeStats",
    "Reason",
    "ReferenceConfig",
    "ReferenceState",
    "Resolved",
    "ResponseAdvantages",
    "RunningStat",
    "SignalConfig",
    "StateError",
    "StepSignals",
    "StepSize",
    "StepSizeConfig",
    "SurrogateOutput",
    "TemperatureConfig",
    "TemperatureDecision",
    "TokenLedger",
    "WeightAverage",
    "adaptive_loss",
    "adaptive_weights",
    "aggregate",
    "allocate",
    "averaging_rate",
    "clipped_surrogate",
    "decide_clip",
    "decide_temperature",
    "denominator_weights",
    "dispersion",
    "expected_variance",
    "group_advantages",
    "group_advantages_padded",
    "group_losses",
    "importance_weights",
    "initial_step_size",
    "iter_fields",
    "load_state",
    "log_probs_at",
    "max_dispersion",
    "merge_stats",
    "next_step_size",
    "pad_groups",
    "per_token",
    "policy_loss",
    "probe_statistics",
    "prompt_weights",
    "resolve",
    "response_advantages",
    "resume_state",
    "save_state",
    "sequence_ids",
    "skewness",
    "state_from_dict",
    "state_to_dict",
    "stops_updates",
    "token_entropy",
    "uncertainty",
    "update_state",
    "vote_classes",
    "vote_entropy",
]
