# SPDX-License-Identifier: Apache-2.0
"""verl's plugin entry point: verl imports this module at ``import verl``, in every process.

Importing it must be fast (see ``verl_api.import_hooks``) and must not change runs without AGPO:
- advantage estimator ``agpo`` and policy loss ``agpo`` are added to verl's registries;
- ``algorithm.adv_estimator=agpo`` selects our trainer and our rollout;
- our checks run inside verl's own ``validate_config``, before Ray starts;
- ``AGPO_CPU=1`` switches on the platform without a GPU.
"""

from __future__ import annotations

from recipe.agpo import cpu
from recipe.agpo.install import install

cpu.install()
install()
