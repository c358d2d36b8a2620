# SPDX-License-Identifier: Apache-2.0
"""The only file that knows verl's private names (verl 0.9.1). ``tests/contracts`` pins each of them.

What AGPO touches and how:

===============================================  ===============================================================
verl                                             use
===============================================  ===============================================================
``trainer.ppo.core_algos`` registries            estimator ``agpo``, policy loss ``agpo``
``trainer.ppo.v1.get_trainer_cls``               adds the ledger, and AGPO if ``algorithm.adv_estimator=agpo``
``utils.config.validate_config``                 our checks run in it, before Ray starts
``workers.engine.base.BaseEngine.train_batch``   group weights of the adaptive loss; the step size; the schedule that
                                                 follows tokens
``vllm_rollout.bucketed_weight_transfer``        two runs side by side on one machine get sockets of their own
``trainer.ppo.v1.agent_loop_tq``                 base classes of our rollout
``PPOTrainerSync``, ``PPOTrainerColocateAsync``  base classes of our trainer
===============================================  ===============================================================
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from recipe.agpo.cpu.processes import MARKER as RUN_ID
from recipe.agpo.import_hooks import on_import

VERL_VERSION = "0.9.1"
MANAGER_CLASS = "recipe.agpo.rollout.AGPOAgentLoopManager"
LEDGER_MANAGER_CLASS = "recipe.agpo.ledger.CountingManager"
# In verl's extra_info of an update:
SCHEDULE_POSITION = "agpo_schedule_position"
LR_SCALE = "agpo_lr_scale"

if TYPE_CHECKING:
    AgentLoopWorker: Any
    AgentLoopManagerTQ: Any
    settle_sessions: Callable[..., Any]


def __getattr__(name: str) -> Any:
    """verl's classes, imported on first use: importing this module must stay cheap."""
    if name in ("AgentLoopWorker", "AgentLoopManagerTQ", "settle_sessions"):
        from verl.trainer.ppo.v1 import agent_loop_tq

        if name == "AgentLoopManagerTQ":
            return agent_loop_tq.AgentLoopManagerTQ
        if name == "settle_sessions":
            return agent_loop_tq._settle_session_tasks
        # The module holds a Ray actor class; Python can only subclass the plain class inside it.
        return agent_loop_tq.AgentLoopWorkerTQ.__ray_metadata__.modified_class
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def install() -> None:
    """Register AGPO with verl as verl's modules get imported. Idempotent."""
    on_import("verl.trainer.ppo.core_algos", _register_algorithms)
    on_import("verl.trainer.ppo.v1", _select_trainer)
    on_import("verl.utils.config", _add_checks)
    on_import("verl.workers.engine.base", _around_updates)
    on_import("verl.workers.rollout.vllm_rollout.bucketed_weight_transfer", _own_sockets)


def _register_algorithms(core_algos: ModuleType) -> None:
    from recipe.agpo.actor_loss import agpo_policy_loss
    from recipe.agpo.estimator import agpo_advantage

    core_algos.register_adv_est("agpo")(agpo_advantage)
    core_algos.register_policy_loss("agpo")(agpo_policy_loss)


def _select_trainer(v1: ModuleType) -> None:
    original = v1.get_trainer_cls
    if getattr(original, "_agpo", False):
        return

    @functools.wraps(original)
    def get_trainer_cls(name: str) -> Callable[..., Any]:
        base = original(name)

        def build(config: Any) -> Any:
            # verl calls what it got with the final config: the first moment at which we know the estimator.
            from recipe.agpo.settings import is_agpo, keeps_ledger

            if not keeps_ledger(config):
                return base(config=config)
            from omegaconf import open_dict

            agent = config.actor_rollout_ref.rollout.agent
            with open_dict(config):
                if is_agpo(config):
                    agent.agent_loop_manager_class = MANAGER_CLASS
                elif agent.get("agent_loop_manager_class") is None:
                    agent.agent_loop_manager_class = LEDGER_MANAGER_CLASS
            if is_agpo(config):
                from recipe.agpo.trainer import agpo_trainer

                return agpo_trainer(base)(config=config)
            from recipe.agpo.ledger import LedgerMixin

            return type(f"Ledger{base.__name__}", (LedgerMixin, base), {})(config=config)

        return build

    get_trainer_cls._agpo = True  # type: ignore[attr-defined]
    v1.get_trainer_cls = get_trainer_cls  # type: ignore[attr-defined]


def _add_checks(utils_config: ModuleType) -> None:
    original = utils_config.validate_config
    if getattr(original, "_agpo", False):
        return

    @functools.wraps(original)
    def validate_config(config: Any, *args: Any, **kwargs: Any) -> None:
        from recipe.agpo.checks import before_ray

        before_ray(config)
        original(config, *args, **kwargs)

    validate_config._agpo = True  # type: ignore[attr-defined]
    utils_config.validate_config = validate_config  # type: ignore[attr-defined]


def _around_updates(base: ModuleType) -> None:
    original = base.BaseEngine.train_batch
    if getattr(original, "_agpo", False):
        return

    @functools.wraps(original)
    def train_batch(self: Any, data: Any, loss_function: Any) -> Any:
        prepare = getattr(loss_function, "before_update", None)
        if prepare is not None:
            prepare(self, data)
        with _scaled_lr(self, _number(data, LR_SCALE)):
            outputs = original(self, data, loss_function)
        position = _number(data, SCHEDULE_POSITION)
        if position is not None:
            # verl moves the schedule by one after the last update of a batch: it lands where we want it.
            before = position - 1.0
            scheduler = self.lr_scheduler
            # torch's schedulers count in last_epoch, Megatron's in num_steps; both take fractions.
            setattr(scheduler, "num_steps" if hasattr(scheduler, "num_steps") else "last_epoch", before)
        return outputs

    train_batch._agpo = True  # type: ignore[attr-defined]
    base.BaseEngine.train_batch = train_batch  # type: ignore[attr-defined]


def _number(data: Any, key: str) -> float | None:
    value = data.get(key, None)
    return None if value is None else float(getattr(value, "data", value))


@contextmanager
def _scaled_lr(engine: Any, scale: float | None) -> Iterator[None]:
    """The learning rates times ``scale`` for one update; schedules and logs see them without it."""
    groups = [] if scale is None else engine.optimizer.param_groups
    usual = [group["lr"] for group in groups]
    for group, rate in zip(groups, usual, strict=True):
        group["lr"] = rate * scale
    try:
        yield
    finally:
        for group, rate in zip(groups, usual, strict=True):
            group["lr"] = rate


def _own_sockets(transfer: ModuleType) -> None:
    """Weights go to vLLM through a socket named after Ray's job number, which is 1 in every new cluster.

    Two runs on one machine, each with its own Ray, would take the other's weights or wait for ever. Both ends of a
    run carry its id in their environment, unless they belong to a cluster that was there before; job numbers differ
    in that one.
    """
    for name in ("BucketedWeightSender", "BucketedWeightReceiver"):
        end = getattr(transfer, name)
        if not getattr(end.__init__, "_agpo", False):
            end.__init__ = _with_own_socket(end.__init__)


def _with_own_socket(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def init(self: Any, zmq_handle: str, *args: Any, **kwargs: Any) -> None:
        run = os.environ.get(RUN_ID, "")[:8]
        if run and zmq_handle.startswith("ipc://"):
            zmq_handle = f"{zmq_handle}-{run}"
        original(self, zmq_handle, *args, **kwargs)

    init._agpo = True  # type: ignore[attr-defined]
    return init


def actor_ranks(worker_group: Any) -> int:
    """Data-parallel size of the actor; known once verl has dispatched to it (its ``_balance_batch`` asks first)."""
    return max(worker_group._dispatch_info["actor"]) + 1


def order_rows(batch: Any, mini_batch: int, ranks: int) -> None:
    """Order a padded ``KVBatchMeta`` in place so that its mini-batches do not depend on the number of ranks.

    verl gives rank r the r-th contiguous share of the batch and takes mini-batches from each share in order. Rows are
    sorted by prompt, session and output, cut into mini-batches, and each mini-batch is dealt to the ranks with equal
    row counts and balanced lengths.

    Args:
        batch: rows with verl's tag ``seq_len``.
        mini_batch: rows of one optimiser update over all ranks; must divide the batch, else only the sorting is done.
        ranks: data-parallel size; divides ``mini_batch``.
    """
    from verl.utils.seqlen_balancing import calculate_workload, get_seqlen_balanced_partitions

    rows = len(batch.keys)
    order = sorted(range(rows), key=lambda i: session_key(batch.keys[i]))
    if rows % mini_batch == 0 and ranks > 1:
        import torch

        work = calculate_workload(torch.tensor([tag["seq_len"] for tag in batch.tags], dtype=torch.int64))
        shares: list[list[int]] = [[] for _ in range(ranks)]
        for start in range(0, rows, mini_batch):
            members = order[start : start + mini_batch]
            parts = get_seqlen_balanced_partitions(work[members], k_partitions=ranks, equal_size=True)
            for share, part in zip(shares, parts, strict=True):
                share += [members[i] for i in sorted(part)]
        order = [i for share in shares for i in share]
    batch.reorder(order)


def session_key(key: str) -> tuple[str, int, int]:
    """``{uid}_{session}_{output}`` as a tuple that sorts in numeric order."""
    parts = key.rsplit("_", 2)
    if len(parts) != 3 or not (parts[1].isdigit() and parts[2].isdigit()):
        # Padding rows of verl have keys of their own.
        return (key, 0, 0)
    return (parts[0], int(parts[1]), int(parts[2]))


def actor_loss_config(config: Any) -> Any:
    """The actor config for our loss: verl's policy loss replaced by ours, which remembers which one it was."""
    from omegaconf import OmegaConf, open_dict
    from verl.utils.config import omega_conf_to_dataclass

    from recipe.agpo.actor_loss import BASE_LOSS, BASE_LOSSES

    actor = OmegaConf.create(OmegaConf.to_container(config.actor_rollout_ref.actor, resolve=True))
    base = actor.policy_loss.get("loss_mode", "vanilla")
    if base in BASE_LOSSES:
        with open_dict(actor):
            actor.policy_loss.loss_mode = "agpo"
    made = omega_conf_to_dataclass(actor)
    if base in BASE_LOSSES and base != "vanilla":
        # ActorConfig freezes its fields; this is the worker's own copy.
        object.__setattr__(made, BASE_LOSS, base)
    return made


def score_at_own_temperature(trainer: Any) -> None:
    """Let every log-prob pass use the ``temperature`` column of the batch.

    verl writes one number into ``extra_info["temperature"]`` before each pass, which hides the column. It may
    return a new batch object from any put, so the number is removed at each call.
    """
    groups = {id(trainer.actor_rollout_wg): trainer.actor_rollout_wg}
    reference = getattr(trainer, "ref_policy_wg", None)
    if reference is not None:
        groups[id(reference)] = reference
    for group in groups.values():
        for name in ("compute_log_prob", "compute_ref_log_prob", "update_actor"):
            if hasattr(group, name):
                setattr(group, name, _without_scalar_temperature(getattr(group, name)))


def _without_scalar_temperature(method: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(method)
    def call(batch: Any) -> Any:
        batch.extra_info.pop("temperature", None)
        return method(batch)

    return call
