# SPDX-License-Identifier: Apache-2.0
"""``algorithm.adv_estimator=agpo`` alone on verl's own GRPO examples; fixes that work when pasted into the command."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipe.agpo.preflight import before_ray, find_problems
from tests.recipe.conftest import ROOT
from tests.recipe.verl_examples import (
    ENTRY_POINTS,
    Result,
    examples,
    fixes,
    markdown,
    on_this_machine,
    parsed_once,
    results,
)

MOST_REFUSED = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("examples")


@pytest.fixture(scope="module")
def found(folder: Path) -> list[Result]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("AGPO_CPU", raising=False)
        return results(folder)


def test_the_list_names_each_script_once_and_holds_no_machine(found: list[Result]) -> None:
    names = [example.script for example in examples()]
    assert len(set(names)) == len(names) == len(found) >= 53
    assert all(name.endswith(".sh") and example.overrides for name, example in zip(names, examples(), strict=True))


def test_most_scripts_start_with_the_override_alone(found: list[Result]) -> None:
    refused = {result.example.script: result.problems for result in found if result.problems}
    assert len(refused) <= MOST_REFUSED, refused


def test_the_table_of_the_docs_is_current(found: list[Result]) -> None:
    """Write it again with ``python -m tests.recipe.verl_examples > docs/verl_examples.md``."""
    assert (ROOT / "docs/verl_examples.md").read_text(encoding="utf-8") == markdown(found)


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_each_refusal_has_a_fix_that_works_when_pasted(found: list[Result], folder: Path, entry_point: str) -> None:
    """The first fix of every problem, read from the message and appended to that script's own command."""
    refused = [result for result in found if result.problems]
    plus = entry_point == ENTRY_POINTS[0]
    if not plus:  # one script for each set of problems
        refused = list({tuple(problem.split(":")[0] for problem in r.problems): r for r in refused}.values())
    assert refused
    with parsed_once():
        for result in refused:
            example, said = result.example, result.problems
            here = on_this_machine(example, folder)
            if not plus:
                said = find_problems(example.compose(here, entry_point=entry_point))
            pasted: list[str] = []
            for problem in said:
                assert fixes(problem), f"{example.script}: no fix in: {problem}"
                pasted += fixes(problem)[0]
            ours = [override for override in pasted if "algorithm.agpo" in override]
            assert all(override.startswith("+") == plus for override in ours), pasted
            fixed = example.compose(here, *pasted, entry_point=entry_point)
            assert find_problems(fixed) == [], (example.script, pasted)


def test_what_is_used_instead_is_said_and_reaches_the_run(
    found: list[Result], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One script for each cause: the config that verl goes on with has the settings that the warning names."""
    first = {result.instead[0].title: result for result in found if len(result.instead) == 1 and not result.problems}
    assert len(first) == 3, "one update, fused kernels, and these beside other corrections"
    for result in first.values():
        with parsed_once():
            config = result.example.compose(on_this_machine(result.example, folder))
        before_ray(config)
        said = capsys.readouterr().out
        for key, value in result.instead[0].changes.items():
            assert f"{key}={value}" in said
            node = config
            for name in key.split("."):
                node = node[name]
            assert node == value
        before_ray(config)  # it is what the run asked for now
        assert "This run uses" not in capsys.readouterr().out
