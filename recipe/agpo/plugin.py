# SPDX-License-Identifier: Apache-2.0
"""What ``pip install`` registers: verl imports this module at ``import verl``, in every process.

It must stay cheap (see ``verl_api.import_hooks``) and change nothing for runs that do not ask for AGPO:
- advantage estimator ``agpo`` and policy loss ``agpo`` enter verl's registries;
- ``algorithm.adv_estimator=agpo`` selects our trainer and our rollout;
- our checks run inside verl's own ``validate_config``, before Ray starts;
- ``AGPO_CPU=1`` switches the platform without a GPU on.
"""

from __future__ import annotations

from recipe.agpo import cpu
from recipe.agpo.install import install

cpu.install()
install()
