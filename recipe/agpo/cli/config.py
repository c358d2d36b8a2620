# SPDX-License-Identifier: Apache-2.0
"""``agpo config``: the documented configuration, generated from ``RunConfig``."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agpo_core import iter_fields
from agpo_core.config import RENAMED
from agpo_core.schema import AUTO, SettingError
from recipe.agpo.files import FileError, write_text
from recipe.agpo.settings import RunConfig

COMMITTED_FILE = Path(__file__).parents[1] / "config" / "agpo_trainer.yaml"
WIDTH = 100
HEADER = """\
# verl's ppo_trainer.yaml with AGPO switched on and every key of algorithm.agpo listed. Generated from
# RunConfig; write it again with: agpo config --write recipe/agpo/config/agpo_trainer.yaml
#
# null: the preset's value (agpo config --preset agpo_d prints the values of a preset). auto: the value follows from
# the framework, the group or the data. The defaults in the comments are those of preset agpo.
# [code]: taken from the public AGPO-D code. [ours]: chosen by this project.
# The probe is the first responses of a prompt's group, scored before the rest is sampled. Drift is the KL divergence of
# a step divided by the policy entropy.
# recipe/agpo/main.py adds verl's folder to the search path; with another entry point add
# hydra.searchpath=[pkg://verl.trainer.config] to the command.
defaults:
  - ppo_trainer
  - _self_

trainer:
  logger: [console, file]

# The verifiers of this package; each data row names its verifier (docs/verifiers.md).
reward:
  custom_reward_function:
    path: pkg://recipe.agpo.rewards
    name: compute_score

algorithm:
  adv_estimator: agpo
  agpo:
"""


def run(*, markdown: bool, write: Path | None, preset: str | None = None) -> int:
    """Print or write the configuration; returns the exit code."""
    text = markdown_table() if markdown else trainer_yaml() if preset is None else effective_yaml(preset)
    if write is None:
        print(text, end="")
        return 0
    write_text(write, text)
    print(f"wrote {write}")
    return 0


def effective_yaml(preset: str) -> str:
    """Every key of ``algorithm.agpo`` with the value that it has under a preset."""
    try:
        values = RunConfig.from_preset(preset).to_dict()
    except SettingError as error:
        raise FileError(str(error)) from None
    lines, open_section = ["algorithm:", "  agpo:"], ""
    for key, *_ in iter_fields(RunConfig):
        section, _, name = key.rpartition(".")
        if section and section != open_section:
            lines.append(f"    {section}:")
        open_section = section
        value = values[section][name] if section else values[name]
        lines.append(f"{' ' * (6 if section else 4)}{name}: {_plain(value)}")
    return "\n".join(lines) + "\n"


def trainer_yaml() -> str:
    """``recipe/agpo/config/agpo_trainer.yaml``: a comment above each key, every value null but the preset."""
    return HEADER + "\n".join(_yaml_lines()) + "\n"


def markdown_table() -> str:
    """One row per key of ``algorithm.agpo``: key, type, default of preset agpo, meaning, source."""
    lines = ["| key | type | default | meaning | source |", "|---|---|---|---|---|"]
    for key, kind, default, doc, source in iter_fields(RunConfig):
        cells = (f"`{key}`", f"`{kind}`", f"`{_plain(default)}`", doc, source)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _yaml_lines() -> Iterator[str]:
    open_section = ""
    old_names: dict[str, list[str]] = {}
    for old in RENAMED:
        old_names.setdefault(old.rpartition(".")[0], []).append(old)
    for key, kind, default, doc, source in iter_fields(RunConfig):
        section, _, name = key.rpartition(".")
        if section != open_section:
            yield from _old_names(old_names.pop(open_section, []))
        if section and section != open_section:
            yield f"\n    {section}:"
        elif not section and key != "preset":
            yield ""
        open_section = section
        indent = " " * (6 if section else 4)
        yield from textwrap.wrap(
            doc, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ", break_on_hyphens=False
        )
        yield f"{indent}# {kind}, default {_plain(default)} [{source}]"
        yield f"{indent}{name}: {default if key == 'preset' else 'null'}"

    yield from _old_names(old_names.pop("", []))


def _old_names(keys: list[str]) -> Iterator[str]:
    """Keys that Hydra must know, because the next release still accepts them."""
    for key in keys:
        section, _, name = key.rpartition(".")
        yield f"{' ' * (6 if section else 4)}{name}: null  # old name of {RENAMED[key]}"


def _plain(value: Any) -> str:
    """A value in YAML's spelling."""
    if value is None:
        return AUTO
    return value if isinstance(value, str) else json.dumps(value)
