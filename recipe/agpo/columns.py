# SPDX-License-Identifier: Apache-2.0
"""Columns of a batch that AGPO adds, and the record of a probe. A probe is the first responses of a group."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

# Of a response: which part of its group it belongs to.
PROBE, REST, DISCARDED = "probe", "rest", "discarded"
# With the prompts, to the rollout: the controller state of the step.
CONTROL = "agpo_control"
# From the rollout, with each response.
ROLE, TAU, OUTCOME, VOTE_KEY, STATUS, SECONDS, TOKENS = (
    "agpo_role",
    "agpo_tau",
    "agpo_outcome",
    "agpo_vote_key",
    "agpo_status",
    "agpo_verifier_s",
    "agpo_tokens",
)
COLUMNS = (ROLE, TAU, OUTCOME, VOTE_KEY, STATUS, SECONDS, TOKENS)
# From the rollout, once per prompt: a tag of one of its rows, written when the prompt is finished.
RECORD = "agpo_probe_record"
# verl's engines divide the logits by a column of this name.
TEMPERATURE = "temperature"
# From the trainer, for the loss.
CLIP_LOW, CLIP_HIGH, ROW_WEIGHT, GROUP = "agpo_clip_low", "agpo_clip_high", "agpo_row_weight", "agpo_group"
# From the loss of a whole mini-batch to that of its micro-batches.
GROUP_WEIGHT = "agpo_group_weight"


@dataclass(frozen=True)
class ProbeRecord:
    """Measurements and decision of one prompt's probe; sent to the trainer as JSON.

    Attributes:
        outcomes: outcome of each probe response; None where there is no valid reward.
        vote_keys: canonical answer of each probe response.
        statuses: verifier status of each probe response.
        discarded: whether the probe is not trained on (``probe.reuse=false``).
        stats: the probe's ``agpo_core.ProbeStats`` by field, float64; the trainer does not compute them again.
        tau: temperature of the rest of the group.
        reason: reason of the decision.
        uncertainty, centred: the controller's inputs, for the decisions file.
    """

    outcomes: list[float | None]
    vote_keys: list[str]
    statuses: list[str]
    discarded: bool
    stats: dict[str, float]
    tau: float
    reason: str
    uncertainty: float | None
    centred: float | None

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ProbeRecord:
        return cls(**json.loads(text))
