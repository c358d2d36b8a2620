# SPDX-License-Identifier: Apache-2.0
"""AGPO in TRL: a ``GRPOTrainer`` with adaptive temperature, clip ratio and step size, and saved controller state.

For each generation batch: the first responses of every group (the probe) are sampled at the base temperature and
scored. They decide the temperature of the prompt's other responses. TRL computes the log-probs of every response at its
sampling temperature, and each response has its own clip ratio. The learning rate is scaled so that the drift (KL of
the batch's updates over the policy entropy) stays at its target. The state is updated once, after the last update of
the batch.
Generation, rewards, advantages and loss are TRL's own methods; no code is copied.

``SEAMS`` lists the methods of TRL that this file relies on; ``tests/stacks/test_trl.py`` checks them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from trl import GRPOConfig, GRPOTrainer

from agpo_core import AGPOConfig, ControllerState, OtherSettings
from examples.trl.averaging import AveragedWeights, check_average
from examples.trl.checks import check_head, check_settings, controller_of
from examples.trl.row_temperature import RowTemperature
from examples.trl.step import GroupStep, decision_rows, drop_decisions, merged, write_decisions
from examples.trl.step_size import ScaledSteps

TRL_VERSION = "1.16.0"
# Methods of GRPOTrainer that are overridden, and their parameters.
SEAMS = {
    "_generate_and_score_completions": ["inputs"],
    "_generate": ["prompts"],
    "_calculate_rewards": ["inputs", "prompts", "completions", "completion_ids_list"],
    "_get_per_token_logps_and_entropies": ["model", "input_ids", "attention_mask", "logits_to_keep"],  # the first four
    "_compute_loss": ["model", "inputs"],
    "training_step": ["model", "inputs", "num_items_in_batch"],
    "evaluate": ["eval_dataset", "ignore_keys", "metric_key_prefix"],
    "_save_checkpoint": ["model", "trial"],
    "_load_optimizer_and_scheduler": ["checkpoint"],
}
# Attributes of GRPOTrainer that are read, and, where it says so, set for the length of one call.
ATTRIBUTES = (
    "epsilon_low",  # set: [B, 1] while the loss of a micro-batch is computed
    "epsilon_high",  # set, as above
    "ref_model",
    "reward_func_names",
    "_step",  # micro-batches so far
    "_metrics",
    "_is_vlm",
    "_pending_extra_logs",  # what a reward function logged per response, in the order of its calls
)
STATE_FILE = "agpo_state.json"
DECISIONS_FILE = "agpo_decisions.jsonl"
TAU, EPS_LOW, EPS_HIGH = "agpo_tau", "agpo_eps_low", "agpo_eps_high"  # columns of a batch, [B] each


class AGPOGRPOTrainer(GRPOTrainer):
    """TRL's GRPO with AGPO's controllers. With both off (preset ``grpo``) it is TRL's trainer, bit for bit.

    Args:
        agpo: the method's settings; None: preset ``agpo``.
        outcome: name of the reward function whose value is the verifier's outcome; None: there is only one.
        vote_key: a completion (as TRL hands it to reward functions) to its canonical answer, None or "" if it has
            none. Without it there are no votes and vote entropy is 0.
        on_config_change: what to do with a checkpoint of other settings: ``refuse``, ``keep`` its controller state, or
            ``reset`` it.
        decisions_file: write every decision to a file.
        model, reward_funcs, args and the rest: as for ``GRPOTrainer``.

    Raises:
        ValueError: a setting that TRL does not support, with the argument to change.
    """

    def __init__(
        self,
        model: Any,
        reward_funcs: Any,
        args: GRPOConfig,
        *,
        agpo: AGPOConfig | None = None,
        outcome: str | None = None,
        vote_key: Callable[[Any], str | None] | None = None,
        on_config_change: Literal["refuse", "keep", "reset"] = "refuse",
        decisions_file: bool = True,
        **kwargs: Any,
    ) -> None:
        self.agpo = AGPOConfig() if agpo is None else agpo
        if self.agpo.active:
            check_settings(self.agpo, args, reward_funcs, outcome, kwargs)
        check_average(self.agpo.average, args)
        super().__init__(model, reward_funcs, args, **kwargs)
        self.method = controller_of(self.agpo, args)
        self.averaged = AveragedWeights(self.agpo.average, self.model) if self.agpo.average.enabled else None
        if self.averaged is not None:
            self.add_callback(self.averaged)
        self._vote_key, self._on_config_change, self._log_to_file = vote_key, on_config_change, decisions_file
        self._open: GroupStep | None = None  # the generation batch that is being sampled or trained on
        self._scale = 1.0  # the step size of the batch that is trained on
        self._scoring_tau: torch.Tensor | None = None
        self._scored: tuple[torch.Tensor, torch.Tensor] | None = None  # log-probs and entropy of the last pass
        if self.agpo.adaptive:
            check_head(self, self.agpo)
            models = [model for model in (self.model, self.ref_model) if model is not None]
            self._heads = {id(model): RowTemperature(model, args.temperature) for model in models}
            if self.agpo.step_size.enabled:
                self.add_callback(ScaledSteps(lambda: self._scale))
            self._outcome = self.reward_func_names.index(outcome or self.reward_func_names[0])

    @property
    def controller(self) -> ControllerState:
        """The state of the controllers."""
        return self.method.state

    @controller.setter
    def controller(self, state: ControllerState) -> None:
        self.method.state = state

    # ---- generation: probe, decide, the rest -------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not self.agpo.adaptive or not self.model.training:
            return super()._generate_and_score_completions(inputs)
        step = self._open = GroupStep(inputs, self.method.settings, self._outcome, self._vote_key)
        # For all updates of this batch: the last one comes after the update of the state.
        self._scale = self.method.lr_scale
        self._scored = None
        try:
            output = super()._generate_and_score_completions(inputs)
        finally:
            self._scoring_tau = None
        if "old_per_token_logps" in output and self._scored is not None:
            step.read_entropy(self._scored[1], output["completion_mask"])
        clip = self.method.decide_clip(step.measure(self.agpo), step.signals())
        device = output["completion_ids"].device
        output[TAU] = step.tau.to(device)
        if self.agpo.clip.enabled:
            output[EPS_LOW] = step.per_row(clip.low).to(device)
            output[EPS_HIGH] = step.per_row(clip.high).to(device)
        rows = decision_rows(step, clip, self.controller.step)
        self._log_decisions(rows)
        return output

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        step = self._open
        if step is None or not self.model.training:
            return super()._generate(prompts)
        if not (self.agpo.temperature.enabled and step.rest):
            with self._head.at(step.tau):
                output = super()._generate(prompts)
        else:
            probe = [prompts[i] for i in step.probe]
            with self._head.at(step.tau[step.probe]):
                first = super()._generate(probe)
            _, ids, _, completions, *_ = first
            step.take_probe(
                super()._calculate_rewards([step.inputs[i] for i in step.probe], probe, completions, ids), completions
            )
            step.decide(self.method.decide_temperature(step.measure(self.agpo)))
            with self._head.at(step.tau[step.rest]):
                second = super()._generate([prompts[i] for i in step.rest])
            output = merged(first, second, step.order)
        self._scoring_tau = step.tau
        return output

    def _calculate_rewards(
        self, inputs: list[Any], prompts: list[Any], completions: list[Any], completion_ids_list: list[Any]
    ) -> torch.Tensor:
        step = self._open
        if step is None or not self.model.training:
            return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if step.probe_rewards is None:
            rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
            step.take_probe(rewards[step.probe], [completions[i] for i in step.probe])
            return rewards
        columns = (inputs, prompts, completions, completion_ids_list)
        rest = super()._calculate_rewards(*([column[i] for i in step.rest] for column in columns))
        for values in self._pending_extra_logs.values():
            if len(values) == len(prompts):
                values[:] = [values[i] for i in step.order]
        return torch.cat([step.probe_rewards, rest])[step.order]

    # ---- scoring and loss --------------------------------------------------------------------------------

    @property
    def _head(self) -> RowTemperature:
        return self._heads[id(self.model)]

    def _get_per_token_logps_and_entropies(self, model: Any, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        tau = self._scoring_tau
        if tau is None:
            return super()._get_per_token_logps_and_entropies(model, input_ids, *args, **kwargs)
        if model is self.ref_model:
            with self._heads[id(model)].at(tau):
                return super()._get_per_token_logps_and_entropies(model, input_ids, *args, **kwargs)
        kwargs["compute_entropy"] = True
        with self._head.at(tau):
            result = super()._get_per_token_logps_and_entropies(model, input_ids, *args, **kwargs)
        if self._scored is None:  # with PEFT the reference is the same model, and scored after the policy
            self._scored = result[0].detach(), result[1].detach()
        return result

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        if TAU not in inputs:
            return super()._compute_loss(model, inputs)
        self._scored = None
        with self._row_settings(inputs):
            loss = super()._compute_loss(model, inputs)
        if "old_per_token_logps" in inputs and self._open is not None:
            assert self._scored is not None, "TRL's loss computes log-probs"
            self._open.informative |= bool((inputs["advantages"] != 0).any())
            self._open.add_drift(inputs["old_per_token_logps"], self._scored[0], inputs["completion_mask"])
        return loss

    @contextmanager
    def _row_settings(self, inputs: dict[str, Any]) -> Iterator[None]:
        """Each row's own temperature and clip ratios, for one call of TRL's loss."""
        usual = self.epsilon_low, self.epsilon_high
        self._scoring_tau = inputs[TAU]
        if EPS_LOW in inputs:
            self.epsilon_low, self.epsilon_high = inputs[EPS_LOW].unsqueeze(1), inputs[EPS_HIGH].unsqueeze(1)
        try:
            yield
        finally:
            self._scoring_tau = None
            self.epsilon_low, self.epsilon_high = usual

    # ---- end of a step, checkpoints, log -----------------------------------------------------------------

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self._open is not None and self._step % (self.args.steps_per_generation * self.num_iterations) == 0:
            step, self._open = self._open, None
            rate = self.args.learning_rate
            schedule = self.lr_scheduler.get_last_lr()[0] / rate if rate else 1.0
            self.method.update(step.measure(self.agpo), step.signals(schedule))
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        with nullcontext() if self.averaged is None else self.averaged.while_evaluating():
            return super().evaluate(*args, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # Before TRL's own files, so that a checkpoint that is complete has its state.
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        if self.agpo.adaptive and self.args.should_save:
            folder.mkdir(parents=True, exist_ok=True)
            self.method.save(folder / STATE_FILE)
        if self.averaged is not None and self.args.should_save:
            self.averaged.save(folder, self.processing_class)
        super()._save_checkpoint(model, trial)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self.averaged is not None:
            self.averaged.load(Path(checkpoint))
        if checkpoint is None or not self.agpo.adaptive or self._on_config_change == "reset":
            return
        path = Path(checkpoint) / STATE_FILE
        try:
            self.method.load(path, keep=self._on_config_change == "keep")
        except OtherSettings as error:
            raise ValueError(
                f"{error}: set on_config_change=keep (its state, these settings) or on_config_change=reset (fresh "
                "controllers)"
            ) from error
        drop_decisions(Path(self.args.output_dir) / DECISIONS_FILE, self.controller.step)

    def _log_decisions(self, rows: list[dict[str, Any]]) -> None:
        metrics = self._metrics["train"]
        for name in ("tau", "eps_low", "eps_high"):
            values = [row[name] for row in rows]
            metrics[f"agpo/{name}/mean"].append(sum(values) / len(values))
            metrics[f"agpo/{name}/min"].append(min(values))
            metrics[f"agpo/{name}/max"].append(max(values))
        if self.agpo.step_size.enabled:
            metrics["agpo/step_size/scale"].append(self._scale)
            if self.lr_scheduler is not None:  # there is none before `train` begins
                metrics["agpo/step_size/lr"].append(self._scale * self.lr_scheduler.get_last_lr()[0])
        if self._log_to_file:
            write_decisions(Path(self.args.output_dir) / DECISIONS_FILE, rows)
