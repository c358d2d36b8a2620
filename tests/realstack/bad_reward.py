# SPDX-License-Identifier: Apache-2.0
"""A reward function that misbehaves on some responses: raises, hangs, returns NaN or text."""

import hashlib
import time

UP_FOR = 128
_calls = 0


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


def by_hash(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    """A well-behaved verdict that an untrained model can get right: its response's hash."""
    digest = hashlib.sha256(solution_str.encode("utf-8", "replace")).digest()
    return {"score": float(digest[2] % 2), "acc": float(digest[2] % 2), "vote_key": str(digest[3] % 3)}


def unequal(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    """Every other prompt is beyond the model, few responses to the others are right, and some raise."""
    digest = hashlib.sha256(solution_str.encode("utf-8", "replace")).digest()
    if digest[0] % 8 == 0:
        raise RuntimeError("verifier broke")
    beyond = hashlib.sha256(str(ground_truth).encode()).digest()[0] % 2
    right = float(digest[2] % 3 == 0 and not beyond)
    return {"score": right, "acc": right, "vote_key": str(digest[3] % 3)}


def goes_down(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    """`by_hash` for the first `UP_FOR` responses."""
    global _calls
    _calls += 1
    if _calls > UP_FOR:
        raise RuntimeError("verifier is down")
    return by_hash(data_source, solution_str, ground_truth, extra_info, **kwargs)
