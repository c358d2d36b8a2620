# SPDX-License-Identifier: Apache-2.0
"""A rollout server that is not there, for runs whose responses are replayed: everything but vLLM is real.

verl imports this module in every process (``VERL_USE_EXTERNAL_MODULES``). It registers ``rollout.name=no_server``: the
trainer sends its weights as it would to vLLM, and nobody keeps them.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from recipe.agpo.verl_api.import_hooks import on_import

NAME = "no_server"


def _server_class() -> type:
    from tests.realstack.no_server import NoServer

    return NoServer


def _register_server(module: ModuleType) -> None:
    module.RolloutReplicaRegistry.register(NAME, _server_class)


def _register_client(module: Any) -> None:
    module._ROLLOUT_REGISTRY[NAME, "async"] = "tests.realstack.no_server.NoClient"


on_import("verl.workers.rollout.replica", _register_server)
on_import("verl.workers.rollout.base", _register_client)
