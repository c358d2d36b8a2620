# SPDX-License-Identifier: Apache-2.0
"""Imports and prepares slower than the time limit of the test that uses it."""

import time

time.sleep(0.6)
_STATE = []


def prepare() -> None:
    time.sleep(0.6)
    _STATE.append("prepared")


def ready() -> str:
    return _STATE[0]
