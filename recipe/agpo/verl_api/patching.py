# SPDX-License-Identifier: Apache-2.0
"""The only way in which AGPO wraps a function of verl, torch or vLLM."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from recipe.agpo.verl_api.version import VERL_VERSION

MARK = "__agpo__"
TESTED = f"verl {VERL_VERSION}"


class PatchError(RuntimeError):
    """A function that AGPO replaces is not as expected."""


def wrap(
    module: Any,
    name: str,
    parameters: Sequence[str],
    make: Callable[[Callable[..., Any]], Callable[..., Any]],
    tested: str = TESTED,
) -> None:
    """Replace the function ``module.name`` by ``make(the function)``. A second call changes nothing.

    Args:
        module: the module, or an object whose method is wanted.
        name: of the function in it, or ``Class.method``.
        parameters: names that its signature must have, in order.
        make: builds the replacement.
        tested: the versions whose signature this is, for the error.

    Raises:
        PatchError: there is no such function, or its parameters are others. verl's modules are wrapped while they are
            imported, so this stops a run before it starts.
    """
    holder, _, attribute = name.rpartition(".")
    owner = getattr(module, holder, None) if holder else module
    original: Any = getattr(owner, attribute, None)
    if is_wrapped(original):
        return
    found = signature(original)
    if found != list(parameters):
        where = f"{getattr(module, '__name__', type(module).__name__)}.{name}"
        seen = "is missing" if owner is None or original is None else f"has the parameters {found}"
        raise PatchError(
            f"{where} {seen}, and AGPO expects {list(parameters)}, as in {tested}. Install that version, or start "
            "without AGPO: VERL_USE_EXTERNAL_PLUGINS=none."
        )
    # A class in its place has attributes of its own, which are none of a function's.
    copied = () if inspect.isclass(original) else functools.WRAPPER_UPDATES
    replacement = functools.wraps(original, updated=copied)(make(original))
    setattr(replacement, MARK, True)
    setattr(owner, attribute, replacement)


def is_wrapped(function: Any) -> bool:
    """Whether a function is one of ours around another one."""
    return bool(getattr(function, MARK, False))


def signature(function: Any) -> list[str] | None:
    """Names of a callable's parameters; None if it has no signature."""
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return None
