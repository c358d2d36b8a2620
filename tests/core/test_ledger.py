# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agpo_core import TokenLedger

COUNTS = st.builds(TokenLedger, *[st.integers(0, 10**12)] * 5)


@given(st.lists(COUNTS, max_size=6).flatmap(lambda steps: st.tuples(st.just(steps), st.permutations(steps))))
def test_sums_do_not_depend_on_the_order_of_workers(pair: tuple[list[TokenLedger], list[TokenLedger]]) -> None:
    ordered, shuffled = pair
    assert sum(ordered, TokenLedger()) == sum(shuffled, TokenLedger())


@given(COUNTS)
def test_round_trip(ledger: TokenLedger) -> None:
    assert TokenLedger.from_dict(ledger.to_dict()) == ledger


def test_what_is_left_of_a_budget() -> None:
    ledger = TokenLedger(generated=70, probe=30, validation=500)
    assert [ledger.left(budget) for budget in (100, 71, 70, 69)] == [30, 1, 0, 0], "validation is not charged"


@pytest.mark.parametrize("value", [-1, 1.5, "7", None, True])
def test_counts_are_whole_and_not_negative(value: object) -> None:
    with pytest.raises(ValueError, match="probe"):
        TokenLedger(probe=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"extra": 1}, {"generated": None}])
def test_a_damaged_ledger_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        TokenLedger.from_dict(TokenLedger().to_dict() | change)
    with pytest.raises(ValueError, match="has the fields"):
        TokenLedger.from_dict({"generated": 1})


def test_counts_are_bounded() -> None:
    """A larger one is damage, and no float could hold it in the log."""
    assert TokenLedger(generated=2**63 - 1).generated == 2**63 - 1
    with pytest.raises(ValueError, match="generated: must be at most"):
        TokenLedger(generated=10**400)
