# SPDX-License-Identifier: Apache-2.0
"""Verifiers: one call, fixed keys, nothing that a response contains can stop or silently zero a run.

Needs neither torch nor verl; math-verify, reasoning-gym and the sandbox are touched only in worker processes.
"""

from recipe.agpo.rewards.verdict import JUDGED, STATUSES, UNJUDGED, Verdict
from recipe.agpo.rewards.verifier import (
    KINDS,
    Item,
    UnknownKind,
    Verifier,
    compute_score,
    compute_score_sync,
    kind_of,
    merge_vote_keys,
    shared_verifier,
)

__all__ = [
    "JUDGED",
    "KINDS",
    "STATUSES",
    "UNJUDGED",
    "Item",
    "UnknownKind",
    "Verdict",
    "Verifier",
    "compute_score",
    "compute_score_sync",
    "kind_of",
    "merge_vote_keys",
    "shared_verifier",
]
