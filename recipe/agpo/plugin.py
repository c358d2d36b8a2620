# SPDX-License-Identifier: Apache-2.0
"""What ``pip install`` registers: verl imports this module at ``import verl``, in every process.

It must stay cheap (see ``import_hooks``) and change nothing for runs that do not ask for AGPO:
- advantage estimator ``agpo`` and policy loss ``agpo`` enter verl's registries;
- ``algorithm.adv_estimator=agpo`` selects our trainer and our rollout;
- our checks run inside verl's own ``validate_config``, before Ray starts;
- ``AGPO_CPU=1`` switches the platform without a GPU on.
"""

from __future__ import annotations

from recipe.agpo import verl_seams
from recipe.agpo.cpu import enabled as cpu_enabled
from recipe.agpo.cpu import install as install_cpu

if cpu_enabled():
    install_cpu()
verl_seams.install()
