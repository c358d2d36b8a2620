# SPDX-License-Identifier: Apache-2.0
"""Register each part of AGPO with verl. No other module does this.

===================================  ============================================================================
verl                                 what AGPO does there, once verl imports the module
===================================  ============================================================================
``trainer.ppo.core_algos``           registers the estimator and the policy loss ``agpo``
``trainer.ppo.v1.get_trainer_cls``   adds the ledger, and the controllers if ``algorithm.adv_estimator=agpo``
``utils.config.validate_config``     runs our checks first, before Ray starts; then writes ``run.json``
``utils.tracking.Tracking``          trackers continue their runs, see ``training.tracker_runs``
``workers.engine.base``              see ``verl_api.updates``
``workers.engine_workers``           see ``verl_api.actor_weights``
``bucketed_weight_transfer``         see ``verl_api.sockets``
===================================  ============================================================================

Importing this module must be fast, because verl loads plugins in every Ray worker. The parts are therefore imported on
first use.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from recipe.agpo.rollout import LEDGER_MANAGER, MANAGER
from recipe.agpo.verl_api import actor_weights, sockets, updates
from recipe.agpo.verl_api.import_hooks import on_import
from recipe.agpo.verl_api.patching import wrap

TRACKING = ("self", "project_name", "experiment_name", "default_backend", "config")


def install() -> None:
    """Register AGPO with verl when verl's modules are imported. Idempotent."""
    on_import("verl.trainer.ppo.core_algos", _register_algorithms)
    on_import("verl.trainer.ppo.v1", _select_trainer)
    on_import("verl.utils.config", _add_checks)
    on_import("verl.utils.tracking", _continue_tracker_runs)
    on_import(updates.MODULE, updates.around_updates)
    on_import(actor_weights.MODULE, actor_weights.add_call)
    on_import(sockets.MODULE, sockets.separate_sockets)


def _register_algorithms(core_algos: ModuleType) -> None:
    from recipe.agpo.training.actor_loss import agpo_policy_loss
    from recipe.agpo.training.advantages import agpo_advantage

    core_algos.register_adv_est("agpo")(agpo_advantage)
    core_algos.register_policy_loss("agpo")(agpo_policy_loss)


def _select_trainer(v1: ModuleType) -> None:
    wrap(v1, "get_trainer_cls", ("name",), _with_our_trainers)


def _with_our_trainers(original: Callable[[str], Any]) -> Callable[[str], Any]:
    def get_trainer_cls(name: str) -> Callable[..., Any]:
        base = original(name)

        def build(config: Any) -> Any:
            # verl calls this function with the final config; the estimator is not known before.
            return _trainer(base, config)(config=config)

        return build

    return get_trainer_cls


def _trainer(base: type, config: Any) -> type:
    """The trainer class of this run; names the rollout that goes with it in the config."""
    from omegaconf import open_dict

    from recipe.agpo.settings import agpo_config, is_agpo, keeps_ledger

    if not keeps_ledger(config):
        return base
    agent = config.actor_rollout_ref.rollout.agent
    with open_dict(config):
        if is_agpo(config):
            agent.agent_loop_manager_class = MANAGER
        elif agent.get("agent_loop_manager_class") is None:
            agent.agent_loop_manager_class = LEDGER_MANAGER
    if agpo_config(config).average.enabled:
        from recipe.agpo.training.average import average_trainer

        base = average_trainer(base)
    if is_agpo(config):
        from recipe.agpo.training.trainer import agpo_trainer

        return agpo_trainer(base)
    from recipe.agpo.training.token_ledger import ledger_trainer

    return ledger_trainer(base)


def _continue_tracker_runs(tracking: ModuleType) -> None:
    wrap(tracking, "Tracking.__init__", TRACKING, _with_continued_runs)


def _with_continued_runs(original: Callable[..., None]) -> Callable[..., None]:
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        from recipe.agpo.training.tracker_runs import continues_runs

        continues_runs(original)(self, *args, **kwargs)

    return init


def _add_checks(utils_config: ModuleType) -> None:
    wrap(utils_config, "validate_config", ("config", "use_reference_policy", "use_critic"), _with_our_checks)


def _with_our_checks(original: Callable[..., None]) -> Callable[..., None]:
    def validate_config(config: Any, *args: Any, **kwargs: Any) -> None:
        from recipe.agpo.preflight import ConfigProblem, before_ray, verls_own
        from recipe.agpo.preflight.launch import record_launch

        try:
            before_ray(config)
            with verls_own(config):
                original(config, *args, **kwargs)
        except ConfigProblem as problem:
            if _in_a_worker():
                raise  # Ray carries it to the driver
            # Hydra prints a traceback for every exception, and lets this one pass.
            print(f"\n{problem}", file=sys.stderr, flush=True)
            raise SystemExit(2) from None
        record_launch(config)

    return validate_config


def _in_a_worker() -> bool:
    """Whether this process is Ray's: some of verl's trainers validate there."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()
