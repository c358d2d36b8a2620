# SPDX-License-Identifier: Apache-2.0
"""The quickstart's reinforcement learning in one process: no Ray, no vLLM, seconds to start.

For choosing hyper-parameters and comparing methods at equal numbers of generated tokens. It mirrors what verl does
with the quickstart's configuration (group advantages, clipped token-mean loss, AdamW, several updates a batch); only
a run on the real stack counts as a result.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import agpo_core
from recipe.agpo.quickstart.model import END, START, ModelConfig, build_tokenizer
from recipe.agpo.quickstart.task import DATA_SOURCE, Problem, TaskConfig, compute_score, take
from recipe.agpo.quickstart.warm_start import WarmStartConfig, warm_start


@dataclass(frozen=True)
class Rollout:
    """Responses of one sampling call, prompts padded on the left, responses on the right.

    Attributes:
        ids_BT: prompt and response.
        attention_BT: 1 where a token is real.
        mask_BR: 1 on response tokens, the end token included.
        log_prob_BR: log-probability of each response token at its own temperature.
        entropy_BR: full-vocabulary entropy (nats, temperature 1).
        temperature_B: sampling temperature.
    """

    ids_BT: Tensor
    attention_BT: Tensor
    mask_BR: Tensor
    log_prob_BR: Tensor
    entropy_BR: Tensor
    temperature_B: Tensor


def encode_prompts(prompts: Sequence[str], tokenizer: Any, width: int) -> tuple[Tensor, Tensor]:
    """Left-padded ids and attention mask, both [B,width]."""
    ids = torch.full((len(prompts), width), tokenizer.pad_token_id)
    for row, prompt in enumerate(prompts):
        tokens = tokenizer.encode(f"{START}{prompt}{END}{START}")
        ids[row, width - len(tokens) :] = torch.tensor(tokens)
    return ids, (ids != tokenizer.pad_token_id).long()


def positions(attention_BT: Tensor) -> Tensor:
    return (attention_BT.cumsum(-1) - 1).clamp(min=0)


@torch.no_grad()
def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    temperature_B: Tensor,
    *,
    width: int,
    max_tokens: int,
    generator: torch.Generator | None = None,
) -> Rollout:
    """Sample one response a prompt with a KV cache; temperature 0 is greedy. Finished rows are dropped."""
    ids, attention = encode_prompts(prompts, tokenizer, width)
    batch, pad, end = len(prompts), tokenizer.pad_token_id, tokenizer.eos_token_id
    response = torch.full((batch, max_tokens), pad)
    log_prob, entropy = torch.zeros(batch, max_tokens), torch.zeros(batch, max_tokens)
    mask = torch.zeros(batch, max_tokens, dtype=torch.long)
    position = attention.sum(-1, keepdim=True)
    output = model(input_ids=ids, attention_mask=attention, position_ids=positions(attention), use_cache=True)
    cache, full_attention = output.past_key_values, attention
    alive = torch.arange(batch)  # rows that the cache still holds
    for column in range(max_tokens):
        logits = output.logits[:, -1].float()
        temperature = temperature_B[alive]
        greedy = temperature <= 0
        scored = torch.log_softmax(logits / torch.where(greedy, 1.0, temperature)[:, None], -1)
        drawn = torch.multinomial(scored.exp(), 1, generator=generator).squeeze(-1)
        token = torch.where(greedy, logits.argmax(-1), drawn)
        plain = torch.log_softmax(logits, -1)
        response[alive, column] = token
        mask[alive, column] = 1
        log_prob[alive, column] = scored.gather(-1, token[:, None]).squeeze(-1)
        entropy[alive, column] = -(plain.exp() * plain).sum(-1)
        keep = (token != end).nonzero().squeeze(-1)
        if len(keep) == 0:
            break
        # Dropping rows copies the cache: worth it only once many have finished.
        if len(keep) <= 0.8 * len(alive):
            cache.batch_select_indices(keep)
            alive, token, full_attention, position = (
                alive[keep],
                token[keep],
                full_attention[keep],
                position[keep],
            )
        elif len(keep) < len(alive):
            token = torch.where(token == end, pad, token)
        full_attention = torch.cat([full_attention, torch.ones(len(alive), 1, dtype=torch.long)], -1)
        output = model(
            input_ids=token[:, None],
            attention_mask=full_attention,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
        )
        position = position + 1
    mask = _up_to_end(response, mask, end)
    return Rollout(
        ids_BT=torch.cat([ids, torch.where(mask.bool(), response, pad)], -1),
        attention_BT=torch.cat([attention, mask], -1),
        mask_BR=mask,
        log_prob_BR=log_prob * mask,
        entropy_BR=entropy * mask,
        temperature_B=temperature_B,
    )


def _up_to_end(response_BR: Tensor, mask_BR: Tensor, end: int) -> Tensor:
    """``mask_BR`` without what follows the first end token."""
    ended_before = (response_BR == end).long().cumsum(-1) - (response_BR == end).long()
    return mask_BR * (ended_before == 0).long()


def texts(rollout: Rollout, tokenizer: Any) -> list[str]:
    length = rollout.mask_BR.shape[1]
    return [
        tokenizer.decode(row[mask.bool()], skip_special_tokens=True)
        for row, mask in zip(rollout.ids_BT[:, -length:], rollout.mask_BR, strict=True)
    ]


def score(rollout: Rollout, chosen: Sequence[Problem], tokenizer: Any) -> tuple[Tensor, list[str]]:
    """Outcome [B] and vote key of each response."""
    verdicts = [
        compute_score(DATA_SOURCE, text, problem.answer, {"metadata": problem.metadata})
        for text, problem in zip(texts(rollout, tokenizer), chosen, strict=True)
    ]
    return torch.tensor([v["score"] for v in verdicts]), [v["vote_key"] for v in verdicts]


def greedy_accuracy(
    model: Any, tokenizer: Any, chosen: Sequence[Problem], *, width: int, max_tokens: int
) -> float:
    zeros = torch.zeros(len(chosen))
    rollout = generate(
        model, tokenizer, [p.prompt for p in chosen], zeros, width=width, max_tokens=max_tokens
    )
    return score(rollout, chosen, tokenizer)[0].mean().item()


def response_log_probs(model: Any, rollout: Rollout) -> Tensor:
    """Log-probabilities [B,R] of the responses under ``model`` at each response's own temperature."""
    length = rollout.mask_BR.shape[1]
    logits = model(
        input_ids=rollout.ids_BT,
        attention_mask=rollout.attention_BT,
        position_ids=positions(rollout.attention_BT),
        logits_to_keep=length + 1,
    ).logits[:, :-1]
    scaled = logits.float() / rollout.temperature_B[:, None, None]
    target = rollout.ids_BT[:, -length:, None]
    return (scaled.gather(-1, target).squeeze(-1) - scaled.logsumexp(-1)) * rollout.mask_BR


def group_std_advantages(outcome_PG: Tensor, epsilon: float = 1e-6) -> Tensor:
    """(r - mean) / (std + epsilon) with the sample standard deviation, as verl's GRPO estimator."""
    return (outcome_PG - outcome_PG.mean(-1, keepdim=True)) / (outcome_PG.std(-1, keepdim=True) + epsilon)


def select(rollout: Rollout, rows: Tensor) -> Rollout:
    """The given rows, without the columns at the right that no response of them uses."""
    length, width = rollout.mask_BR.shape[1], rollout.ids_BT.shape[1]
    used = max(1, int(rollout.mask_BR[rows].sum(-1).max()))
    keep = width - length + used
    return Rollout(
        rollout.ids_BT[rows, :keep],
        rollout.attention_BT[rows, :keep],
        rollout.mask_BR[rows, :used],
        rollout.log_prob_BR[rows, :used],
        rollout.entropy_BR[rows, :used],
        rollout.temperature_B[rows],
    )


@dataclass(frozen=True)
class LoopConfig:
    """One run. Batch sizes count as verl's do: prompts a step, and prompts a mini-batch."""

    method: str = "grpo"
    seed: int = 0
    steps: int = 100
    token_budget: int = 0  # stop after this many generated tokens; 0: no limit
    prompts: int = 32
    group: int = 8
    mini_batch_prompts: int = 8
    learning_rate: float = 1e-4
    temperature: float = 1.0
    clip: float = 0.2
    max_tokens: int = 48
    n_train: int = 4096
    n_val: int = 256
    eval_every: int = 10
    grad_norm: float = 1.0
    agpo: str = "{}"  # JSON of algorithm.agpo keys for the methods agpo and reference


def train(
    model: Any, task: TaskConfig, config: LoopConfig, out: Path | None = None
) -> list[dict[str, float]]:
    """Run the loop; returns one record an evaluation, and appends every step's metrics to ``out`` as JSON lines."""
    tokenizer, width = build_tokenizer(), task.max_prompt_tokens
    problems, held_out = take("train", 0, config.n_train, task), take("val", 0, config.n_val, task)
    order = torch.Generator().manual_seed(config.seed)
    draws = torch.Generator().manual_seed(config.seed + 1)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=(0.9, 0.999), weight_decay=0.01
    )
    method = METHODS[config.method](config)
    model.eval()  # no dropout in this model: eval and train agree
    queue: list[int] = []
    tokens, start, records = 0, time.monotonic(), []

    def evaluate(step: int) -> None:
        accuracy = greedy_accuracy(model, tokenizer, held_out, width=width, max_tokens=config.max_tokens)
        records.append(
            {"step": step, "tokens": tokens, "accuracy": accuracy, "wall": time.monotonic() - start}
        )
        print(
            f"{config.method} seed {config.seed} step {step} accuracy {accuracy:.3f} tokens {tokens}",
            flush=True,
        )

    evaluate(0)
    for step in range(1, config.steps + 1):
        while len(queue) < config.prompts:
            queue += torch.randperm(len(problems), generator=order).tolist()
        chosen, queue = [problems[i] for i in queue[: config.prompts]], queue[config.prompts :]

        def roll(
            temperature_PG: Tensor, chosen: list[Problem] = chosen
        ) -> tuple[Rollout, Tensor, list[list[str]]]:
            """Sample a [P,G] block: rollout with rows prompt by prompt, outcomes [P,G], vote keys."""
            size = temperature_PG.shape[1]
            repeated = [problem for problem in chosen for _ in range(size)]
            rollout = generate(
                model,
                tokenizer,
                [problem.prompt for problem in repeated],
                temperature_PG.reshape(-1).float(),
                width=width,
                max_tokens=config.max_tokens,
                generator=draws,
            )
            outcome_B, keys = score(rollout, repeated, tokenizer)
            rows = [keys[i : i + size] for i in range(0, len(keys), size)]
            return rollout, outcome_B.reshape(-1, size), rows

        batch = method.collect(roll)
        tokens += batch.generated_tokens
        metrics = update(model, optimiser, batch, method, config, order)
        method.finish_step(metrics)
        metrics |= {
            "critic/score/mean": batch.outcome_B.mean().item(),
            "agpo/tokens/total": batch.generated_tokens,
            "agpo/tokens/generated_cumulative": tokens,
            "actor/entropy": batch.entropy,
        } | batch.metrics
        last = step == config.steps or 0 < config.token_budget <= tokens
        if step % config.eval_every == 0 or last:
            evaluate(step)
            metrics[f"val-core/{DATA_SOURCE}/acc/mean@1"] = records[-1]["accuracy"]
        if out is not None:
            with out.open("a") as lines:
                lines.write(json.dumps({"step": step, "data": metrics}) + "\n")
        if last:
            break
    return records


@dataclass
class Batch:
    """What one step trains on: rows [B] with their clip radii, and what it cost."""

    rollout: Rollout
    outcome_B: Tensor
    advantage_B: Tensor
    clip_low_B: Tensor
    clip_high_B: Tensor
    generated_tokens: int
    metrics: dict[str, float]

    @property
    def entropy(self) -> float:
        return (self.rollout.entropy_BR.sum() / self.rollout.mask_BR.sum()).item()


def update(
    model: Any, optimiser: Any, batch: Batch, method: Any, config: LoopConfig, order: torch.Generator
) -> dict[str, float]:
    """Several optimiser steps on one batch, whole groups to a mini-batch, as verl splits it."""
    group_rows = len(batch.outcome_B) // config.prompts
    prompts = torch.randperm(config.prompts, generator=order)
    sums = {"actor/pg_clipfrac": 0.0, "actor/ppo_kl": 0.0, "actor/grad_norm": 0.0}
    splits = prompts.split(config.mini_batch_prompts)
    old_log_prob = _scoring_log_probs(model, batch, method)
    for split in splits:
        rows = (split[:, None] * group_rows + torch.arange(group_rows)).reshape(-1)
        part = select(batch.rollout, rows)
        old = old_log_prob[rows, : part.mask_BR.shape[1]]
        scored = part if method.own_temperature else _at_temperature_one(part)
        log_prob = response_log_probs(model, scored)
        advantage = batch.advantage_B[rows, None]
        ratio = (log_prob - old).clamp(-20, 20).exp()
        low, high = batch.clip_low_B[rows, None], batch.clip_high_B[rows, None]
        clipped = torch.maximum(-advantage * ratio, -advantage * torch.clamp(ratio, 1 - low, 1 + high))
        per_token = torch.where(advantage < 0, torch.minimum(clipped, -advantage * 3.0), clipped)
        mask, count = part.mask_BR, part.mask_BR.sum()
        loss = (per_token * mask).sum() / count
        optimiser.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_norm)
        if torch.isfinite(norm):
            optimiser.step()
        with torch.no_grad():
            outside = (-advantage * ratio < clipped) & mask.bool()
            sums["actor/pg_clipfrac"] += (outside.sum() / count).item() / len(splits)
            sums["actor/ppo_kl"] += (((old - log_prob) * mask).sum() / count).item() / len(splits)
            sums["actor/grad_norm"] += norm.item() / len(splits)
    return sums


@torch.no_grad()
def _scoring_log_probs(model: Any, batch: Batch, method: Any) -> Tensor:
    """Old log-probabilities in the convention that the method scores with."""
    if method.own_temperature:
        return batch.rollout.log_prob_BR
    return response_log_probs(model, _at_temperature_one(batch.rollout))


def _at_temperature_one(rollout: Rollout) -> Rollout:
    return Rollout(
        rollout.ids_BT,
        rollout.attention_BT,
        rollout.mask_BR,
        rollout.log_prob_BR,
        rollout.entropy_BR,
        torch.ones_like(rollout.temperature_B),
    )


class Grpo:
    """Every response at the base temperature, one clip ratio."""

    own_temperature = True

    def __init__(self, config: LoopConfig) -> None:
        self.config = config

    def collect(self, roll: Any) -> Batch:
        shape = (self.config.prompts, self.config.group)
        rollout, outcome_PG, _ = roll(torch.full(shape, self.config.temperature))
        clip = torch.full((outcome_PG.numel(),), self.config.clip)
        return Batch(
            rollout=rollout,
            outcome_B=outcome_PG.reshape(-1),
            advantage_B=group_std_advantages(outcome_PG).reshape(-1),
            clip_low_B=clip,
            clip_high_B=clip,
            generated_tokens=int(rollout.mask_BR.sum()),
            metrics={},
        )

    def finish_step(self, metrics: dict[str, float]) -> None:
        pass


class Agpo:
    """A preset of agpo_core: probe, temperature, rest of the group, clip ratio, state.

    Left out of ``reference``: its KL loss towards the reference policy.
    """

    def __init__(self, config: LoopConfig) -> None:
        self.config = config
        self.agpo = agpo_core.AGPOConfig.from_dict({"preset": config.method} | json.loads(config.agpo))
        if self.agpo.logprob_temperature == "corrected":
            raise ValueError("logprob_temperature=corrected is not part of this loop: use own or uncorrected")
        self.own_temperature = self.agpo.logprob_temperature == "own"
        self.resolved = agpo_core.resolve(
            self.agpo,
            temperature=config.temperature,
            clip_low=config.clip,
            clip_high=config.clip,
            group_size=config.group,
        )
        self.state = agpo_core.ControllerState.initial(self.agpo)

    def collect(self, roll: Any) -> Batch:
        agpo, config, base = self.agpo, self.config, self.resolved.tau_base
        probe, probe_PG, keys = roll(torch.full((config.prompts, self.resolved.probe_size), base))
        self.stats = agpo_core.probe_statistics(probe_PG, agpo_core.vote_classes(keys), config=agpo)
        tau_P = torch.full((config.prompts,), base, dtype=torch.float64)
        if agpo.temperature.enabled:
            tau_P = agpo_core.decide_temperature(self.stats, self.state, agpo, base).tau
        rest_size = config.group - self.resolved.probe_size if agpo.probe.reuse else config.group
        tokens = int(probe.mask_BR.sum())
        rollout, outcome_PG = probe, probe_PG
        if rest_size:
            rest, rest_PG, _ = roll(tau_P[:, None].expand(-1, rest_size))
            tokens += int(rest.mask_BR.sum())
            rollout, outcome_PG = (join(probe, rest, config.prompts), torch.cat([probe_PG, rest_PG], -1))
            if not agpo.probe.reuse:
                rollout, outcome_PG = rest, rest_PG
        group = outcome_PG.shape[1]
        entropy_P = rollout.entropy_BR.reshape(config.prompts, -1).sum(-1)
        entropy_P = entropy_P / rollout.mask_BR.reshape(config.prompts, -1).sum(-1)
        entropy = (rollout.entropy_BR.sum() / rollout.mask_BR.sum()).item()
        self.signals = agpo_core.StepSignals(policy_entropy=entropy, policy_entropy_P=entropy_P)
        low_P = torch.full((config.prompts,), self.resolved.clip_low)
        high_P = torch.full((config.prompts,), self.resolved.clip_high)
        if agpo.clip.enabled:
            clip = agpo_core.decide_clip(
                self.stats, self.signals, self.state, agpo, self.resolved.clip_low, self.resolved.clip_high
            )
            low_P, high_P = clip.low, clip.high
        advantage_PG = agpo_core.group_advantages_padded(
            outcome_PG,
            torch.ones_like(outcome_PG, dtype=torch.bool),
            scale=agpo.advantage.scale,
            epsilon=agpo.advantage.epsilon,
        )
        metrics = {
            f"agpo/{name}/{kind}": getattr(value_P, kind)().item()
            for name, value_P in (("tau", tau_P), ("eps", high_P))
            for kind in ("mean", "min", "max")
        }
        return Batch(
            rollout=rollout,
            outcome_B=outcome_PG.reshape(-1),
            advantage_B=advantage_PG.reshape(-1).float(),
            clip_low_B=low_P.float().repeat_interleave(group),
            clip_high_B=high_P.float().repeat_interleave(group),
            generated_tokens=tokens,
            metrics=metrics,
        )

    def finish_step(self, metrics: dict[str, float]) -> None:
        signals = dataclasses.replace(self.signals, step_kl=metrics["actor/ppo_kl"])
        self.state = agpo_core.update_state(self.stats, signals, self.state, self.agpo)


def join(first: Rollout, second: Rollout, prompts: int) -> Rollout:
    """Two blocks of the same prompts as one, rows prompt by prompt."""
    rows = torch.cat(
        [
            torch.arange(len(first.temperature_B)).reshape(prompts, -1),
            torch.arange(len(second.temperature_B)).reshape(prompts, -1) + len(first.temperature_B),
        ],
        -1,
    ).reshape(-1)
    both = (torch.cat([getattr(first, f.name), getattr(second, f.name)]) for f in dataclasses.fields(Rollout))
    return Rollout(*(values[rows] for values in both))


METHODS: dict[str, Any] = {"grpo": Grpo, "agpo": Agpo, "reference": Agpo}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    defaults = LoopConfig()
    for name, value in defaults.__dict__.items():
        kind: Any = type(value)
        choices = sorted(METHODS) if name == "method" else None
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=value, choices=choices)
    task, warm = TaskConfig(), WarmStartConfig()
    parser.add_argument("--terms", type=int, nargs=2, default=[task.min_terms, task.max_terms])
    parser.add_argument("--digits", type=int, nargs=2, default=[task.min_digits, task.max_digits])
    parser.add_argument("--model-shape", type=int, nargs=3, default=None, help="hidden, intermediate, layers")
    parser.add_argument("--warm-loss", type=float, default=warm.target_loss)
    parser.add_argument("--warm-seed", type=int, default=0)
    parser.add_argument("--cache", default=".cache/quickstart", help="folder of cached warm starts")
    parser.add_argument("--out", type=Path, default=None, help="metrics file, one JSON line a step")
    given = vars(parser.parse_args())

    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    task = TaskConfig(*given["terms"], *given["digits"])
    shape = ModelConfig(*given["model_shape"]) if given["model_shape"] else ModelConfig()
    warm = WarmStartConfig(target_loss=given["warm_loss"], task=task, model=shape)
    folder = warm_start(given["cache"], given["warm_seed"], warm)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = LoopConfig(**{name: given[name] for name in defaults.__dict__})
    torch.manual_seed(config.seed)
    records = train(model, task, config, given["out"])
    best = max(record["accuracy"] for record in records)
    first, last = records[0], records[-1]
    print(
        f"{config.method} seed {config.seed} lr {config.learning_rate:g}: {first['accuracy']:.3f} -> "
        f"{last['accuracy']:.3f} (best {best:.3f}) | steps {last['step']} | tokens {last['tokens']} | "
        f"wall {last['wall']:.0f} s"
    )


if __name__ == "__main__":
    main()
