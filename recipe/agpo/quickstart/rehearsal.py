# SPDX-License-Identifier: Apache-2.0
"""A tiny untrained model and a few generated problems, for `CPU=1 bash scripts/run_*.sh`.

`python -m recipe.agpo.quickstart.rehearsal --model FOLDER --data FOLDER`; existing files are kept.
"""

import argparse
from pathlib import Path

from recipe.agpo.data import prepare_gym
from recipe.agpo.quickstart.model import ModelConfig, build_model, build_tokenizer

TASK = "reasoning_gym:chain_sum"
SIZES = {"train": 64, "test": 8}


def make_model(folder: Path) -> None:
    """A Qwen2 of 0.3 million random weights, and its tokenizer."""
    build_model(ModelConfig(), seed=0).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)


def make_data(folder: Path) -> None:
    """Generated sums in the layout of `agpo data prepare`."""
    for split, size in SIZES.items():
        prepare_gym(TASK, folder, size=size, split=split)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    if not (arguments.model / "tokenizer.json").exists():
        make_model(arguments.model)
    if not (arguments.data / TASK.replace(":", "/") / "test.parquet").exists():
        make_data(arguments.data)


if __name__ == "__main__":
    main()
