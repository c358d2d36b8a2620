# SPDX-License-Identifier: Apache-2.0
"""Adapters for stacks that do not install on a CPU: signatures against the recorded hooks, behaviour on tensors.

``hooks.json`` says what each stack calls, as read at the named commit. A stack that is installed here is compared with
its record, too.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from agpo_core import AGPOConfig
from examples.stacks import roll, skyrl, slime
from examples.stacks.probe_gate import ProbeGate

HOOKS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "hooks.json").read_text())
ADAPTED = [hook for hook in HOOKS if hook["adapter"]]
GROUP = 4


def gate(**changes: Any) -> ProbeGate:
    return ProbeGate(AGPOConfig.from_dict(changes), temperature=1.0, clip_low=0.2, clip_high=0.2, group_size=GROUP)


def parameters(function: Any) -> list[str]:
    marks = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return [marks.get(item.kind, "") + item.name for item in inspect.signature(function).parameters.values()]


def found(path: str) -> Any:
    module, _, name = path.partition(":")
    thing: Any = importlib.import_module(module)
    for part in name.split("."):
        thing = getattr(thing, part)
    return thing


def fake(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    """A module ``name`` with these members, and its parents."""
    parts = name.split(".")
    for i in range(1, len(parts)):
        parent = ".".join(parts[:i])
        if parent not in sys.modules:
            monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
    module = ModuleType(name)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)


# ---- signatures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", ADAPTED, ids=lambda hook: hook["adapter"])
def test_adapters_have_the_signature_of_the_recorded_hook(hook: dict[str, Any]) -> None:
    adapter = found(hook["adapter"])
    assert parameters(adapter) == hook["parameters"] + hook["optional"]
    assert inspect.iscoroutinefunction(adapter) == hook["async"]


def package_of(hook: dict[str, Any]) -> str | None:
    """The package that the hook's file belongs to; None for scripts and examples, which cannot be imported."""
    package = hook["file"].removeprefix("src/").split("/")[0]
    return package if hook["file"].endswith(".py") and package != "examples" else None


IMPORTABLE = [hook for hook in HOOKS if package_of(hook)]


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: f"{hook['stack']}:{hook['name']}")
def test_records_are_complete(hook: dict[str, Any]) -> None:
    assert len(hook["commit"]) == 40 and hook["date"] and hook["version"] and "/" in hook["repository"]


@pytest.mark.parametrize("hook", IMPORTABLE, ids=lambda hook: f"{hook['stack']}:{hook['name']}")
def test_an_installed_stack_agrees_with_its_record(hook: dict[str, Any]) -> None:
    package = package_of(hook)
    assert package is not None
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed here")
    live = found(hook["file"].removeprefix("src/").removesuffix(".py").replace("/", ".") + ":" + hook["name"])
    assert parameters(live)[-len(hook["parameters"]) :] == hook["parameters"], f"{hook['stack']} has moved on"


def test_the_docs_name_every_recorded_stack_and_commit() -> None:
    text = (Path(__file__).parents[2] / "docs" / "stacks.md").read_text()
    for hook in HOOKS:
        assert hook["repository"] in text and hook["commit"][:7] in text


# ---- the gate ------------------------------------------------------------------------------------------


def run_group(gate: ProbeGate, group: str, outcomes: list[float]) -> list[float]:
    """Temperatures of a group whose coroutines start in the wrong order: the rest first."""
    used = [0.0] * GROUP

    async def respond(member: int) -> None:
        async def generate(tau: float) -> float:
            used[member] = tau
            await asyncio.sleep(0)
            return outcomes[member]

        await gate.run(group, member, generate, lambda outcome: (outcome, str(outcome)))

    async def all_of_them() -> None:
        await asyncio.wait_for(asyncio.gather(*(respond(member) for member in reversed(range(GROUP)))), 5)

    asyncio.run(all_of_them())
    return used


def test_the_rest_of_a_group_waits_for_its_probe() -> None:
    one = gate(clip={"dispersion_gain": -0.3})
    assert run_group(one, "first", [1.0, 0.0, 1.0, 0.0]) == [1.0] * GROUP  # warm-up
    run_group(one, "second", [1.0, 1.0, 1.0, 1.0])
    one.close_step()
    assert one.state.step == 1 and one.state.uncertainty.updates == 1
    mixed, sure = run_group(one, "p", [1.0, 0.0, 1.0, 0.0]), run_group(one, "q", [1.0, 1.0, 0.0, 0.0])
    assert mixed[:2] == sure[:2] == [1.0, 1.0]
    assert mixed[2] == mixed[3] > 1.0 > sure[2] == sure[3]
    assert one.temperature("p", 3) == mixed[3] and one.temperature("p", 0) == 1.0
    assert one.clip_ratios("p") != one.clip_ratios("q")


def test_a_probe_that_raises_holds_nobody_up() -> None:
    one = gate()
    used: list[float] = []

    async def main() -> list[Any]:
        async def fail(tau: float) -> float:
            raise RuntimeError("engine died")

        async def generate(tau: float) -> float:
            used.append(tau)
            return 1.0

        members = [one.run("p", m, fail if m == 0 else generate, lambda r: (r, None)) for m in range(GROUP)]
        return await asyncio.wait_for(asyncio.gather(*members, return_exceptions=True), 5)

    results = asyncio.run(main())
    assert isinstance(results[0], RuntimeError) and results[1:] == [1.0] * 3
    assert used == [1.0] * 3


def test_the_gates_state_survives(tmp_path: Path) -> None:
    one, two = gate(), gate()
    run_group(one, "p", [1.0, 0.0, 1.0, 0.0])
    one.close_step()
    one.save(tmp_path / "state.json")
    two.load(tmp_path / "state.json")
    assert two.state == one.state and two.state.step == 1
    with pytest.raises(ValueError, match="other settings"):
        gate(temperature={"gain": 0.2}).load(tmp_path / "state.json")


# ---- the adapters --------------------------------------------------------------------------------------


def test_slime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def generate(args: Any, sample: Any, sampling_params: dict[str, Any]) -> Any:
        sample.used = sampling_params["temperature"]
        return sample

    async def async_rm(args: Any, sample: Any) -> float:
        return sample.wanted

    fake(monkeypatch, "slime.rollout.sglang_rollout", generate=generate)
    fake(monkeypatch, "slime.rollout.rm_hub", async_rm=async_rm)
    slime._gate.cache_clear()
    args = SimpleNamespace(rollout_temperature=1.0, n_samples_per_prompt=GROUP, save=str(tmp_path))

    def rollout(step: int) -> list[Any]:
        samples = [
            SimpleNamespace(index=8 * step + i, group_index=2 * step + i // GROUP, wanted=w, reward=None, metadata={})
            for i, w in enumerate([1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0])
        ]
        for sample in samples:
            sample.train_metadata = None
        params = {"temperature": 1.0}

        async def main() -> list[Any]:
            return list(await asyncio.gather(*(slime.custom_generate(args, s, params) for s in samples)))

        done = asyncio.run(asyncio.wait_for(main(), 5))
        slime.close_step(args, done, None)
        return done

    assert [s.used for s in rollout(0)] == [1.0] * 8
    second = rollout(1)
    assert [s.reward for s in second] == [s.wanted for s in second]
    assert second[2].used > 1.0 > second[6].used and second[0].used == 1.0
    assert second[2].train_metadata == {"agpo_tau": second[2].used}

    class Base:
        def __init__(self) -> None:
            self.args, self.calls = args, []

        def save(self, rollout_id: Any) -> None:
            self.calls.append(("save", rollout_id))

        def load(self, rollout_id: Any = None) -> None:
            self.calls.append(("load", rollout_id))

    data = type("Data", (slime.StateWithData, Base), {})()
    data.save(1)
    saved = slime.gate_of(args).state
    rollout(2)
    data.load(1)
    assert slime.gate_of(args).state == saved and saved.step == 2
    assert data.calls == [("save", 1), ("load", 1)]
    evaluated = asyncio.run(
        slime.custom_generate(args, SimpleNamespace(index=0), {"temperature": 0.6}, evaluation=True)
    )
    assert evaluated.used == 0.6


def test_skyrl_advantages() -> None:
    rewards = torch.tensor([[0.0, 1.0], [0.0, 0.0], [0.0, 3.0], [1.0, 2.0]])
    mask = torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
    advantages, returns = skyrl.agpo_advantage(rewards, mask, ["a", "a", "b", "b"], config=None, gamma=1.0)
    assert advantages is returns
    root = math.sqrt(0.5)
    torch.testing.assert_close(advantages, torch.tensor([[root, root], [-root, 0.0], [0.0, 0.0], [0.0, 0.0]]))
    plain, _ = skyrl.agpo_advantage(rewards, mask, ["a", "a", "b", "b"], grpo_norm_by_std=False)
    torch.testing.assert_close(plain[0], torch.tensor([0.5, 0.5]))


def test_skyrl_generator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def concatenate(outputs: list[dict[str, Any]]) -> dict[str, Any]:
        names = ("response_ids", "rewards", "used")
        return {name: [x for o in outputs for x in o[name]] for name in names} | {"rollout_metrics": None}

    fake(monkeypatch, "skyrl.train.generators.utils", concatenate_generator_outputs=concatenate)

    class Engine:
        async def generate(self, batch: dict[str, Any]) -> dict[str, Any]:
            count = len(batch["prompts"])
            return {
                "response_ids": list(batch["prompts"]),
                "rewards": [extra["reward"] for extra in batch["env_extras"]],
                "used": [batch["sampling_params"]["temperature"]] * count,
                "rollout_metrics": None,
            }

    generator = type("Generator", (skyrl.ProbedGenerator, Engine), {"gate": gate()})()
    rows = [("p", 1.0), ("q", 1.0), ("p", 0.0), ("q", 1.0), ("p", 1.0), ("q", 0.0), ("p", 0.0), ("q", 0.0)]
    seen: dict[str, int] = {}
    ids = []
    for name, _ in rows:
        ids.append(SimpleNamespace(instance_id=name, repetition_id=seen.setdefault(name, 0)))
        seen[name] += 1
    batch = {
        "prompts": [f"{name}{i}" for i, (name, _) in enumerate(rows)],
        "env_extras": [{"reward": reward} for _, reward in rows],
        "sampling_params": {"temperature": 1.0, "top_p": 1.0},
        "trajectory_ids": ids,
        "batch_metadata": SimpleNamespace(training_phase="train"),
    }
    first = asyncio.run(generator.generate(batch))
    assert first["response_ids"] == batch["prompts"] and first["used"] == [1.0] * 8
    second = asyncio.run(generator.generate(batch))
    assert second["rewards"] == [reward for _, reward in rows]
    assert second["used"][:4] == [1.0] * 4 and second["used"][4] == second["used"][6] > 1.0 > second["used"][5]
    evaluation = batch | {"batch_metadata": SimpleNamespace(training_phase="eval")}
    assert asyncio.run(generator.generate(evaluation))["used"] == [1.0] * 8
    assert generator.gate.state.step == 2

    class Base:
        def __init__(self) -> None:
            self.generator = generator

        def save_checkpoints(self) -> str:
            return str(tmp_path)

        def load_checkpoints(self) -> tuple[int, str]:
            return 2, str(tmp_path)

    trainer = type("Trainer", (skyrl.StateWithTrainer, Base), {})()
    trainer.save_checkpoints()
    state, generator.gate.state = generator.gate.state, gate().state
    assert trainer.load_checkpoints() == (2, str(tmp_path)) and generator.gate.state == state


class Batch(SimpleNamespace):
    """Stands for ROLL's DataProto."""

    def __init__(self, **columns: Any) -> None:
        super().__init__(batch=columns, meta_info={"generation_config": {"temperature": 1.0}})


def test_roll_rollout_loop() -> None:
    class Base:
        async def process_new_prompt(self, context: Any) -> Any:
            requests = [Batch(response_level_rewards=torch.tensor([reward])) for reward in context.rewards]
            done = await asyncio.gather(*(self._generate_and_reward(context, each, "maths") for each in requests))
            return [response for responses in done for response in responses]

        async def _generate_and_reward(self, context: Any, req: Any, domain: str) -> Any:
            await asyncio.sleep(0)
            req.used = req.meta_info["generation_config"]["temperature"]
            return [req]

    loop = type("Loop", (roll.ProbedLoop, Base), {"gate": gate()})()

    def step(number: int) -> list[list[Any]]:
        async def main() -> list[Any]:
            contexts = [
                SimpleNamespace(prompt_id=10 * number + i, rewards=r, is_val=False, meta_info={"global_step": number})
                for i, r in enumerate(([1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0]))
            ]
            return list(await asyncio.gather(*(loop.process_new_prompt(context) for context in contexts)))

        return asyncio.run(asyncio.wait_for(main(), 5))

    assert all(response.used == 1.0 for group in step(1) for response in group)
    mixed, sure = step(2)
    assert loop.gate.state.step == 1
    assert mixed[0].used == 1.0 and mixed[2].used > 1.0 > sure[2].used
    for response in mixed + sure:
        assert response.batch[roll.TAU].shape == response.batch[roll.EPS_LOW].shape == (1, 1)
        assert response.batch[roll.TAU].item() == pytest.approx(response.used)
    assert mixed[0].batch[roll.EPS_LOW] != sure[0].batch[roll.EPS_LOW]


def test_roll_actor_worker() -> None:
    class Base:
        """The lines of ROLL's worker that matter: log-probs of the logits, numbers of the config into a clamp."""

        pipeline_config = SimpleNamespace(pg_clip_low=0.2, pg_clip_high=0.2)

        def forward_func_log_probs(self, data: Any, output_tensor: torch.Tensor) -> torch.Tensor:
            return output_tensor.log_softmax(-1)[..., 0]

        def loss_func(self, data: Any, output_tensor: torch.Tensor) -> torch.Tensor:
            ratio = (self.forward_func_log_probs_of(output_tensor) - data.batch["old"]).exp()
            held = ratio.clamp(1 - self.pipeline_config.pg_clip_low, 1 + self.pipeline_config.pg_clip_high)
            return -torch.min(ratio, held)

        def forward_func_log_probs_of(self, output_tensor: torch.Tensor) -> torch.Tensor:
            return output_tensor.log_softmax(-1)[..., 0]

    worker = type("Worker", (roll.RowSettings, Base), {})()
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    tau = torch.tensor([[0.5], [2.0]])
    own = (logits / tau.unsqueeze(-1)).log_softmax(-1)[..., 0]
    data = Batch(old=own - 0.3)
    plain = worker.loss_func(data, logits)
    low, high = torch.tensor([[0.1], [0.1]]), torch.tensor([[0.1], [0.4]])
    data.batch |= {roll.TAU: tau, roll.EPS_LOW: low, roll.EPS_HIGH: high}
    assert torch.equal(worker.forward_func_log_probs(data, logits), own)
    loss = worker.loss_func(data, logits)
    torch.testing.assert_close(loss, torch.tensor([[-1.1] * 3, [-math.exp(0.3)] * 3]))
    assert worker.pipeline_config.pg_clip_low == 0.2 and not torch.equal(plain, loss)


def test_skyrl_loss_is_the_clipped_surrogate() -> None:
    new = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    old = torch.randn(3, 4, generator=torch.Generator().manual_seed(2))
    advantages = torch.tensor([[1.0], [-1.0], [0.5]]).expand(3, 4)
    config = SimpleNamespace(eps_clip_low=0.2, eps_clip_high=0.3)
    loss, metrics = skyrl.agpo_policy_loss(new, old, advantages, config)
    ratio = (new - old).exp()
    wanted = -torch.min(ratio * advantages, ratio.clamp(0.8, 1.3) * advantages).sum()
    torch.testing.assert_close(loss, wanted)
    held = ((ratio > 1.3) & (advantages > 0)) | ((ratio < 0.8) & (advantages < 0))
    assert metrics["clip_ratio"] == pytest.approx(held.float().mean().item()) and held.any()
