# SPDX-License-Identifier: Apache-2.0
"""The files of a run's folder: their names, and ``run.json``, which says what was started. Needs no torch.

::

    RUN/run.json                                  what was started: settings, overrides, versions, machine, date
    RUN/metrics*.jsonl                            verl's file logger
    RUN/checkpoints/agpo_decisions.jsonl          decisions on each prompt
    RUN/checkpoints/{rollouts,validation}/N.jsonl responses of step N (verl's dumps)
    RUN/checkpoints/global_step_N/                a checkpoint, with agpo_state.json and agpo_ledger.json
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipe.agpo.files import parse_json, read_text, write_text

CHECKPOINTS = "checkpoints"
DECISIONS_FILE = "agpo_decisions.jsonl"
STATE_FILE = "agpo_state.json"
LEDGER_FILE = "agpo_ledger.json"
TRACKER_FILE = "latest_checkpointed_iteration.txt"
# The average of the weights inside a checkpoint's actor folder; the file says what it is and is written last.
AVERAGE_FOLDER, AVERAGE_FILE = "average", "agpo_average.json"
RUN_FILE = "run.json"
RUN_FORMAT, RUN_VERSION = "agpo-run", 1
LAUNCHES = 20  # of a run that was resumed more often, the first and the newest are kept
HIDDEN = "***"

# A key whose value is a secret. `token_budget` and `max_token_len` are none: the word has to end the name.
_SECRET_WORD = (
    r"(?i:token|secret|password|passwd|passphrase|api_?key|access_?key|secret_?key|private_?key|credentials?|auth"
    r"|authorization|cookie)"
)
_SECRET_KEY = re.compile(rf"(?:^|[_.\-]){_SECRET_WORD}$")
# The same inside a text: an override KEY=VALUE, a dictionary of environment variables, a query of an address.
_SECRET_PAIR = re.compile(rf"((?<![A-Za-z]){_SECRET_WORD}[\"']?\s*[:=]\s*[\"']?)(?!//)[^\s,}}\]&\"']+")
# A value that is one by its form, wherever it stands: keys of well-known services, and passwords in addresses.
_SECRET_TEXT = re.compile(
    r"\b(?:hf_|sk-|gh[pousr]_|github_pat_|glpat-|xox[abprs]-|AKIA|eyJ)[A-Za-z0-9_.\-]{12,}"
    r"|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"
    r"|(?<![\w/.\-])(?=[A-Za-z0-9]*\d)(?=[A-Za-z0-9]*[A-Za-z])[A-Za-z0-9]{32,}(?![\w/.\-])"
)


def folder_of(checkpoints: Path) -> Path:
    """The run folder of a checkpoint folder (verl's ``trainer.default_local_dir``)."""
    return checkpoints.parent if checkpoints.name == CHECKPOINTS else checkpoints


def without_secrets(value: Any, key: str = "") -> Any:
    """The value with everything that looks like a password or an access key replaced by ``***``.

    A key hides its value if its last word says so (``WANDB_API_KEY``, ``hub_token``); a text hides what follows such a
    key (``hub_token=...``), and what has the form of an access key.
    """
    if value is None or isinstance(value, bool):
        return value
    if _SECRET_KEY.search(key):
        return HIDDEN
    if isinstance(value, Mapping):
        return {str(k): without_secrets(v, str(k)) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(v) for v in value]
    if not isinstance(value, str):
        return value
    return _SECRET_TEXT.sub(HIDDEN, _SECRET_PAIR.sub(rf"\g<1>{HIDDEN}", value))


def write_launch(folder: Path, launch: Mapping[str, Any]) -> None:
    """Add one launch to ``run.json``, atomically; a damaged file, or one of another program, is replaced.

    Args:
        folder: run folder.
        launch: JSON-ready; ``config`` and ``settings`` are kept of the newest launch only.

    Raises:
        OSError, FileError: the file cannot be written.
    """
    before = [{k: v for k, v in each.items() if k not in ("config", "settings")} for each in read_launches(folder)]
    if len(before) >= LAUNCHES:
        before = [before[0], *before[len(before) - LAUNCHES + 2 :]]
    document = {
        "format": RUN_FORMAT,
        "version": RUN_VERSION,
        "launches": [*before, without_secrets(launch)],
    }
    write_text(folder / RUN_FILE, json.dumps(document, indent=1, default=str) + "\n")


def read_launches(folder: Path) -> list[dict[str, Any]]:
    """The launches in ``run.json``, the newest last; empty if there is no such file or it is damaged."""
    try:
        return launches_in(parse_json(read_text(folder / RUN_FILE)))
    except ValueError:
        return []


def launches_in(document: Any) -> list[dict[str, Any]]:
    """The launches in the value of a ``run.json``; empty if it is no such value."""
    if not isinstance(document, dict) or document.get("format") != RUN_FORMAT:
        return []
    launches = document.get("launches")
    return [each for each in launches if isinstance(each, dict)] if isinstance(launches, list) else []
