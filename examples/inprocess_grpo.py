# SPDX-License-Identifier: Apache-2.0
"""AGPO in one file, with agpo_core and a Hugging Face model. Read it from top to bottom.

    python examples/inprocess_grpo.py --task spell_backward --agpo preset=agpo --budget 100000
    python examples/inprocess_grpo.py --task number_sorting --agpo preset=grpo --lr 3e-4 --out run.jsonl
    python examples/inprocess_grpo.py --model models/smollm2 --data data/reasoning_gym/chain_sum --lr 1e-5

The model is tiny and warm-started on written solutions, so that it can learn something from rewards within minutes on
one CPU core. With --model it is a pretrained checkpoint with its own tokenizer and chat template, and the problems are
the files of `agpo data prepare`. `train` takes any causal language model of transformers and any `Task`.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import agpo_core
from agpo_core import AGPOConfig, Controller, StepSignals, WeightAverage

# ---- tasks: prompts, written solutions for the warm start, and a verdict -------------------------------------


@dataclass(frozen=True)
class Problem:
    """One problem: prompt (text, or chat messages), written solution, and the entry for the verifier."""

    prompt: Any
    solution: str
    entry: dict[str, Any]


@dataclass(frozen=True)
class Text:
    """How a model reads and writes: ids of a prompt, text of a response, and its end and padding tokens."""

    pad: int
    end: int
    encode: Callable[[Any], list[int]]
    decode: Callable[[list[int]], str]


# One token a byte, for the tiny model.
PAD, START, END = 256, 257, 258
BYTES = Text(
    PAD,
    END,
    lambda prompt: [*prompt.encode(), START],
    lambda ids: bytes(token for token in ids if token < 256).decode("utf-8", errors="replace"),
)


def chat_text(tokenizer: Any) -> Text:
    """A pretrained model's own tokenizer and chat template; prompts are chat messages."""
    if None in (tokenizer.pad_token_id, tokenizer.eos_token_id) or not tokenizer.chat_template:
        raise ValueError("--model: its tokenizer needs a padding token, an end token and a chat template")

    def encode(messages: Any) -> list[int]:
        shown = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids: list[int] = tokenizer.encode(shown, add_special_tokens=False)
        return ids

    return Text(
        tokenizer.pad_token_id,
        tokenizer.eos_token_id,
        encode,
        lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)),
    )


PARTS = {"held_out": {0, 1}, "warm_start": {2, 3, 4}, "train": set(range(5, 16))}  # sixteenths of all problems


class GymTask:
    """A reasoning-gym task with short texts. The answer is the text after the last '#'."""

    text = BYTES
    # name -> (settings, entry -> prompt, entry -> written solution, longest response in tokens)
    KINDS: dict[str, tuple[dict[str, Any], Callable[[Any], str], Callable[[Any], str], int]] = {
        # Step by step: one wrong step makes the answer wrong; responses are long enough to be cut off.
        "chain_sum": (
            {"min_terms": 3, "max_terms": 5, "min_digits": 1, "max_digits": 1},
            lambda e: e["metadata"]["expression"].replace(" ", "") + "=",
            lambda e: running_sums(e["metadata"]["expression"].replace(" ", "")),
            48,
        ),
        # Copy in order: a few numbers are easy, many are hard.
        "number_sorting": (
            {"min_numbers": 4, "max_numbers": 8, "min_decimals": 0, "max_decimals": 0, "min_value": 0, "max_value": 9},
            lambda e: ("<" if e["metadata"]["direction"] == "ascending" else ">") + plain(e, "original_numbers"),
            lambda e: "#" + plain(e, "sorted_numbers"),
            18,
        ),
        # Short words are easy, long ones hard: in many groups all responses are correct or all are wrong.
        "spell_backward": (
            {"min_word_len": 3, "max_word_len": 8},
            lambda e: e["metadata"]["word"],
            lambda e: f"#{e['answer']}",
            12,
        ),
    }

    def __init__(self, name: str) -> None:
        import reasoning_gym

        settings, self._prompt, self._solution, self.max_tokens = self.KINDS[name]
        self.name = name
        self._make = lambda seed: reasoning_gym.create_dataset(name, **settings, seed=seed, size=2**31 - 1)
        self._scorer = self._make(0)

    def problems(self, part: str, count: int) -> list[Problem]:
        """Up to ``count`` distinct problems of a part; a prompt's hash decides its part, so parts never overlap."""
        import hashlib

        dataset, found = self._make(sum(part.encode()) * 1_000_003), {}
        for index in range(64 * count):
            entry = dataset[index]
            prompt = self._prompt(entry)
            if hashlib.sha256(prompt.encode()).digest()[0] % 16 in PARTS[part]:
                found.setdefault(prompt, Problem(prompt, self._solution(entry), entry))
            if len(found) == count:
                break
        return list(found.values())

    def score(self, problem: Problem, response: str) -> tuple[float, str]:
        """(outcome 0 or 1, vote key); without an answer 0 and the empty key."""
        answer = response.rpartition("#")[2].strip() if "#" in response else ""
        if not answer:
            return 0.0, ""
        if self.name == "number_sorting":
            return float(self._scorer.score_answer(str(answer.split(" ")), problem.entry) >= 1.0), answer
        return float(self._scorer.score_answer(answer, problem.entry) >= 1.0), answer


class PreparedTask:
    """Problems of `agpo data prepare`, judged by this package's verifiers, for a model with a chat template."""

    def __init__(self, folder: Path, text: Text, max_tokens: int) -> None:
        self.folder, self.text, self.max_tokens, self.name = folder, text, max_tokens, folder.name

    def problems(self, part: str, count: int) -> list[Problem]:
        """The first ``count`` rows of ``train.parquet``, or of ``test.parquet`` for part ``held_out``."""
        import pyarrow.parquet

        path = self.folder / ("test.parquet" if part == "held_out" else f"{part}.parquet")
        rows = pyarrow.parquet.read_table(path).slice(0, count).to_pylist()
        return [Problem(row["prompt"], "", row) for row in rows]

    def score(self, problem: Problem, response: str) -> tuple[float, str]:
        """(outcome 0 or 1, vote key)"""
        from recipe.agpo.rewards import compute_score_sync

        row = problem.entry
        verdict = compute_score_sync(
            row["data_source"], response, row["reward_model"]["ground_truth"], row["extra_info"]
        )
        return float(verdict["acc"]), str(verdict["vote_key"])


Task = GymTask | PreparedTask


def plain(entry: Any, name: str) -> str:
    """``['41.0', '7.0']`` -> ``41 7``."""
    return " ".join(number.split(".")[0] for number in entry["metadata"][name])


def running_sums(expression: str) -> str:
    """``7+9-4`` -> ``7+9=16``, ``16-4=12``, ``#12``, one a line."""
    import re

    terms = re.findall(r"[+-]?\d+", expression)
    total, lines = int(terms[0]), []
    for term in terms[1:]:
        before, total = total, total + int(term)
        lines.append(f"{before}{term}={total}")
    return "\n".join([*lines, f"#{total}"])


# ---- model: byte-level, tiny --------------------------------------------------------------------------------


def build_model(seed: int, hidden: int = 128, layers: int = 2) -> Any:
    """A fresh Qwen2 of 0.3 million parameters over bytes."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=264,
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            pad_token_id=PAD,
            eos_token_id=END,
            bos_token_id=None,
            attn_implementation="sdpa",
        )
    )


def encode(text: Text, prompts: Sequence[Any], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, [B, width], padded on the left."""
    rows = [text.encode(prompt) for prompt in prompts]
    width = max(map(len, rows))
    ids = torch.tensor([[text.pad] * (width - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def warm_start(model: Any, task: GymTask, *, accuracy: float, seed: int, max_steps: int = 3000) -> float:
    """Train on written solutions until the accuracy of sampled answers is high enough; returns that accuracy."""
    pool, device = task.problems("warm_start", 4096), next(model.parameters()).device
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)
    generator = torch.Generator(device).manual_seed(seed)
    held_out = task.problems("held_out", 128)
    reached = 0.0
    for step in range(max_steps):
        picked = torch.randint(len(pool), (32,), generator=generator).tolist()
        rows = [[*pool[i].prompt.encode(), START, *pool[i].solution.encode(), END] for i in picked]
        width = max(map(len, rows))
        ids = torch.tensor([row + [PAD] * (width - len(row)) for row in rows], device=device)
        labels = torch.where(ids == PAD, -100, ids)
        for i, row in zip(picked, labels, strict=True):
            row[: len(pool[i].prompt.encode()) + 1] = -100
        loss = model(input_ids=ids, attention_mask=(ids != PAD).long(), labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 20 == 19:
            rollout = sample(model, task, held_out, torch.ones(len(held_out)), generator)
            reached = rollout.outcome_B.mean().item()
            if reached >= accuracy:
                break
    return reached


def take(stream: Iterator[Problem], count: int) -> list[Problem]:
    return [problem for problem, _ in zip(stream, range(count), strict=False)]


# ---- sampling and scoring -----------------------------------------------------------------------------------


@dataclass
class Rollout:
    """Responses, one per row: prompts on the left, responses on the right. B rows, T tokens, R of them responses.

    Attributes:
        ids_BT, attention_BT: prompt and response.
        mask_BR: 1 on generated tokens, the end token included.
        temperature_B: sampling temperature of each row.
        entropy_BR: full-vocabulary entropy at temperature 1, nats.
        prompt_B: index of the row's prompt.
        outcome_B, key: verdicts.
        truncated_B: stopped by the token limit.
    """

    ids_BT: Tensor
    attention_BT: Tensor
    mask_BR: Tensor
    temperature_B: Tensor
    entropy_BR: Tensor
    prompt_B: Tensor
    outcome_B: Tensor
    truncated_B: Tensor
    keys: list[str]

    @property
    def tokens_B(self) -> Tensor:
        return self.mask_BR.sum(-1)

    def rows(self, index: Tensor) -> Rollout:
        return Rollout(
            *(getattr(self, f.name)[index] for f in dataclasses.fields(self) if f.name != "keys"),
            keys=[self.keys[i] for i in index.tolist()],
        )


@torch.no_grad()
def sample(
    model: Any,
    task: Task,
    problems: Sequence[Problem],
    temperature_B: Tensor,
    generator: torch.Generator,
    prompt_B: Tensor | None = None,
) -> Rollout:
    """One response per problem, each at its own temperature (0: greedy), with a KV cache."""
    device = next(model.parameters()).device
    text, rows, limit = task.text, len(problems), task.max_tokens
    ids, attention = encode(text, [problem.prompt for problem in problems], device)
    tau = temperature_B.to(device, torch.float32)
    response = torch.full((rows, limit), text.pad, device=device)
    entropy = torch.zeros(rows, limit, device=device)
    mask = torch.zeros(rows, limit, dtype=torch.long, device=device)
    alive = torch.ones(rows, dtype=torch.bool, device=device)
    position = (attention.cumsum(-1) - 1).clamp(min=0)
    output = model(input_ids=ids, attention_mask=attention, position_ids=position, use_cache=True, logits_to_keep=1)
    full, position = attention, position[:, -1:]
    for column in range(limit):
        logits = output.logits[:, -1].float()
        plain = torch.log_softmax(logits, -1)
        scaled = torch.softmax(logits / torch.where(tau > 0, tau, 1.0)[:, None], -1)
        token = torch.where(tau > 0, torch.multinomial(scaled, 1, generator=generator)[:, 0], logits.argmax(-1))
        token = torch.where(alive, token, text.pad)
        response[:, column], mask[:, column] = token, alive.long()
        entropy[:, column] = -(plain.exp() * plain).sum(-1) * alive
        alive = alive & (token != text.end)
        if not bool(alive.any()) or column + 1 == limit:
            break
        full = torch.cat([full, torch.ones(rows, 1, dtype=torch.long, device=device)], -1)
        position = position + 1
        output = model(
            input_ids=token[:, None],
            attention_mask=full,
            position_ids=position,
            past_key_values=output.past_key_values,
            use_cache=True,
        )
    verdicts = [
        task.score(p, text.decode(r[m.bool()].tolist())) for p, r, m in zip(problems, response, mask, strict=True)
    ]
    return Rollout(
        ids_BT=torch.cat([ids, torch.where(mask.bool(), response, text.pad)], -1),
        attention_BT=torch.cat([attention, mask], -1),
        mask_BR=mask,
        temperature_B=tau,
        entropy_BR=entropy,
        prompt_B=torch.arange(rows) if prompt_B is None else prompt_B,
        outcome_B=torch.tensor([outcome for outcome, _ in verdicts]),
        truncated_B=alive.cpu(),
        keys=[key for _, key in verdicts],
    )


def joined(parts: Sequence[Rollout]) -> Rollout:
    """Rollouts of the same prompts as one, padded to one width on the left; rows sorted by prompt."""
    width = max(part.ids_BT.shape[1] for part in parts)

    def pad(part: Rollout, name: str, value: int) -> Tensor:
        tensor = getattr(part, name)
        return torch.nn.functional.pad(tensor, (width - tensor.shape[1], 0), value=value)

    whole = Rollout(
        ids_BT=torch.cat([pad(part, "ids_BT", 0) for part in parts]),
        attention_BT=torch.cat([pad(part, "attention_BT", 0) for part in parts]),
        mask_BR=torch.cat([part.mask_BR for part in parts]),
        temperature_B=torch.cat([part.temperature_B for part in parts]),
        entropy_BR=torch.cat([part.entropy_BR for part in parts]),
        prompt_B=torch.cat([part.prompt_B for part in parts]),
        outcome_B=torch.cat([part.outcome_B for part in parts]),
        truncated_B=torch.cat([part.truncated_B for part in parts]),
        keys=[key for part in parts for key in part.keys],
    )
    return whole.rows(torch.argsort(whole.prompt_B, stable=True))


def log_probs(model: Any, rollout: Rollout, own_temperature: bool) -> Tensor:
    """Log-probabilities [B, R] of the responses, at their sampling temperatures."""
    length = rollout.mask_BR.shape[1]
    used = max(1, int(rollout.tokens_B.max()))  # skip columns that no response of these rows reaches
    end = rollout.ids_BT.shape[1] - length + used
    position = (rollout.attention_BT.cumsum(-1) - 1).clamp(min=0)
    logits = model(
        input_ids=rollout.ids_BT[:, :end],
        attention_mask=rollout.attention_BT[:, :end],
        position_ids=position[:, :end],
        logits_to_keep=used + 1,
    ).logits[:, :-1]
    tau = rollout.temperature_B if own_temperature else 1.0
    target = rollout.ids_BT[:, end - used : end]
    scored = agpo_core.log_probs_at(logits.float(), target, tau) * rollout.mask_BR[:, :used]
    return torch.nn.functional.pad(scored, (0, length - used))


class MasterAdamW(torch.optim.AdamW):
    """AdamW on float32 copies of the parameters; a float32 parameter is its own copy."""

    def __init__(self, parameters: Iterator[Tensor], **settings: Any) -> None:
        self.pairs = [(p, p if p.dtype == torch.float32 else p.detach().float()) for p in parameters]
        super().__init__([master for _, master in self.pairs], **settings)

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for parameter, master in self.pairs:
            if parameter is not master and parameter.grad is not None:
                master.grad = parameter.grad.float()
        super().step()
        with torch.no_grad():
            for parameter, master in self.pairs:
                if parameter is not master:
                    parameter.copy_(master)

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        for parameter, _ in self.pairs:
            parameter.grad = None


# ---- the method, one step ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoopConfig:
    """Settings outside the method: sizes, optimiser, and GRPO's own settings."""

    prompts: int = 32
    group: int = 8
    updates: int = 4  # an epoch
    epochs: int = 1
    lr: float = 1e-4
    decay: str = "none"  # of the learning rate over the budget: none, or linear to 0
    desired_kl: float | None = None  # RSL-RL's adaptive schedule: every update's rate follows the KL so far
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float = 3.0  # as in verl
    temperature: float = 1.0
    aggregation: str = "token-mean"
    dynamic_sampling: bool = False  # groups of equal outcomes are replaced; their tokens count
    budget: int = 100_000  # generated tokens
    eval_every: int = 10_000  # generated tokens
    eval_problems: int = 256
    train_problems: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if isinstance(value, int) and name not in ("seed", "dynamic_sampling") and value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
            if name == "decay" and value not in ("none", "linear"):
                raise ValueError(f"decay={value}: must be none or linear")
            if isinstance(value, float) and not 0.0 < value < math.inf:
                raise ValueError(f"{name}={value}: must be a finite number above 0")


@dataclass
class Step:
    """The training data of one step: rows with advantage, clip ratios, weight and whether they are in the loss."""

    rollout: Rollout
    advantage_B: Tensor
    low_B: Tensor
    high_B: Tensor
    weight_B: Tensor
    in_loss_B: Tensor
    generated: int
    stats: agpo_core.ProbeStats
    metrics: dict[str, float]


class Method:
    """The controllers around one run."""

    def __init__(self, agpo: AGPOConfig, loop: LoopConfig) -> None:
        self.agpo, self.loop = agpo, loop
        self.controller = Controller(
            agpo,
            temperature=loop.temperature,
            clip_low=loop.clip_low,
            clip_high=loop.clip_high,
            group_size=loop.group,
            lr=loop.lr,
        )
        self.schedule = 1.0  # the decayed rate of this step over the configured one
        self._rate = loop.lr  # of `desired_kl`

    def collect(self, model: Any, task: Task, problems: Sequence[Problem], generator: torch.Generator) -> Step:
        """Probe, temperatures and sizes, the rest; then advantages, clip ratios and weights."""
        agpo, prompts, controller = self.agpo, len(problems), self.controller
        base, size = controller.settings.tau_base, controller.settings.probe_size

        def roll(count_P: Tensor, tau_P: Tensor) -> Rollout | None:
            prompt_B = torch.repeat_interleave(torch.arange(prompts), count_P)
            if not len(prompt_B):
                return None
            chosen = [problems[i] for i in prompt_B.tolist()]
            return sample(model, task, chosen, tau_P[prompt_B], generator, prompt_B)

        even = torch.full((prompts,), base, dtype=torch.float64)
        probe = roll(torch.full((prompts,), size), even)
        assert probe is not None, "a probe has at least one response"
        keys: list[list[str | None]] = [[] for _ in range(prompts)]
        for p, key in zip(probe.prompt_B.tolist(), probe.keys, strict=True):
            keys[p].append(key)
        stats = controller.probe(probe.outcome_B.reshape(prompts, -1), keys)
        tau_P = controller.decide_temperature(stats).tau
        extra = torch.tensor(controller.sizes(stats))
        rest = roll(extra, tau_P)
        parts = [part for part in ([probe] if agpo.probe.reuse or rest is None else []) + [rest] if part is not None]
        rollout = joined(parts)
        generated = int(probe.tokens_B.sum()) + (0 if rest is None else int(rest.tokens_B.sum()))
        return self.judged(rollout, stats, tau_P, generated)

    def judged(self, rollout: Rollout, stats: agpo_core.ProbeStats, tau_P: Tensor, generated: int) -> Step:
        """Advantages on outcomes, clip ratios from the frozen state, weights of rows."""
        agpo, prompt = self.agpo, rollout.prompt_B
        everyone = torch.ones(len(prompt), dtype=torch.bool)
        worth = agpo_core.response_advantages(
            rollout.outcome_B,
            rollout.outcome_B,
            prompt,
            everyone,
            rollout.tokens_B.cpu(),
            rollout.truncated_B,
            advantage=agpo.advantage,
            length=agpo.length,
        )
        entropy = float(rollout.entropy_BR.sum() / rollout.mask_BR.sum())
        self.signals = StepSignals(policy_entropy=entropy)
        clip = self.controller.decide_clip(stats, self.signals)
        low_P, high_P = clip.low.float(), clip.high.float()
        weight = torch.ones(len(prompt))
        if agpo.allocation.enabled and agpo.allocation.weighting == "prompts":
            weight = agpo_core.prompt_weights(torch.bincount(prompt, minlength=len(stats)))[prompt]
        metrics = {
            "outcome": float(rollout.outcome_B.mean()),
            "zero_variance": float(worth.zero_variance.float().mean()),
            "masked": 1.0 - float(worth.in_loss.float().mean()),
            "entropy": entropy,
            "length": float(rollout.tokens_B.float().mean()),
            "truncated": float(rollout.truncated_B.float().mean()),
            "tau": float(tau_P.mean()),
            "tau_min": float(tau_P.min()),
            "tau_max": float(tau_P.max()),
            "eps": float(high_P.mean()),
            "eps_min": float(high_P.min()),
            "eps_max": float(high_P.max()),
        }
        return Step(
            rollout,
            worth.advantages.float(),
            low_P[prompt],
            high_P[prompt],
            weight,
            worth.in_loss,
            generated,
            stats,
            metrics,
        )

    def loss(self, model: Any, step: Step, rows: Tensor, old: Tensor) -> tuple[Tensor, Any, Tensor]:
        """(loss, what the surrogate measured, weight per row) of one update."""
        agpo, device = self.agpo, old.device
        part = step.rollout.rows(rows)
        # Masked groups are left out of this update's denominator; prompts may be weighted equally.
        weight = step.weight_B[rows] * agpo_core.denominator_weights(
            part.tokens_B.cpu(), step.in_loss_B[rows], torch.zeros(len(rows), dtype=torch.long), self.loop.aggregation
        )
        out = agpo_core.clipped_surrogate(
            log_probs(model, part, agpo.logprob_temperature == "own"),
            old[rows],
            step.advantage_B[rows].to(device),
            part.mask_BR,
            step.low_B[rows],
            step.high_B[rows],
            dual_clip=self.loop.dual_clip,
        )
        if agpo.loss.adaptive != "none":
            # Whole groups are in one update here, so their losses are known at once.
            losses = agpo_core.group_losses(
                out.loss_BT, out.mask, part.prompt_B.to(device), len(step.stats), self.loop.aggregation
            )
            per_group = agpo_core.adaptive_weights(losses, agpo.loss.adaptive, agpo.loss.floor)
            weight = weight * per_group.float().cpu()[part.prompt_B]
        loss = agpo_core.aggregate(out.loss_BT * weight.to(device)[:, None], out.mask, self.loop.aggregation)
        return loss, out, weight

    def update(self, model: Any, optimiser: Any, step: Step, order: torch.Generator) -> dict[str, float]:
        """Several optimiser updates on one batch, whole groups to an update."""
        with torch.no_grad():
            old = log_probs(model, step.rollout, self.agpo.logprob_temperature == "own")
        count, seen = self.loop.updates * self.loop.epochs, 0
        sums = dict.fromkeys(("kl", "kl_k3", "clipped", "grad_norm", "group_weight", "lr"), 0.0)
        settings, entropy = self.agpo.step_size, self.signals.policy_entropy
        prompts = len(step.stats)
        batches = [torch.randperm(prompts, generator=order).chunk(self.loop.updates) for _ in range(self.loop.epochs)]
        for chosen in itertools.chain.from_iterable(batches):
            rows = torch.isin(step.rollout.prompt_B, chosen).nonzero().squeeze(-1)
            loss, out, weight = self.loss(model, step, rows, old)
            seen += 1
            sums["kl"] += float(out.step_kl)
            sums["kl_k3"] += float(out.step_kl_k3)
            if agpo_core.stops_updates(float(out.step_kl_k3), entropy, settings, self.schedule):
                break
            rate = self._rate_of_update(seen, float(out.step_kl_k3))
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            if torch.isfinite(norm):
                optimiser.step()
            sums["clipped"] += float(out.clip_fraction_low + out.clip_fraction_high)
            sums["grad_norm"] += float(norm)
            sums["group_weight"] += float(weight.mean())
            sums["lr"] += rate
        measured = {name: value / seen for name, value in sums.items()} | {"stopped": float(seen < count)}
        if settings.enabled and count == 1:
            measured["kl_k3"] = self.drift_after(model, step, old)
        return measured

    def _rate_of_update(self, number: int, kl: float) -> float:
        """The learning rate of an update; with `desired_kl`, RSL-RL's rule with its bounds."""
        wanted = self.loop.desired_kl
        if wanted is None:
            return self.loop.lr * self.schedule * self.controller.lr_scale
        if number > 1 and kl > 2.0 * wanted:  # before the first update the KL is rounding alone
            self._rate = max(1e-5, self._rate / 1.5)
        elif number > 1 and kl < wanted / 2.0:
            self._rate = min(1e-2, self._rate * 1.5)
        return self._rate

    def drift_after(self, model: Any, step: Step, old: Tensor) -> float:
        """k3 after the only update of a step, from an eighth of the rows, at least 32."""
        count = max(len(old) // 8, min(32, len(old)))
        rows = torch.arange(count) * len(old) // count
        part = step.rollout.rows(rows)
        with torch.no_grad():
            new = log_probs(model, part, self.agpo.logprob_temperature == "own")
        out = agpo_core.clipped_surrogate(new, old[rows], torch.zeros(len(rows)).to(old), part.mask_BR, 0.2, 0.2)
        return float(out.step_kl_k3)

    def gradient_cosine(self, model: Any, step: Step) -> float:
        """Cosine between the gradients of the two halves of a batch: 0 if they are independent noise."""
        with torch.no_grad():
            old = log_probs(model, step.rollout, self.agpo.logprob_temperature == "own")
        halves = []
        for odd in (0, 1):
            rows = (step.rollout.prompt_B % 2 == odd).nonzero().squeeze(-1)
            loss = self.loss(model, step, rows, old)[0]
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            halves.append(torch.cat([gradient.flatten() for gradient in gradients]))
        return float(torch.nn.functional.cosine_similarity(halves[0], halves[1], dim=0))

    def finish(self, step: Step, measured: dict[str, float]) -> None:
        """Update the state, once per step."""
        signals = dataclasses.replace(self.signals, step_kl=measured["kl"], step_kl_k3=measured["kl_k3"])
        informative = bool((step.advantage_B != 0.0).any())
        signals = dataclasses.replace(signals, schedule=self.schedule, informative=informative)
        self.controller.update(step.stats, signals)


def resampled(method: Method, model: Any, task: Task, stream: Iterator[Problem], draws: torch.Generator) -> Step:
    """Dynamic sampling: sample new prompts until the batch has enough groups with different outcomes."""
    wanted, kept, generated = method.loop.prompts, [], 0
    while len(kept) < wanted:
        step = method.collect(model, task, take(stream, wanted), draws)
        generated += step.generated
        for p in range(wanted):
            rows = (step.rollout.prompt_B == p).nonzero().squeeze(-1)
            outcomes = step.rollout.outcome_B[rows]
            if len(kept) < wanted and bool((outcomes != outcomes[0]).any()):
                group = step.rollout.rows(rows)
                group.prompt_B = torch.full((len(rows),), len(kept))
                kept.append((group, step.stats, p))
    rollout = joined([group for group, _, _ in kept])
    stats = agpo_core.merge_stats([one_prompt(s, p) for _, s, p in kept])
    tau = torch.stack([group.temperature_B[-1].double().cpu() for group, _, _ in kept])
    return method.judged(rollout, stats, tau, generated)


def one_prompt(stats: agpo_core.ProbeStats, p: int) -> agpo_core.ProbeStats:
    return agpo_core.ProbeStats(*(getattr(stats, f.name)[p : p + 1] for f in dataclasses.fields(stats)))


# ---- a run -------------------------------------------------------------------------------------------------


def train(model: Any, task: Task, agpo: AGPOConfig, loop: LoopConfig, log: Callable[[dict[str, Any]], None]) -> float:
    """Train until the token budget is spent; logs one record per step and returns the final held-out accuracy.

    With an average of the weights, ``accuracy`` is the average's and ``accuracy_raw`` that of the weights. The run
    itself is the same, bit for bit.
    """
    device = next(model.parameters()).device
    order = torch.Generator().manual_seed(loop.seed)
    draws = torch.Generator(device).manual_seed(loop.seed + 1)
    held_out, pool = task.problems("held_out", loop.eval_problems), task.problems("train", loop.train_problems)
    optimiser = MasterAdamW(model.parameters(), lr=loop.lr, betas=(0.9, 0.999), weight_decay=0.01)
    method, began = Method(agpo, loop), time.monotonic()
    average = WeightAverage.from_config(agpo.average)
    averaged_draws = torch.Generator(device).manual_seed(loop.seed + 2)
    if agpo.average.enabled:
        optimiser.register_step_post_hook(lambda *_: average.update(model.parameters()))

    def stream() -> Iterator[Problem]:
        while True:
            yield from (pool[i] for i in torch.randperm(len(pool), generator=order).tolist())

    def greedy(generator: torch.Generator) -> float:
        return float(sample(model, task, held_out, torch.zeros(len(held_out)), generator).outcome_B.mean())

    def evaluated() -> dict[str, float]:
        raw = greedy(draws)
        if not (agpo.average.enabled and agpo.average.validate):
            return {"accuracy": raw}
        with average.swapped(model.parameters()):
            return {"accuracy": greedy(averaged_draws), "accuracy_raw": raw}

    prompts, tokens, number, next_eval = stream(), 0, 0, loop.eval_every
    found = evaluated()
    log({"step": 0, "tokens": 0, **found, "seconds": 0.0})
    while tokens < loop.budget:
        number += 1
        if loop.dynamic_sampling:
            step = resampled(method, model, task, prompts, draws)
        else:
            step = method.collect(model, task, take(prompts, loop.prompts), draws)
        tokens += step.generated
        evaluates = tokens >= min(next_eval, loop.budget)
        record = {"step": number, "tokens": tokens, **step.metrics}
        if evaluates:
            record["gradient_cosine"] = method.gradient_cosine(model, step)
        if loop.decay == "linear":
            method.schedule = max(0.0, 1.0 - (tokens - step.generated) / loop.budget)
        record["lr_scale"] = method.controller.lr_scale
        record |= method.update(model, optimiser, step, order)
        method.finish(step, record)
        if evaluates:
            next_eval += loop.eval_every
            found = evaluated()
            record |= found
        log(record | {"seconds": time.monotonic() - began})
    return found["accuracy"]


def load(folder: Path, data: Path | None, max_tokens: int) -> tuple[Any, PreparedTask]:
    """A pretrained model in bfloat16, and its task."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if data is None or not (data / "train.parquet").is_file() or not (data / "test.parquet").is_file():
        raise ValueError(f"--data {data}: --model needs a folder with train.parquet and test.parquet")
    if max_tokens < 1:
        raise ValueError(f"--max-tokens {max_tokens}: must be at least 1")
    task = PreparedTask(data, chat_text(AutoTokenizer.from_pretrained(folder)), max_tokens)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval(), task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=sorted(GymTask.KINDS), default="spell_backward")
    parser.add_argument("--agpo", nargs="*", default=[], metavar="KEY=VALUE", help="settings of algorithm.agpo")
    parser.add_argument("--warm", type=float, default=0.3, help="accuracy at which the warm start stops")
    parser.add_argument("--model", type=Path, metavar="DIR", help="a pretrained checkpoint, e.g. of `agpo model get`")
    parser.add_argument("--data", type=Path, metavar="DIR", help="with --model: train.parquet and test.parquet")
    parser.add_argument("--max-tokens", type=int, default=16, help="with --model: longest response")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="one JSON line a step")
    for item in dataclasses.fields(LoopConfig):
        if item.type == "float | None":
            parser.add_argument(f"--{item.name.replace('_', '-')}", type=float)
        elif item.type in ("int", "float", "str"):
            parser.add_argument(f"--{item.name.replace('_', '-')}", type=type(item.default), default=item.default)
    parser.add_argument("--dynamic-sampling", action="store_true")
    given = vars(parser.parse_args())
    settings: dict[str, Any] = {}
    for pair in given["agpo"]:
        key, _, value = pair.partition("=")
        node = settings
        for name in key.split(".")[:-1]:
            node = node.setdefault(name, {})
        try:
            node[key.split(".")[-1]] = json.loads(value)
        except ValueError:
            node[key.split(".")[-1]] = value
    try:  # before the warm start
        config = AGPOConfig.from_dict(settings)
        device = torch.device(given["device"])
        loop = LoopConfig(**{f.name: given[f.name] for f in dataclasses.fields(LoopConfig)})
        if not 0.0 <= given["warm"] <= 1.0:
            raise ValueError(f"warm={given['warm']}: an accuracy from 0 to 1")
        Method(config, loop)
        agpo_core.aggregate(torch.zeros(1, 1), torch.ones(1, 1), loop.aggregation)
        if given["out"] is not None:
            given["out"].open("a").close()
        pretrained = load(given["model"], given["data"], given["max_tokens"]) if given["model"] else None
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        parser.error(str(error))
    task: Task
    if pretrained:
        model, task = pretrained[0].to(device), pretrained[1]
    else:
        task, model = GymTask(given["task"]), build_model(loop.seed).to(device)
        print(f"warm start: {warm_start(model, task, accuracy=given['warm'], seed=loop.seed):.3f}")

    def log(record: dict[str, Any]) -> None:
        if given["out"] is not None:
            with given["out"].open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        if "accuracy" in record:
            shown = ("step", "tokens", "accuracy", "accuracy_raw", "outcome", "zero_variance", "entropy", "tau", "eps")
            print(" ".join(f"{name}={record[name]:.4g}" for name in shown if name in record), flush=True)

    print(f"held-out accuracy: {train(model, task, config, loop, log):.3f}")


if __name__ == "__main__":
    main()
