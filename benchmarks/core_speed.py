# SPDX-License-Identifier: Apache-2.0
"""Time of the method's computations relative to verl's, and memory that its loss keeps for backward.

(a) One step's decisions: probe statistics, vote classes, temperature, clip ratio and advantages of 1024
prompts x 16 responses, beside verl's `grpo_vectorized` and `grpo` estimators on 1024 x 16 groups x 512
tokens. (b) One update's loss: forward and backward of the policy loss with a clip ratio per response, 512 x
512 tokens in float32, beside verl's `vanilla` loss with token-mean aggregation.

All candidates run in turn within one process, in several rounds. The result is the median of the ratios within a round;
milliseconds depend on the machine. Run from the project root:

    python benchmarks/core_speed.py --json outputs/core_speed.json
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from torch import Tensor
from verl.trainer.ppo.core_algos import (
    compute_grpo_outcome_advantage,
    compute_grpo_vectorized_outcome_advantage,
    compute_policy_loss_vanilla,
)
from verl.workers.config import ActorConfig

from agpo_core import (
    AGPOConfig,
    ControllerState,
    StepSignals,
    decide_clip,
    decide_temperature,
    group_advantages_padded,
    policy_loss,
    probe_statistics,
    update_state,
    vote_classes,
)
from recipe.agpo.arguments import positive

Candidate = Callable[[], Any]

TARGETS = {  # ratio of ours to verl's: at most
    "decisions / grpo_vectorized": 2.0,
    "decisions / grpo": 0.1,
    "policy_loss / vanilla": 1.1,
}


def alternate(
    candidates: dict[str, Candidate], rounds: int, wait: Candidate, warmup: int = 3
) -> dict[str, list[float]]:
    """Seconds of each candidate in each round, in an order that changes from round to round.

    ``wait`` returns when the device has finished.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    for turn in range(warmup + rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            wait()
            start = time.perf_counter()
            candidates[name]()
            wait()
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(ours: list[float], theirs: list[float]) -> float:
    """Median over the rounds of ours / theirs."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def decision_candidates(prompts: int, group: int, tokens: int, device: torch.device) -> dict[str, Candidate]:
    generator = torch.Generator().manual_seed(0)
    shuffle = random.Random(0)
    config = AGPOConfig()
    outcomes = (torch.rand(prompts, group, generator=generator) < torch.rand(prompts, 1, generator=generator)).float()
    outcomes = outcomes.to(device)
    keys = [[shuffle.choice(["12", "7/3", "x+1", "0.25", "", None]) for _ in range(group)] for _ in range(prompts)]
    mask = torch.ones(prompts, group, dtype=torch.bool, device=device)
    signals = StepSignals(policy_entropy=1.0, step_kl=0.008, step_kl_k3=0.008)
    first = probe_statistics(outcomes, vote_classes(keys), mask, config=config)
    state = update_state(first, signals, ControllerState.initial(config), config)

    def decisions() -> None:
        stats = probe_statistics(outcomes, vote_classes(keys), mask, config=config)
        decide_temperature(stats, state, config, 1.0)
        decide_clip(stats, signals, state, config, 0.2, 0.28)
        group_advantages_padded(outcomes, mask, scale="std", epsilon=1e-6)

    rewards = torch.zeros(prompts * group, tokens, device=device)
    rewards[:, -1] = outcomes.reshape(-1)
    token_mask = torch.ones(prompts * group, tokens, device=device)
    index = np.repeat(np.arange(prompts), group)
    return {
        "decisions": decisions,
        "grpo_vectorized": lambda: compute_grpo_vectorized_outcome_advantage(rewards, token_mask, index),
        "grpo": lambda: compute_grpo_outcome_advantage(rewards, token_mask, index),
    }


def loss_candidates(rows: int, tokens: int, device: torch.device) -> dict[str, tuple[Candidate, Candidate]]:
    """For each loss (forward and backward, forward alone). Inputs as an actor's micro-batch has them."""
    generator = torch.Generator().manual_seed(0)
    old = (torch.randn(rows, tokens, generator=generator) - 2.0).to(device)
    new = (old + 0.2 * torch.randn(rows, tokens, generator=generator).to(device)).requires_grad_()
    advantages = torch.randn(rows, generator=generator).to(device)
    per_token = advantages.unsqueeze(1).expand(rows, tokens).contiguous()
    mask = (torch.rand(rows, tokens, generator=generator) < 0.8).long().to(device)
    eps = (0.1 + 0.2 * torch.rand(rows, generator=generator)).to(device)
    actor = ActorConfig(
        strategy="fsdp2",
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        clip_ratio=0.2,
        clip_ratio_low=0.2,
        clip_ratio_high=0.28,
    )
    forwards: dict[str, Callable[[], tuple[Tensor, Any]]] = {
        "policy_loss": lambda: policy_loss(new, old, per_token, mask, eps, eps, dual_clip=3.0),
        "policy_loss, A per response": lambda: policy_loss(new, old, advantages, mask, eps, eps, dual_clip=3.0),
        "vanilla": lambda: compute_policy_loss_vanilla(old, new, per_token, mask, "token-mean", actor),
    }

    def both(forward: Callable[[], tuple[Tensor, Any]]) -> Candidate:
        def step() -> None:
            new.grad = None
            forward()[0].backward()

        return step

    return {name: (both(forward), forward) for name, forward in forwards.items()}


def kept_for_backward(forward: Candidate, elements: int) -> dict[str, int]:
    """Memory that autograd keeps between forward and backward, each storage counted once."""
    kept: dict[int, Tensor] = {}

    def pack(value: Tensor) -> Tensor:
        kept[value.untyped_storage().data_ptr()] = value
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        result = forward()
    whole = [value for value in kept.values() if value.numel() >= elements]
    del result
    return {
        "bytes": sum(value.untyped_storage().nbytes() for value in kept.values()),
        "float_tensors": sum(value.is_floating_point() for value in whole),
        "other_tensors": sum(not value.is_floating_point() for value in whole),
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(args.threads)
    device = args.device
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    decisions = alternate(decision_candidates(args.prompts, args.group, args.tokens, device), args.rounds, wait)
    losses = loss_candidates(args.rows, args.tokens, device)
    updates = alternate({name: pair[0] for name, pair in losses.items()}, args.rounds * 3, wait)
    seconds = decisions | updates
    return {
        "threads": args.threads,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "shapes": {
            "decisions": [args.prompts, args.group],
            "estimators": [args.prompts, args.group, args.tokens],
            "loss": [args.rows, args.tokens],
        },
        "median_ms": {name: statistics.median(values) * 1e3 for name, values in seconds.items()},
        "ratio": {
            "decisions / grpo_vectorized": ratio(decisions["decisions"], decisions["grpo_vectorized"]),
            "decisions / grpo": ratio(decisions["decisions"], decisions["grpo"]),
            "policy_loss / vanilla": ratio(updates["policy_loss"], updates["vanilla"]),
            "policy_loss, A per response / vanilla": ratio(updates["policy_loss, A per response"], updates["vanilla"]),
        },
        "kept_for_backward": {
            name: kept_for_backward(pair[1], args.rows * args.tokens) for name, pair in losses.items()
        },
    }


def verdicts(result: dict[str, Any]) -> dict[str, bool]:
    held = {name: result["ratio"][name] <= limit for name, limit in TARGETS.items()}
    kept = result["kept_for_backward"]
    held["float tensors kept"] = kept["policy_loss"]["float_tensors"] <= kept["vanilla"]["float_tensors"]
    return held


def table(result: dict[str, Any]) -> str:
    lines = [f"{'candidate':<40}{'median ms':>12}"]
    lines += [f"{name:<40}{value:>12.2f}" for name, value in result["median_ms"].items()]
    lines += ["", f"{'ratio (median of rounds)':<40}{'value':>12}{'target':>12}"]
    for name, value in result["ratio"].items():
        limit = f"<= {TARGETS[name]:g}" if name in TARGETS else ""
        lines.append(f"{name:<40}{value:>12.3f}{limit:>12}")
    lines += ["", f"{'kept for backward':<40}{'MiB':>12}{'float':>12}{'other':>12}"]
    for name, kept in result["kept_for_backward"].items():
        mib = kept["bytes"] / 2**20
        lines.append(f"{name:<40}{mib:>12.2f}{kept['float_tensors']:>12}{kept['other_tensors']:>12}")
    lines += ["", "  ".join(f"{name}: {'held' if ok else 'MISSED'}" for name, ok in result["held"].items())]
    return "\n".join(lines)


def usable_device(name: str) -> torch.device:
    if name not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"{name}: cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("cuda: torch sees no GPU here")
    return torch.device(name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=positive, default=1024)
    parser.add_argument("--group", type=positive, default=16)
    parser.add_argument("--rows", type=positive, default=512)
    parser.add_argument("--tokens", type=positive, default=512)
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument("--rounds", type=positive, default=15)
    parser.add_argument("--device", type=usable_device, default=torch.device("cpu"), help="cpu or cuda")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    result = measure(args)
    result["held"] = verdicts(result)
    print(table(result))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0 if all(result["held"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
