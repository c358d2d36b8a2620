# SPDX-License-Identifier: Apache-2.0
"""The notebook: its cells run in order, it stays small, and what is stored is what such a run prints."""

from __future__ import annotations

import json
import re

from tests.examples.notebook import TOUR, code_cells, printed

NUMBER = re.compile(r"-?\d+\.?\d*|#+ *")


def test_the_tour_runs_and_its_outputs_are_stored() -> None:
    cells = code_cells(TOUR)
    stored = ["".join(line for output in cell["outputs"] for line in output["text"]) for cell in cells]
    texts = printed(cells)
    # Numbers may differ between processors; the words around them do not.
    assert [re.sub(NUMBER, "", text) for text in stored] == [re.sub(NUMBER, "", text) for text in texts]
    assert sum(map(bool, stored)) >= 5


def test_the_tour_is_small_and_names_no_machine() -> None:
    notebook = json.loads(TOUR.read_text(encoding="utf-8"))
    assert TOUR.stat().st_size < 40_000 and notebook["nbformat"] == 4
    assert [cell["execution_count"] for cell in code_cells(TOUR)] == list(range(1, len(code_cells(TOUR)) + 1))
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
