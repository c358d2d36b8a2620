# SPDX-License-Identifier: Apache-2.0
"""One way to wrap a function of verl: checked, once, and with words where it does not fit."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from recipe.agpo.verl_api.import_hooks import on_import
from recipe.agpo.verl_api.patching import PatchError, is_wrapped, wrap
from recipe.agpo.verl_api.temperature import PASSES, score_at_own_temperature


def stand_in() -> ModuleType:
    module = ModuleType("stand_in")

    def double(value: int, times: int = 2) -> int:
        """Of the module."""
        return value * times

    class Engine:
        def step(self, data: int) -> int:
            return data

    module.double, module.Engine = double, Engine  # type: ignore[attr-defined]
    return module


def plus_one(original: Callable[..., int]) -> Callable[..., int]:
    return lambda *args, **kwargs: original(*args, **kwargs) + 1


def test_a_function_and_a_method_are_wrapped_once() -> None:
    module = stand_in()
    for _ in range(2):
        wrap(module, "double", ("value", "times"), plus_one)
        wrap(module, "Engine.step", ("self", "data"), plus_one)
    assert (module.double(3), module.Engine().step(7)) == (7, 8)
    assert is_wrapped(module.double) and module.double.__doc__ == "Of the module."


@pytest.mark.parametrize(
    ("name", "parameters", "words"),
    [
        ("double", ("value",), r"double has the parameters \['value', 'times'\], and AGPO expects \['value'\]"),
        ("halve", ("value",), "stand_in.halve is missing"),
        ("Engine.stop", ("self",), "stand_in.Engine.stop is missing"),
        ("Motor.step", ("self",), "stand_in.Motor.step is missing"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(name: str, parameters: tuple[str, ...], words: str) -> None:
    module = stand_in()
    with pytest.raises(PatchError, match=f"{words}.*as in verl 0.9.1. .*VERL_USE_EXTERNAL_PLUGINS=none"):
        wrap(module, name, parameters, plus_one)
    assert module.double(3) == 6


def test_it_is_refused_while_the_module_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "agpo_patched.py").write_text("def train(data): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    on_import("agpo_patched", lambda module: wrap(module, "train", ("data", "loss"), plus_one))
    with pytest.raises(PatchError, match="agpo_patched.train has the parameters"):
        import agpo_patched  # noqa: F401
    sys.modules.pop("agpo_patched", None)


def test_a_class_in_its_place_leaves_the_wrapper_a_function() -> None:
    module = ModuleType("stand_in")

    class Policy:
        kind = "policy"

        def __init__(self, pinned: bool) -> None:
            self.pinned = pinned

    module.Policy = Policy  # type: ignore[attr-defined]
    wrap(module, "Policy", ("pinned",), lambda original: lambda pinned=True: original(False))
    assert module.Policy(True).pinned is False and not hasattr(module.Policy, "kind")


def test_every_log_prob_pass_of_verls_worker_groups_is_wrapped() -> None:
    """The methods of a worker group as verl makes them."""
    from verl.single_controller.ray.base import func_generator

    def dispatch(group: Any, batch: Any) -> Any:
        return (batch,), {}

    class Group:
        def __init__(self) -> None:
            for name in PASSES:
                setattr(self, name, func_generator(self, name, dispatch, lambda _, out: out, self.run, blocking=False))

        def run(self, method: str, batch: Any) -> Any:
            return method, dict(batch.extra_info)

    class Batch:
        def __init__(self) -> None:
            self.extra_info = {"temperature": 1.0, "epochs": 1}

    class Trainer:
        actor_rollout_wg, ref_policy_wg = Group(), None

    score_at_own_temperature(Trainer)
    score_at_own_temperature(Trainer)
    for name in PASSES:
        assert getattr(Trainer.actor_rollout_wg, name)(Batch()) == (name, {"epochs": 1})
