# SPDX-License-Identifier: Apache-2.0
"""What runs in verl's agent-loop workers. The managers are named here, so that a config can name them cheaply."""

MANAGER = "recipe.agpo.rollout.manager.AGPOAgentLoopManager"
LEDGER_MANAGER = "recipe.agpo.rollout.manager.CountingManager"
