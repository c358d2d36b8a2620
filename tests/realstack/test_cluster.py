# SPDX-License-Identifier: Apache-2.0
"""``agpo doctor --ranks``: Ray, the nodes and their collectives, before a run pays for them."""

from __future__ import annotations

import os

from recipe.agpo.cli.cluster import cluster_rows
from recipe.agpo.cli.doctor import FAIL, OK
from recipe.agpo.cpu.config import cpu_env
from tests.realstack import stack


def test_ranks_talk_and_share_a_folder_or_it_is_said(tmp_path, monkeypatch):
    for name, value in (cpu_env() | stack.python_env()).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    rows = {row.check: row for row in cluster_rows(2, tmp_path / "run")}
    assert {check: row.status for check, row in rows.items()} == dict.fromkeys(
        ("ray", "environments", "run folder", "collectives"), OK
    ), rows
    assert "2 rank(s)" in rows["collectives"].found
    assert os.listdir(tmp_path / "run") == [], "nothing is left behind"

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # nobody listens there
    (row,) = cluster_rows(2, None)
    assert (row.status, "127.0.0.1:1" in row.found) == (FAIL, True)
