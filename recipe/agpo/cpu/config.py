# SPDX-License-Identifier: Apache-2.0
"""Settings that a machine without a GPU needs, each with its reason.

`SETTINGS` go into a composed verl config, `cpu_env` into the environment. The user's settings take
precedence: a key on the command line, or one that differs from verl's default, is not changed.
"""

import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf


@dataclass(frozen=True)
class Setting:
    """One config key: verl's default, the value for the CPU, and why.

    `required` marks a setting without which verl or vLLM fails on the CPU; the others save time or memory.
    A default of None also stands for a key that is absent. `mode` limits a setting to one of verl's trainer modes.
    """

    key: str
    default: Any
    value: Any
    reason: str
    required: bool = False
    mode: str | None = None


# Ray's CPU count is only a number of slots here: verl's actors reserve about ten, and Ray waits forever, in
# silence, when the slots run out.
RAY_CPU_SLOTS = 32
RAY_OBJECT_STORE_BYTES = 1 << 30

SEPARATE = "separate_async"
MODE_KEY = "trainer.v1.trainer_mode"

_ATTENTION = "override_config.attn_implementation"
_FSDP2 = "FSDP1 asks for an accelerator"
_COMPILE = "compiling on the CPU costs minutes and a C++ compiler"
_PADDING = "verl's packed sequences need flash-attention"
_SDPA = "flash-attention has no CPU build"

SETTINGS: tuple[Setting, ...] = (
    Setting("trainer.device", "cuda", "cpu", "there is no other", required=True),
    # The learner
    Setting("actor_rollout_ref.actor.strategy", "fsdp", "fsdp2", _FSDP2, required=True),
    Setting("actor_rollout_ref.actor.fsdp_config.strategy", "fsdp", "fsdp2", _FSDP2, required=True),
    Setting("actor_rollout_ref.ref.strategy", "fsdp", "fsdp2", _FSDP2, required=True),
    Setting("actor_rollout_ref.ref.fsdp_config.strategy", "fsdp", "fsdp2", _FSDP2, required=True),
    Setting("critic.strategy", "fsdp", "fsdp2", _FSDP2, required=True),
    Setting("critic.fsdp.strategy", "fsdp", "fsdp2", _FSDP2, required=True),
    Setting("actor_rollout_ref.actor.use_torch_compile", True, False, _COMPILE),
    Setting("actor_rollout_ref.actor.fsdp_config.use_torch_compile", True, False, _COMPILE),
    Setting("actor_rollout_ref.ref.use_torch_compile", True, False, _COMPILE),
    Setting("actor_rollout_ref.ref.fsdp_config.use_torch_compile", True, False, _COMPILE),
    Setting("critic.fsdp.use_torch_compile", True, False, _COMPILE),
    Setting("actor_rollout_ref.model.use_remove_padding", True, False, _PADDING, required=True),
    Setting("critic.model.use_remove_padding", True, False, _PADDING, required=True),
    Setting(f"actor_rollout_ref.model.{_ATTENTION}", None, "sdpa", _SDPA, required=True),
    Setting(f"critic.model.{_ATTENTION}", None, "sdpa", _SDPA, required=True),
    # The rollout server
    Setting(
        "actor_rollout_ref.rollout.enable_sleep_mode",
        None,
        False,
        "vLLM sleeps by returning GPU memory",
        required=True,
    ),
    Setting("actor_rollout_ref.rollout.free_cache_engine", True, False, "goes with sleep mode", required=True),
    Setting("actor_rollout_ref.rollout.enforce_eager", False, True, _COMPILE),
    Setting("actor_rollout_ref.rollout.tensor_model_parallel_size", 2, 1, "one server a rank"),
    Setting(
        "actor_rollout_ref.rollout.engine_kwargs.vllm.distributed_executor_backend",
        None,
        "uni",
        "the engine does the work itself: one process less for each server",
    ),
    # Rollout servers of their own
    Setting(
        "actor_rollout_ref.rollout.checkpoint_engine.backend",
        "naive",
        "gloo",
        "the others move weights between accelerators",
        required=True,
        mode=SEPARATE,
    ),
    Setting(
        "actor_rollout_ref.rollout.checkpoint_engine.custom_backend_module",
        None,
        "recipe.agpo.cpu.weights",
        "registers gloo",
        required=True,
        mode=SEPARATE,
    ),
    # Processes and slots
    Setting("trainer.n_gpus_per_node", 8, 1, "ranks, not GPUs"),
    Setting(
        "transfer_queue.backend.SimpleStorage.num_data_storage_units",
        8,
        1,
        "each unit is a Ray actor that reserves CPUs: a small machine has too few for eight",
        required=True,
    ),
    Setting("actor_rollout_ref.rollout.agent.num_workers", 8, 1, "each is a process that imports all of verl"),
    Setting("reward.num_workers", 8, 1, "each is a process that imports all of verl"),
    Setting("data.dataloader_num_workers", 8, 0, "processes that compete with the ranks for the cores"),
    Setting("ray_kwargs.ray_init.num_cpus", None, RAY_CPU_SLOTS, "slots, see RAY_CPU_SLOTS"),
    Setting("ray_kwargs.ray_init.include_dashboard", None, False, "several processes, and start-up time"),
    Setting(
        "ray_kwargs.ray_init.object_store_memory",
        None,
        RAY_OBJECT_STORE_BYTES,
        "Ray's default is 30% of the machine's memory",
    ),
)

RAY_SLOTS_KEY = "ray_kwargs.ray_init.num_gpus"

Change = tuple[str, Any, Any]


def cpu_env() -> dict[str, str]:
    """Environment variables of a CPU run; set them before Python starts, and its children inherit them.

    `install` sets the ones that are missing. OMP_NUM_THREADS is a quarter of the cores, at least one: at most
    two ranks and two vLLM servers compute at a time, and thread pools that share cores slow each other down.
    """
    return {
        "AGPO_CPU": "1",
        "VERL_PLATFORM": "cpu",
        # verl finds its training engine by device name. The FSDP engine is filed under cuda and runs on the
        # CPU too.
        "VERL_ENGINE_DEVICE": "cuda",
        # GiB of key-value cache for each vLLM server. vLLM's default is a share of the machine's memory.
        "VLLM_CPU_KVCACHE_SPACE": "1",
        # vLLM binds its threads to cores; two servers, or a server and a rank, would bind to the same one.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        # Lets vLLM's engine run its worker itself (executor "uni"), which it refuses otherwise.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // 4)),
        # vLLM compiles a sampling function even with enforce_eager, which takes ten seconds and a C++ compiler.
        "TORCHDYNAMO_DISABLE": "1",
        # Inductor starts a pool of compile processes when it is imported.
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # Ray starts one Python worker for each CPU slot, and verl can use none of them: its actors ask for an
        # environment of their own.
        "RAY_prestart_worker_first_driver": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "VLLM_NO_USAGE_STATS": "1",
        # Process titles otherwise overwrite the environment that processes.py reads.
        "SPT_NOENV": "1",
    }


def explicit_keys() -> frozenset[str]:
    """Keys the user wrote on the command line of a Hydra program; empty outside of one."""
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return frozenset()
    overrides = HydraConfig.get().overrides.task
    return frozenset(override.lstrip("+~").partition("=")[0] for override in overrides)


def apply_cpu_defaults(config: DictConfig, explicit: Collection[str] | None = None) -> list[Change]:
    """Set what a machine without a GPU needs in a composed verl config, in place.

    A key stays as it is when it is in `explicit` (default: what Hydra says the user overrode), or when its
    value is not verl's default, or when its group is absent or null (a config without a critic, say). Ray's
    `num_gpus` becomes the number of ranks, rollout servers of their own included, unless it is set.

    Returns (key, old, new) of each change, for printing.
    """
    chosen = explicit_keys() if explicit is None else frozenset(explicit)
    changes: list[Change] = []

    def put(key: str, new: Any) -> None:
        changes.append((key, OmegaConf.select(config, key), new))
        OmegaConf.update(config, key, new, force_add=True)

    for setting in SETTINGS:
        if setting.key in chosen or not _applies(config, setting):
            continue
        if OmegaConf.select(config, setting.key) == setting.default:
            put(setting.key, setting.value)

    if (
        RAY_SLOTS_KEY not in chosen
        and _has_group(config, RAY_SLOTS_KEY)
        and OmegaConf.select(config, RAY_SLOTS_KEY) is None
    ):
        put(RAY_SLOTS_KEY, _ranks(config))
    return changes


def cpu_conflicts(config: DictConfig) -> list[tuple[str, Any, str]]:
    """Settings in `config` that cannot work on the CPU: (key, value, what is needed and why)."""
    return [
        (setting.key, value, f"needs {setting.value}: {setting.reason}")
        for setting in SETTINGS
        if setting.required
        and _applies(config, setting)
        and (value := OmegaConf.select(config, setting.key)) != setting.value
    ]


def _ranks(config: DictConfig) -> int:
    """Slots that verl asks of Ray: one a learner, and one a rollout server that does not share with one."""
    slots = int(config.trainer.n_gpus_per_node) * int(config.trainer.nnodes)
    if OmegaConf.select(config, MODE_KEY) == SEPARATE:
        rollout = config.actor_rollout_ref.rollout
        slots += int(rollout.n_gpus_per_node) * int(rollout.nnodes)
    return slots


def _applies(config: DictConfig, setting: Setting) -> bool:
    mode_fits = setting.mode is None or OmegaConf.select(config, MODE_KEY) == setting.mode
    return mode_fits and _has_group(config, setting.key)


def _has_group(config: DictConfig, key: str) -> bool:
    """Whether the config has the group that `key` belongs to."""
    return isinstance(OmegaConf.select(config, key.rpartition(".")[0]), DictConfig)
