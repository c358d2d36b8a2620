# SPDX-License-Identifier: Apache-2.0
"""Checks before Ray starts; all problems are reported in one message.

Each check yields problems as text: the key, its value, why it cannot work, and the override that fixes it.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from omegaconf import DictConfig

from recipe.agpo import cpu
from recipe.agpo.arguments import DRY_RUN, dry_run
from recipe.agpo.cpu.config import apply_cpu_defaults, cpu_conflicts
from recipe.agpo.preflight import (
    algorithm,
    batches,
    names,
    numbers,
    prompts,
    rendering,
    resources,
    rewards,
    rows,
    verl_settings,
)
from recipe.agpo.processes import MARKER, new_run_id
from recipe.agpo.settings import RunConfig, agpo_config, is_agpo, keeps_ledger

Check = Callable[[DictConfig, RunConfig], Iterator[str]]
SKIP = "AGPO_SKIP_CHECKS"  # names of checks to leave out, with commas
# What the others compute with. Where one of them finds a problem, the arithmetic is left out.
VALUES: tuple[Check, ...] = (numbers.sections, numbers.numbers)
ARITHMETIC: tuple[Check, ...] = (batches.parallel, batches.batches, batches.tokens)
# Checks that do not look into algorithm.agpo.
OF_VERL: tuple[Check, ...] = (
    verl_settings.versions,
    verl_settings.separate,
    names.methods,
    names.files,
    names.loggers,
    resources.model,
    prompts.data,
    prompts.splits,
    rendering.rendered,
    rows.column_names,
    rows.ground_truths,
    rewards.reward,
    resources.disk,
)
EVERY_RUN: tuple[Check, ...] = (verl_settings.schedule, verl_settings.average, resources.resume)
AGPO_RUNS: tuple[Check, ...] = (
    verl_settings.trainer,
    verl_settings.rollout,
    names.engine,
    verl_settings.scoring,
    verl_settings.megatron,
    verl_settings.loss,
    verl_settings.groups,
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
        try:
            for key, old, new in apply_cpu_defaults(config):
                print(f"[agpo] without a GPU: {key}={new} (was {old})")
        except (TypeError, ValueError):
            pass  # a number that is none; the checks say which
        problems = [f"{key}={value} cannot work without a GPU: {need}." for key, value, need in cpu_conflicts(config)]
    problems += find_problems(config)
    if problems:
        raise ConfigProblem(f"AGPO cannot start, {len(problems)} problem(s):\n{numbered(problems)}")
    warnings = find_warnings(config)
    algorithm.use_fallbacks(config)
    for warning in warnings:
        print(f"[agpo] WARNING: {warning}")


@contextmanager
def verls_own(config: DictConfig) -> Iterator[None]:
    """Around verl's own check of a run of ours: what it raises is a problem too, in its words."""
    try:
        yield
    except ConfigProblem:
        raise
    except Exception as error:
        if not keeps_ledger(config):
            raise
        what = " ".join(str(error).split())
        raise ConfigProblem(
            f"AGPO cannot start, 1 problem(s):\n  1. verl refuses the configuration: {type(error).__name__}: {what}"
        ) from error


def numbered(problems: Iterable[str]) -> str:
    """One line for each problem."""
    return "\n".join(f"  {i}. {problem}" for i, problem in enumerate(problems, 1))


def problem_in(error: BaseException | None) -> ConfigProblem | None:
    """The problem in an exception that Hydra, Ray or verl may have raised around it; None if there is none."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        here = waiting.pop(0)
        if here is None or id(here) in seen:
            continue
        seen.add(id(here))
        # Ray's error is an instance of its cause's class; its text is a traceback, and the cause is inside.
        inner = getattr(here, "cause", None)
        if isinstance(here, ConfigProblem) and not isinstance(inner, BaseException):
            return here
        waiting += [inner if isinstance(inner, BaseException) else None, here.__cause__, here.__context__]
    return None


def find_problems(config: DictConfig) -> list[str]:
    """All problems of this run, in words; empty if it can start, or is not a run of AGPO."""
    found = list(names.estimator(config))
    if not keeps_ledger(config):
        return found
    agpo = RunConfig()
    readable = True
    try:
        agpo = agpo_config(config)
    except (ValueError, TypeError) as error:  # TypeError: a word or a list in the place of the section
        readable = False
        found.append(verl_settings.with_prefix(str(error)))
    values = _made(VALUES, config, agpo, quiet=False)
    used = config
    if readable and not values:
        used = algorithm.with_fallbacks(config)
        agpo = agpo_config(used)
    found += values + _made((rows.named,), config, agpo, quiet=bool(values))
    checks = list(OF_VERL if values else (*ARITHMETIC, *OF_VERL))
    if readable:
        checks += EVERY_RUN
        checks += AGPO_RUNS if is_agpo(config) else ()
    if values:
        checks = [check for check in checks if check is not verl_settings.rollout]  # it computes with them
    # A key that has been reported, or its section, is not reported again.
    told = tuple({key for key in map(_key, found) if key})
    found += [p for p in _made(checks, used, agpo, quiet=bool(values)) if not _below(_key(p), told)]
    return [algorithm.pasteable(problem, config) for problem in found]


def _made(checks: Iterable[Check], config: DictConfig, agpo: RunConfig, quiet: bool) -> list[str]:
    """The problems that checks find. One that fails hides nothing; ``quiet``: it fails on what is reported already."""
    skipped = {name.strip() for name in os.environ.get(SKIP, "").split(",")}
    found: list[str] = []
    for check in checks:
        name = f"{check.__module__.rpartition('.')[2]}.{check.__name__}"
        if name in skipped:
            continue
        try:
            for problem in check(config, agpo):
                found.append(problem)
        except Exception as error:  # a check must not stop the others
            if not quiet:
                place = traceback.extract_tb(error.__traceback__)[-1]
                what = " ".join(str(error).split())[:200]
                found.append(
                    f"The check {name} failed ({type(error).__name__}: {what}; {Path(place.filename).name}:"
                    f"{place.lineno}), so a setting that it reads may have the wrong type. Compare it with verl's "
                    f"default, or leave the check out with the environment variable {SKIP}={name}."
                )
    return found


def _key(problem: str) -> str:
    """The key that a problem begins with."""
    key = problem.partition("=")[0]
    return "" if " " in key else key


def _below(key: str, told: tuple[str, ...]) -> bool:
    return any(key == other or key.startswith(f"{other}.") for other in told)


def find_warnings(config: DictConfig) -> list[str]:
    """Settings with which a part of AGPO or of the prompts has no effect or does something else; none without AGPO."""
    if not keeps_ledger(config):
        return []
    found = []
    for skipped in filter(None, os.environ.get(SKIP, "").split(",")):
        found.append(f"{SKIP}: the check {skipped.strip()} is left out.")
    with suppress(Exception):  # a value of the wrong type, which is among the problems
        found += names.sampling(config)
        agpo, used = agpo_config(config), algorithm.with_fallbacks(config)
        found += [str(fallback) for fallback in algorithm.fallbacks(config, agpo)] if is_agpo(config) else []
        pointless = verl_settings.pointless(used, agpo_config(used))
        found += [algorithm.pasteable(text, config) for text in pointless]
        found += rendering.warnings(config)
    return found
