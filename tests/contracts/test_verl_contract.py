# SPDX-License-Identifier: Apache-2.0
"""Every private name, signature and attribute of verl that AGPO uses. One failure here, one place to fix:
``recipe/agpo/verl_api`` and what it lists."""

from __future__ import annotations

import importlib.metadata
import inspect
import math
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from recipe.agpo import plugin  # noqa: F401
from recipe.agpo.verl_api.version import VERL_VERSION

MEND = f"this verl differs from {VERL_VERSION}: see recipe/agpo/verl_api"


def parameters(function: Any) -> list[str]:
    """Names in order, without the one that Ray adds to the methods of actor classes."""
    return [name for name in inspect.signature(function).parameters if name != "_ray_trace_ctx"]


def source(thing: Any) -> str:
    return inspect.getsource(thing)


def test_the_version_is_the_one_that_the_seams_name() -> None:
    found = importlib.metadata.version("verl")
    assert found == VERL_VERSION, f"verl {found} is installed; {MEND}"


# ---- registries, plugin loading, entry point -----------------------------------------------------------


def test_registries() -> None:
    from verl.trainer.ppo import core_algos

    assert parameters(core_algos.register_adv_est) == ["name_or_enum"], MEND
    assert parameters(core_algos.register_policy_loss) == ["name"], MEND
    assert isinstance(core_algos.ADV_ESTIMATOR_REGISTRY, dict), MEND
    assert isinstance(core_algos.POLICY_LOSS_REGISTRY, dict), MEND
    assert parameters(core_algos.get_adv_estimator_fn) == ["name_or_enum"], MEND
    assert len(parameters(core_algos.get_policy_loss_fn)) == 1, MEND


def test_verl_loads_plugins_by_entry_point_and_swallows_their_errors() -> None:
    import verl

    text = source(verl)
    assert 'group="verl.plugins"' in text and "VERL_USE_EXTERNAL_PLUGINS" in text, MEND
    assert ".debug(" in text, f"verl now says that a plugin failed; the doctor's row is not needed. {MEND}"


def test_the_trainer_is_chosen_late_with_the_final_config() -> None:
    """``get_trainer_cls`` is looked up in the module when the task runner runs, and called with config=..."""
    from verl.trainer import main_ppo
    from verl.trainer.ppo import v1

    text = source(main_ppo)
    assert "from verl.trainer.ppo.v1 import get_trainer_cls" in text, MEND
    assert "get_trainer_cls(config.trainer.v1.trainer_mode)" in text, MEND
    assert "trainer_cls(config=config)" in text, MEND
    assert "agent_loop_manager_class" in text and "AgentLoopManagerTQ" in text, MEND
    assert parameters(v1.get_trainer_cls.__wrapped__) == ["name"], MEND


def test_the_checks_run_before_ray() -> None:
    from verl.trainer import main_ppo
    from verl.utils import config

    assert parameters(config.validate_config.__wrapped__) == ["config", "use_reference_policy", "use_critic"], MEND
    assert main_ppo.validate_config is config.validate_config, MEND
    text = source(main_ppo)
    assert text.index("validate_config(") < text.rindex("run_ppo("), MEND


# ---- trainer -------------------------------------------------------------------------------------------

TRAINER_METHODS = {
    "__init__": ["self", "config"],
    "_build_replay_buffer": ["self"],
    "_load_checkpoint": ["self"],
    "_save_checkpoint": ["self"],
    "_fetch_one_gen_batch": ["self"],
    "_balance_batch": ["self", "batch", "metrics", "logging_prefix", "keep_minibatch"],
    "_compute_advantage": ["self", "batch", "metrics"],
    "_update_actor": ["self", "batch", "metrics"],
    "_update_critic": ["self", "batch", "metrics"],
    "_step_once": ["self", "metrics", "timing_raw", "sample_batch_size"],
    "step": ["self", "metrics", "timing_raw"],
    "_log_rollout_data": ["self", "batch", "timing_raw", "rollout_data_dir"],
    "_dump_generations": ["self", "inputs", "outputs", "gts", "scores", "reward_extra_infos_dict", "dump_path"],
    "on_init_end": ["self"],
    "on_validate_begin": ["self"],
    "on_validate_end": ["self"],
    "fit": ["self", "agent_loop_manager"],
}


@pytest.mark.parametrize("mode", ["sync", "colocate_async", "separate_async"])
@pytest.mark.parametrize("name", TRAINER_METHODS)
def test_trainer_methods_that_we_override(name: str, mode: str) -> None:
    from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY

    assert parameters(getattr(TRAINER_REGISTRY[mode], name)) == TRAINER_METHODS[name], MEND


def test_how_verl_ends_a_run() -> None:
    """The token budget shortens the run and makes its last step one that saves and validates."""
    from verl.trainer.ppo.v1 import PPOTrainer

    text = source(PPOTrainer.fit)
    assert "self.global_steps <= self.total_training_steps" in text, MEND
    assert "self.global_steps % self.config.trainer.save_freq == 0" in text, MEND
    assert "self.global_steps % self.config.trainer.test_freq == 0" in text, MEND
    marks = ("self.step(metrics", "self._save_checkpoint()", "trainer.test_freq")
    step, save, validate = map(text.index, marks)
    assert step < save < validate, MEND


def test_trainer_attributes_that_we_read() -> None:
    from verl.trainer.ppo.v1 import PPOTrainer, PPOTrainerSync

    assert issubclass(PPOTrainerSync, PPOTrainer), MEND
    text = source(PPOTrainer)
    for name in ("actor_rollout_wg", "ref_policy_wg", "global_steps", "agent_loop_manager", "replay_buffer"):
        assert f"self.{name}" in text, f"{name}: {MEND}"
    assert "_dispatch_info[role]" in text and 'role, worker_group = "actor", self.actor_rollout_wg' in text, MEND
    assert "self.replay_buffer.sample(" in source(PPOTrainer._step_once), MEND


def test_the_order_of_one_step() -> None:
    """Sample, balance, old log-probs, advantages (our clip columns), update."""
    from verl.trainer.ppo.v1 import PPOTrainer

    text = source(PPOTrainer._step_once)
    steps = ["sample(", "_balance_batch(", "_compute_old_log_prob(", "_compute_advantage(", "_update_actor("]
    places = [text.index(step) for step in steps]
    assert places == sorted(places), MEND


def test_verl_writes_one_temperature_for_the_batch_before_each_pass() -> None:
    """What ``score_at_own_temperature`` takes out again, and the three calls that it wraps."""
    from verl.trainer.ppo.v1 import PPOTrainer

    for method, call in (
        (PPOTrainer._compute_old_log_prob, "actor_rollout_wg.compute_log_prob(batch)"),
        (PPOTrainer._compute_ref_log_prob, "ref_policy_wg.compute_ref_log_prob(batch)"),
        (PPOTrainer._update_actor, "actor_rollout_wg.update_actor(batch)"),
    ):
        text = source(method)
        assert '"temperature": self.config.actor_rollout_ref.rollout.temperature' in text, MEND
        assert call in text and "batch.extra_info.update(" in text, MEND


def test_entropy_is_written_beside_the_old_log_probs() -> None:
    from verl.trainer.ppo.v1 import PPOTrainer

    text = source(PPOTrainer._compute_old_log_prob)
    assert '"calculate_entropy": True' in text and 'select("old_log_probs", "entropy")' in text, MEND


def test_the_estimator_is_called_with_every_row() -> None:
    """Estimators other than ``grpo`` get all outputs of all sessions: ``RowContext`` counts each session once."""
    from verl.trainer.ppo.v1 import utils

    assert "adv_estimator != core_algos.AdvantageEstimator.GRPO" in source(
        utils.compute_advantage_for_multi_trajectories
    ), MEND


def test_checkpoints_are_marked_as_latest_at_the_end() -> None:
    from verl.trainer.ppo.v1 import PPOTrainer

    text = source(PPOTrainer._save_checkpoint)
    folder, tracker = text.index('f"global_step_{self.global_steps}"'), text.index("latest_checkpointed_iteration.txt")
    assert folder < text.index('"data.pt"') < tracker, MEND
    load = source(PPOTrainer._load_checkpoint)
    assert "resume_from_path" in load and "find_latest_ckpt_path" in load, MEND


def test_padding_rows_are_tagged_and_have_a_prompt_of_their_own() -> None:
    from verl.trainer.ppo.v1 import trainer_base

    text = source(trainer_base.upsample_batch_to_divisible_size)
    assert 'pad_uid = f"pad' in text and 'f"{pad_uid}_{local_idx}_0"' in text, MEND
    assert "is_padding" in source(trainer_base), MEND


def test_replay_buffer() -> None:
    from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

    assert parameters(ReplayBuffer.sample) == ["self", "global_steps", "partition_id", "batch_size"], MEND
    assert "time.sleep(self.poll_interval)" in source(ReplayBuffer._wait_for_next_poll), MEND
    assert "RuntimeError" in source(ReplayBuffer), f"a batch without trajectories: {MEND}"


# ---- rollout -------------------------------------------------------------------------------------------

WORKER_METHODS = {
    "_run_prompt": ["self", "prompt", "sampling_params", "trajectory", "trace"],
    "_run_agent_loop": ["self", "sampling_params", "trajectory", "agent_name", "trace", "kwargs"],
    "_agent_loop_postprocess": ["self", "output", "validate", "kwargs"],
    "_compute_score": ["self", "outputs", "kwargs"],
    "generate_sequences": ["self", "batch"],
}


@pytest.fixture
def worker() -> Any:
    from verl.trainer.ppo.v1 import agent_loop_tq

    return agent_loop_tq.AgentLoopWorkerTQ.__ray_metadata__.modified_class


@pytest.mark.parametrize("name", WORKER_METHODS)
def test_worker_methods(worker: Any, name: str) -> None:
    assert parameters(getattr(worker, name)) == WORKER_METHODS[name], MEND
    assert inspect.iscoroutinefunction(getattr(worker, name)), MEND


def test_the_worker_class_is_plain_and_our_seam_finds_it(worker: Any) -> None:
    from recipe.agpo.verl_api import agent_loop

    assert inspect.isclass(worker) and agent_loop.AgentLoopWorker is worker, MEND
    with pytest.raises(AttributeError):
        _ = agent_loop.no_such_name


def test_settling_sessions() -> None:
    from recipe.agpo.verl_api import agent_loop

    assert parameters(agent_loop.settle_sessions) == ["tasks"], MEND
    assert inspect.iscoroutinefunction(agent_loop.settle_sessions), MEND


def test_a_prompt_ends_as_finished_or_failure_and_rows_carry_our_columns(worker: Any) -> None:
    run, post = source(worker._run_prompt), source(worker._agent_loop_postprocess)
    for word in ('"running"', '"finished"', '"failure"', '"__rollout_n__"', '"__do_sample__"'):
        assert word in run, f"{word}: {MEND}"
    assert 'f"{uid}_{session_id}_{i}"' in post and "field.update(kwargs)" in post, MEND
    assert "await self._compute_score(outputs, kwargs=kwargs)" in post, MEND
    score = source(worker._compute_score)
    assert "final_output.reward_score is None" in score, f"a response is scored once: {MEND}"
    assert "reward_extra_info" in post + score, MEND


def test_the_manager() -> None:
    from verl.trainer.ppo.v1 import AgentLoopManagerTQ

    assert "self.agent_loop_workers_class = AgentLoopWorkerTQ" in source(AgentLoopManagerTQ.__init__), MEND
    assert parameters(AgentLoopManagerTQ.generate_sequences) == ["self", "prompts"], MEND
    assert "self.agent_loop_workers" in source(AgentLoopManagerTQ.generate_sequences), MEND


# ---- loss ----------------------------------------------------------------------------------------------


def test_ppo_loss() -> None:
    """It reads the clip ratios from its config through the registered loss, and hands the config on."""
    from verl.trainer.ppo.core_algos import compute_policy_loss_vanilla
    from verl.workers.utils.losses import ppo_loss

    assert parameters(ppo_loss) == ["config", "model_output", "data", "dp_group"], MEND
    text = source(ppo_loss)
    assert "get_policy_loss_fn(loss_mode)" in text and "config=config" in text, MEND
    for name in ("dp_size", "batch_num_tokens", "global_batch_size", "loss_scale_factor"):
        assert f'config.global_batch_info["{name}"]' in text, MEND
    vanilla = source(compute_policy_loss_vanilla)
    assert "config.clip_ratio_low" in vanilla and "config.clip_ratio_high" in vanilla, MEND
    assert parameters(compute_policy_loss_vanilla) == [
        "old_log_prob",
        "log_prob",
        "advantages",
        "response_mask",
        "loss_agg_mode",
        "config",
        "rollout_is_weights",
    ], MEND


def test_agg_loss_and_metric() -> None:
    from verl.trainer.ppo.core_algos import agg_loss
    from verl.utils.metric import AggregationType, Metric

    assert parameters(agg_loss) == [
        "loss_mat",
        "loss_mask",
        "loss_agg_mode",
        "dp_size",
        "batch_num_tokens",
        "global_batch_size",
        "loss_scale_factor",
    ], MEND
    metric = Metric(AggregationType.SUM)
    metric.extend([1.0, 2.0])
    assert metric.aggregate() == 3.0 and metric.values == [1.0, 2.0], MEND


def test_actor_config() -> None:
    from verl.workers.config import ActorConfig

    fields = ActorConfig.__dataclass_fields__
    for name in ("clip_ratio", "clip_ratio_low", "clip_ratio_high", "clip_ratio_c", "policy_loss", "global_batch_info"):
        assert name in fields, f"{name}: {MEND}"


def test_workers_take_a_loss_of_ours() -> None:
    from verl.workers.engine_workers import ActorRolloutRefWorker

    assert len(parameters(ActorRolloutRefWorker.set_loss_fn)) == 2, MEND


# ---- config keys ---------------------------------------------------------------------------------------

KEYS = """
algorithm.adv_estimator algorithm.rollout_correction.rollout_is
actor_rollout_ref.actor.clip_ratio actor_rollout_ref.actor.clip_ratio_low actor_rollout_ref.actor.clip_ratio_high
actor_rollout_ref.actor.ppo_mini_batch_size actor_rollout_ref.actor.ppo_epochs actor_rollout_ref.actor.shuffle
actor_rollout_ref.actor.strategy actor_rollout_ref.actor.use_dynamic_bsz
actor_rollout_ref.actor.policy_loss.loss_mode actor_rollout_ref.model.path actor_rollout_ref.model.use_fused_kernels
actor_rollout_ref.rollout.n actor_rollout_ref.rollout.temperature actor_rollout_ref.rollout.calculate_log_probs
data.train_files data.val_files data.train_batch_size data.max_prompt_length data.prompt_key data.truncation
data.filter_overlong_prompts distillation.enabled reward.reward_model.enable
reward.reward_model.enable_resource_pool trainer.use_v1 trainer.v1.trainer_mode trainer.resume_mode
trainer.resume_from_path trainer.default_local_dir trainer.n_gpus_per_node trainer.nnodes
""".split()


def test_config_keys_that_we_read() -> None:
    from omegaconf import OmegaConf

    from tests.recipe.conftest import compose_verl

    config = compose_verl()
    missing = object()
    lost = [k for k in KEYS if OmegaConf.select(config, k, default=missing, throw_on_missing=False) is missing]
    # A key that is there with the value null reads as the default, too: look for it by name.
    lost = [k for k in lost if k.rsplit(".", 1)[1] not in OmegaConf.select(config, k.rsplit(".", 1)[0])]
    assert lost == [], MEND


@pytest.mark.parametrize("counter", ["last_epoch", "num_steps"])
def test_the_schedule_lands_where_the_trainer_says(counter: str) -> None:
    """The workers' train_batch, with an engine that does nothing else; verl moves the schedule by one behind it."""
    import tensordict
    import verl.workers.engine_workers
    from verl.workers.engine.base import BaseEngine

    from recipe.agpo.verl_api.updates import SCHEDULE_POSITION

    worker = source(verl.workers.engine_workers.TrainingWorker.train_batch)
    assert worker.index("self.engine.train_batch(data") < worker.index("self.engine.lr_scheduler_step()"), MEND

    class Engine(BaseEngine):
        def __init__(self) -> None:
            self.lr_scheduler = SimpleNamespace(**{counter: 3})

        def forward_backward_batch(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
            return {"metrics": {}}

        def optimizer_zero_grad(self) -> None: ...

        def optimizer_step(self) -> float:
            return 1.0

        def is_mp_src_rank_with_outputs(self) -> bool:
            return True

    engine = Engine()
    for position, then in ((None, 3), (7.5, 6.5)):
        data = tensordict.TensorDict({}, batch_size=[])
        if position is not None:
            data.set_non_tensor(SCHEDULE_POSITION, position)
        engine.train_batch(data, None)
        assert getattr(engine.lr_scheduler, counter) == then


class StepSizeEngine:
    """The parts of verl's engines around one update; says at which rates the optimiser stepped."""

    def __new__(cls, fails: bool = False) -> Any:
        from verl.workers.engine.base import BaseEngine

        class Engine(BaseEngine):
            def __init__(self) -> None:
                self.optimizer = SimpleNamespace(param_groups=[{"lr": 0.5}, {"lr": 0.25}])
                self.stepped: list[list[float]] = []

            def forward_backward_batch(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
                return {"metrics": {}}

            def optimizer_zero_grad(self) -> None: ...

            def optimizer_step(self) -> float:
                if fails:
                    raise RuntimeError("no step")
                self.stepped.append([group["lr"] for group in self.optimizer.param_groups])
                return 1.0

            def is_mp_src_rank_with_outputs(self) -> bool:
                return True

        return Engine()


class StepSizeLoss:
    """What the step size asks of our loss."""

    metric_prefix = "own/"

    def __init__(self, stops: bool = False) -> None:
        self.answer, self.asked = stops, []

    def stops(self, engine: Any, entropy: float | None, schedule: float) -> bool:
        self.asked.append((entropy, schedule))
        return self.answer

    def after_update(self, engine: Any, data: Any) -> dict[str, float]:
        assert engine.optimizer.param_groups[0]["lr"] == 0.5, "the rate is the schedule's again"
        return {"after_tokens": 7.0}


def step_size_data(**values: float) -> Any:
    import tensordict

    data = tensordict.TensorDict({}, batch_size=[])
    for key, value in values.items():
        data.set_non_tensor(key, value)
    return data


@pytest.mark.parametrize("fails", [False, True])
def test_the_step_size_scales_one_update_and_nothing_else(fails: bool) -> None:
    from recipe.agpo.verl_api.updates import LR_SCALE

    engine = StepSizeEngine(fails)
    for values in ({}, {LR_SCALE: 0.1}):
        with pytest.raises(RuntimeError) if fails else nullcontext():
            engine.train_batch(step_size_data(**values), StepSizeLoss())
        assert engine.optimizer.param_groups == [{"lr": 0.5}, {"lr": 0.25}]
        assert "optimizer_step" not in vars(engine)
    assert fails or engine.stepped == [[0.5, 0.25], [pytest.approx(0.05), pytest.approx(0.025)]]


@pytest.mark.parametrize("stops", [False, True])
@pytest.mark.parametrize("only", [0.0, 1.0])
def test_an_update_is_left_out_and_what_it_did_is_reported(stops: bool, only: float) -> None:
    from recipe.agpo.verl_api.updates import ENTROPY, LR, LR_SCALE, ONE_UPDATE

    engine, loss = StepSizeEngine(), StepSizeLoss(stops)
    values = {LR_SCALE: 0.1, LR: 2.0, ENTROPY: 0.3, ONE_UPDATE: only}
    metrics = engine.train_batch(step_size_data(**values), loss)["metrics"]
    assert loss.asked == [(0.3, 0.25)], "the schedule is at a quarter"
    assert engine.stepped == [[0.0, 0.0] if stops else [pytest.approx(0.05), pytest.approx(0.025)]]
    sums = {key.removeprefix("own/"): metric.aggregate() for key, metric in metrics.items() if key != "grad_norm"}
    expected = {"lr_sum": 0.5, "stopped": float(stops), "updates": 1.0}
    assert sums == expected | ({"after_tokens": 7.0} if only else {})


def test_the_groups_that_are_scaled_are_those_that_fsdp_steps_with() -> None:
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngine

    assert "self.optimizer.step()" in source(FSDPEngine.optimizer_step), MEND


def test_torchs_schedules_take_fractions_and_keep_them_over_a_restart() -> None:
    import torch
    from verl.utils.torch_functional import get_cosine_schedule_with_warmup

    def made() -> Any:
        optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        return get_cosine_schedule_with_warmup(optimiser, num_warmup_steps=0, num_training_steps=10)

    schedule = made()
    schedule.last_epoch = 2.5 - 1
    schedule.step()
    resumed = made()
    resumed.load_state_dict(schedule.state_dict())
    resumed.step()
    assert schedule.get_last_lr()[0] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.25)))
    assert resumed.get_last_lr()[0] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.35)))


def test_two_runs_on_one_machine_do_not_share_a_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    from recipe.agpo.cpu import patches

    monkeypatch.setattr(importlib.metadata, "version", importlib.metadata.version)  # undone after the test
    patches.answer_for_vllm_package()
    from verl.workers.rollout.vllm_rollout import bucketed_weight_transfer as transfer
    from verl.workers.rollout.vllm_rollout import utils, vllm_rollout

    assert "BucketedWeightSender(" in source(vllm_rollout) and "BucketedWeightReceiver(" in source(utils), MEND
    handle, seen = "ipc:///tmp/rl-colocate-zmq-01000000-replica-0-rank-0.sock", []
    for run in ("a" * 32, "b" * 32, ""):
        monkeypatch.setenv("AGPO_RUN_ID", run)
        ends = transfer.BucketedWeightSender(zmq_handle=handle), transfer.BucketedWeightReceiver(handle, device="cpu")
        assert ends[0].zmq_handle == ends[1].zmq_handle
        seen.append(ends[0].zmq_handle)
    assert len(set(seen)) == 3 and seen[2] == handle, "processes of a cluster that was there before carry no id"


# ---- average of the weights ----------------------------------------------------------------------------


def test_the_actors_worker_takes_calls_on_every_rank() -> None:
    from verl.single_controller.base.decorator import MAGIC_ATTR, Dispatch
    from verl.trainer.ppo.v1 import trainer_base
    from verl.workers.engine_workers import ActorRolloutRefWorker

    from recipe.agpo.verl_api import actor_weights

    call = getattr(ActorRolloutRefWorker, actor_weights.CALL)
    assert getattr(call, MAGIC_ATTR)["dispatch_mode"] == Dispatch.ONE_TO_ALL, MEND
    assert getattr(call, MAGIC_ATTR)["blocking"] is True, MEND
    worker = SimpleNamespace(actor=SimpleNamespace(engine="the engine"))
    assert call(worker, lambda engine, more: (engine, more), 1) == ("the engine", 1)
    assert "self.actor = self.actor_worker_cls(" in source(ActorRolloutRefWorker.init_model), MEND
    assert trainer_base.ActorRolloutRefWorker is ActorRolloutRefWorker, MEND


def test_every_update_is_followed_by_what_the_engine_has_for_it() -> None:
    import tensordict
    from verl.workers.engine.base import BaseEngine

    from recipe.agpo.verl_api.updates import AFTER_UPDATE

    order: list[str] = []

    class Engine(BaseEngine):
        def forward_backward_batch(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
            return {"metrics": {}}

        def optimizer_zero_grad(self) -> None: ...

        def optimizer_step(self) -> float:
            order.append("step")
            return 1.0

        def is_mp_src_rank_with_outputs(self) -> bool:
            return True

    engine = Engine()
    engine.train_batch(tensordict.TensorDict({}, batch_size=[]), None)
    setattr(engine, AFTER_UPDATE, lambda: order.append("after"))
    engine.train_batch(tensordict.TensorDict({}, batch_size=[]), None)
    assert order == ["step", "step", "after"]


def test_where_validation_stands_between_two_transfers_of_weights() -> None:
    from verl.checkpoint_engine import CheckpointEngineManager
    from verl.trainer.ppo.v1 import PPOTrainer
    from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY

    text = source(PPOTrainer.fit)
    for begin in (text.index("self.on_validate_begin()"), text.rindex("self.on_validate_begin()")):
        validate = text.index("self._validate()", begin)
        assert begin < validate < text.index("self.on_validate_end()", begin), MEND
    assert text.index("self.on_step_end()") < text.rindex("self.on_validate_begin()"), MEND
    # Around a reward model in the middle of a validation verl does as we do: to sleep, then new weights.
    text = source(PPOTrainer._validate)
    assert text.index("checkpoint_manager.sleep_replicas()") < text.index("checkpoint_manager.update_weights()"), MEND
    assert "checkpoint_manager.update_weights(self.global_steps)" in source(TRAINER_REGISTRY["sync"].on_step_end), MEND
    assert parameters(CheckpointEngineManager.sleep_replicas) == ["self"], MEND
    assert parameters(CheckpointEngineManager.update_weights) == ["self", "global_steps"], MEND


def test_how_fsdp_saves_a_model() -> None:
    from verl.utils.checkpoint.checkpoint_manager import BaseCheckpointManager
    from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngine

    found = parameters(FSDPCheckpointManager.__init__)
    assert {"model", "processing_class", "checkpoint_config", "trust_remote_code"} <= set(found), MEND
    assert parameters(FSDPEngine.save_checkpoint)[:2] == ["self", "local_path"], MEND
    text = source(FSDPEngine.save_checkpoint)
    assert "self.checkpoint_manager.save_checkpoint(" in text and "load_fsdp_model_to_gpu(self.module)" in text, MEND
    assert "self.checkpoint_manager = FSDPCheckpointManager(" in source(FSDPEngine.initialize), MEND
    text = source(FSDPCheckpointManager.save_checkpoint)
    assert 'f"model_world_size_{self.world_size}_rank_{self.rank}.pt"' in text, MEND
    assert "self.model.state_dict()" in text and '"fsdp_config.json"' in text, MEND
    for name in ("should_save_model", "should_save_optimizer", "should_save_extra", "should_save_hf_model"):
        assert f"if self.{name}:" in text and isinstance(getattr(BaseCheckpointManager, name), property), MEND
    text = source(BaseCheckpointManager.__init__)
    assert 'checkpoint_config.get("save_contents", None)' in text, MEND
    for name in ("model", "processing_class", "rank", "world_size"):
        assert f"self.{name} = " in text, MEND
    # Without a limit no other folder is removed.
    assert "if not (max_ckpt_to_keep and" in source(BaseCheckpointManager.register_checkpoint), MEND


def test_names_that_verl_accepts() -> None:
    """``verl_api.names`` against verl's registries and its code; ours among the estimators is no name of verl."""
    import inspect

    import torch
    from verl.experimental import agent_loop
    from verl.trainer.ppo import core_algos
    from verl.utils.tracking import Tracking
    from verl.workers.rollout import base

    from recipe.agpo.verl_api import names

    assert {str(member.value) for member in core_algos.AdvantageEstimator} == set(names.ESTIMATORS)
    assert {name for name, mode in base._ROLLOUT_REGISTRY if mode == "async"} == set(names.ROLLOUTS)
    assert set(names.LOGGERS) == {*Tracking.supported_backend, "tracking"}
    assert set(names.AGENT_LOOPS) <= set(agent_loop.agent_loop._agent_loop_registry)
    one = torch.ones(1)
    for name in names.KL_PENALTIES:
        for plus in ("", "+"):
            assert core_algos.kl_penalty(one, one, name + plus).shape == (1,)
    with pytest.raises(NotImplementedError):
        core_algos.kl_penalty(one, one, "foo")
    from verl.workers.config import ActorConfig

    source = inspect.getsource(ActorConfig.__post_init__)
    assert all(f'"{name}"' in source for name in names.LOSS_AGGREGATIONS)


def test_keys_of_the_critic_that_verl_reads() -> None:
    """Its micro-batches are filled by tokens, by a key that verl's YAML lacks."""
    import inspect

    from verl.trainer.ppo.v1 import trainer_base
    from verl.workers.config import CriticConfig, EngineConfig

    from recipe.agpo.preflight.roles import CRITIC_TOKENS

    assert CriticConfig.ppo_infer_max_token_len_per_gpu == CRITIC_TOKENS and EngineConfig.use_dynamic_bsz is True
    source = inspect.getsource(trainer_base.PPOTrainer._setup)
    assert "critic_cfg.engine.max_token_len_per_gpu = critic_cfg.ppo_infer_max_token_len_per_gpu" in source
    assert "critic_cfg.engine.use_dynamic_bsz" not in source


def test_what_torchtitan_and_veomni_do_with_a_temperature() -> None:
    """torchtitan divides all logits by the column as it is; veomni has FSDP's division by a temperature per token."""
    from pathlib import Path

    import verl

    engines = Path(verl.__file__).parent / "workers" / "engine"
    titan = (engines / "torchtitan" / "transformer_impl.py").read_text(encoding="utf-8")
    assert 'temperature = micro_batch["temperature"]' in titan and "logits_rmpad = logits_rmpad / temperature" in titan
    veomni = (engines / "veomni" / "transformer_impl.py").read_text(encoding="utf-8")
    assert "class VeOmniEngineWithLMHead(VeOmniEngine, FSDPEngineWithLMHead)" in veomni and "temperature" not in veomni


def test_trackers_take_the_id_of_their_run_from_the_environment() -> None:
    """As ``training.tracker_runs`` expects: verl names no id, and leaves a run of trackio alone that is there."""
    from verl.utils.tracking import Tracking

    from recipe.agpo.verl_api.patching import is_wrapped

    assert is_wrapped(Tracking.__init__)
    text = source(inspect.unwrap(Tracking.__init__))
    calls = {name: text.split(f"{name}.init(")[1].split(")")[0] for name in ("wandb", "swanlab")}
    assert not any("id=" in call or "resume" in call for call in calls.values()), MEND
    assert 'os.environ.get("MLFLOW_RUN_ID")' in text, MEND
    assert "if context_vars.current_run.get() is None:" in text, MEND
