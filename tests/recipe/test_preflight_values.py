# SPDX-License-Identifier: Apache-2.0
"""Numbers, names, files and rows that would fail late; every fix that a message offers is applied."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from recipe.agpo.preflight import ConfigProblem, before_ray, find_problems, find_warnings, names, numbers
from recipe.agpo.preflight.rows import OUR_COLUMNS
from recipe.agpo.settings import RunConfig
from recipe.agpo.verl_api.names import BATCH_COLUMNS
from tests.recipe.conftest import compose_verl
from tests.recipe.fixes import refused, ways_out

Build = Callable[..., Any]
A, R = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
SWITCH = "algorithm.filter_groups"


@pytest.fixture(autouse=True)
def no_cpu_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGPO_CPU", raising=False)


# ---- numbers -------------------------------------------------------------------------------------------

NEEDED = ("data.train_batch_size", f"{R}.n", f"{A}.ppo_mini_batch_size", "trainer.nnodes", "data.max_response_length")
FRACTIONS = (f"{R}.temperature", f"{A}.optim.lr", f"{A}.clip_ratio", f"{R}.gpu_memory_utilization", "algorithm.gamma")


@pytest.mark.parametrize("value", ["null", "abc", "-1", ".nan", ".inf", "[1]", "true", "1.5", "0", "9" * 30])
@pytest.mark.parametrize("key", NEEDED)
def test_counts(good_config: Build, key: str, value: str) -> None:
    problems = find_problems(good_config(f"{key}={value}"))
    mine = [problem for problem in problems if problem.startswith(f"{key}=")]
    assert len(mine) == 1 and "must be a whole number from 1" in mine[0], problems
    (fix,) = ways_out(mine[0])[0]
    assert find_problems(good_config(f"{key}={value}", fix)) == []


@pytest.mark.parametrize("value", ["null", "abc", ".nan", ".inf", "[1]", "{a: 1}"])
@pytest.mark.parametrize("key", FRACTIONS)
def test_fractions(good_config: Build, key: str, value: str) -> None:
    refused(good_config, (f"{key}={value}",), f"{key}=", "finite number")


@pytest.mark.parametrize(
    "override",
    [
        f"{A}.optim.lr=-1",
        f"{R}.temperature=-0.5",
        f"{R}.top_p=0",
        f"{R}.top_p=1.5",
        f"{R}.top_k=-2",
        f"{R}.gpu_memory_utilization=1.2",
        f"{A}.clip_ratio_low=-0.1",
        f"{A}.clip_ratio_c=1.0",
        "trainer.total_epochs=0",
        "trainer.total_training_steps=0",
        "trainer.save_freq=null",
        "trainer.test_freq=often",
        "data.train_max_samples=null",
        f"{A}.use_dynamic_bsz=maybe",
        f"{A}.ppo_micro_batch_size_per_gpu=null",
        f"{R}.log_prob_micro_batch_size_per_gpu=null",
        f"{R}.val_kwargs.n=0",
        f"{R}.val_kwargs.temperature=null",
        f"{R}.agent.num_workers=0",
        f"{A}.fsdp_config.ulysses_sequence_parallel_size=0",
        # A number by verl's default, and no rule of its own.
        f"{A}.policy_loss.clip_cov_ratio=abc",
        f"{A}.entropy_from_logits_chunk_size=.nan",
    ],
)
def test_other_numbers(good_config: Build, override: str) -> None:
    refused(good_config, (override,), override.partition("=")[0])


@pytest.mark.parametrize(
    "overrides",
    [
        ("trainer.total_epochs=0", "trainer.val_only=True"),
        ("trainer.total_training_steps=null", "trainer.max_actor_ckpt_to_keep=null"),
        (f"{A}.clip_ratio_low=null", f"{A}.clip_ratio_high=null"),
        (f"{A}.optim.lr=0", f"{R}.top_k=0", "trainer.save_freq=20.0"),
        ("critic.ppo_mini_batch_size=abc",),  # there is no critic
        ("algorithm.rollout_correction.rollout_is_threshold=0.5_5.0",),
        ("data.val_batch_size=null", "data.seed=7", f"{A}.loss_scale_factor=null"),
    ],
)
def test_what_verl_accepts_passes(good_config: Build, overrides: tuple[str, ...]) -> None:
    assert find_problems(good_config(*overrides)) == []


@pytest.mark.parametrize("section", ["actor_rollout_ref", f"{R}.agent", f"{R}.val_kwargs", "trainer.v1", f"{A}.optim"])
@pytest.mark.parametrize("value", ["7", "null"])
def test_a_value_in_the_place_of_a_section(good_config: Build, section: str, value: str) -> None:
    problems = find_problems(good_config(f"{section}={value}"))
    assert len(problems) == 1 and f"{section}={value}: this is a section" in problems[0], problems


def test_what_refers_to_nothing(good_config: Build) -> None:
    config = good_config()
    OmegaConf.set_struct(config, False)
    config.data.train_batch_size = "${nowhere}"
    (problem,) = find_problems(config)
    assert problem.startswith("data.train_batch_size=") and "whole number" in problem


def test_the_rules_name_keys_that_verl_has() -> None:
    """A rule for a key that verl renamed would check nothing."""
    for engine in ("dp", "megatron", "torchtitan", "veomni"):
        config = compose_verl(f"model_engine={engine}", f"{A}.use_kl_loss=True")
        absent = [key for key in numbers.rules(config) if not numbers._value(config, key)[0]]
        followed = [key for key in absent if OmegaConf.select(config, key) is not None]  # from another key
        known = (
            "critic.ppo_infer_max_token_len_per_gpu",
            f"{A}.ulysses_sequence_parallel_size",
            f"{A}.optim.min_lr_ratio",
        )
        others = [name for name in numbers.ENGINES if f".{name}." in "".join(f".{key}." for key in absent)]
        left = [k for k in absent if k not in followed and k not in known and not any(f".{o}." in k for o in others)]
        assert [k for k in left if not k.startswith(("critic.optim", f"{A}.optim"))] == [], engine


def test_verls_own_defaults_are_numbers_that_pass() -> None:
    for engine in ("dp", "megatron", "torchtitan", "veomni"):
        config = compose_verl(
            f"model_engine={engine}",
            f"{A}.ppo_micro_batch_size_per_gpu=1",
            f"{R}.log_prob_micro_batch_size_per_gpu=1",
            "critic.ppo_micro_batch_size_per_gpu=1",
        )
        assert list(numbers.numbers(config, RunConfig())) == [], engine
        assert list(numbers.sections(config, RunConfig())) == [], engine


# ---- names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("agop", "agpo"),
        ("AGPO", "agpo"),
        ("agpo_d", "agpo"),
        ("gropo", "grpo"),
        ("reinforce_pp", "reinforce_plus_plus"),
        ("null", "agpo"),
    ],
)
def test_a_misspelt_estimator(good_config: Build, asked: str, meant: str) -> None:
    assert refused(good_config, (f"algorithm.adv_estimator={asked}",), asked) == [f"algorithm.adv_estimator={meant}"]


def test_a_misspelt_agpo_is_refused_in_any_run(good_config: Build) -> None:
    """Without a section algorithm.agpo nothing else of ours would look at the run."""
    config = good_config("algorithm.adv_estimator=agop", "~algorithm.agpo")
    with pytest.raises(ConfigProblem, match="nearest name is agpo"):
        before_ray(config)
    for others in ("grpo", "gpo", "mine"):
        before_ray(good_config(f"algorithm.adv_estimator={others}", "~algorithm.agpo"))


def test_an_estimator_of_another_plugin_is_known(good_config: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    config = good_config("algorithm.adv_estimator=mine")
    assert len(find_problems(config)) == 1
    monkeypatch.setattr(names.verl, "registered_estimators", lambda: {"mine"})
    assert find_problems(config) == []


def test_a_rollout_server_of_another_plugin_is_known(good_config: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    config = good_config(f"{R}.name=mine")
    assert len(find_problems(config)) == 1
    monkeypatch.setattr(names.verl, "registered_rollouts", lambda: {"mine"})
    assert find_problems(config) == []


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ((f"{SWITCH}.enable=True", f"{SWITCH}.metric=null"), (f"{SWITCH}.metric=null", "filter groups")),
        (
            (f"{SWITCH}.enable=True", f"{SWITCH}.metric=null", "+algorithm.agpo.outcome_key=acc"),
            (f"{SWITCH}.metric=acc",),
        ),
        (
            (
                f"{A}.use_kl_loss=True",
                "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=4",
                f"{A}.kl_loss_type=foo",
            ),
            ("kl_loss_type=foo", "low_var_kl"),
        ),
        (
            (
                "algorithm.use_kl_in_reward=True",
                "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=4",
                "algorithm.kl_penalty=ful",
            ),
            ("kl_penalty=ful",),
        ),
        ((f"{A}.loss_agg_mode=token_mean",), ("token_mean", "token-mean")),
        ((f"{R}.mode=sync",), ("mode=sync", "mode=async")),
        ((f"{R}.name=vlm",), ("name=vlm", "name=vllm")),
        ((f"{R}.agent.default_agent_loop=tool_agnt",), ("tool_agnt", "default_agent_loop=tool_agent")),
        ((f"{R}.agent.agent_loop_config_path=/no/loops.yaml",), ("/no/loops.yaml", "no such file")),
        ((f"{R}.multi_turn.tool_config_path=/no/tools.yaml",), ("/no/tools.yaml", "no such file")),
        ((f"{R}.multi_turn.function_tool_path=no/tools.py",), ("no/tools.py", "no such file")),
        (("data.custom_cls.path=/no/class.py",), ("/no/class.py",)),
        (("trainer.logger=[console,wandbb]",), ("wandbb", "[console,wandb]")),
        (("trainer.logger=null",), ("trainer.logger=null", "console")),
        (("trainer.logger=[console,nosuch,file]",), ("nosuch", "[console,file]")),
        (("trainer.resume_mode=atuo",), ("atuo", "resume_mode=auto")),
        ((f"{A}.strategy=fsdpp2",), ("fsdpp2", "strategy=fsdp2")),
        ((f"{A}.strategy=megatron",), ("actor.megatron is not there", "model_engine=megatron")),
        (("trainer.v1.trainer_mode=sepparate_async",), ("separate_async",)),
    ],
)
def test_names(good_config: Build, overrides: tuple[str, ...], words: tuple[str, ...]) -> None:
    problems = find_problems(good_config(*overrides))
    assert len(problems) == 1 and [word for word in words if word not in problems[0]] == [], problems
    if "trainer_mode" not in problems[0]:  # the mode that was meant needs more settings
        refused(good_config, overrides)


def test_a_logger_whose_package_is_missing(good_config: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(names.verl.LOGGERS, "swanlab", "no_such_package_here")
    refused(good_config, ("trainer.logger=[console,swanlab]",), "swanlab needs the package", "[console]")


def test_names_that_are_not_used_pass(good_config: Build) -> None:
    config = good_config(f"{A}.kl_loss_type=foo", "algorithm.kl_penalty=foo", f"{SWITCH}.metric=null")
    assert find_problems(config) == []
    (warning,) = find_warnings(config)
    assert "kl_loss_type=foo" in warning and "use_kl_loss=False" in warning
    plus = (
        f"{A}.use_kl_loss=True",
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=4",
        f"{A}.kl_loss_type=k3+",
    )
    assert find_problems(good_config(*plus)) == []


def test_an_agent_loop_of_the_users_own(good_config: Build, tmp_path: Path, rows: Any, write_parquet: Build) -> None:
    loops = tmp_path / "loops.yaml"
    loops.write_text("- {name: mine, _target_: my.Loop}\n")
    mine = (f"{R}.agent.agent_loop_config_path={loops}", f"{R}.agent.default_agent_loop=mine")
    assert find_problems(good_config(*mine)) == []
    data = write_parquet([row | {"agent_name": "mine"} for row in rows], "agents")
    files = (f"data.train_files={data}", f"data.val_files={data}")
    assert find_problems(good_config(*mine, *files)) == []
    unknown = find_problems(good_config(*files))
    assert len(unknown) == 2 and all("asks for mine" in problem for problem in unknown)
    loops.write_text("name: mine\n")
    refused(good_config, mine[:1], "not a YAML list")


@pytest.mark.parametrize("engine", ["torchtitan", "veomni"])
def test_engines_and_a_temperature_for_each_row(engine: str) -> None:
    """torchtitan divides [tokens, vocabulary] by [rows], which torch refuses; veomni inherits FSDP's, per token."""
    config = compose_verl(f"model_engine={engine}", "algorithm.adv_estimator=agpo", f"{R}.name=vllm")
    found = list(names.engine(config, RunConfig()))
    assert len(found) == (engine == "torchtitan")
    for problem in found:
        for way in ways_out(problem):
            settings = [part.partition("=")[2] for part in way if "logprob_temperature" in part]
            assert list(names.engine(config, RunConfig.from_dict({"logprob_temperature": settings[0]}))) == []


def test_sampling_that_is_not_what_it_says(good_config: Build) -> None:
    def warned(*overrides: str) -> list[str]:
        config = good_config(*overrides)
        assert find_problems(config) == []
        return find_warnings(config)

    (cut,) = warned(f"{R}.top_p=0.9", f"{R}.top_k=50")
    assert "top_p=0.9" in cut and "top_k=50" in cut and "truncated" in cut
    assert warned(f"{R}.top_p=0.9", f"{R}.top_k=50", *ways_out(cut)[0]) == []
    assert warned(f"{R}.top_k=0") == []  # off, in vLLM
    (ignored,) = warned(f"{R}.val_kwargs.temperature=0.6")
    assert "does not read do_sample" in ignored
    for way in ways_out(ignored):
        assert warned(f"{R}.val_kwargs.temperature=0.6", *way) == []
    (greedy,) = warned(f"{R}.val_kwargs.do_sample=True")
    assert "validation is greedy" in greedy


# ---- rows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("files", ["null", "[]", "''"])
def test_no_validation_file(good_config: Build, files: str) -> None:
    """verl reads it also where it never validates."""
    way = refused(good_config, (f"data.val_files={files}",), "data.val_files=", "before the first step")
    assert "trainer.test_freq=-1" in way


def test_no_training_file(good_config: Build) -> None:
    (problem,) = find_problems(good_config("data.train_files=null"))
    assert "data.train_files=null" in problem and "parquet" in problem


@pytest.mark.parametrize("name", ["temperature", "responses", "session_id", "agpo_tau", "values", "input_ids"])
def test_columns_of_ours_and_verls(good_config: Build, rows: Any, write_parquet: Build, name: str) -> None:
    data = write_parquet([row | {name: 1} for row in rows], name)
    (problem,) = find_problems(good_config(f"data.val_files={data}"))
    assert str(data) in problem and f"name(s) {name}" in problem
    # The fix is a command for the shell: its program renames the column.
    program = problem.partition('python -c "')[2].rpartition('"')[0]
    exec(program, {})
    assert find_problems(good_config(f"data.val_files={data}")) == []


def test_columns_that_verl_overwrites_itself(good_config: Build, rows: Any, write_parquet: Build) -> None:
    free = {"index": 1, "uid": "a", "ability": "math", "seed": 3, "agent_name": "single_turn_agent"}
    data = write_parquet([row | free for row in rows], "free")
    assert find_problems(good_config(f"data.train_files={data}", f"data.val_files={data}")) == []
    assert not set(free) & (BATCH_COLUMNS | OUR_COLUMNS)


@pytest.mark.parametrize(
    ("answers", "bad", "first"),
    [
        ([{"ground_truth": "1"}] * 7 + [{"ground_truth": None}], 1, 7),
        ([{"ground_truth": " "}] * 2 + [{"ground_truth": "1"}] * 6, 2, 0),
        ([{"style": "rule"}] * 8, 8, 0),
    ],
)
def test_rows_without_an_answer(
    good_config: Build, rows: Any, write_parquet: Build, answers: list[Any], bad: int, first: int
) -> None:
    data = write_parquet([row | {"reward_model": a} for row, a in zip(rows, answers, strict=True)], "answers")
    (problem,) = find_problems(good_config(f"data.val_files={data}"))
    assert f"{bad} of 8 rows have no ground truth" in problem and f"row {first}" in problem


def test_a_reward_function_that_needs_no_answer(
    good_config: Build, rows: Any, write_parquet: Build, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text("def score(*a, **k): return 1.0\n")
    own = (f"reward.custom_reward_function.path={tmp_path / 'own.py'}", "reward.custom_reward_function.name=score")
    empty = write_parquet([row | {"reward_model": {"ground_truth": None}} for row in rows], "empty")
    assert find_problems(good_config(*own, f"data.val_files={empty}")) == []
    unkeyed = write_parquet([row | {"reward_model": {"style": "rule"}} for row in rows], "unkeyed")
    assert "8 of 8" in find_problems(good_config(*own, f"data.val_files={unkeyed}"))[0]


def test_a_model_that_is_not_named_or_cannot_be_read(good_config: Build, tmp_path: Path) -> None:
    (problem,) = find_problems(good_config("actor_rollout_ref.model.path=null"))
    assert "names no model" in problem
    (tmp_path / "model" / "config.json").write_text("{")
    (problem,) = find_problems(good_config())
    assert "cannot be read" in problem
