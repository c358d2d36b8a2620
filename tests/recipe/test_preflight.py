# SPDX-License-Identifier: Apache-2.0
"""Everything that is known to go wrong is said before Ray starts: key, value, fix."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from agpo_core import AverageConfig, ControllerState, TokenLedger
from recipe.agpo.preflight import ConfigProblem, before_ray, find_problems, find_warnings, problem_in
from recipe.agpo.settings import RunConfig
from recipe.agpo.training import checkpoint

Build = Callable[..., Any]


@pytest.fixture(autouse=True)
def no_cpu_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGPO_CPU", raising=False)


def only(problems: list[str], *words: str) -> None:
    """Exactly one problem, with all these words in it."""
    assert len(problems) == 1, problems
    assert [word for word in words if word not in problems[0]] == [], problems[0]


def test_a_good_config_has_no_problem_and_no_warning(good_config: Build) -> None:
    config = good_config()
    assert find_problems(config) == []
    assert find_warnings(config) == []
    before_ray(config)


def test_other_estimators_are_left_alone(good_config: Build) -> None:
    """A GRPO run with a config that AGPO would refuse starts, and is not changed."""
    config = good_config(
        "algorithm.adv_estimator=grpo",
        "~algorithm.agpo",
        "actor_rollout_ref.rollout.n=1",
        "data.train_files=nowhere.parquet",
    )
    before = OmegaConf.to_yaml(config)
    before_ray(config)
    assert OmegaConf.to_yaml(config) == before


def test_an_estimator_with_a_token_budget_is_checked(good_config: Build, run_folder: Path) -> None:
    grpo = ("algorithm.adv_estimator=grpo", "+algorithm.agpo.token_budget=1000", "actor_rollout_ref.rollout.n=1")
    assert find_warnings(good_config(*grpo)) == []
    before_ray(good_config(*grpo))
    with pytest.raises(ConfigProblem, match=r"token_budget=0: must be >= 1"):
        before_ray(good_config("algorithm.adv_estimator=grpo", "+algorithm.agpo.token_budget=0"))
    (run_folder / "global_step_3" / checkpoint.LEDGER_FILE).write_text("{")
    with pytest.raises(ConfigProblem, match="token ledger"):
        before_ray(good_config(*grpo))
    before_ray(good_config("algorithm.adv_estimator=grpo", "~algorithm.agpo"))


def test_controller_settings_of_another_estimator_are_pointed_out(good_config: Build) -> None:
    warnings = find_warnings(good_config("algorithm.adv_estimator=grpo", "+algorithm.agpo.clip.enabled=false"))
    only(
        warnings,
        "algorithm.adv_estimator=grpo",
        "only token_budget, lr_schedule and average",
        "algorithm.adv_estimator=agpo",
    )


def test_all_problems_come_in_one_message(good_config: Build) -> None:
    config = good_config("trainer.use_v1=False", "data.train_files=nowhere.parquet")
    with pytest.raises(ConfigProblem) as caught:
        before_ray(config)
    assert "2 problem(s)" in str(caught.value)
    assert "trainer.use_v1=True" in str(caught.value) and "nowhere.parquet" in str(caught.value)


# ---- algorithm.agpo ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("+algorithm.agpo.temperature.gian=0.2", ["temperature.gian", "unknown", "temperature.gain"]),
        ("+algorithm.agpo.clip.max=1.2", ["algorithm.agpo.clip.max=1.2", "< 1"]),
        ("+algorithm.agpo.temperature.min=1.2", ["algorithm.agpo.temperature.min=1.0"]),
        ("actor_rollout_ref.rollout.temperature=2.0", ["2.0", "algorithm.agpo.temperature.max=2.0"]),
        (
            "actor_rollout_ref.actor.clip_ratio_high=0.0",
            ["actor_rollout_ref.actor.clip_ratio_high=0.0", "above 0", "actor_rollout_ref.actor.clip_ratio_high=0.2"],
        ),
        (
            "actor_rollout_ref.actor.clip_ratio_low=0.5",
            ["clip_ratio_low=0.5 is above actor_rollout_ref.actor.clip_ratio_high=0.2", "clip_ratio_low=0.2"],
        ),
        ("+algorithm.agpo.probe.size=5", ["algorithm.agpo.probe.size=5", "4"]),
        ("actor_rollout_ref.rollout.n=1", ["actor_rollout_ref.rollout.n=1", "rollout.n=8", "preset=grpo"]),
        (
            "actor_rollout_ref.rollout.temperature=0.0",
            ["actor_rollout_ref.rollout.temperature=0.0", "must be > 0", "1.0"],
        ),
    ],
)
def test_bad_settings_of_ours(good_config: Build, override: str, words: list[str]) -> None:
    only(find_problems(good_config(override)), *words)


def test_a_single_response_is_fine_with_preset_grpo(good_config: Build) -> None:
    assert find_problems(good_config("algorithm.agpo.preset=grpo", "actor_rollout_ref.rollout.n=1")) == []


# ---- verl's settings ---------------------------------------------------------------------------------


def test_another_verl_version_names_the_seams(good_config: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    fake = lambda name: "0.10.0" if name == "verl" else real(name)  # noqa: E731
    monkeypatch.setattr(importlib.metadata, "version", fake)
    only(find_problems(good_config()), "verl 0.10.0", "verl==0.9.1", "verl_api")


SEPARATE = (
    "trainer.v1.trainer_mode=separate_async",
    "trainer.v1.separate_async.parameter_sync_step=4",
    "data.train_batch_size=8",
    "actor_rollout_ref.actor.ppo_mini_batch_size=2",
    "actor_rollout_ref.rollout.nnodes=1",
    "actor_rollout_ref.rollout.n_gpus_per_node=1",
    "actor_rollout_ref.rollout.checkpoint_engine.backend=nccl",
)


def test_trainer_modes(good_config: Build) -> None:
    assert find_problems(good_config("trainer.v1.trainer_mode=colocate_async")) == []
    assert find_problems(good_config(*SEPARATE)) == []
    refused = find_problems(good_config("trainer.v1.trainer_mode=own"))
    only(refused, "trainer.v1.trainer_mode=own", "sync or colocate_async or separate_async")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.train_batch_size=6", ("parameter_sync_step=4", "ppo_mini_batch_size=1", "data.train_batch_size=4")),
        ("actor_rollout_ref.rollout.nnodes=0", ("rollout.nnodes=0", "at least 1", "rollout.nnodes=1")),
        (
            "actor_rollout_ref.rollout.checkpoint_engine.backend=naive",
            ("backend=naive", "checkpoint_engine.backend=nccl"),
        ),
        ("actor_rollout_ref.hybrid_engine=False", ("hybrid_engine=False", "VERL_LOGGING_LEVEL=WARNING")),
    ],
)
@pytest.mark.parametrize("estimator", ["agpo", "grpo"])
def test_what_separate_async_would_stop_at_late(
    good_config: Build, override: str, words: tuple[str, ...], estimator: str
) -> None:
    section = "+algorithm.agpo.token_budget=9" if estimator == "grpo" else "algorithm.adv_estimator=agpo"
    only(find_problems(good_config(*SEPARATE, f"algorithm.adv_estimator={estimator}", section, override)), *words)


def test_a_schedule_by_tokens_needs_a_budget(good_config: Build) -> None:
    only(find_problems(good_config("+algorithm.agpo.lr_schedule=tokens")), "lr_schedule=tokens", "token_budget")
    assert find_problems(good_config("+algorithm.agpo.lr_schedule=tokens", "+algorithm.agpo.token_budget=9")) == []


def test_a_broken_check_hides_no_other(good_config: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    from recipe.agpo.preflight import resources

    def broken(config: Any, agpo: Any) -> Any:
        yield "trainer.default_local_dir=x: found before it breaks"
        raise ZeroDivisionError("a bug")

    broken.__module__, broken.__name__ = resources.__name__, "disk"
    monkeypatch.setattr("recipe.agpo.preflight.OF_VERL", (broken,))
    config = good_config("trainer.use_v1=False")
    found = find_problems(config)
    assert len(found) == 3 and "found before" in found[0] and "trainer.use_v1=True" in found[2]
    assert "resources.disk failed (ZeroDivisionError: a bug" in found[1]
    monkeypatch.setenv("AGPO_SKIP_CHECKS", "resources.disk")  # the way out that the message names
    only(find_problems(config), "trainer.use_v1=True")
    assert "resources.disk is left out" in find_warnings(config)[0]


def test_bad_settings_of_ours_do_not_hide_verls(good_config: Build) -> None:
    found = find_problems(good_config("+algorithm.agpo.temperature.gian=0.2", "data.train_files=/no/data.parquet"))
    assert len(found) == 2 and "temperature.gian" in found[0] and "/no/data.parquet" in found[1]
    only(find_problems(good_config("algorithm.agpo=5")), "algorithm.agpo=5", "section")


class Carried(RuntimeError):
    """As Ray's error of a task: its text is a traceback, and the exception is its cause."""

    def __init__(self, cause: Exception) -> None:
        super().__init__("ray::TaskRunner.run() Traceback ...")
        self.cause = cause


def test_a_problem_is_found_in_what_is_raised_around_it() -> None:
    problem = ConfigProblem("AGPO cannot start")
    around = RuntimeError("hydra")
    around.__cause__ = Carried(problem)
    assert problem_in(around) is problem and problem_in(problem) is problem
    assert problem_in(ValueError("another")) is None and problem_in(None) is None


def test_the_old_trainer_is_refused(good_config: Build) -> None:
    only(find_problems(good_config("trainer.use_v1=False")), "trainer.use_v1=False", "trainer.use_v1=True")


def test_corrected_scoring_needs_weights_and_the_samplers_log_probs(good_config: Build) -> None:
    problems = find_problems(
        good_config(
            "+algorithm.agpo.logprob_temperature=corrected", "actor_rollout_ref.rollout.calculate_log_probs=False"
        )
    )
    assert len(problems) == 2
    assert "algorithm.rollout_correction.rollout_is=token" in problems[0]
    assert "actor_rollout_ref.rollout.calculate_log_probs=True" in problems[1]


@pytest.mark.parametrize("mode", ["clip_cov", "geo_mean", "sapo"])
def test_a_loss_that_is_not_ours_to_measure_is_refused_once(good_config: Build, mode: str) -> None:
    loss_mode = "actor_rollout_ref.actor.policy_loss.loss_mode"
    clip, step = "+algorithm.agpo.clip.enabled=false", "+algorithm.agpo.step_size.enabled=false"
    refused = find_problems(good_config(f"{loss_mode}={mode}"))
    only(refused, f"{loss_mode}={mode}", f"Set {clip} and {step}", f"{loss_mode}=vanilla", "gspo")
    only(find_problems(good_config(f"{loss_mode}={mode}", clip)), f"Set {step}, or")
    only(find_problems(good_config(f"{loss_mode}={mode}", step)), f"Set {clip}, or")
    assert find_problems(good_config(f"{loss_mode}={mode}", clip, step)) == []
    assert find_problems(good_config(f"{loss_mode}=gspo")) == []


@pytest.mark.parametrize("estimator", ["agpo", "grpo"])
def test_an_average_of_the_weights_needs_fsdp2(good_config: Build, estimator: str) -> None:
    given = (f"algorithm.adv_estimator={estimator}", "+algorithm.agpo.average.enabled=true")
    fsdp2 = ("actor_rollout_ref.actor.strategy=fsdp2", "actor_rollout_ref.actor.fsdp_config.strategy=fsdp2")
    assert find_problems(good_config(*given, *fsdp2)) == []
    for strategy in ("fsdp", "megatron"):
        problems = find_problems(good_config(*given, f"actor_rollout_ref.actor.strategy={strategy}"))
        # In this configuration Megatron's own section is missing too.
        problems = [problem for problem in problems if "average" in problem]
        only(problems, f"actor.strategy={strategy}", "actor.strategy=fsdp2", "average.enabled=false", "agpo average")


@pytest.mark.parametrize("estimator", ["agpo", "grpo"])
def test_validation_stays_on_the_raw_weights_where_the_rollout_goes_on(good_config: Build, estimator: str) -> None:
    given = (f"algorithm.adv_estimator={estimator}", "+algorithm.agpo.average.enabled=true")
    mode = "trainer.v1.trainer_mode=colocate_async"
    only(find_warnings(good_config(*given, mode)), "average.validate=true", mode, "agpo eval")
    assert find_warnings(good_config(*given)) == []
    assert find_warnings(good_config(*given, mode, "+algorithm.agpo.average.validate=false")) == []


@pytest.mark.parametrize(
    ("given", "off"),
    [
        ((), ("clip.enabled=false", "step_size.enabled=false")),
        (("clip.enabled=false",), ("step_size.enabled=false",)),
        (
            ("clip.enabled=false", "step_size.enabled=false", "advantage.zero_variance=mask"),
            ("advantage.zero_variance=keep",),
        ),
        (("step_size.enabled=false", "loss.adaptive=exp"), ("clip.enabled=false", "loss.adaptive=none")),
    ],
)
def test_distillation_keeps_its_own_loss(good_config: Build, given: tuple[str, ...], off: tuple[str, ...]) -> None:
    """AGPO's loss would replace it in the workers, whichever part of AGPO asks for that loss."""
    mine = [f"+algorithm.agpo.{setting}" for setting in given]
    config = good_config("distillation.enabled=True", *mine)
    only(find_problems(config), "distillation.enabled=True", "distillation.enabled=False", *off)
    fixed = [f"+algorithm.agpo.{setting}" for setting in off]
    assert find_problems(good_config("distillation.enabled=True", *mine, *fixed)) == []


def test_a_foreign_agent_loop_manager_is_refused(good_config: Build) -> None:
    override = "+actor_rollout_ref.rollout.agent.agent_loop_manager_class=my.Manager"
    only(find_problems(good_config(override)), "agent_loop_manager_class=my.Manager", "Leave the key out")
    old = "+actor_rollout_ref.rollout.agent.agent_loop_manager_class=recipe.agpo.rollout.AGPOAgentLoopManager"
    assert find_problems(good_config(old)) == []


def test_a_late_reward_model_is_refused(good_config: Build) -> None:
    late = ("reward.reward_model.enable=True", "reward.reward_model.enable_resource_pool=False")
    only(find_problems(good_config(*late)), "reward.reward_model.enable=True", "enable_resource_pool=True")


def test_group_filtering_on_shaped_rewards_is_refused(good_config: Build) -> None:
    config = good_config("+algorithm.agpo.outcome_key=acc")
    OmegaConf.set_struct(config, False)
    config.algorithm.filter_groups = {"enable": True, "metric": "reward"}
    only(find_problems(config), "filter_groups.metric=reward", "filter_groups.metric=acc")
    config.algorithm.filter_groups.metric = "acc"
    assert find_problems(config) == []


# ---- model and data ----------------------------------------------------------------------------------


def test_a_missing_model_folder(good_config: Build) -> None:
    only(find_problems(good_config("actor_rollout_ref.model.path=/no/model")), "/no/model", "config.json")
    assert find_problems(good_config("actor_rollout_ref.model.path=Qwen/Qwen2.5-0.5B")) == []


def test_a_missing_data_file(good_config: Build) -> None:
    for key in ("train_files", "val_files"):
        only(find_problems(good_config(f"data.{key}=/no/data.parquet")), f"data.{key}=/no/data.parquet")


def test_a_missing_column(good_config: Build, write_parquet: Build, rows: list[dict[str, Any]]) -> None:
    path = write_parquet([{"prompt": r["prompt"], "answer": "1"} for r in rows], "columns")
    only(find_problems(good_config(f"data.train_files={path}")), str(path), "data_source, reward_model", "answer")


def test_another_prompt_column(good_config: Build, write_parquet: Build, rows: list[dict[str, Any]]) -> None:
    renamed = [{"question": r.pop("prompt"), **r} for r in rows]
    path = write_parquet(renamed, "renamed")
    files = (f"data.train_files={path}", f"data.val_files={path}")
    assert "column(s) prompt missing" in find_problems(good_config(*files))[0]
    assert find_problems(good_config(*files, "data.prompt_key=question")) == []


def test_an_empty_data_set(good_config: Build, write_parquet: Build) -> None:
    path = write_parquet([], "empty", columns=["prompt", "data_source", "reward_model"])
    only(find_problems(good_config(f"data.train_files={path}")), "empty", "data.train_batch_size")


def test_a_file_that_is_not_parquet(good_config: Build, tmp_path: Path) -> None:
    path = tmp_path / "text.parquet"
    path.write_text("not parquet")
    only(find_problems(good_config(f"data.train_files={path}")), str(path), "not a readable parquet file")


def test_fewer_prompts_than_a_batch(good_config: Build) -> None:
    problems = find_problems(good_config("data.train_batch_size=9"))
    only(problems, "holds 8 prompts", "data.train_batch_size=9", "data.train_batch_size=8 or less")


def test_files_elsewhere_are_not_judged_but_local_ones_are(good_config: Build) -> None:
    config = good_config("data.train_files=[hdfs://a/b.parquet]", "data.val_files=/no/data.parquet")
    only(find_problems(config), "data.val_files=/no/data.parquet")


# ---- resuming ----------------------------------------------------------------------------------------


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """Output folder of a run that saved step 3 with the default config."""
    folder = tmp_path / "run"
    step = folder / "global_step_3"
    checkpoint.write_state(step, ControllerState.initial(RunConfig()), RunConfig())
    checkpoint.write_ledger(step, TokenLedger(generated=70))
    (step / "data.pt").write_bytes(b"")
    (folder / checkpoint.TRACKER_FILE).write_text("3")
    return folder


def test_a_good_checkpoint_resumes(good_config: Build, run_folder: Path) -> None:
    assert find_problems(good_config()) == []


def test_a_damaged_average_of_the_weights(good_config: Build, run_folder: Path) -> None:
    on = (
        "+algorithm.agpo.average.enabled=true",
        "actor_rollout_ref.actor.strategy=fsdp2",
        "actor_rollout_ref.actor.fsdp_config.strategy=fsdp2",
    )
    assert find_problems(good_config(*on)) == [], "a checkpoint without one begins it"
    step = run_folder / "global_step_3"
    checkpoint.write_average(step, 6, AverageConfig())
    assert find_problems(good_config(*on)) == [] and checkpoint.read_average(step) == 6
    path = checkpoint.average_folder(step) / "agpo_average.json"
    for damage in (lambda: path.write_text(path.read_text()[:40]), path.unlink):
        damage()
        only(find_problems(good_config(*on)), str(path), "remove that folder", "average.enabled=false")
        assert find_problems(good_config()) == [], "nobody asks for it"


def test_a_corrupt_state_file(good_config: Build, run_folder: Path) -> None:
    state = run_folder / "global_step_3" / checkpoint.STATE_FILE
    state.write_text(state.read_text()[:40])
    only(find_problems(good_config()), str(state), "damaged", "trainer.resume_mode=disable")
    assert find_problems(good_config("trainer.resume_mode=disable")) == []
    assert find_problems(good_config("+algorithm.agpo.on_config_change=reset")) == []


def test_an_edited_state_file(good_config: Build, run_folder: Path) -> None:
    state = run_folder / "global_step_3" / checkpoint.STATE_FILE
    document = json.loads(state.read_text())
    document["state"]["step"] = 99
    state.write_text(json.dumps(document))
    only(find_problems(good_config()), "checksum")


def test_a_checkpoint_without_our_state(good_config: Build, run_folder: Path) -> None:
    (run_folder / "global_step_3" / checkpoint.STATE_FILE).unlink()
    only(find_problems(good_config()), "missing", "on_config_change=reset")


def test_a_state_of_another_config(good_config: Build, run_folder: Path) -> None:
    other = "+algorithm.agpo.temperature.gain=0.3"
    only(find_problems(good_config(other)), "other algorithm.agpo settings", "on_config_change=keep")
    for way_out in ("keep", "reset"):
        assert find_problems(good_config(other, f"+algorithm.agpo.on_config_change={way_out}")) == []
    assert find_problems(good_config("+algorithm.agpo.reward_timeout_s=5")) == []


def test_a_damaged_tracker_is_repaired(good_config: Build, run_folder: Path) -> None:
    tracker = run_folder / checkpoint.TRACKER_FILE
    tracker.write_text("")
    assert find_problems(good_config()) == []
    assert tracker.read_text() == "3"


def test_a_damaged_tracker_without_a_complete_checkpoint(good_config: Build, run_folder: Path) -> None:
    (run_folder / "global_step_3" / "data.pt").unlink()
    (run_folder / checkpoint.TRACKER_FILE).write_text("3x")
    only(find_problems(good_config()), "damaged ('3x')", "trainer.resume_mode=disable")


def test_a_resume_path_that_is_no_checkpoint(good_config: Build) -> None:
    mode = "trainer.resume_mode=resume_path"
    only(find_problems(good_config(mode)), "trainer.resume_from_path=None", "global_step_N")
    only(find_problems(good_config(mode, "trainer.resume_from_path=/no/global_step_7")), "/no/global_step_7")


# ---- warnings ----------------------------------------------------------------------------------------


def test_one_update_per_batch_warns(good_config: Build, capsys: pytest.CaptureFixture[str]) -> None:
    fixed = "+algorithm.agpo.step_size.enabled=false"
    config = good_config("actor_rollout_ref.actor.ppo_mini_batch_size=8", fixed)
    only(find_warnings(config), "ppo_mini_batch_size=8", "importance ratio is 1", "ppo_epochs=2")
    before_ray(config)
    assert "WARNING" in capsys.readouterr().out
    quiet = (("actor_rollout_ref.actor.ppo_epochs=2",), ("+algorithm.agpo.clip.enabled=false", fixed))
    for enough in quiet:
        assert find_warnings(good_config("actor_rollout_ref.actor.ppo_mini_batch_size=8", *enough)) == []


def test_uncorrected_scoring_warns(good_config: Build) -> None:
    warned = find_warnings(good_config("+algorithm.agpo.logprob_temperature=uncorrected"))
    only(warned, "logprob_temperature=uncorrected", "own")


# ---- verifiers ---------------------------------------------------------------------------------------


def test_our_verifiers_are_tried_before_ray(good_config: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    monkeypatch.setattr("recipe.agpo.preflight.rewards.self_test", lambda kinds, runner: tried.append(kinds) or ["no"])
    ours = ("reward.custom_reward_function.path=pkg://recipe.agpo.rewards",)
    problems = find_problems(good_config(*ours))
    assert [problem.split("=")[0] for problem in problems] == ["data.train_files", "data.val_files"]
    only(problems[:1], "data_source='chain_sum'", "extra_info['verifier']", "reward_kwargs.kind")
    kind = "+reward.custom_reward_function.reward_kwargs.kind=math"
    only(find_problems(good_config(*ours, kind)), "pkg://recipe.agpo.rewards: no", "agpo doctor")
    assert tried == [{"math"}]


def test_working_verifiers_are_no_problem(good_config: Build, rows: Any, write_parquet: Any) -> None:
    data = write_parquet([row | {"extra_info": {"verifier": "choice"}} for row in rows], name="choices")
    ours = ("reward.custom_reward_function.path=pkg://recipe.agpo.rewards",)
    files = (f"data.train_files={data}", f"data.val_files={data}")
    assert find_problems(good_config(*ours, *files)) == []


def test_training_on_a_test_split_is_refused(good_config: Build, rows: Any, write_parquet: Any) -> None:
    data = write_parquet([row | {"extra_info": {"split": "test", "verifier": "math"}} for row in rows], name="renamed")
    only(find_problems(good_config(f"data.train_files={data}")), "data.train_files", "renamed", "test")
    assert find_problems(good_config(f"data.val_files={data}")) == []


def test_a_disk_that_is_too_small_for_the_checkpoints(good_config: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    model = "actor_rollout_ref.model.path=Qwen/Qwen2.5-14B"
    settings = ("trainer.save_freq=5", "trainer.max_actor_ckpt_to_keep=2", model)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 400 * 2**30))
    only(find_problems(good_config(*settings)), "400 GiB are free", "165.1 each", "ckpt_to_keep", "save_freq=-1")
    assert find_problems(good_config(*settings, "actor_rollout_ref.model.lora_rank=32")) == []
    assert find_problems(good_config(*settings, "trainer.save_freq=-1")) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 500 * 2**30))
    assert find_problems(good_config(*settings)) == []


# ---- groups, loss, allocation --------------------------------------------------------------------------

FILTER = ("+algorithm.filter_groups.enable=true", "+algorithm.filter_groups.metric=acc")
LOSS_MODE = "actor_rollout_ref.actor.policy_loss.loss_mode"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ("+algorithm.agpo.advantage.zero_variance=mask", "actor_rollout_ref.actor.loss_agg_mode=token-sum"),
            ("zero_variance=mask", "token-sum", "loss_agg_mode=token-mean"),
        ),
        (
            ("+algorithm.agpo.loss.adaptive=exp", f"{LOSS_MODE}=gspo"),
            ("loss.adaptive=exp", "gspo", "loss_mode=vanilla"),
        ),
        (
            (
                "+algorithm.agpo.advantage.zero_variance=mask",
                "+algorithm.agpo.step_size.enabled=false",
                f"{LOSS_MODE}=bypass_mode",
            ),
            ("bypass_mode", "zero_variance=mask"),
        ),
        (
            ("+algorithm.agpo.allocation.enabled=true", *FILTER),
            ("allocation.enabled=true", "filter_groups.enable=True"),
        ),
        (
            (
                "+algorithm.agpo.allocation.enabled=true",
                "reward.reward_model.enable=True",
                "reward.reward_model.enable_resource_pool=True",
            ),
            ("allocation.enabled=true", "reward_model.enable=True"),
        ),
        (
            ("+algorithm.agpo.allocation.enabled=true", "+algorithm.agpo.probe.reuse=false"),
            ("allocation.enabled=true", "probe.reuse=true"),
        ),
        (("+algorithm.agpo.length.weight=0.8",), ("algorithm.agpo.length.weight=0.8", "<= 0.5")),
        (("+algorithm.agpo.loss.floor=-0.1",), ("algorithm.agpo.loss.floor=-0.1", "> 0")),
        (("+algorithm.agpo.advantage.outcome_min=1",), ("outcome_min=1", "outcome_max=1")),
    ],
)
def test_contradictions_are_refused(good_config: Build, overrides: tuple[str, ...], words: tuple[str, ...]) -> None:
    only(find_problems(good_config(*overrides)), *words)


def test_filtered_groups_leave_nothing_to_a_rule_about_them(good_config: Build) -> None:
    rule = "+algorithm.agpo.advantage.zero_variance=signed"
    config = good_config(rule, *FILTER)
    assert find_problems(config) == []
    only(find_warnings(config), "zero_variance=signed", "dynamic sampling drops")
