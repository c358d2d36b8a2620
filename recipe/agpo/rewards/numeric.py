# SPDX-License-Identifier: Apache-2.0
"""Kind ``numeric``: a number with a tolerance and a unit, as in the OCW courses."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from recipe.agpo.rewards import maths
from recipe.agpo.rewards.canonical import Canonical, canonical
from recipe.agpo.rewards.extract import mathematical_answer
from recipe.agpo.rewards.units import dimension
from recipe.agpo.rewards.verdict import BAD_GOLD, NO_ANSWER, Judgement, Work

VALUE = "recipe.agpo.rewards.symbolic:value"
REL_TOL = 0.01  # three significant digits in the worst case, as the OCW solutions are given

# Where the reference is a number, letters behind a space are no variables.
_UNIT_BEHIND = re.compile(r"(?<=[\w)}\]])\s+[a-zA-Zµμ°][\w/^{}.*·²³-]*$")


def judge(response: str, gold: str, args: Mapping[str, Any]) -> Judgement | Work:
    """Right if the final answer lies within the tolerance of ``gold``.

    args: ``rel_tol`` (default 0.01) and ``abs_tol`` (default 0); ``unit``: the unit that was asked for. A unit that is
    left out or not known here is ignored; a known one of the same dimension is converted; one of another dimension
    is wrong. A gold that is no number is judged as kind ``math``.
    """
    reference = canonical(maths.cleaned(gold))
    if not gold.strip():
        return Judgement(0.0, False, "", BAD_GOLD, "the reference answer is empty")
    if reference.number is None:
        return maths.judge(response, gold, args)
    found = mathematical_answer(response)
    if found is None:
        return Judgement(0.0, False, "", NO_ANSWER)
    unit = str(args.get("unit") or reference.unit)
    target = float(reference.number)
    right = Judgement(1.0, found.asked_form, reference.key)
    answer = maths.readings(maths.cleaned(found.text), keep_equation=False)[-1]
    wrong = Judgement(0.0, found.asked_form, answer.key)
    if found.denied:
        return wrong
    if answer.number is not None:
        return right if _agrees(answer, target, unit, args) else wrong

    def finish(value: float | None) -> Judgement:
        return right if value is not None and _close(value, target, args) else wrong

    expression = maths.formula(maths.cleaned(found.text).rpartition("=")[2])
    return Work(VALUE, [_UNIT_BEHIND.sub("", expression)], finish, control=[gold], wrong=wrong)


def check_gold(gold: str, args: Mapping[str, Any]) -> str | None:
    """None if answers can be judged against ``gold``, else why not."""
    for name in ("rel_tol", "abs_tol"):
        tolerance = args.get(name, 0.0)
        if not isinstance(tolerance, int | float) or not 0 <= tolerance < math.inf:
            return f"{name}={tolerance!r}: must be a finite number >= 0"
    return maths.check_gold(gold)


def _agrees(answer: Canonical, target: float, unit: str, args: Mapping[str, Any]) -> bool:
    assert answer.number is not None
    value = float(answer.number)
    asked, given = dimension(unit) if unit else None, dimension(answer.unit) if answer.unit else None
    if asked and given:
        if asked[0] != given[0]:
            return False
        value *= given[1] / asked[1]
    if _close(value, target, args):
        return True
    return answer.percent and _close(100 * value, target, args)


def _close(value: float, target: float, args: Mapping[str, Any]) -> bool:
    rel, absolute = float(args.get("rel_tol", REL_TOL)), float(args.get("abs_tol", 0.0))
    return math.isclose(value, target, rel_tol=0.0, abs_tol=max(rel * abs(target), absolute, 1e-12 * abs(target)))
