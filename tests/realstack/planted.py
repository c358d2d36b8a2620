# SPDX-License-Identifier: Apache-2.0
"""Reward functions that decide by prompt and by the number of the call, never by what the model has sampled.

An untrained model is never right, and vLLM's sampling differs from run to run: outcomes that tests assert on are
planted here. Runs that use them set ``data.shuffle=false``, so that each batch holds all kinds of prompts.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

GROUP = 4
# Outcomes of a prompt's responses in the order in which they are scored, by its row in the data file modulo 4. The
# first two are the probe's. Half of the groups are equal, as dynamic sampling and the zero-variance rules need.
OUTCOMES = ((0, 0, 0, 0), (1, 0, 0, 1), (1, 1, 1, 1), (0, 0, 1, 0))
# What goes wrong: (row modulo 8, number of the response) -> fault.
FAULTS = {(1, 0): "raise", (5, 2): "nan", (7, 3): "text"}
HANGS = (4, 2)  # this row itself, not modulo 8: once in a run
HANG_S = 600
UP_FOR = 2 * 8 * GROUP  # two steps of 8 prompts

_lock = threading.Lock()
_seen: Counter[int] = Counter()


def _turn(extra_info: dict[str, Any] | None) -> tuple[int, int, int]:
    """The prompt's row, which of its responses this is, and how many responses have been scored before it."""
    row = int((extra_info or {})["index"])
    with _lock:
        before = sum(_seen.values())
        turn = _seen[row] % GROUP
        _seen[row] += 1
    return row, turn, before


def _verdict(row: int, turn: int) -> dict[str, Any]:
    outcome = float(OUTCOMES[row % len(OUTCOMES)][turn])
    # Right answers are one vote; wrong ones differ where no response is right.
    vote = "right" if outcome else f"wrong {turn if row % len(OUTCOMES) == 0 else 0}"
    return {"score": outcome, "acc": outcome, "vote_key": vote}


def mixed(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    """``OUTCOMES``."""
    row, turn, _ = _turn(extra_info)
    return _verdict(row, turn)


def faulty(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    """``OUTCOMES``, but for the responses that raise, hang, or get no number."""
    row, turn, _ = _turn(extra_info)
    fault = FAULTS.get((row % 8, turn))
    if fault == "raise":
        raise RuntimeError("verifier broke")
    if fault == "nan":
        return float("nan")
    if fault == "text":
        return "0.5"
    if (row, turn) == HANGS:
        time.sleep(HANG_S)
    return _verdict(row, turn)


def failing(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    """``OUTCOMES``, but for one of 32 responses, which raises."""
    row, turn, _ = _turn(extra_info)
    if (row % 8, turn) == (2, 3):
        raise RuntimeError("verifier broke")
    return _verdict(row, turn)


def goes_down(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    """``OUTCOMES`` for the first ``UP_FOR`` responses; after them nothing gets a verdict."""
    row, turn, before = _turn(extra_info)
    if before >= UP_FOR:
        raise RuntimeError("verifier is down")
    return _verdict(row, turn)
