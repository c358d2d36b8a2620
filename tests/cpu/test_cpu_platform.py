# SPDX-License-Identifier: Apache-2.0
"""The device value and the device module do what verl does with them."""

import pickle

import pytest
import torch

from recipe.agpo.cpu.platform import DEVICE, CpuDevice, PlatformCPU, register


def test_device_is_a_number_in_a_name_and_the_cpu_to_torch() -> None:
    assert f"cuda:{DEVICE}" == "cuda:0"
    assert f"{DEVICE:02d}" == "00"
    assert int(DEVICE) == 0
    assert ["only"][DEVICE] == "only"
    assert torch.device(DEVICE) == torch.device("cpu")
    assert torch.ones(2).to(device=DEVICE).device.type == "cpu"
    assert torch.ones(2).to(DEVICE).device.type == "cpu"
    assert torch.empty(1, device=DEVICE).device.type == "cpu"


def test_device_survives_ray_serialisation() -> None:
    copy = pickle.loads(pickle.dumps(DEVICE))
    assert isinstance(copy, CpuDevice)
    assert f"{copy}" == "0"


def test_platform_can_be_built_and_is_never_detected() -> None:
    platform = PlatformCPU()  # abstract methods that verl adds would make this raise
    assert platform.device_name == "cpu"
    assert platform.is_available()
    assert not platform.is_platform_available(use_smi_check=True)
    assert platform.communication_backend_name() == "gloo"
    assert platform.ray_resource_options(1) == {"num_gpus": 1}
    assert not platform.is_ipc_supported()
    with platform.nvtx_range("x"):
        pass


def test_register_makes_the_name_known(monkeypatch: pytest.MonkeyPatch) -> None:
    from verl.plugin.platform.platform_manager import PlatformRegistry

    monkeypatch.setattr(PlatformRegistry, "_platforms", dict(PlatformRegistry._platforms))
    register()
    assert PlatformRegistry.get("cpu") is PlatformCPU


def test_module_reports_memory_in_bytes() -> None:
    module = PlatformCPU().device_module
    free, total = module.mem_get_info()
    assert 0 < free <= total
    # A process that has imported torch holds more than 50 MiB and less than the machine has.
    assert 50 << 20 < module.memory_allocated() <= total
    assert module.max_memory_allocated() >= module.memory_allocated() // 2


def test_module_seeds_and_restores_the_random_state() -> None:
    module = PlatformCPU().device_module
    module.manual_seed(3)
    state = module.get_rng_state()
    first = torch.rand(4)
    module.set_rng_state(state)
    assert torch.equal(torch.rand(4), first)
    module.manual_seed_all(3)
    assert torch.equal(torch.rand(4), first)


def test_module_falls_back_to_torch_cpu_and_refuses_the_rest() -> None:
    module = PlatformCPU().device_module
    assert module.current_stream is torch.cpu.current_stream
    with pytest.raises(AttributeError):
        _ = module.memory_snapshot
