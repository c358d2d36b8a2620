# SPDX-License-Identifier: Apache-2.0
"""Every hand-checked case of the corpus gets the verdict that a careful person gives it."""

from __future__ import annotations

import pytest

from recipe.agpo.rewards import Item, Verifier
from recipe.agpo.rewards.verdict import BAD_GOLD, JUDGED
from tests.rewards.cases import Case, load

CASES = load()


@pytest.fixture(scope="module")
def verdicts():
    """All at once: the pool works while the rest is read."""
    verifier = Verifier(workers=2, time_limit_s=10.0)
    found = verifier.verify_many([Item(case.response, case.gold, case.kind, case.args) for case in CASES])
    verifier.close()
    return dict(zip([case.id for case in CASES], found, strict=True))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_verdict(case: Case, verdicts) -> None:
    found = verdicts[case.id]
    if case.outcome is None:
        assert found.status == BAD_GOLD, case.why
    else:
        assert found.status in JUDGED and found.outcome == case.outcome, case.why


def test_the_corpus_is_large_bilingual_and_gives_reasons() -> None:
    assert len(CASES) >= 300
    assert sum(case.lang == "zh" for case in CASES) >= 80
    assert all(case.why for case in CASES)
    assert len({case.id for case in CASES}) == len(CASES)
    assert len({(case.kind, case.response, case.gold, str(case.args)) for case in CASES}) == len(CASES)
    rights = [case.outcome for case in CASES if case.outcome is not None]
    assert 0.3 < sum(rights) / len(rights) < 0.7
