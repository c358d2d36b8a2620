# SPDX-License-Identifier: Apache-2.0
"""Supervised warm start: the small model learns the written format, and reinforcement learning improves it further.

The result is an ordinary checkpoint folder. It is cached under a hash of all settings that affect its weights, and gets
its final name only when it is complete.

The weights of the default settings come with the package: the same training gives other weights on another processor,
and starting accuracies between 0.41 and 0.48. With these weights every machine starts at the same accuracy. To train
them again::

    python -m recipe.agpo.quickstart.warm_start --train-into FILE.safetensors
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from recipe.agpo.files import folder_aside, make_folder, replacing
from recipe.agpo.quickstart.model import END, START, ModelConfig, build_model, build_tokenizer
from recipe.agpo.quickstart.task import Problem, TaskConfig, problems

RISE_STEPS, WINDOW = 40, 20
FORMAT_VERSION = 3  # raise when the code changes the weights that a configuration gives
SHIPPED = Path(__file__).with_name("warm_start.safetensors")  # of the default settings with seed 0


@dataclass(frozen=True)
class WarmStartConfig:
    """All settings that affect the warm-started weights, except the seed.

    Attributes:
        target_loss: training stops at this loss (nats per token, mean of the last 20 steps). The loss falls steeply
            when the model learns to copy and add, so the same number of steps would give very different accuracies on
            different machines. With a higher target, more is left to learn from the reward.
        cool_down_steps: steps of linear decay of the learning rate to 0 after the target is reached.
        max_steps: stop here even if the target was not reached.
        batch_size: written solutions per step; none is used twice.
        learning_rate: constant after a linear warm-up of 40 steps.
    """

    target_loss: float = 0.1
    cool_down_steps: int = 20
    max_steps: int = 1200
    batch_size: int = 32
    learning_rate: float = 3e-3
    task: TaskConfig = field(default_factory=TaskConfig)
    model: ModelConfig = field(default_factory=ModelConfig)


def cache_key(config: WarmStartConfig, seed: int) -> str:
    """Hash of the configuration, the seed and the code's format version."""
    payload = json.dumps([FORMAT_VERSION, seed, asdict(config)], sort_keys=True)
    return hashlib.sha256(payload.encode()).hexdigest()[:12]


def checkpoint_folder(out_dir: str | os.PathLike[str], seed: int = 0, config: WarmStartConfig | None = None) -> Path:
    """Where `warm_start` keeps the model of these settings."""
    return Path(out_dir) / f"warm-start-{cache_key(config or WarmStartConfig(), seed)}"


def warm_start(
    out_dir: str | os.PathLike[str],
    seed: int = 0,
    config: WarmStartConfig | None = None,
    progress: bool = True,
) -> Path:
    """The warm-started model: from the cache, from the package, or trained. Returns its folder inside ``out_dir``.

    Args:
        out_dir: cache folder; the checkpoint is ``out_dir/warm-start-<hash>``.
        seed: decides initial weights and training problems.
        config: see ``WarmStartConfig``.
        progress: show a bar, if stderr is a terminal.
    """
    config = config or WarmStartConfig()
    target = checkpoint_folder(out_dir, seed, config)
    if target.is_dir():
        return target
    make_folder(target.parent)
    with folder_aside(target) as part:
        start = time.monotonic()
        shipped = seed == 0 and config == WarmStartConfig()
        model, reached = _load(config) if shipped else _train(config, seed, progress)
        model.save_pretrained(part)
        build_tokenizer().save_pretrained(part)
        record = {
            "seed": seed,
            "config": asdict(config),
            **reached,
            "seconds": round(time.monotonic() - start, 1),
        }
        (part / "warm_start.json").write_text(json.dumps(record, indent=2) + "\n")
        try:
            os.rename(part, target)
        except OSError:
            if not target.is_dir():  # else: another process finished the same one first
                raise
    return target


def _load(config: WarmStartConfig) -> tuple[Any, dict[str, Any]]:
    """The model with the weights that come with the package."""
    from safetensors import safe_open
    from safetensors.torch import load_model

    model = build_model(config.model, seed=0)
    load_model(model, SHIPPED)
    with safe_open(SHIPPED, framework="pt") as file:
        return model.eval(), json.loads(file.metadata()["reached"])


def train_into(path: Path, config: WarmStartConfig | None = None) -> None:
    """Train the default warm start and write its weights, with steps and loss in the file's metadata."""
    from safetensors.torch import save

    model, reached = _train(config or WarmStartConfig(), seed=0, progress=True)
    with replacing(path) as part:
        # Parameters, not the state dict: the tied embedding is in it twice.
        part.write_bytes(save(dict(model.named_parameters()), metadata={"reached": json.dumps(reached)}))


def encode(batch: Sequence[Problem], tokenizer: Any) -> tuple[Any, Any, Any]:
    """Prompts with their written solutions, padded on the right.

    Returns:
        (input_ids, attention_mask, labels), each LongTensor [B,T]; labels are -100 outside the solution and its end.
    """
    import torch

    prompts = [tokenizer.encode(f"{START}{problem.prompt}{END}{START}") for problem in batch]
    solutions = [tokenizer.encode(f"{problem.solution}{END}") for problem in batch]
    width = max(len(p) + len(s) for p, s in zip(prompts, solutions, strict=True))
    ids = torch.full((len(batch), width), tokenizer.pad_token_id)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, (prompt, solution) in enumerate(zip(prompts, solutions, strict=True)):
        end = len(prompt) + len(solution)
        ids[row, :end] = torch.tensor(prompt + solution)
        mask[row, :end] = 1
        labels[row, len(prompt) : end] = torch.tensor(solution)
    return ids, mask, labels


def _train(config: WarmStartConfig, seed: int, progress: bool) -> tuple[Any, dict[str, float]]:
    """The trained model, its number of steps and its last mean loss (nats a token)."""
    import torch
    from tqdm import tqdm

    tokenizer, model = build_tokenizer(), build_model(config.model, seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    stream = problems("warm_start", seed, config.task)
    losses: list[float] = []
    cooling = 0  # steps of cool-down done
    model.train()
    bar = tqdm(total=config.max_steps, desc="warm start", unit="step", disable=None if progress else True)
    while len(losses) < config.max_steps and cooling <= config.cool_down_steps:
        factor = min(1.0, (len(losses) + 1) / RISE_STEPS) * (1 - cooling / (config.cool_down_steps + 1))
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * factor
        ids, mask, labels = encode([next(stream) for _ in range(config.batch_size)], tokenizer)
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
        if cooling or _recent(losses) <= config.target_loss:
            cooling += 1
        bar.set_postfix(loss=f"{_recent(losses):.3f}", target=config.target_loss, refresh=False)
        bar.update()
    bar.close()
    return model.eval(), {"steps": len(losses), "loss": _recent(losses)}


def _recent(losses: Sequence[float]) -> float:
    tail = losses[-WINDOW:]
    return sum(tail) / len(tail)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m recipe.agpo.quickstart.warm_start")
    parser.add_argument("--train-into", type=Path, required=True, metavar="FILE", help="file to write the weights to")
    train_into(parser.parse_args(argv).train_into)
    return 0


if __name__ == "__main__":
    sys.exit(main())
