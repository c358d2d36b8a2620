# SPDX-License-Identifier: Apache-2.0
"""AGPO inside verl: what connects `agpo_core` to verl's trainer, rollout and workers."""
