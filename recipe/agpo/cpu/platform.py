# SPDX-License-Identifier: Apache-2.0
"""verl's device interface for the CPU: a device value, a device module, a platform."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry


class CpuDevice(str):
    """The current device. verl writes it both as a number, `f"cuda:{id}"`, and as `.to(device=id)`.

    It is the string "cpu" to torch, and formats, and converts to an integer, as 0.
    """

    __slots__ = ()

    def __new__(cls) -> "CpuDevice":
        return super().__new__(cls, "cpu")

    def __format__(self, spec: str) -> str:
        return format(0, spec)

    def __int__(self) -> int:
        return 0

    def __index__(self) -> int:
        return 0

    def __reduce__(self) -> tuple[type["CpuDevice"], tuple[()]]:
        return CpuDevice, ()


DEVICE = CpuDevice()


def _meminfo(field: str) -> int:
    """A field of /proc/meminfo in bytes."""
    with open("/proc/meminfo", encoding="ascii") as lines:
        for line in lines:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    raise OSError(f"/proc/meminfo has no {field}")


class CpuDeviceModule(ModuleType):
    """`torch.cpu`, with the functions of `torch.cuda` that verl uses.

    The memory figures are those of this process (resident) and of the machine, in bytes, so that verl's
    memory metrics are meaningful. An index or device argument is accepted and ignored: there is one device.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    def is_available(self) -> bool:
        return True

    def current_device(self) -> CpuDevice:
        return DEVICE

    def device_count(self) -> int:
        return 1

    def set_device(self, device: Any = None) -> None:
        return None

    def synchronize(self, device: Any = None) -> None:
        return None

    def get_device_name(self, device: Any = None) -> str:
        return "cpu"

    def empty_cache(self) -> None:
        return None

    def ipc_collect(self) -> None:
        return None

    def set_per_process_memory_fraction(self, fraction: float, device: Any = None) -> None:
        return None

    def memory_allocated(self, device: Any = None) -> int:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def max_memory_allocated(self, device: Any = None) -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def memory_reserved(self, device: Any = None) -> int:
        return self.memory_allocated()

    def max_memory_reserved(self, device: Any = None) -> int:
        return self.max_memory_allocated()

    def reset_peak_memory_stats(self, device: Any = None) -> None:
        return None

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        return _meminfo("MemAvailable"), _meminfo("MemTotal")

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)


_MODULE = CpuDeviceModule("torch_cpu_device")


class PlatformCPU(PlatformBase):
    """verl's platform for a machine without an accelerator.

    Ray is started with `num_gpus` as plain slots, one a rank, so that verl's placement groups work as they
    are: the Ray resource is therefore called GPU.
    """

    @property
    def device_name(self) -> str:
        return "cpu"

    @property
    def vendor_name(self) -> str:
        return "cpu"

    @property
    def device_module(self) -> ModuleType:
        return _MODULE

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        return False  # never chosen by detection, only by VERL_PLATFORM=cpu

    def current_device(self) -> int:
        return DEVICE  # type: ignore[return-value]  # a string that serves as an index, see CpuDevice

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        return None

    def synchronize(self, device_index: int | None = None) -> None:
        return None

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        return None

    def empty_cache(self) -> None:
        return None

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"  # Ray writes the slot number here; vLLM's servers are distinguished by it

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        return None

    def profiler_stop(self) -> None:
        return None

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        return False  # weights then travel through shared memory

    def cudart(self) -> None:
        return None


def register() -> None:
    """Make `cpu` a platform name that verl knows."""
    PlatformRegistry.register(platform="cpu")(PlatformCPU)
