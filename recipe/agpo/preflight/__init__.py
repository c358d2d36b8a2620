# SPDX-License-Identifier: Apache-2.0
"""Checks before Ray starts; all problems are reported in one message.

Each check yields problems as text: the key, its value, why it cannot work, and the override that fixes it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from omegaconf import DictConfig

from recipe.agpo import cpu
from recipe.agpo.arguments import DRY_RUN, dry_run
from recipe.agpo.cpu.config import apply_cpu_defaults, cpu_conflicts
from recipe.agpo.preflight import prompts, resources, rewards, verl_settings
from recipe.agpo.processes import MARKER, new_run_id
from recipe.agpo.settings import RunConfig, agpo_config, is_agpo, keeps_ledger

Check = Callable[[DictConfig, RunConfig], Iterator[str]]
EVERY_RUN: tuple[Check, ...] = (
    verl_settings.versions,
    verl_settings.separate,
    verl_settings.schedule,
    resources.model,
    prompts.data,
    prompts.splits,
    rewards.reward,
    resources.resume,
    resources.disk,
)
AGPO_RUNS: tuple[Check, ...] = (
    verl_settings.trainer,
    verl_settings.rollout,
    verl_settings.scoring,
    verl_settings.megatron,
    verl_settings.loss,
    verl_settings.step_size,
    verl_settings.groups,
    verl_settings.batches,
)


class ConfigProblem(ValueError):
    """The run cannot start; the message lists every problem with its fix."""


def before_ray(config: DictConfig) -> None:
    """Check a composed verl config; called from verl's own ``validate_config`` in the driver.

    On the platform without a GPU, its settings are filled in first, for every run. The checks apply to runs with
    ``algorithm.adv_estimator=agpo`` and, where it concerns the token ledger, to those with a section
    ``algorithm.agpo``.

    Raises:
        ConfigProblem: with all problems found, each with its fix.
    """
    if dry_run():
        raise ConfigProblem(
            f"{DRY_RUN}={os.environ[DRY_RUN]} is set, so nothing is started. To train, unset it; to plan this run, "
            "start it with `python -m recipe.agpo.main`, which prints its configuration for `agpo plan`."
        )
    problems = []
    # Every process of a run inherits it: its sockets are named after it.
    os.environ.setdefault(MARKER, new_run_id())
    if cpu.enabled():
        for key, old, new in apply_cpu_defaults(config):
            print(f"[agpo] without a GPU: {key}={new} (was {old})")
        problems = [f"{key}={value} cannot work without a GPU: {need}." for key, value, need in cpu_conflicts(config)]
    problems += find_problems(config)
    if problems:
        listed = "\n".join(f"  {i}. {problem}" for i, problem in enumerate(problems, 1))
        raise ConfigProblem(f"AGPO cannot start, {len(problems)} problem(s):\n{listed}")
    for warning in find_warnings(config):
        print(f"[agpo] WARNING: {warning}")


def find_problems(config: DictConfig) -> list[str]:
    """All problems of this run, in words; empty if it can start, or is not a run of AGPO."""
    if not keeps_ledger(config):
        return []
    try:
        agpo = agpo_config(config)
    except ValueError as error:
        return [verl_settings.with_prefix(str(error))]
    checks = (*EVERY_RUN, *AGPO_RUNS) if is_agpo(config) else EVERY_RUN
    return [problem for check in checks for problem in check(config, agpo)]


def find_warnings(config: DictConfig) -> list[str]:
    """Settings with which a part of AGPO has no effect; none for runs without AGPO."""
    return verl_settings.pointless(config, agpo_config(config)) if keeps_ledger(config) else []
