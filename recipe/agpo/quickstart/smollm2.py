# SPDX-License-Identifier: Apache-2.0
"""A pretrained language model on the real stack without a GPU: SmolLM2-135M-Instruct on small sums and differences.

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
TASK = "reasoning_gym:basic_arithmetic"
# Two terms from 0 to 10 and four ways to ask: about 920 distinct questions.
SETTINGS = {
    "min_terms": 2,
    "max_terms": 2,
    "min_digits": 1,
    "max_digits": 1,
    "operators": ["+", "-"],
    "allow_parentheses": False,
    "allow_negation": False,
    "format_style": "natural",
}
SIZES = {"train": 640, "test": 104}
# Prompts are most of the tokens of a step, so they are short: without a system message the model's template puts a
# text of its own there. The example makes answers short, too; sampled without one, the model tells stories.
SYSTEM = ""
EXAMPLES = (("What is 2 + 6?", "2 + 6 = 8\n8"),)
TEMPLATE = "question-1"
MOST_THREADS = 16  # of one process: the model is too small for more


def places(folder: Path, cache: Path) -> tuple[Path, Path, Path]:
    """Training file, validation file, model folder."""
    data = folder_of(folder / "data", TASK)
    return data / "train.parquet", data / "test.parquet", cache / MODEL


def prepare(folder: Path, cache: Path) -> None:
    """Download and convert the model, generate the problems; a model that is there is kept."""
    get(MODEL, cache / MODEL)
    options = Options(template=TEMPLATE, system=SYSTEM, examples=EXAMPLES)
    for split, size in SIZES.items():
        prepare_gym(TASK, folder / "data", size=size, split=split, config=SETTINGS, options=options)


def environment() -> dict[str, str]:
    """All cores for one process: the sampler and the learner take turns. The user's own settings stay."""
    return {
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(min(MOST_THREADS, len(os.sched_getaffinity(0)))),
        # Ray starts its workers at priority 15; whatever else runs would then take nearly all of two cores.
        "RAY_worker_niceness": os.environ.get("RAY_worker_niceness") or "0",
    }


SMOLLM2 = Launch("smollm2", "smollm2", 40, places, prepare, environment, report=True, evaluation={"--max-tokens": "16"})

if __name__ == "__main__":
    sys.exit(main(launch=SMOLLM2))
