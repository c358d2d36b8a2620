# SPDX-License-Identifier: Apache-2.0
"""The controller state on disk: versioned JSON with a checksum, replaced atomically."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agpo_core.files import write_atomic
from agpo_core.records import STATE_VERSION, ControllerState, ReferenceState, StepSize
from agpo_core.running import RunningStat

FORMAT = "agpo-controller-state"

_READABLE = (1, STATE_VERSION)


class StateError(ValueError):
    """A state file that cannot be used; the message says which file and why."""


def state_to_dict(state: ControllerState) -> dict[str, Any]:
    """Plain values, for JSON; floats survive exactly."""
    return dataclasses.asdict(state)


def state_from_dict(values: Mapping[str, Any]) -> ControllerState:
    """The inverse of `state_to_dict`. Raises StateError for an unknown version or a missing or malformed
    field."""
    try:
        version = values["version"]
        if version not in _READABLE:
            raise StateError(f"controller state has version {version!r}, this package reads {_READABLE}")
        # Version 1 knew no step size: the learning rate goes on as it was.
        size = values["step_size"] if version > 1 else {"scale": 1.0, "exceeded": True}
        reference = values["reference"]
        return ControllerState(
            uncertainty=RunningStat.from_dict(values["uncertainty"]),
            dispersion=RunningStat.from_dict(values["dispersion"]),
            vote_entropy=RunningStat.from_dict(values["vote_entropy"]),
            skewness=RunningStat.from_dict(values["skewness"]),
            entropy=RunningStat.from_dict(values["entropy"]),
            step_kl=RunningStat.from_dict(values["step_kl"]),
            reference=ReferenceState(float(reference["u_bar"]), float(reference["h_ref"]), float(reference["kl_ema"])),
            step_size=StepSize(float(size["scale"]), bool(size["exceeded"])),
            step=int(values["step"]),
        )
    except KeyError as error:
        raise StateError(f"controller state lacks the field {error.args[0]!r}") from error
    except StateError:
        raise
    except (TypeError, ValueError) as error:
        raise StateError(f"controller state has a malformed field: {error}") from error


def _canonical(payload: Mapping[str, Any]) -> str:
    return json.dumps(payload, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _checksum(payload: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(payload).encode()).hexdigest()


def save_state(
    path: str | os.PathLike[str],
    state: ControllerState,
    fingerprint: str,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write the state so that `path` holds either the old file or the whole new one, even after a crash.

    fingerprint: of the config that the state belongs to; extra: any JSON values to keep beside it.
    Raises ValueError if a value is not JSON (NaN and infinities are not), OSError if the disk refuses.
    """
    payload = {"state": state_to_dict(state), "fingerprint": fingerprint, "extra": dict(extra or {})}
    document = {"format": FORMAT, "version": STATE_VERSION, "checksum": _checksum(payload), **payload}
    text = json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n"
    write_atomic(path, text)


def load_state(path: str | os.PathLike[str]) -> tuple[ControllerState, str, dict[str, Any]]:
    """Read (state, fingerprint, extra). Raises StateError if the file is missing, damaged or of another
    version."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StateError(f"{path}: no controller state file there (missing)") from error
    except ValueError as error:  # also a UnicodeDecodeError
        raise StateError(f"{path}: not JSON, truncated or damaged: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise StateError(f"{path}: not a controller state file (format is not {FORMAT!r})")
    if document.get("version") not in _READABLE:
        raise StateError(f"{path}: unknown version {document.get('version')!r}, this package reads {_READABLE}")
    for name in ("checksum", "state", "fingerprint", "extra"):
        if name not in document:
            raise StateError(f"{path}: missing field {name!r}")
    payload = {name: document[name] for name in ("state", "fingerprint", "extra")}
    if _checksum(payload) != document["checksum"]:
        raise StateError(f"{path}: wrong checksum, the file was damaged or edited")
    try:
        return state_from_dict(payload["state"]), str(payload["fingerprint"]), dict(payload["extra"])
    except StateError as error:
        raise StateError(f"{path}: {error}") from error
