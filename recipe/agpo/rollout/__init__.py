# SPDX-License-Identifier: Apache-2.0
"""Code that runs in verl's agent-loop workers. The managers are named here, so that a config can refer to them."""

MANAGER = "recipe.agpo.rollout.manager.AGPOAgentLoopManager"
OLD_MANAGER = "recipe.agpo.rollout.AGPOAgentLoopManager"  # its place in 0.1.0: a config may still name it
LEDGER_MANAGER = "recipe.agpo.rollout.manager.CountingManager"
