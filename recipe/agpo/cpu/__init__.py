# SPDX-License-Identifier: Apache-2.0
"""verl and vLLM without a GPU.

One setting switches it on: the environment variable `AGPO_CPU=1`. Ray hands the driver's environment to its
workers and vLLM to its children, so every process of a run has it. Without it nothing here is imported or replaced.
Everything that differs between a machine with GPUs and one without is in this folder:

    platform.py     verl's device interface, for the CPU
    patches.py      the few places in verl that its platform interface does not cover
    config.py       settings that a machine without a GPU needs, and the environment variables
    vllm_plugin.py  the one change inside vLLM
    weights.py      weights to rollout servers of their own
"""

import os

SWITCH = "AGPO_CPU"


def enabled() -> bool:
    """Whether the CPU platform is switched on (`AGPO_CPU=1`)."""
    return os.environ.get(SWITCH, "0").strip().lower() in ("1", "true", "yes", "on")


def install() -> None:
    """Set the environment, register the platform, and register the patches. Does nothing when switched off.

    Called while `import verl` runs, in every process. Imports nothing that verl has not imported already;
    patches to modules that come later wait until those are imported.
    """
    if not enabled():
        return
    from recipe.agpo.cpu import patches
    from recipe.agpo.cpu.config import cpu_env

    for name, value in cpu_env().items():
        os.environ.setdefault(name, value)

    # Imports verl's plug-in API, which reads the environment.
    from recipe.agpo.cpu import platform

    platform.register()
    patches.install()
