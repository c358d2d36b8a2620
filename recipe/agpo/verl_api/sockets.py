# SPDX-License-Identifier: Apache-2.0
"""Weights go to vLLM through a socket named after Ray's job number, which is 1 in every new cluster.

Two runs on one machine, each with its own Ray, would then read each other's weights or wait forever. Both ends of a
run have its id in their environment, except in a cluster that was started before; there the job numbers differ.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

from recipe.agpo.processes import MARKER
from recipe.agpo.verl_api.patching import wrap

MODULE = "verl.workers.rollout.vllm_rollout.bucketed_weight_transfer"
ENDS = {
    "BucketedWeightSender": ("self", "zmq_handle", "bucket_size_mb", "use_shm"),
    "BucketedWeightReceiver": ("self", "zmq_handle", "device", "use_shm"),
}


def separate_sockets(transfer: ModuleType) -> None:
    """Add the id of the run to the name of the socket, at both ends."""
    for name, parameters in ENDS.items():
        wrap(transfer, f"{name}.__init__", parameters, _with_own_socket)


def _with_own_socket(original: Callable[..., None]) -> Callable[..., None]:
    def init(self: Any, zmq_handle: str, *args: Any, **kwargs: Any) -> None:
        run = os.environ.get(MARKER, "")[:8]
        if run and zmq_handle.startswith("ipc://"):
            zmq_handle = f"{zmq_handle}-{run}"
        original(self, zmq_handle, *args, **kwargs)

    return init
