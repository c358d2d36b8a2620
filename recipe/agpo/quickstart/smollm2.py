# SPDX-License-Identifier: Apache-2.0
"""A pretrained language model on the real stack without a GPU: SmolLM2-135M-Instruct on small sums.

``bash scripts/run_agpo_smollm2.sh [--method agpo|reference|grpo] [--steps N] [--seed S] [--fresh] [KEY=VALUE ...]``

docs/smollm2.md says how the task was chosen and what bounds the speed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from recipe.agpo.data import Options, folder_of, prepare_gym
from recipe.agpo.models import get
from recipe.agpo.quickstart.run import Launch, main

MODEL = "smollm2-135m"
TASK = "reasoning_gym:chain_sum"
SETTINGS = {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1}
SIZES = {"train": 1024, "test": 128}
# Prompts are most of the tokens of a step, so they are short: the model's template otherwise puts a text of its own
# where the system message is.
SYSTEM = ""
TEMPLATE = "short-1"
MOST_THREADS = 16  # of one process: the model is too small for more


def places(folder: Path, cache: Path) -> tuple[Path, Path, Path]:
    """Training file, validation file, model folder."""
    data = folder_of(folder / "data", TASK)
    return data / "train.parquet", data / "test.parquet", cache / MODEL


def prepare(folder: Path, cache: Path) -> None:
    """Download and convert the model, generate the problems; a model that is there is kept."""
    get(MODEL, cache / MODEL)
    options = Options(template=TEMPLATE, system=SYSTEM)
    for split, size in SIZES.items():
        prepare_gym(TASK, folder / "data", size=size, split=split, config=SETTINGS, options=options)


def environment() -> dict[str, str]:
    """All cores for one process: the sampler and the learner take turns."""
    return {"OMP_NUM_THREADS": str(min(MOST_THREADS, len(os.sched_getaffinity(0))))}


SMOLLM2 = Launch("smollm2", "smollm2", 60, places, prepare, environment, report=True)

if __name__ == "__main__":
    sys.exit(main(launch=SMOLLM2))
