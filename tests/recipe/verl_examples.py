# SPDX-License-Identifier: Apache-2.0
"""verl's GRPO example scripts as argument lists, and what AGPO says to each. ``docs/verl_examples.md`` is written here:

python -m tests.recipe.verl_examples > docs/verl_examples.md

``verl_examples.jsonl`` holds, for each script of verl's folder ``examples`` that trains with
``algorithm.adv_estimator=grpo`` and composes with verl 0.9.1, the config and the overrides that it passes to
``verl.trainer.main_ppo``, with the defaults of its environment variables filled in. They were recorded by running each
script with a stand-in for its Python. Source: https://github.com/verl-project/verl, commit
1dda039b9c6311889a9c9a26040677e1254814f9 (22 August 2026, Apache-2.0), the nearest to verl 0.9.1 that was available.
"""

from __future__ import annotations

import functools
import json
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from recipe.agpo.main import CONFIG_FOLDER
from recipe.agpo.preflight import find_problems
from recipe.agpo.preflight.algorithm import Fallback, fallbacks
from recipe.agpo.settings import agpo_config
from tests.recipe.conftest import compose_verl

COMMIT = "1dda039b9c6311889a9c9a26040677e1254814f9"
LIST = Path(__file__).with_suffix(".jsonl")
AGPO = "algorithm.adv_estimator=agpo"
PROMPTS = 4096  # at least one batch of every script
ENTRY_POINTS = ("python -m verl.trainer.main_ppo", "python -m recipe.agpo.main")


@dataclass(frozen=True)
class Example:
    """One script: its name, the config it names, and its overrides."""

    script: str
    config: str
    overrides: tuple[str, ...]

    def compose(self, here: list[str], *more: str, entry_point: str = ENTRY_POINTS[0]) -> Any:
        """Its configuration with AGPO, and with overrides for this machine and ``more`` appended."""
        if entry_point == ENTRY_POINTS[0]:
            return compose_verl(*self.overrides, AGPO, *more, *here, name=self.config)
        engine = ["model_engine=megatron"] if self.config == "ppo_megatron_trainer" else []
        path = "hydra.searchpath=[pkg://verl.trainer.config]"
        given = (*engine, *self.overrides, AGPO, *more, *here, path)
        return compose_verl(*given, folder=CONFIG_FOLDER, name="agpo_trainer")


@dataclass(frozen=True)
class Result:
    """What the checks before Ray say to a script with AGPO alone."""

    example: Example
    problems: list[str]
    instead: list[Fallback]


def examples() -> list[Example]:
    found = [json.loads(line) for line in LIST.read_text(encoding="utf-8").splitlines()]
    return [Example(row["script"], row["config"], tuple(row["overrides"])) for row in found]


def on_this_machine(example: Example, folder: Path) -> list[str]:
    """Overrides that put made-up files in the place of the script's data, model and Python files."""
    rows, code = folder / "rows.parquet", folder / "code.py"
    if not rows.exists():
        import pandas

        pandas.DataFrame(
            {
                "data_source": ["openai/gsm8k"] * PROMPTS,
                "prompt": [[{"role": "user", "content": "1+1="}]] * PROMPTS,
                "reward_model": [{"style": "rule", "ground_truth": "2"}] * PROMPTS,
            }
        ).to_parquet(rows)
        code.write_text(
            "from torch.utils.data import Dataset\n\n\n"
            "class CustomRLHFDataset(Dataset):\n    pass\n\n\n"
            "def compute_score(*args, **kwargs):\n    return 0.0\n"
        )
    given = {override.lstrip("+").split("=", 1)[0]: override.split("=", 1)[1] for override in example.overrides}
    out = [f"data.train_files={rows}", f"data.val_files={rows}", f"trainer.default_local_dir={folder / 'run'}"]
    # Under our own entry point verifiers would be tried, which takes time limits and has tests of its own.
    out += [f"reward.custom_reward_function.path={code}", "reward.custom_reward_function.name=compute_score"]
    for key, value in given.items():
        if value.endswith(".py"):
            out.append(f"{key}={code}")
        elif key.endswith("model.path") and value.startswith(("/", ".", "~")):
            out.append(f"{key}=example/model")
    return out


def fixes(problem: str) -> list[list[str]]:
    """The ways out that a problem names, each as overrides to append to the command."""
    _, _, advice = problem.partition(" Set ")
    if not advice:
        _, _, advice = problem.partition(" set ")
    ways = re.split(r",? or ", re.split(r"\.(?:\s|$)", advice)[0])
    return [way for way in (re.findall(r"\+?[a-z_]\w*(?:\.\w+)+=[^\s,]+", text) for text in ways) if way]


@contextmanager
def parsed_once() -> Iterator[None]:
    """Hydra reads the same files for every script; they are parsed once."""
    load: Callable[..., Any] = OmegaConf.load
    known = functools.cache(lambda path: OmegaConf.to_container(load(path)))

    def cached(file: Any) -> Any:
        return OmegaConf.create(known(str(file) if isinstance(file, str | Path) else file.name))

    OmegaConf.load = staticmethod(cached)  # type: ignore[assignment]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        OmegaConf.load = staticmethod(load)  # type: ignore[assignment]


def results(folder: Path) -> list[Result]:
    """What is said to each script."""
    out = []
    with parsed_once():
        for example in examples():
            config = example.compose(on_this_machine(example, folder))
            out.append(Result(example, find_problems(config), list(fallbacks(config, agpo_config(config)))))
    return out


def markdown(found: list[Result]) -> str:
    """The page of the docs."""
    started = [result for result in found if not result.problems]
    lines = [
        "# verl's GRPO examples with AGPO",
        "",
        "Generated by `python -m tests.recipe.verl_examples`; `tests/recipe/test_verl_examples.py` checks it.",
        "",
        f"The list holds every script of verl's folder `examples` (commit `{COMMIT[:9]}`, the nearest to 0.9.1 that",
        "was available) that trains with `algorithm.adv_estimator=grpo` and composes with verl 0.9.1. Each got one",
        "more argument, `algorithm.adv_estimator=agpo`, and went through the checks before Ray; data, models and",
        "reward functions that are not on the machine were replaced. No script was trained: this page says which",
        "commands AGPO accepts, not how well they learn.",
        "",
        f"**{len(started)} of {len(found)} start.** Some use other settings than they ask for; a warning says so:",
        "",
        "| setting | what the run does instead | scripts |",
        "|---|---|---|",
    ]
    for keys, names in _by_change(started).items():
        lines.append(f"| {names[0].title} | {keys} | {len(names)} |")
    lines += [
        "",
        f"{len(found) - len(started)} are refused. The fixes below are for verl's own entry point; with `python -m "
        "recipe.agpo.main` they have",
        "no `+`. The test appends each to its script, and the run then passes.",
        "",
        "| script | result | fix or settings used instead |",
        "|---|---|---|",
    ]
    for result in found:
        if result.problems:
            fix = sorted(override for problem in result.problems for way in fixes(problem)[:1] for override in way)
            cell = f"refused | {' '.join(f'`{override}`' for override in fix)}"
        else:
            cell = f"starts | {_changes(result)}"
        lines.append(f"| `{result.example.script}` | {cell} |")
    return "\n".join(lines) + "\n"


def _changes(result: Result) -> str:
    changes = [change for fallback in result.instead for change in fallback.changes.items()]
    return " ".join(f"`{key}={value}`" for key, value in changes)


def _by_change(found: list[Result]) -> dict[str, list[Fallback]]:
    grouped: dict[str, list[Fallback]] = {}
    for fallback in (fallback for result in found for fallback in result.instead):
        keys = " ".join(f"`{key}={value}`" for key, value in fallback.changes.items())
        grouped.setdefault(keys, []).append(fallback)
    return grouped


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as here:
        print(markdown(results(Path(here))), end="")
