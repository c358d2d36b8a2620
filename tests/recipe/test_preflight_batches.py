# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of batches and parallel sizes; every fix that a message offers is applied, and leaves no problem."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from recipe.agpo.preflight import batches, find_problems
from recipe.agpo.preflight.roles import roles
from recipe.agpo.settings import RunConfig
from tests.recipe.conftest import compose_verl
from tests.recipe.fixes import refused, ways_out

Build = Callable[..., Any]
A, REF, R, T = "actor_rollout_ref.actor", "actor_rollout_ref.ref", "actor_rollout_ref.rollout", "trainer"
MODEL = "actor_rollout_ref.model"
DYNAMIC, PACKED = f"{A}.use_dynamic_bsz=True", f"{MODEL}.use_remove_padding=True"
UNPACKED = f"{MODEL}.use_remove_padding=False"
LOSS = (f"{A}.use_kl_loss=True", f"{REF}.log_prob_micro_batch_size_per_gpu=4")
CRITIC = ("algorithm.adv_estimator=gae", "critic.ppo_micro_batch_size_per_gpu=4")
SEPARATE = (
    "trainer.v1.trainer_mode=separate_async",
    "trainer.v1.separate_async.parameter_sync_step=4",
    f"{A}.ppo_mini_batch_size=2",
    f"{A}.ppo_micro_batch_size_per_gpu=2",
    f"{R}.log_prob_micro_batch_size_per_gpu=2",
    f"{R}.nnodes=1",
    f"{R}.checkpoint_engine.backend=nccl",
)


@pytest.fixture(autouse=True)
def no_cpu_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGPO_CPU", raising=False)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        # 3 prompts x 3 responses on 2 ranks: the assertion that our own row order met after a whole rollout.
        (
            (f"{T}.n_gpus_per_node=2", DYNAMIC, f"{R}.n=3", f"{A}.ppo_mini_batch_size=3"),
            ("ppo_mini_batch_size=3 x", "n=3 = 9 rows", "2 data-parallel ranks", "2 or 4"),
        ),
        ((f"{T}.n_gpus_per_node=8", f"{A}.ppo_mini_batch_size=1"), ("= 4 rows", "8 data-parallel ranks")),
        (
            (
                f"{T}.n_gpus_per_node=4",
                PACKED,
                f"{A}.ulysses_sequence_parallel_size=2",
                DYNAMIC,
                f"{R}.n=1",
                "algorithm.agpo.preset=grpo",
                f"{A}.ppo_mini_batch_size=3",
            ),
            ("3 rows", "2 data-parallel ranks", "(4 GPU(s), 2 for one replica)"),
        ),
        ((f"{A}.ppo_mini_batch_size=12", f"{A}.ppo_epochs=2"), ("is larger than data.train_batch_size=8",)),
        ((f"{A}.ppo_micro_batch_size_per_gpu=3", f"{T}.n_gpus_per_node=2"), ("= 8)", "Nearest divisors of 8: 2 or 4")),
        ((f"{R}.log_prob_micro_batch_size_per_gpu=3",), ("32 rows / 1 ranks = 32", "2 or 4")),
        (
            (*LOSS, f"{REF}.log_prob_micro_batch_size_per_gpu=5"),
            (f"{REF}.log_prob_micro_batch_size_per_gpu=5", "4 or 8"),
        ),
        (("data.gen_batch_size=3",), ("data.gen_batch_size=3", "2 or 4")),
        (
            (
                *CRITIC,
                f"{T}.n_gpus_per_node=2",
                "critic.ppo_mini_batch_size=3",
                f"{R}.n=1",
                f"{A}.ppo_micro_batch_size_per_gpu=2",
                f"{R}.log_prob_micro_batch_size_per_gpu=2",
            ),
            ("critic.ppo_mini_batch_size=3 x", "3 rows", "2 or 4"),
        ),
        (
            (*SEPARATE, f"{R}.n_gpus_per_node=3", f"{R}.tensor_model_parallel_size=2", f"{T}.n_gpus_per_node=2"),
            (f"{R}.tensor_model_parallel_size=2", "the 3 GPU(s) of the rollout", "1 or 3"),
        ),
    ],
)
def test_batches(good_config: Build, overrides: tuple[str, ...], words: tuple[str, ...]) -> None:
    refused(good_config, overrides, *words)


def test_one_set_of_sizes_fixes_every_misfit(good_config: Build) -> None:
    """7 prompts x 3 responses in mini-batches of 3 on 2 GPUs: three sums do not work out, and one fix is for all."""
    overrides = ("data.train_batch_size=7", f"{A}.ppo_mini_batch_size=3", f"{R}.n=3", f"{T}.n_gpus_per_node=2")
    found = find_problems(good_config(*overrides))
    assert len(found) == 3
    assert len({tuple(ways_out(problem)[0]) for problem in found}) == 1
    for problem in found:
        assert find_problems(good_config(*overrides, *ways_out(problem)[0])) == []


@pytest.mark.parametrize("engine", ["dp", "megatron"])
def test_random_sizes_get_a_fix_that_fits(engine: str) -> None:
    """The invariant: whatever the sizes, those of the fix pass the same check."""
    rng = random.Random(0)
    base = compose_verl(f"model_engine={engine}", f"{R}.name=vllm", f"{R}.log_prob_micro_batch_size_per_gpu=1")
    refusals = 0
    for _ in range(150):
        config = base.copy()
        split = rng.choice([1, 2, 4])
        sizes = {
            "trainer.n_gpus_per_node": split * rng.choice([1, 2, 3, 4, 6]),
            "data.train_batch_size": rng.randint(1, 60),
            f"{A}.ppo_mini_batch_size": rng.randint(1, 60),
            f"{A}.ppo_micro_batch_size_per_gpu": rng.randint(1, 9),
            f"{R}.log_prob_micro_batch_size_per_gpu": rng.randint(1, 9),
            f"{R}.n": rng.randint(1, 9),
            f"{A}.use_dynamic_bsz": rng.random() < 0.3,
        }
        megatron = engine == "megatron"
        sizes[f"{A}.megatron.tensor_model_parallel_size" if megatron else f"{A}.ulysses_sequence_parallel_size"] = split
        for key, value in sizes.items():
            OmegaConf.update(config, key, value)
        for problem in list(batches.batches(config, RunConfig())):
            refusals += 1
            fixed = config.copy()
            for override in ways_out(problem)[0]:
                key, _, value = override.partition("=")
                OmegaConf.update(fixed, key, int(value))
            assert list(batches.batches(fixed, RunConfig())) == [], (sizes, problem)
    assert refusals > 50


def test_what_verl_asserts_is_what_is_checked() -> None:
    """verl's own sums, as its workers compute them, on random sizes: both agree on every case."""
    rng = random.Random(1)
    base = compose_verl(f"{R}.name=vllm", f"{R}.log_prob_micro_batch_size_per_gpu=1")
    both = [0, 0]
    for _ in range(300):
        gpus, n, batch = rng.choice([1, 2, 3, 4, 8]), rng.randint(1, 6), rng.randint(1, 24)
        mini, micro, scored = rng.randint(1, 24), rng.randint(1, 4), rng.randint(1, 6)
        config = base.copy()
        for key, value in {
            "trainer.n_gpus_per_node": gpus,
            "data.train_batch_size": batch,
            f"{A}.ppo_mini_batch_size": mini,
            f"{A}.ppo_micro_batch_size_per_gpu": micro,
            f"{R}.log_prob_micro_batch_size_per_gpu": scored,
            f"{R}.n": n,
            "critic.enable": False,
        }.items():
            OmegaConf.update(config, key, value)
        # validate_config, ActorConfig.validate, train_mini_batch, prepare_micro_batches (update, then log-probs).
        works = batch * n % gpus == 0 and batch >= mini and mini * n % gpus == 0
        padded = math.ceil(batch * n / math.lcm(gpus, mini * n)) * math.lcm(gpus, mini * n)
        works = works and mini * n // gpus % micro == 0 and padded // gpus % scored == 0
        assert (list(batches.batches(config, RunConfig())) == []) == works, (gpus, n, batch, mini, micro, scored)
        both[works] += 1
    assert min(both) > 10


# ---- tokens --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ((DYNAMIC, f"{A}.ppo_max_token_len_per_gpu=1000"), f"{A}.ppo_max_token_len_per_gpu"),
        ((DYNAMIC, f"{R}.log_prob_max_token_len_per_gpu=1000"), f"{R}.log_prob_max_token_len_per_gpu"),
        ((DYNAMIC, *LOSS, f"{REF}.log_prob_max_token_len_per_gpu=1000"), f"{REF}.log_prob_max_token_len_per_gpu"),
        ((*CRITIC, "+critic.ppo_infer_max_token_len_per_gpu=1000"), "critic.ppo_infer_max_token_len_per_gpu"),
        ((*CRITIC, "data.max_response_length=40000"), "critic.ppo_infer_max_token_len_per_gpu"),
        ((f"{R}.max_model_len=1000",), f"{R}.max_model_len"),
    ],
)
def test_the_longest_row_must_fit(good_config: Build, overrides: tuple[str, ...], key: str) -> None:
    assert key in refused(good_config, overrides, key, "tokens")[0]


@pytest.mark.parametrize(
    "overrides",
    [
        # Not used without dynamic batch sizes, without a reference, or without a critic.
        (f"{A}.ppo_max_token_len_per_gpu=10",),
        (DYNAMIC, f"{REF}.log_prob_max_token_len_per_gpu=10"),
        (DYNAMIC, *LOSS, f"{MODEL}.lora_rank=8", f"{REF}.log_prob_max_token_len_per_gpu=10"),
        ("+critic.ppo_infer_max_token_len_per_gpu=10",),
        # Ulysses multiplies it.
        (
            DYNAMIC,
            f"{T}.n_gpus_per_node=2",
            PACKED,
            f"{A}.ulysses_sequence_parallel_size=2",
            f"{A}.ppo_max_token_len_per_gpu=512",
        ),
        (f"{R}.max_model_len=1024",),
    ],
)
def test_budgets_that_are_enough_or_not_used(good_config: Build, overrides: tuple[str, ...]) -> None:
    assert find_problems(good_config(*overrides)) == []


def test_dynamic_batches_are_for_both_or_for_none(good_config: Build) -> None:
    refused(good_config, (DYNAMIC, f"{R}.log_prob_use_dynamic_bsz=False"), "log_prob_use_dynamic_bsz=False")


@pytest.fixture
def shaped(good_config: Build, tmp_path: Path) -> Build:
    """A model of 12 heads, 4 key-value heads, 6 layers and 2,048 positions."""
    values = {
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "num_hidden_layers": 6,
        "max_position_embeddings": 2048,
    }
    (tmp_path / "model" / "config.json").write_text(json.dumps(values))
    return good_config


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("data.max_response_length=2000",), ("2512 tokens", "2048 positions", "data.max_response_length=1536")),
        (("data.max_prompt_length=4000",), ("2048 positions", "data.max_prompt_length=1024")),
        ((f"{R}.max_model_len=4096",), ("max_model_len=4096", "2048 positions")),
        (
            (f"{T}.n_gpus_per_node=8", f"{A}.ppo_micro_batch_size_per_gpu=1", f"{R}.tensor_model_parallel_size=8"),
            ("12 attention heads", "Nearest valid: 4"),
        ),
        (
            (
                f"{T}.n_gpus_per_node=6",
                DYNAMIC,
                PACKED,
                f"{A}.ulysses_sequence_parallel_size=3",
                f"{A}.ppo_mini_batch_size=2",
            ),
            ("12 attention heads and 4 key-value heads", "Nearest valid: 2."),
        ),
    ],
)
def test_the_models_own_sizes(shaped: Build, overrides: tuple[str, ...], words: tuple[str, ...]) -> None:
    problems = find_problems(shaped(*overrides))
    assert len(problems) == 1 and [word for word in words if word not in problems[0]] == [], problems
    for way in ways_out(problems[0]):
        # 6 GPUs over sequences leave one rank: what remains must not be this problem again.
        assert [p for p in find_problems(shaped(*overrides, *way)) if "heads" in p or "positions" in p] == []


# ---- parallel sizes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ((f"{R}.tensor_model_parallel_size=2",), ("tensor_model_parallel_size=2", "the 1 GPU(s) of the run", "=1.")),
        ((f"{T}.n_gpus_per_node=2", f"{R}.tensor_model_parallel_size=3"), ("Nearest valid: 2",)),
        (
            (
                f"{T}.n_gpus_per_node=6",
                f"{T}.nnodes=2",
                DYNAMIC,
                f"{A}.ppo_mini_batch_size=3",
                f"{R}.tensor_model_parallel_size=4",
            ),
            ("12 GPU(s)", "6 on each node", "3 or 6"),
        ),
        ((f"{T}.n_gpus_per_node=2", f"{R}.data_parallel_size=4"), ("data_parallel_size=4",)),
        ((f"{R}.pipeline_model_parallel_size=2",), ("pipeline_model_parallel_size=2", "no pipeline")),
        ((f"{R}.expert_parallel_size=4",), ("expert_parallel_size=4", "= 1")),
        (
            (f"{T}.n_gpus_per_node=8", DYNAMIC, PACKED, f"{A}.ulysses_sequence_parallel_size=3"),
            ("3 GPUs hold one replica", "2 or 4"),
        ),
        (
            (f"{T}.n_gpus_per_node=2", DYNAMIC, PACKED, f"{A}.fsdp_config.ulysses_sequence_parallel_size=3"),
            ("Set", "=2."),
        ),
        (
            (f"{T}.n_gpus_per_node=2", DYNAMIC, f"{A}.ulysses_sequence_parallel_size=2", UNPACKED),
            ("packed", "use_remove_padding=True"),
        ),
        ((f"{T}.n_gpus_per_node=8", DYNAMIC, f"{A}.fsdp_config.fsdp_size=3"), ("fsdp_size=3",)),
        (
            (
                *CRITIC,
                f"{T}.n_gpus_per_node=2",
                f"{A}.ppo_micro_batch_size_per_gpu=2",
                "critic.model.use_remove_padding=True",
                "critic.fsdp.ulysses_sequence_parallel_size=4",
            ),
            ("critic.fsdp.ulysses_sequence_parallel_size=4",),
        ),
    ],
)
def test_parallel_sizes(good_config: Build, overrides: tuple[str, ...], words: tuple[str, ...]) -> None:
    refused(good_config, overrides, *words)


MEGATRON = f"{A}.megatron"
SIZES = (
    "tensor_model_parallel_size",
    "pipeline_model_parallel_size",
    "context_parallel_size",
    "expert_model_parallel_size",
)


@pytest.mark.parametrize(
    ("sizes", "named"),
    [
        ((3, 1, 1, 1), "tensor_model_parallel_size=2"),
        ((2, 3, 1, 1), "pipeline_model_parallel_size=2"),
        ((2, 2, 5, 1), "context_parallel_size=2"),
        ((2, 1, 1, 3), "expert_model_parallel_size=2"),
        ((16, 1, 1, 1), "tensor_model_parallel_size=8"),
    ],
)
def test_megatron(sizes: tuple[int, ...], named: str) -> None:
    """8 GPUs; the product of tensor, pipeline and context sizes must divide them, and that of the experts."""
    config = compose_verl("model_engine=megatron", f"{R}.name=vllm", f"{R}.tensor_model_parallel_size=1")
    for name, value in zip(SIZES, sizes, strict=True):
        config.actor_rollout_ref.actor.megatron[name] = value
    config.critic.enable = False
    (problem,) = batches.parallel(config, RunConfig())
    (way,) = ways_out(problem)
    assert way == [f"{MEGATRON}.{named}"]
    config.actor_rollout_ref.actor.megatron[named.partition("=")[0]] = int(named.partition("=")[2])
    assert list(batches.parallel(config, RunConfig())) == []


def test_megatron_and_the_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 12, "num_hidden_layers": 6}))
    config = compose_verl("model_engine=megatron", f"{R}.name=vllm", f"{R}.tensor_model_parallel_size=1")
    config.critic.enable = False
    config.actor_rollout_ref.model.path = str(tmp_path)
    config.actor_rollout_ref.actor.megatron.tensor_model_parallel_size = 8
    (heads,) = batches.parallel(config, RunConfig())
    assert "12 attention heads" in heads and ways_out(heads) == [[f"{MEGATRON}.tensor_model_parallel_size=4"]]
    config.actor_rollout_ref.actor.megatron.tensor_model_parallel_size = 1
    config.actor_rollout_ref.actor.megatron.pipeline_model_parallel_size = 4
    (layers,) = batches.parallel(config, RunConfig())
    assert "6 layers" in layers and ways_out(layers) == [[f"{MEGATRON}.pipeline_model_parallel_size=2"]]


def test_ranks_of_every_engine() -> None:
    for engine, settings, ranks, stretch in (
        ("dp", {f"{A}.ulysses_sequence_parallel_size": 2}, 4, 2),
        ("megatron", {f"{MEGATRON}.tensor_model_parallel_size": 2, f"{MEGATRON}.context_parallel_size": 2}, 2, 2),
        ("veomni", {f"{A}.veomni.ulysses_parallel_size": 4}, 2, 4),
        ("torchtitan", {f"{A}.torchtitan.tensor_parallel_size": 2}, 4, 2),
    ):
        config = compose_verl(f"model_engine={engine}", f"{R}.name=vllm")
        for key, value in settings.items():
            OmegaConf.update(config, key, value)
        actor = roles(config)[0]
        assert (actor.ranks, actor.stretch) == (ranks, stretch), engine
    (problem,) = [p for p in batches.parallel(config, RunConfig()) if p.startswith(A)]
    assert ways_out(problem) == [
        [f"{A}.torchtitan.data_parallel_shard_size=4", f"{A}.torchtitan.data_parallel_replicate_size=1"]
    ]


def test_divisors_and_neighbours() -> None:
    assert batches.divisors(12) == [1, 2, 3, 4, 6, 12] and batches.divisors(1) == [1]
    assert batches.closest(5, [1, 2, 3, 4, 6, 12]) == [4, 6] and batches.closest(99, [2, 4]) == [4]
    assert batches.multiples(7, 4) == [8, 4] and batches.multiples(3, 4) == [4]
