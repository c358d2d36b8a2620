# SPDX-License-Identifier: Apache-2.0
"""Train a tiny model with AGPO in TRL, on a CPU, in about a minute: ``python -m examples.trl.train``.

The task: a prompt names a kind of character, and a completion is correct if half of it is of that kind. A model with
random weights is sometimes correct for letters and hardly ever for digits, so prompts differ in difficulty.
"""

from __future__ import annotations

import argparse
import inspect
import string
from typing import Any

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from agpo_core import AGPOConfig
from examples.trl.agpo_grpo_trainer import AGPOGRPOTrainer
from recipe.agpo.quickstart.model import ModelConfig, build_model, build_tokenizer

KINDS = {
    "any": string.printable,
    "letters": string.ascii_letters,
    "lower": string.ascii_lowercase,
    "digits": string.digits,
}
LENGTH = 4


def share_of_kind(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    """1.0 if half of the completion is of the kind that the prompt names."""
    return [
        float(sum(c in KINDS[prompt] for c in text) >= LENGTH / 2)
        for prompt, text in zip(prompts, completions, strict=True)
    ]


def first_character(completion: str) -> str:
    """What a completion votes for."""
    return completion[:1]


def arguments(folder: str, **changes: Any) -> GRPOConfig:
    """TRL's arguments: groups of 8, two updates per generation batch, so that the clip ratio matters."""
    values: dict[str, Any] = dict(
        output_dir=folder,
        per_device_train_batch_size=32,
        num_generations=8,
        num_iterations=2,
        max_completion_length=LENGTH,
        learning_rate=3e-3,
        max_steps=100,
        save_steps=50,
        logging_steps=10,
        beta=0.0,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
    )
    return GRPOConfig(**(values | changes))


def build_trainer(folder: str, agpo: AGPOConfig | None = None, **changes: Any) -> AGPOGRPOTrainer:
    """The trainer on a new tiny model; ``changes``: what ``GRPOTrainer`` or ``GRPOConfig`` shall get instead."""
    of_trainer = inspect.signature(GRPOTrainer).parameters | inspect.signature(AGPOGRPOTrainer).parameters
    parts: dict[str, Any] = dict(
        model=build_model(ModelConfig(hidden_size=64, intermediate_size=128), seed=0),
        reward_funcs=share_of_kind,
        train_dataset=Dataset.from_dict({"prompt": list(KINDS) * 100}),
        processing_class=build_tokenizer(),
    )
    parts |= {name: value for name, value in changes.items() if name in of_trainer}
    args = arguments(folder, **{name: value for name, value in changes.items() if name not in of_trainer})
    return AGPOGRPOTrainer(args=args, agpo=agpo, vote_key=first_character, **parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", default="outputs/trl", help="where checkpoints and decisions go")
    parser.add_argument("--preset", default="agpo", choices=("agpo", "grpo"))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint of the folder")
    asked = parser.parse_args()
    trainer = build_trainer(asked.folder, AGPOConfig.from_preset(asked.preset), max_steps=asked.steps)
    trainer.train(resume_from_checkpoint=asked.resume or None)


if __name__ == "__main__":
    main()
