# SPDX-License-Identifier: Apache-2.0
"""A reward function that misbehaves on some responses: raises, hangs, returns NaN or text."""

import time

from recipe.agpo.quickstart import task


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    kind = (len(solution_str) + int(extra_info["index"])) % 8
    if kind == 0:
        raise RuntimeError("verifier broke")
    if kind == 1:
        return float("nan")
    if kind == 2:
        return "0.5"
    if kind == 3:
        time.sleep(20)
    return task.compute_score(data_source, solution_str, ground_truth, extra_info)


def always_raises(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    raise RuntimeError("verifier is down")
