# SPDX-License-Identifier: Apache-2.0
"""AGPO in TRL, for real: a tiny model trains on the CPU. Skipped where TRL is not installed."""

from __future__ import annotations

import inspect
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

trl = pytest.importorskip("trl", reason="TRL is not installed: pip install --no-deps trl==1.16.0", exc_type=ImportError)

from agpo_core import AGPOConfig, Controller, Resolved, StateError, TemperatureDecision, load_state, policy_loss  # noqa: E402
from examples.trl import agpo_grpo_trainer as agpo_trl  # noqa: E402
from examples.trl.agpo_grpo_trainer import DECISIONS_FILE, EPS_HIGH, EPS_LOW, STATE_FILE, TAU  # noqa: E402
from examples.trl.checks import check_head  # noqa: E402
from examples.trl.step import GroupStep  # noqa: E402
from examples.trl.train import KINDS, build_trainer, share_of_kind  # noqa: E402

MEND = f"this TRL differs from {agpo_trl.TRL_VERSION}: see SEAMS in examples/trl/agpo_grpo_trainer.py"
OFF = AGPOConfig.from_preset("grpo")
STEPS = 6  # optimiser steps; two per generation batch


def trained(folder: Path, resume: str | None = None, agpo: AGPOConfig | None = None, **changes: Any) -> Any:
    trainer = build_trainer(str(folder), agpo, **({"max_steps": STEPS, "save_steps": 2, "logging_steps": 1} | changes))
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def decisions(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / DECISIONS_FILE).read_text().splitlines()]


def weights(trainer: Any) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("trl")
    return trained(folder), folder


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any]]:
    """A trainer and a generation batch whose old log-probs and advantages make the clip bind on both sides."""
    trainer = trained(tmp_path_factory.mktemp("trl"), max_steps=2, save_strategy="no")
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    rows = [{"prompt": prompt} for prompt in KINDS for _ in range(8)]
    torch.manual_seed(3)
    inputs = trainer._generate_and_score_completions(rows)
    noise = torch.randn(inputs["old_per_token_logps"].shape, generator=torch.Generator().manual_seed(4))
    inputs["old_per_token_logps"] = inputs["old_per_token_logps"] + 0.3 * noise
    inputs["advantages"] = torch.linspace(-1.0, 1.0, len(rows))
    return trainer, inputs


def loss_of(trainer: Any, inputs: dict[str, Any]) -> torch.Tensor:
    return trainer.compute_loss(trainer.model, inputs).detach()


# ---- contract with TRL ---------------------------------------------------------------------------------


def test_the_version_is_the_one_that_the_seams_name() -> None:
    assert trl.__version__ == agpo_trl.TRL_VERSION, MEND


@pytest.mark.parametrize("name", agpo_trl.SEAMS)
def test_seams(name: str) -> None:
    parameters = list(inspect.signature(getattr(trl.GRPOTrainer, name)).parameters)[1:]
    wanted = agpo_trl.SEAMS[name]
    assert parameters[: len(wanted)] == wanted, MEND
    if name != "_get_per_token_logps_and_entropies":
        assert len(parameters) == len(wanted), MEND


def test_what_the_overrides_take_for_granted() -> None:
    source = inspect.getsource(trl.GRPOTrainer)
    for name in agpo_trl.ATTRIBUTES:
        assert f"self.{name}" in source, f"{name}: {MEND}"
    loss = inspect.getsource(trl.GRPOTrainer._compute_loss)
    assert "torch.clamp(coef_1, 1 - self.epsilon_low, 1 + self.epsilon_high)" in loss, MEND
    made = inspect.getsource(trl.GRPOTrainer._generate_and_score_completions)
    policy, reference = (
        made.index(f"{name}, _, _ = self._get") for name in ("old_per_token_logps", "ref_per_token_logps")
    )
    assert made.index("self._generate(prompts)") < policy < reference < made.index("self._calculate_rewards("), MEND
    from trl.trainer.utils import add_fused_lm_head

    head = inspect.getsource(add_fused_lm_head)
    assert 'backbone_attr = "base_model"' in head and "backbone_outputs.last_hidden_state" in head, MEND


# ---- controllers off: TRL's own trainer ----------------------------------------------------------------


def test_off_is_trls_own_trainer_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = trained(tmp_path / "ours", agpo=OFF, save_strategy="no")

    def plain(*args: Any, agpo: Any, vote_key: Any, **kwargs: Any) -> Any:
        return trl.GRPOTrainer(*args, **kwargs)

    monkeypatch.setattr("examples.trl.train.AGPOGRPOTrainer", plain)
    theirs = trained(tmp_path / "theirs", save_strategy="no")
    assert type(theirs) is trl.GRPOTrainer
    losses = [[entry["loss"] for entry in t.state.log_history if "loss" in entry] for t in (ours, theirs)]
    assert len(losses[0]) == STEPS and losses[0] == losses[1]
    assert torch.equal(weights(ours), weights(theirs))
    assert not (tmp_path / "ours" / DECISIONS_FILE).exists()


def test_at_the_bases_the_loss_is_trls_own(batch: tuple[Any, dict[str, Any]]) -> None:
    trainer, inputs = batch
    rows = len(inputs["advantages"])
    plain = {name: value for name, value in inputs.items() if not name.startswith("agpo_")}
    base = plain | {TAU: torch.ones(rows), EPS_LOW: torch.full((rows,), 0.2), EPS_HIGH: torch.full((rows,), 0.2)}
    found = []
    for columns in (plain, base):
        trainer.model.zero_grad()
        loss = trainer.compute_loss(trainer.model, columns)
        loss.backward()
        found.append((loss.detach(), torch.cat([p.grad.flatten() for p in trainer.model.parameters()])))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


# ---- decisions -----------------------------------------------------------------------------------------


def test_after_the_warm_up_prompts_differ_in_temperature(run: tuple[Any, Path]) -> None:
    trainer, folder = run
    rows = decisions(folder)
    assert [row["step"] for row in rows] == sorted([0, 1, 2] * len(KINDS))
    first, later = rows[: len(KINDS)], rows[len(KINDS) :]
    assert {(row["tau"], row["tau_reason"]) for row in first} == {(1.0, "warmup")}
    assert all(row["eps_low"] == row["eps_high"] == 0.2 for row in first)
    for step in (1, 2):
        assert len({row["tau"] for row in later if row["step"] == step}) > 1
        assert len({row["eps_low"] for row in later if row["step"] == step}) > 1
    assert "heated" in {row["tau_reason"] for row in later}
    assert any(entry.get("agpo/tau/max", 0.0) > 1.0 for entry in trainer.state.log_history)


def test_the_state_saw_entropy_and_drift(run: tuple[Any, Path]) -> None:
    state = run[0].controller
    assert state.step == STEPS // 2 == state.uncertainty.updates == state.entropy.updates == state.step_kl.updates
    assert 1.0 < state.entropy.mean < 6.0  # a random model over 264 tokens has ln 264 = 5.6 nats
    assert state.step_kl.mean > 0.0


def test_the_learning_rate_is_scaled_for_each_step_and_for_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[float] = []
    step = torch.optim.AdamW.step

    def seen(optimiser: Any, *args: Any, **kwargs: Any) -> Any:
        used.append(optimiser.param_groups[0]["lr"])
        return step(optimiser, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", seen)
    trainer = trained(tmp_path, lr_scheduler_type="constant", save_strategy="no")
    rate = trainer.args.learning_rate
    assert used[:2] == [pytest.approx(1e-6, rel=1e-3)] * 2, "both updates of the first generation batch"
    assert used[2] == used[3] != used[1] and used[4] == used[5]
    assert trainer.controller.step_size.scale != pytest.approx(1e-6 / rate, rel=1e-3)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(rate)
    assert any("agpo/step_size/scale" in entry for entry in trainer.state.log_history)


def test_every_response_is_scored_by_the_reward_function_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counting(prompts: list[str], completions: list[str], **kwargs: Any) -> list[float]:
        calls.append(len(prompts))
        kwargs["log_extra"]("text", completions)
        return share_of_kind(prompts, completions)

    monkeypatch.setattr("examples.trl.train.share_of_kind", counting)
    trainer = trained(tmp_path, max_steps=1, save_strategy="no", log_completions=True)
    assert calls == [16, 16]  # the probes, the rest
    assert list(trainer._logs["extra"]["text"]) == list(trainer._logs["completion"])
    right = share_of_kind(list(trainer._logs["prompt"]), list(trainer._logs["completion"]))
    assert list(trainer._logs["rewards"]["counting"]) == right


# ---- temperatures reach sampling and scoring, eps reaches the loss ---------------------------------------


def test_scored_at_the_own_temperature(batch: tuple[Any, dict[str, Any]]) -> None:
    trainer, inputs = batch
    tau = torch.linspace(0.5, 2.0, len(inputs["advantages"]))
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    keep = inputs["completion_ids"].shape[1]
    with torch.no_grad():
        trainer._scoring_tau = tau
        found, entropy, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, keep, batch_size=5)
        trainer._scoring_tau = None
        logits = trainer.model(input_ids=ids, attention_mask=mask).logits[:, -keep - 1 : -1]
    wanted = torch.log_softmax(logits / tau.view(-1, 1, 1), dim=-1)
    tokens = inputs["completion_mask"].bool()
    own = wanted.gather(-1, inputs["completion_ids"].unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(found[tokens], own[tokens], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy[tokens], -(wanted.exp() * wanted).sum(-1)[tokens], rtol=1e-5, atol=1e-5)


def test_sampled_at_the_own_temperature(batch: tuple[Any, dict[str, Any]]) -> None:
    trainer, _ = batch
    prompts = ["letters"] * 16
    tau = torch.tensor([0.001, 1.0] * 8)
    torch.manual_seed(5)
    with trainer._head.at(tau):
        _, ids, *_ = super(agpo_trl.AGPOGRPOTrainer, trainer)._generate(prompts)
    cold, warm = [tuple(row) for row in ids[::2]], [tuple(row) for row in ids[1::2]]
    prompt = torch.tensor([trainer.processing_class("letters")["input_ids"]])
    greedy = trainer.model.generate(prompt, max_new_tokens=4, do_sample=False)[0, prompt.shape[1] :].tolist()
    assert set(cold) == {tuple(greedy)}
    assert len(set(warm)) > 4


def test_the_rest_of_a_group_is_sampled_at_its_decision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Next to 0 degrees every response is the greedy one; the probes stay at the base."""
    frozen = torch.full((len(KINDS),), 0.001, dtype=torch.float64)
    nothing = torch.zeros(len(KINDS))
    decision = TemperatureDecision(frozen, nothing.to(torch.int8), nothing, nothing)
    monkeypatch.setattr(Controller, "decide_temperature", lambda *args: decision)
    trainer = build_trainer(str(tmp_path))
    trainer.model.train()
    output = trainer._generate_and_score_completions([{"prompt": prompt} for prompt in KINDS for _ in range(8)])
    groups = [[tuple(row) for row in group] for group in output["completion_ids"].view(len(KINDS), 8, -1).tolist()]
    assert all(len(set(group[4:])) == 1 for group in groups)
    assert all(len(set(group[:4])) > 1 for group in groups)
    assert output[TAU].view(-1, 8)[0].tolist() == pytest.approx([1.0] * 4 + [0.001] * 4)


def test_signals_are_means_over_tokens_that_count() -> None:
    settings = Resolved(tau_base=1.0, clip_low=0.2, clip_high=0.2, probe_size=2, group_size=2)
    step = GroupStep([{}] * 4, settings, 0, None)
    nan = float("nan")
    mask = torch.tensor([[1, 1], [1, 0], [1, 1], [0, 0]])
    step.read_entropy(torch.tensor([[1.0, 2.0], [3.0, nan], [5.0, 5.0], [nan, 9.0]]), mask)
    step.add_drift(torch.tensor([[-1.0, -1.0]]), torch.tensor([[-1.5, nan]]), torch.tensor([[1, 0]]))
    step.add_drift(torch.tensor([[-1.0, -1.0]]), torch.tensor([[-1.1, -1.3]]), torch.tensor([[1, 1]]))
    signals = step.signals()
    assert signals.policy_entropy == pytest.approx(16.0 / 5) and signals.step_kl == pytest.approx(0.3)
    k3 = [math.exp(-k1) - 1 + k1 for k1 in (0.5, 0.1, 0.3)]
    assert signals.step_kl_k3 == pytest.approx(sum(k3) / 3, rel=1e-5)
    assert signals.policy_entropy_P is not None and signals.policy_entropy_P.tolist() == pytest.approx([2.0, 5.0])


@pytest.mark.parametrize("adapter", [False, True])
def test_columns_stay_with_their_rows(tmp_path: Path, adapter: bool) -> None:
    """TRL shuffles and splits a batch. Nothing is learnt here, so every ratio is 1 if both passes agree on tau."""
    changes: dict[str, Any] = {"num_iterations": 1, "steps_per_generation": 4, "per_device_train_batch_size": 8}
    if adapter:
        peft = pytest.importorskip("peft", reason="PEFT is not installed")
        changes |= {"peft_config": peft.LoraConfig(r=2, target_modules=["q_proj"]), "beta": 0.1}
    trainer = trained(tmp_path, learning_rate=0.0, max_steps=12, save_strategy="no", **changes)
    assert trainer.controller.step == trainer.controller.step_kl.updates == 3
    assert len({row["tau"] for row in decisions(tmp_path)}) > 3
    assert abs(trainer.controller.step_kl.mean) < 1e-6
    assert all(entry.get("clip_ratio/region_mean", 0.0) == 0.0 for entry in trainer.state.log_history)
    assert all(abs(entry.get("kl", 0.0)) < 1e-6 for entry in trainer.state.log_history)


def test_evaluation_is_left_alone(run: tuple[Any, Path]) -> None:
    trainer, folder = run
    before = trainer.controller, decisions(folder), trainer._open
    found = trainer.evaluate(Dataset.from_dict({"prompt": list(KINDS)}))
    assert "eval_reward" in found
    assert (trainer.controller, decisions(folder), trainer._open) == before


def test_eps_reaches_the_loss(batch: tuple[Any, dict[str, Any]]) -> None:
    trainer, inputs = batch
    rows = len(inputs["advantages"])
    narrow, wide = torch.full((rows,), 0.05), torch.full((rows,), 0.4)
    one = narrow.clone()
    one[-1] = 0.4  # the row with the largest advantage
    losses = [loss_of(trainer, inputs | {EPS_LOW: low, EPS_HIGH: low}).item() for low in (narrow, one, wide)]
    assert len(set(losses)) == 3
    assert losses[0] > losses[1]  # a wider clip lets a good response lower the loss further


def test_the_loss_is_that_of_agpo_core(batch: tuple[Any, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, inputs = batch
    monkeypatch.setattr(trainer, "loss_type", "grpo")
    rows = len(inputs["advantages"])
    low, high = torch.linspace(0.05, 0.3, rows), torch.linspace(0.3, 0.05, rows)
    found = loss_of(trainer, inputs | {EPS_LOW: low, EPS_HIGH: high})
    assert trainer._scored is not None
    wanted, metrics = policy_loss(
        trainer._scored[0],
        inputs["old_per_token_logps"],
        inputs["advantages"],
        inputs["completion_mask"],
        low,
        high,
        dual_clip=None,
        mode="seq-mean-token-mean",
    )
    assert metrics["clip_fraction_low"] > 0 and metrics["clip_fraction_high"] > 0
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_reference_model_is_scored_at_the_own_temperature(tmp_path: Path, batch: tuple[Any, dict[str, Any]]) -> None:
    """The reference is the policy itself here, so the KL is 0 only if both are scored alike."""
    _, inputs = batch
    seed = build_trainer(str(tmp_path / "seed"))
    seed.save_model(str(tmp_path / "model"))
    seed.model.config._name_or_path = str(tmp_path / "model")
    trainer = build_trainer(str(tmp_path / "run"), beta=0.1, model=seed.model)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    trainer._generate_and_score_completions([{"prompt": prompt} for prompt in KINDS for _ in range(8)])
    tau = torch.linspace(0.5, 2.0, len(inputs["advantages"]))
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    trainer._scoring_tau = tau
    with torch.no_grad():
        policy, reference = (
            trainer._get_per_token_logps_and_entropies(model, ids, torch.ones_like(ids), 4)[0]
            for model in (trainer.model, trainer.ref_model)
        )
    torch.testing.assert_close(policy, reference)


# ---- checkpoints ---------------------------------------------------------------------------------------


def test_a_resumed_run_takes_the_same_decisions(run: tuple[Any, Path], tmp_path: Path) -> None:
    trainer, folder = run
    (tmp_path / DECISIONS_FILE).write_text((folder / DECISIONS_FILE).read_text())
    resumed = trained(tmp_path, resume=str(folder / "checkpoint-2"))
    assert decisions(tmp_path) == decisions(folder)
    assert resumed.controller == trainer.controller
    assert torch.equal(weights(resumed), weights(trainer))


def test_the_state_lies_in_every_checkpoint(run: tuple[Any, Path]) -> None:
    trainer, folder = run
    states = [load_state(folder / f"checkpoint-{step}" / STATE_FILE)[0] for step in (2, 4, 6)]
    assert [state.step for state in states] == [1, 2, 3]
    assert states[-1] == trainer.controller


def test_a_checkpoint_of_another_run_is_refused(run: tuple[Any, Path], tmp_path: Path) -> None:
    checkpoint = run[1] / "checkpoint-2"
    other = {"clip": {"kl_target": 0.02}}
    with pytest.raises(ValueError, match="on_config_change=keep"):
        trained(tmp_path, resume=str(checkpoint), agpo=AGPOConfig.from_dict(other))
    kept = trained(
        tmp_path, resume=str(checkpoint), agpo=AGPOConfig.from_dict(other), on_config_change="keep", max_steps=4
    )
    assert kept.controller.step == 2
    plain = trained(tmp_path / "plain", agpo=OFF, max_steps=2)
    assert plain.controller.step == 0
    with pytest.raises(StateError, match="missing"):
        trained(tmp_path, resume=str(tmp_path / "plain" / "checkpoint-2"))


# ---- refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"use_vllm": True}, "use_vllm=True"),
        ({"use_transformers_continuous_batching": True}, "use_transformers_continuous_batching=True"),
        ({"torch_compile": True}, "torch_compile=True"),
        ({"loss_type": "cispo"}, "loss_type='cispo'"),
        ({"save_steps": 3}, "save_steps=3.* multiple of 2"),
        ({"agpo": AGPOConfig.from_preset("reference")}, "logprob_temperature='uncorrected'"),
        ({"agpo": AGPOConfig.from_dict({"probe": {"reuse": False}})}, "probe.reuse=false"),
        ({"agpo": AGPOConfig.from_dict({"advantage": {"scale": "none"}})}, "scale_rewards"),
        ({"agpo": AGPOConfig.from_preset("agpo_l")}, "scale_rewards"),
        ({"agpo": AGPOConfig.from_dict({"loss": {"adaptive": "exp"}})}, "loss.adaptive='exp'"),
        ({"agpo": AGPOConfig.from_dict({"length": {"weight": 0.1}})}, "length.weight=0.1"),
        ({"agpo": AGPOConfig.from_dict({"allocation": {"enabled": True}})}, "allocation.enabled=true"),
        ({"outcome": "nobody"}, "outcome='nobody'.*share_of_kind"),
        ({"reward_funcs": [share_of_kind, len]}, "outcome to one of share_of_kind, len"),
        ({"tools": [len]}, "tools"),
        ({"rollout_func": print}, "rollout_func"),
    ],
)
def test_what_cannot_be_carried_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build_trainer(str(tmp_path), **changes)


def test_several_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trl.GRPOConfig, "world_size", property(lambda self: 2))
    with pytest.raises(ValueError, match="world_size > 1.*launch a single one"):
        build_trainer(str(tmp_path))


def test_an_idle_clip_is_said(tmp_path: Path) -> None:
    fixed = AGPOConfig.from_dict({"step_size": {"enabled": False}})
    with pytest.warns(UserWarning, match="one update per generation batch"):
        build_trainer(str(tmp_path), fixed, num_iterations=1)


def test_a_step_size_that_sees_no_drift_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one update per generation batch.*num_iterations=2"):
        build_trainer(str(tmp_path), num_iterations=1)
    alone = AGPOConfig.from_dict({"temperature": {"enabled": False}, "clip": {"enabled": False}})
    with pytest.raises(ValueError, match="step_size.enabled=true without a probe.*temperature.enabled=true"):
        build_trainer(str(tmp_path), alone)


@pytest.mark.parametrize("what", ["final_logit_softcapping", "a bias in its output head"])
def test_a_head_that_is_not_linear_is_refused(tmp_path: Path, what: str) -> None:
    trainer = build_trainer(str(tmp_path))
    if "bias" in what:
        trainer.model.lm_head.bias = torch.nn.Parameter(torch.zeros(1))
    else:
        trainer.model.config.final_logit_softcapping = 30.0
    with pytest.raises(ValueError, match=f"{what}.*temperature.enabled=false"):
        check_head(trainer, AGPOConfig())
    check_head(trainer, AGPOConfig.from_dict({"temperature": {"enabled": False}}))


# ---- average of the weights ----------------------------------------------------------------------------

AVERAGED = {"average": {"enabled": True}}


def test_an_average_changes_no_training_and_is_what_evaluation_and_export_get(
    run: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    from agpo_core import WeightAverage
    from recipe.agpo.evaluate.checkpoint import find

    seen: list[torch.Tensor] = []
    expected = WeightAverage()
    update = WeightAverage.update

    def noted(self: WeightAverage, given: Any) -> None:
        given = list(given)
        update(self, given)
        update(expected, given)

    monkeypatch.setattr(WeightAverage, "update", noted)
    plain = trained(tmp_path / "plain")
    averaged = trained(tmp_path / "averaged", agpo=AGPOConfig.from_dict(AVERAGED))
    assert torch.equal(weights(averaged), weights(plain))
    assert averaged.averaged.average.count == STEPS and plain.averaged is None
    mean = torch.cat([tensor.flatten() for tensor in expected.tensors])
    monkeypatch.setattr(trl.GRPOTrainer, "evaluate", lambda self, *a, **k: seen.append(weights(self)) or {})
    for trainer in (averaged, plain):
        trainer.evaluate()
    assert torch.equal(seen[0], mean) and torch.equal(seen[1], weights(plain))
    assert torch.equal(weights(averaged), weights(plain))

    found = find(str(tmp_path / "averaged" / f"checkpoint-{STEPS}"))
    assert found.averaged == f"average of the weights over {STEPS} updates"
    exported = AutoModelForCausalLM.from_pretrained(found.folder)
    assert torch.equal(torch.cat([p.detach().flatten() for p in exported.parameters()]), mean)


def test_a_resumed_average_continues_bit_for_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agpo = AGPOConfig.from_dict(AVERAGED | {"preset": "grpo"})
    whole = trained(tmp_path / "whole", agpo=agpo)
    first = str(tmp_path / "whole" / "checkpoint-2")
    resumed = trained(tmp_path / "resumed", first, agpo=agpo)
    assert torch.equal(weights(resumed), weights(whole))
    ours, theirs = resumed.averaged.average, whole.averaged.average
    assert ours.count == theirs.count == STEPS
    assert all(torch.equal(a, b) for a, b in zip(ours.tensors, theirs.tensors, strict=True))
    # Other settings of the average, or none before, are no other run.
    trained(tmp_path / "plain", agpo=OFF, max_steps=2)
    begun = trained(tmp_path / "begun", str(tmp_path / "plain" / "checkpoint-2"), agpo=agpo)
    assert begun.averaged.average.count == STEPS - 2 and "begins with the next update" in capsys.readouterr().out
    (tmp_path / "whole" / "checkpoint-2" / "average" / "agpo_average.json").unlink()
    with pytest.raises(ValueError, match=r"agpo_average.json.*missing"):
        trained(tmp_path / "damaged", first, agpo=agpo)


def test_an_average_with_the_weights_elsewhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="average.enabled=true does not work with use_vllm=True"):
        build_trainer(str(tmp_path), AGPOConfig.from_dict(AVERAGED | {"preset": "grpo"}), use_vllm=True)
