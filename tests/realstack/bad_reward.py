# SPDX-License-Identifier: Apache-2.0
"""A reward function that misbehaves on some responses: raises, hangs, returns NaN or text."""

import hashlib
import time


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    digest = hashlib.sha256(solution_str.encode("utf-8", "replace")).digest()
    kind = digest[0] % 16
    if kind == 0:
        raise RuntimeError("verifier broke")
    if kind == 1:
        return float("nan")
    if kind == 2:
        return "0.5"
    if kind == 3:
        time.sleep(12)
    # An untrained model is never right: a hash stands in for the outcome, so that groups differ.
    return {"score": float(digest[2] % 2), "acc": float(digest[2] % 2), "vote_key": str(digest[3] % 3)}


def always_raises(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    raise RuntimeError("verifier is down")


def by_hash(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    """A well-behaved verdict that an untrained model can get right: its response's hash."""
    digest = hashlib.sha256(solution_str.encode("utf-8", "replace")).digest()
    return {"score": float(digest[2] % 2), "acc": float(digest[2] % 2), "vote_key": str(digest[3] % 3)}


def unequal(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    """Few are right and some raise, so that many groups are all wrong."""
    digest = hashlib.sha256(solution_str.encode("utf-8", "replace")).digest()
    if digest[0] % 8 == 0:
        raise RuntimeError("verifier broke")
    right = float(digest[2] % 3 == 0)
    return {"score": right, "acc": right, "vote_key": str(digest[3] % 3)}
