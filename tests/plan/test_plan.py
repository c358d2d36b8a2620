# SPDX-License-Identifier: Apache-2.0
"""Every launch script composes, passes the checks, fits its GPUs, and differs from its baselines in one thing."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from recipe.agpo.cli import main
from recipe.agpo.plan import estimate, screen
from recipe.agpo.plan.compose import PlanError, compose, differences
from recipe.agpo.plan.estimate import GIB, KNOWN, Shape
from recipe.agpo.preflight import find_problems, find_warnings
from tests.recipe.conftest import parquet_of

ROOT = Path(__file__).resolve().parents[2]
METHODS, MODELS = ("agpo", "grpo", "ppo"), ("qwen14b", "llama8b", "gemma9b")
SCRIPTS = [f"run_{method}_{model}.sh" for method in METHODS for model in MODELS]
NAMES_A_RUN = ("experiment_name", "default_local_dir", "rollout_data_dir", "validation_data_dir")


@pytest.fixture(autouse=True)
def gpu_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGPO_CPU", raising=False)
    monkeypatch.chdir(ROOT)


def plan(script: str, *overrides: str):
    return compose(f"scripts/{script}", overrides)


def test_the_scripts_are_those_that_are_planned_here() -> None:
    shipped = {path.name for path in (ROOT / "scripts").glob("run_*.sh")}
    assert shipped - {"run_tests.sh", "run_agpo_quickstart.sh", "run_agpo_smollm2.sh"} == set(SCRIPTS)


# What LORA_RANK sets does not depend on the method: it is tried with one method for each model.
@pytest.mark.parametrize(("script", "lora"), [(s, "0") for s in SCRIPTS] + [(s, "32") for s in SCRIPTS if "agpo" in s])
@pytest.mark.parametrize("backend", ["fsdp2", "megatron"])
def test_every_script_composes_for_every_backend(
    script: str, backend: str, lora: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKEND", backend)
    monkeypatch.setenv("LORA_RANK", lora)
    config = plan(script)
    assert config.actor_rollout_ref.actor.strategy == backend
    assert config.algorithm.adv_estimator == {"agpo": "agpo", "grpo": "grpo", "ppo": "gae"}[script.split("_")[1]]
    # Data and disk are this machine's, not the script's.
    local = ("no such file", "GiB are free")
    assert [p for p in find_problems(config) if not any(words in p for words in local)] == []
    untried = ["megatron"] if backend == "megatron" and "agpo" in script else []
    assert [word for warning in find_warnings(config) for word in untried if word in warning] == untried
    assert len(find_warnings(config)) == len(untried)
    assert all(line.strip() for line in screen.lines(config, 80.0))


@pytest.mark.parametrize("gpu", [80, 141])
@pytest.mark.parametrize("script", SCRIPTS)
def test_the_estimates_fit_the_gpus_they_are_chosen_for(script: str, gpu: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPU_MEMORY_GB", str(gpu))
    config = plan(script)
    shape = estimate.shape_of(config)
    assert shape is not None
    need = estimate.memory(config, shape, gpu)
    assert max(need.train, need.rollout) <= gpu and screen.overfull(config, gpu) is None
    longest = config.data.max_prompt_length + config.data.max_response_length
    assert need.cached_tokens > 16 * longest, "vLLM can work on many responses at once"


@pytest.mark.parametrize("model", MODELS)
def test_a_baseline_differs_in_its_method_only(model: str) -> None:
    agpo, grpo, ppo = (plan(f"run_{method}_{model}.sh") for method in METHODS)

    def changed(other) -> set[str]:
        return {key for key, _, _ in differences(agpo, other) if not key.endswith(NAMES_A_RUN)}

    assert changed(grpo) == {"algorithm.adv_estimator"}
    # Where the critic's state lies; no number of the method depends on it.
    assert changed(ppo) == {"algorithm.adv_estimator", "critic.fsdp.optimizer_offload"}


def test_knobs_reach_the_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {
        "DATA_DIR": str(tmp_path),
        "TRAIN": "gsm8k math",
        "VAL": "aime24",
        "OUT": "elsewhere",
        "GPUS": "4",
        "NODES": "2",
        "TOKEN_BUDGET": "1000000",
        "LOGGERS": "console,wandb",
        "TENSOR_PARALLEL": "4",
        "MODEL_PATH": "/models/mine",
    }.items():
        monkeypatch.setenv(name, value)
    config = plan("run_grpo_qwen14b.sh", "data.train_batch_size=128")
    assert list(config.data.train_files) == [f"{tmp_path}/gsm8k/train.parquet", f"{tmp_path}/math/train.parquet"]
    assert list(config.data.val_files) == [f"{tmp_path}/aime24/test.parquet"]
    assert config.trainer.default_local_dir == f"{ROOT}/elsewhere/checkpoints"
    assert (config.trainer.n_gpus_per_node, config.trainer.nnodes) == (4, 2)
    assert config.algorithm.agpo.token_budget == 1_000_000 and list(config.trainer.logger) == ["console", "wandb"]
    assert config.actor_rollout_ref.rollout.tensor_model_parallel_size == 4
    assert (config.actor_rollout_ref.model.path, config.data.train_batch_size) == ("/models/mine", 128)


def test_all_prepared_benchmarks_are_validated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("gsm8k", "cmath"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "test.parquet").touch()
    (tmp_path / "only_train").mkdir()
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    files = plan("run_agpo_llama8b.sh").data.val_files
    assert list(files) == [f"{tmp_path}/cmath/test.parquet", f"{tmp_path}/gsm8k/test.parquet"]


@pytest.mark.parametrize("variable", ["BACKEND", "GPU_MEMORY_GB"])
def test_an_unknown_choice_is_said(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "7")
    with pytest.raises(PlanError, match=f"{variable}=7"):
        plan("run_agpo_qwen14b.sh")


@pytest.mark.parametrize(
    ("path", "billions"),
    [("Qwen/Qwen2.5-14B", 14.77), ("meta-llama/Meta-Llama-3-8B", 8.03), ("google/gemma-2-9b", 9.24)],
)
def test_numbers_of_weights_are_the_published_ones(path: str, billions: float) -> None:
    assert KNOWN[path].parameters / 1e9 == pytest.approx(billions, abs=0.01)


def test_parameters_of_a_small_model_are_counted_exactly() -> None:
    from recipe.agpo.quickstart.model import ModelConfig, build_model

    model = build_model(ModelConfig(), seed=0)
    c = model.config
    shape = Shape(
        c.hidden_size,
        c.num_hidden_layers,
        c.num_attention_heads,
        c.num_key_value_heads,
        c.hidden_size // c.num_attention_heads,
        c.intermediate_size,
        c.vocab_size,
        tied=True,
        qkv_bias=True,
    )
    assert shape.parameters == sum(p.numel() for p in model.parameters())


def test_shape_of_a_local_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "hidden_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "intermediate_size": 128,
                "vocab_size": 100,
                "model_type": "llama",
            }
        )
    )
    config = plan("run_agpo_qwen14b.sh", f"actor_rollout_ref.model.path={tmp_path}")
    assert estimate.shape_of(config) == Shape(64, 2, 4, 4, 16, 128, 100)
    unknown = plan("run_agpo_qwen14b.sh", "actor_rollout_ref.model.path=somebody/model")
    assert estimate.shape_of(unknown) is None
    assert any("shape unknown" in line for line in screen.lines(unknown, 80.0))


def test_memory_in_closed_form() -> None:
    """1 layer of 1,024: every term by hand, on 2 GPUs."""
    shape = Shape(1024, 1, 8, 8, 128, 4096, 1000)
    config = plan(
        "run_agpo_qwen14b.sh",
        "trainer.n_gpus_per_node=2",
        "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=4096",
        "actor_rollout_ref.rollout.tensor_model_parallel_size=1",
    )
    weights = 1024 * 1024 * 4 + 3 * 1024 * 4096 + 2 * 1024 + 2 * 1000 * 1024 + 1024
    assert shape.parameters == weights
    need = estimate.memory(config, shape, 80.0)
    assert need.weights == need.gradients == round(4 * weights / 2 / GIB, 2)
    assert need.optimiser == round(8 * weights / 2 / GIB, 2)
    assert need.logits == round(4096 * 1000 * 10 / GIB, 2)
    assert need.cached_tokens == int((0.5 * 80 * GIB - 2 * weights - 3 * GIB) / (2 * 8 * 128 * 2))


@pytest.mark.parametrize(
    ("overrides", "on_gpu"),
    [
        ((), True),
        (("algorithm.agpo.average.offload=true",), False),
        (("actor_rollout_ref.actor.fsdp_config.param_offload=true",), False),
        (("actor_rollout_ref.model.lora_rank=8",), False),  # only the adapter is averaged
    ],
)
def test_an_average_of_the_weights_takes_four_bytes_a_weight(overrides: tuple[str, ...], on_gpu: bool) -> None:
    shape = KNOWN["Qwen/Qwen2.5-14B"]
    off = plan("run_agpo_qwen14b.sh", *overrides)
    on = plan("run_agpo_qwen14b.sh", "algorithm.agpo.average.enabled=true", *overrides)
    before, after = (estimate.memory(config, shape, 80.0) for config in (off, on))
    ranks = int(on.trainer.n_gpus_per_node) * int(on.trainer.nnodes)
    assert before.average == 0.0
    assert after.average == (round(4 * shape.parameters / ranks / GIB, 2) if on_gpu else 0.0)
    for name in ("train", "rollout"):
        assert getattr(after, name) - getattr(before, name) == pytest.approx(after.average, abs=0.02)
    lora = "actor_rollout_ref.model.lora_rank=8" in overrides
    more = estimate.cost(on, shape, 4, True).checkpoint_gib - estimate.cost(off, shape, 4, True).checkpoint_gib
    assert more == pytest.approx((2 if lora else 4) * shape.parameters / GIB, abs=0.01)
    text = "\n".join(screen.lines(on, 80.0))
    assert "of the weights, gamma 4; validated and saved" in text and (f"average {after.average:g}," in text) == on_gpu
    assert "of the weights, gamma" not in "\n".join(screen.lines(off, 80.0))


def test_memory_of_a_critic_in_closed_form() -> None:
    """PPO on 2 GPUs: the peak of both updates, and of generation, with and without offloading."""
    shape = Shape(1024, 1, 8, 8, 128, 4096, 1000)

    def need(**offload: bool) -> estimate.Memory:
        config = plan("run_ppo_qwen14b.sh", "trainer.n_gpus_per_node=2", "critic.ppo_infer_max_token_len_per_gpu=4096")
        config.critic.fsdp.optimizer_offload = offload.get("critic", False)
        config.actor_rollout_ref.actor.fsdp_config.optimizer_offload = offload.get("actor", False)
        return estimate.memory(config, shape, 80.0)

    state = shape.parameters / 2 / GIB  # a byte of each weight, sharded
    whole, both = need(), need(actor=True, critic=True)
    assert whole.critic == pytest.approx(12 * state, abs=0.01) and both.critic == pytest.approx(4 * state, abs=0.01)
    # Offloaded moments are on the GPU during their own model's update only.
    assert whole.critic_train - both.critic_train == pytest.approx(8 * state, abs=0.02)
    assert whole.train - both.train == pytest.approx(8 * state, abs=0.02)
    assert whole.rollout - both.rollout == pytest.approx(16 * state, abs=0.02)
    assert whole.rollout == pytest.approx(24 * state + 40 + 3, abs=0.02)
    assert need(critic=True).critic_train == whole.critic_train


def test_strict_counts_memory(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data = parquet_of(tmp_path, 600)
    run = ["plan", "llama8b", f"data.train_files={data}", f"data.val_files={data}", "trainer.save_freq=-1"]
    assert main([*run, "--strict"]) == 0
    assert "PROBLEM" not in capsys.readouterr().out
    assert main([*run, "--strict", "--gpu-gb", "24"]) == 1
    out = capsys.readouterr().out
    assert "PROBLEM on this machine: memory" in out and "--gpu-gb is 24" in out and "optimizer_offload=True" in out
    assert main([*run, "--gpu-gb", "24"]) == 0


def test_steps_tokens_and_hours(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """600 rows in batches of 256: 2 steps an epoch, 30 in 15 epochs; validation before, and at steps 20 and 30."""
    data = parquet_of(tmp_path, 600)
    run = ["plan", "llama8b", f"data.train_files={data}", f"data.val_files={data}"]
    assert main([*run, "--tokens-per-second-per-gpu", "1000"]) == 0
    out = capsys.readouterr().out
    generated, read, validated = 30 * 2048 * 4096, 30 * 2048 * 5120, 3 * 600 * 4096
    assert f"30 steps: at most {generated:,} generated and {read:,} read in updates" in out
    assert f"3 validation(s), at most {validated:,} generated" in out
    hours = (generated + validated) / 1000 / 3600
    assert f"at most {hours:.1f} GPU-hours, {hours / 8:.1f} h on 8 GPU(s), at 1000 generated tokens" in out
    assert main([*run, "trainer.total_training_steps=7", "trainer.test_freq=-1", "trainer.val_before_train=False"]) == 0
    out = capsys.readouterr().out
    assert "7 steps:" in out and "no validation" in out and "--tokens-per-second-per-gpu N" in out
    assert main(["plan", "llama8b"]) == 0
    assert "depends on data.train_files" in capsys.readouterr().out
    assert main([*run, "--tokens-per-second-per-gpu", "0"]) == 2


def test_a_value_that_no_plan_can_be_drawn_with_is_a_numbered_problem(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "qwen14b", "data.train_batch_size=null", "actor_rollout_ref.rollout.n=abc"]) == 2
    said = capsys.readouterr().err
    assert "agpo plan: qwen14b" in said and "Traceback" not in said
    assert "1. data.train_batch_size=null: must be" in said and "2. actor_rollout_ref.rollout.n=abc: must be" in said


@pytest.mark.parametrize(
    ("override", "advice"),
    [
        ("data.train_bach_size=8", "Set data.train_batch_size=8"),
        ("algorithm.agpo.temprature.gain=0.2", "Set algorithm.agpo.temperature.gain=0.2"),
        ("rollout.n=4", "Set actor_rollout_ref.rollout.n=4"),
        ("algorithm.clip.max=0.3", "Set algorithm.agpo.clip.max=0.3"),
        ("actor_rollout_ref.actor.lr=1e-6", "Set actor_rollout_ref.actor.optim.lr=1e-6"),
        ("foo.bar=1", "none like it. A new key is written with a plus: +foo.bar=1"),
        ("method=pppo", "Known are agpo, grpo, ppo, ppo_megatron. Set method=ppo"),
    ],
)
def test_a_misspelt_key(override: str, advice: str) -> None:
    with pytest.raises(PlanError) as caught:
        compose("qwen14b", [override])
    assert advice in str(caught.value) and "To append to your config" not in str(caught.value)
    _, found, fix = str(caught.value).rpartition("Set ")
    if found:  # the fix composes
        compose("qwen14b", [fix.rstrip(".")])


def test_every_misspelt_key_is_said_at_once() -> None:
    with pytest.raises(PlanError) as caught:
        compose("qwen14b", ["data.train_bach_size=8", "data.max_prompt_lenth=9", "trainer.nnodes=2"])
    assert "data.train_batch_size=8" in str(caught.value) and "data.max_prompt_length=9" in str(caught.value)
    assert "trainer.nnodes" not in str(caught.value)


def test_cost_of_a_probe_that_is_thrown_away() -> None:
    ours = plan("run_agpo_qwen14b.sh")
    reference = plan("run_agpo_qwen14b.sh", "algorithm.agpo.preset=reference")
    assert estimate.cost(ours, None, 4, True).tokens == 256 * 8 * 4096
    wasted = estimate.cost(reference, None, 8, False)
    assert (wasted.tokens, wasted.discarded_tokens) == (256 * 16 * 4096, 256 * 8 * 4096)
    assert any("discarded" in line for line in screen.lines(reference, 80.0))


def test_the_budget_becomes_steps() -> None:
    config = plan("run_agpo_qwen14b.sh", "algorithm.agpo.token_budget=100000000")
    assert any("100,000,000 generated tokens (at least 12 steps)" in line for line in screen.lines(config, 80.0))


def test_the_command(capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder, tmp_path: Path) -> None:
    assert main(["plan", "scripts/run_agpo_qwen14b.sh"]) == 0
    said = capsys.readouterr()
    assert "PROBLEM on this machine: data.train_files" in said.out and said.err == ""
    assert not [warning for warning in recwarn if "hydra" in warning.filename.lower()]
    assert main(["plan", "--strict", "qwen14b"]) == 1
    assert "temperature adapts" in capsys.readouterr().out
    assert main(["plan", "--config-name", "qwen14b", "method=grpo"]) == 0
    assert "grpo of verl" in capsys.readouterr().out
    assert main(["plan", "scripts/run_agpo_qwen14b.sh", "--diff", "scripts/run_grpo_qwen14b.sh"]) == 0
    assert "algorithm.adv_estimator: agpo | grpo" in capsys.readouterr().out
    for wrong in (
        ["plan"],
        ["plan", "no_such"],
        ["plan", "scripts/no.sh"],
        ["plan", "no.yaml"],
        ["plan", "qwen14b", "data.no_such_key=1"],
    ):
        assert main(wrong) == 2, wrong
        assert "agpo plan" in capsys.readouterr().err


def test_dry_run_starts_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "scripts/run_agpo_qwen14b.sh", "a=1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"AGPO_DRY_RUN": "1", "OUT": str(tmp_path / "out")},
    )
    assert done.stdout.splitlines()[-1] == "a=1", "what the user adds comes last"
    assert not (tmp_path / "out").exists()


def test_the_quickstart_is_planned_without_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGPO_PYTHON", raising=False)
    config = compose("scripts/run_agpo_quickstart.sh", ["trainer.total_training_steps=7"])
    assert config.algorithm.adv_estimator == "agpo" and config.trainer.total_training_steps == 7


def test_a_script_that_is_no_launch_script_is_not_run(tmp_path: Path) -> None:
    script = tmp_path / "other.sh"
    script.write_text(f"touch {tmp_path / 'ran'}; echo --config-name; echo qwen14b")
    comment = tmp_path / "comment.sh"
    comment.write_text(f"# AGPO_DRY_RUN is not looked at\n{script.read_text()}  # nor is lib/train.sh called\n")
    for target in (str(script), str(comment), "scripts/run_tests.sh"):
        with pytest.raises(PlanError, match="not a launch script"):
            compose(target)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "form", ["--config-name qwen14b", "--config-name=qwen14b", "-cn qwen14b", "--config-path {} --config-name mine"]
)
def test_a_users_script_that_calls_the_training_command_is_planned(form: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("defaults: [qwen14b, _self_]\n")
    script = tmp_path / "mine.sh"
    command = f"$AGPO_PYTHON -m recipe.agpo.main {form.format(tmp_path)} method=grpo trainer.nnodes=3"
    script.write_text(f"cd {ROOT}\nexec {command}\n")
    config = compose(str(script))
    assert (config.algorithm.adv_estimator, config.trainer.nnodes) == ("grpo", 3)
    assert config.actor_rollout_ref.model.path == "Qwen/Qwen2.5-14B"


@pytest.mark.parametrize("value", ["1", "true", "yes"])
def test_no_entry_point_starts_a_run_when_asked_for_a_dry_run(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from recipe.agpo.preflight import ConfigProblem, before_ray

    monkeypatch.setenv("AGPO_DRY_RUN", value)
    with pytest.raises(ConfigProblem, match=f"AGPO_DRY_RUN={value} is set"):
        before_ray(plan("run_agpo_qwen14b.sh"))
    for script in ("run_agpo_quickstart.sh", "run_agpo_qwen14b.sh"):
        done = subprocess.run(["bash", f"scripts/{script}"], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.startswith("--config-name\n"), done.stdout


def test_a_script_that_hangs_is_ended_with_what_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recipe.agpo.plan import compose as module

    monkeypatch.setattr(module, "SCRIPT_S", 0.3)
    script = tmp_path / "hangs.sh"
    script.write_text(f": $AGPO_DRY_RUN; sleep 600 & echo $! > {tmp_path / 'pid'}; wait")
    with pytest.raises(PlanError, match="did not end"):
        compose(str(script))
    if (tmp_path / "pid").exists():  # on a slow machine the script may not have come so far
        pid = (tmp_path / "pid").read_text().strip()
        deadline = time.monotonic() + 60  # against hanging: a killed process may have to wait for a core
        while pid and alive(pid):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def alive(pid: str) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("name", ["GPUS", "NODES", "TENSOR_PARALLEL", "TOKEN_BUDGET", "LORA_RANK"])
def test_numbers_of_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("x", "-1", "1.5", "9" * 400, "08", " 1"):
        monkeypatch.setenv(name, wrong)
        with pytest.raises(PlanError, match=f"dry run failed: {name}=.*must be a whole number"):
            compose("scripts/run_agpo_qwen14b.sh")


def test_paths_of_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_BUDGET", "2_000_000_000")
    odd = tmp_path / "a b,c [d] = été 'e'"
    for name in ("OUT", "DATA_DIR", "MODEL_PATH"):
        monkeypatch.setenv(name, str(odd))
    config = plan("run_grpo_qwen14b.sh")
    assert config.trainer.default_local_dir == f"{odd}/checkpoints"
    assert list(config.data.train_files) == [f"{odd}/gsm8k/train.parquet"]
    assert config.actor_rollout_ref.model.path == str(odd)
    assert config.algorithm.agpo.token_budget == 2_000_000_000


def test_a_config_elsewhere_builds_on_ours(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("defaults: [quickstart, _self_]\ntrainer: {total_training_steps: 3}\n")
    config = compose(str(tmp_path / "mine.yaml"))
    assert config.trainer.total_training_steps == 3 and config.algorithm.adv_estimator


def test_a_prompt_and_the_lengths_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pandas

    from tests.standins import tokenizers as standins

    model, data = standins.save(standins.gemma2(None), tmp_path / "model", "gemma2"), tmp_path / "train.parquet"
    rows = [[{"role": "user", "content": "1" * count}] for count in (1, 2, 3, 80)]
    reward = {"style": "rule", "ground_truth": "1"}
    pandas.DataFrame({"prompt": rows, "data_source": "gsm8k", "reward_model": [reward] * 4}).to_parquet(data)
    files = (f"data.train_files={data}", f"data.val_files={data}", "data.max_prompt_length=64")
    assert main(["plan", "gemma9b", *files, f"actor_rollout_ref.model.path={model}"]) == 0
    text = capsys.readouterr().out
    assert f"{data}, row 0: 3 tokens, the first is '<bos>' (id 2, its BOS)\n  | <bos>1\n  | \n" in text
    for key in ("train_files", "val_files"):
        assert f"{key:<16}4 prompts: min 3, p50 4, p95 82, max 82 tokens; 1 over the limit of 64" in text
    assert "BOS missing" not in text


def test_without_a_tokenizer_the_plan_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "qwen14b"]) == 0
    assert "the tokenizer of Qwen/Qwen2.5-14B is not on this machine" in capsys.readouterr().out


def test_a_template_that_raises_is_said_in_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pandas

    from tests.standins import tokenizers as standins

    model, data = standins.save(standins.qwen(None), tmp_path / "model", "qwen2"), tmp_path / "train.parquet"
    pandas.DataFrame(
        {"prompt": [standins.USER], "data_source": "gsm8k", "reward_model": [{"style": "rule"}]}
    ).to_parquet(data)
    files = (f"data.train_files={data}", "data.val_files=null", f"actor_rollout_ref.model.path={model}")
    assert main(["plan", "qwen14b", *files]) == 0
    text = capsys.readouterr().out
    assert "no rendered prompt, no lengths" in text and "has no chat template" in text
