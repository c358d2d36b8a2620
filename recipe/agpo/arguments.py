# SPDX-License-Identifier: Apache-2.0
"""The command line: types of numbers and files, exit codes, and the variable that asks for a dry run."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import Any

from recipe.agpo.files import FileError, check_regular, parse_json

MOST = 2**63 - 1
FAULTY, INTERRUPTED = 2, 130  # exit codes: bad input, with one message on stderr; what a shell reports after Ctrl-C
DRY_RUN = "AGPO_DRY_RUN"


def dry_run() -> bool:
    """Whether a command must print the configuration of its run and start nothing; set by ``agpo plan``."""
    return os.environ.get(DRY_RUN, "") not in ("", "0")


def json_object(option: str, text: str | None) -> dict[str, Any]:
    """The object that an option gives as JSON; an empty one without it.

    Raises:
        ValueError: not JSON, or another value.
    """
    try:
        found = parse_json(text or "{}")
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{option} must be a JSON object")
    return found


def whole(text: str) -> int:
    """A whole number of at most 64 bits."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a whole number") from None
    if abs(value) > MOST:
        raise argparse.ArgumentTypeError(f"{shown(text)} is too large: at most {MOST}")
    return value


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} must be at least 1")
    return value


def file(text: str) -> Path:
    """A regular file that is there."""
    try:
        check_regular(Path(text))
    except FileError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return Path(text)


def finite(text: str) -> float:
    """A number; neither NaN nor infinite."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a number") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a finite number")
    return value


def above_0(text: str) -> float:
    """A finite number above 0."""
    value = finite(text)
    if value <= 0.0:
        raise argparse.ArgumentTypeError(f"{shown(text)} must be above 0")
    return value


def shown(text: str) -> str:
    """A value for a message, cut if it is long."""
    return repr(text) if len(text) <= 40 else f"{text[:30]!r}... ({len(text)} characters)"
