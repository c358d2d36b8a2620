# SPDX-License-Identifier: Apache-2.0
"""The weights of verl's actor on each rank: a method of the worker to call functions there, and FSDP2's shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

MODULE = "verl.workers.engine_workers"
CALL = "agpo_call"
STRATEGY = "fsdp2"  # of the actor, whose parameters are DTensors


def add_call(engine_workers: ModuleType) -> None:
    """Give verl's actor worker the method ``agpo_call(function, *arguments)``; the trainer calls it on all ranks.

    verl's own ``execute_with_func_generator`` passes data instead of arguments and collects data.
    """
    from verl.single_controller.base.decorator import Dispatch, register

    worker = engine_workers.ActorRolloutRefWorker
    if not hasattr(worker, CALL):
        setattr(worker, CALL, register(dispatch_mode=Dispatch.ONE_TO_ALL)(_call))


def _call(self: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    return function(self.actor.engine, *arguments)


def on_every_rank(worker_group: Any, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """``function(engine, *arguments)`` with the actor's engine on every rank; their results."""
    return list(getattr(worker_group, CALL)(function, *arguments))


def trained(engine: Any) -> Iterator[Tensor]:
    """This rank's part of each parameter that is trained, in a fixed order; writing to it changes the model."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()  # verl moves parameters to the CPU asynchronously
    return (local(parameter) for parameter in _trained(engine))


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this rank holds."""
    detached = tensor.detach()
    return detached.to_local() if hasattr(detached, "to_local") else detached


def _trained(engine: Any) -> list[Any]:
    return [parameter for parameter in engine.module.parameters() if parameter.requires_grad]


def save(engine: Any, folder: Path, parts: Sequence[Tensor]) -> None:
    """Save the model with these parts in place of those of ``trained``, as verl saves a model; on all ranks at once.

    The parts keep their type. verl's ``model_merger`` merges the folder, config and tokenizer are in ``huggingface``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    instead = {id(own): _like(own, part) for own, part in zip(_trained(engine), parts, strict=True)}
    values = engine.module.state_dict(keep_vars=True).items()
    state = {name: instead.get(id(value), value).detach() for name, value in values}
    torch.save(state, folder / _file(engine))
    export(engine, folder, ())


def export(engine: Any, folder: Path, contents: Sequence[str]) -> None:
    """Save config and tokenizer, and what of the model as it is now is in ``contents``, as verl does."""
    from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager

    usual = engine.checkpoint_manager
    # A manager of its own: verl's counts the folders that it saved, to remove the oldest.
    engine.checkpoint_manager = FSDPCheckpointManager(
        model=usual.model,
        processing_class=usual.processing_class,
        checkpoint_config={"save_contents": list(contents), "load_contents": []},
        trust_remote_code=usual.trust_remote_code,
    )
    try:
        engine.save_checkpoint(str(folder))
    finally:
        engine.checkpoint_manager = usual


def exports(engine: Any) -> bool:
    """Whether the run asks for a model in HF format in each checkpoint."""
    return bool(engine.checkpoint_manager.should_save_hf_model)


def load(engine: Any, folder: Path) -> list[Tensor]:
    """The parts that `save` saved, in the order of ``trained``.

    Raises:
        KeyError: a parameter is not in the file.
        OSError: there is no file for this number of ranks, or it is not whole.
    """
    # Shards are pickled DTensors; verl loads its own in the same way.
    state = torch.load(folder / _file(engine), weights_only=False, map_location="cpu")
    names = {id(value): name for name, value in engine.module.state_dict(keep_vars=True).items()}
    return [local(state[names[id(parameter)]]) for parameter in _trained(engine)]


def _file(engine: Any) -> str:
    manager = engine.checkpoint_manager
    return f"model_world_size_{manager.world_size}_rank_{manager.rank}.pt"


def _like(parameter: Any, part: Tensor) -> Any:
    """A tensor in CPU memory, distributed as the parameter, of which this rank holds ``part``."""
    made = parameter.detach().to("cpu", part.dtype, copy=True)
    local(made).copy_(part)
    return made
