# SPDX-License-Identifier: Apache-2.0
"""The hand-checked corpus: one JSON object a line, with the reason for its verdict."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parent / "corpus"


@dataclass(frozen=True)
class Case:
    """outcome: 1 right, 0 wrong, None if the reference answer cannot be judged against."""

    id: str
    kind: str
    lang: str
    response: str
    gold: str
    outcome: float | None
    why: str
    args: dict[str, Any] = field(default_factory=dict)


def load() -> list[Case]:
    return [
        Case(**json.loads(line))
        for path in sorted(CORPUS.glob("*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
