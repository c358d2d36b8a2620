# SPDX-License-Identifier: Apache-2.0
"""verl's trainer with AGPO's controllers around its steps: the synchronous one, or an asynchronous one.

One step: verl submits the prompts (our agent-loop manager adds the controller state), the rollout samples the probes
and decides temperatures, verl computes old log-probs, AGPO decides a clip ratio per response, verl updates the policy,
and AGPO updates the state once, from the whole batch.

The asynchronous modes generate prompts ahead: a response may be several versions older than the policy that is trained
on it, and its temperature was decided with the state of the step that submitted it. Each response carries its own
temperature and probe for scoring and statistics. Clip ratios are decided with the newest state, when the batch is
trained on. The prompts of a batch depend on which finish first. ``separate_async`` trains several batches on one
rollout version: together they are one step, with one update of the state.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transfer_queue as tq
from tensordict import TensorDict
from tensordict.tensorclass import NonTensorStack

from agpo_core import ControllerState, TokenLedger, update_state
from recipe.agpo.columns import COLUMNS, GROUP, ROW_WEIGHT
from recipe.agpo.run_folder import DECISIONS_FILE
from recipe.agpo.settings import agpo_config, resolved
from recipe.agpo.training import checkpoint, metrics
from recipe.agpo.training.actor_loss import METRIC_PREFIX, ActorLoss, actor_loss_config
from recipe.agpo.training.advantages import RowContext, with_rows
from recipe.agpo.training.batch import StepGroups, collect, merged
from recipe.agpo.training.decisions import clip_columns, decision_rows, row_weights, updates_of_rows
from recipe.agpo.training.failures import RolloutFailed, resume_words
from recipe.agpo.training.token_ledger import LedgerMixin
from recipe.agpo.verl_api.patching import wrap
from recipe.agpo.verl_api.row_order import actor_ranks, order_rows
from recipe.agpo.verl_api.temperature import score_at_own_temperature
from recipe.agpo.verl_api.updates import ENTROPY, LR, LR_SCALE, ONE_UPDATE

POLL_SECONDS = 0.1


def agpo_trainer(base: type) -> type:
    """``base``, one of verl's trainers, with AGPO."""
    return type(f"AGPO{base.__name__.removeprefix('PPO')}", (AGPOMixin, base), {})


class AGPOMixin(LedgerMixin):
    """Adaptive clip ratio and temperature for one of verl's V1 trainers; see :func:`agpo_trainer`."""

    def __init__(self, config: Any) -> None:
        self.agpo = agpo_config(config)
        self.settings = resolved(config, self.agpo)
        self.controller = ControllerState.initial(self.agpo, self._lr(config))
        self._groups: StepGroups | None = None
        self._trained: list[StepGroups] = []  # the batches of this step, and their workers' sums
        self._update_sums: Counter[str] = Counter()
        self._issued = (0, 0)
        self._reward_failure: str | None = None
        super().__init__(config=config)

    @staticmethod
    def _lr(config: Any) -> float:
        return float(config.actor_rollout_ref.actor.optim.lr)

    # ---- set-up ------------------------------------------------------------------------------------------

    def _build_replay_buffer(self) -> Any:
        buffer = super()._build_replay_buffer()
        # verl checks for finished prompts every 2 s, which would be most of the time of a short step.
        buffer.poll_interval = min(buffer.poll_interval, POLL_SECONDS)
        wrap(buffer, "sample", ("global_steps", "partition_id", "batch_size"), self._named_failures)
        return buffer

    def on_init_end(self) -> None:
        super().on_init_end()
        if self.agpo.logprob_temperature == "own" and self.agpo.temperature.enabled:
            score_at_own_temperature(self)
        if self._own_loss:
            self.actor_rollout_wg.set_loss_fn(
                ActorLoss(actor_loss_config(self.config), self.agpo.loss, self.agpo.step_size)
            )

    def fit(self, agent_loop_manager: Any) -> None:
        if self.agpo.adaptive:
            agent_loop_manager.attach(lambda: self.controller)
        self._decisions = checkpoint.DecisionLog(
            Path(self.config.trainer.default_local_dir) / DECISIONS_FILE,
            resumed_step=self.global_steps,
            enabled=self.agpo.decisions_file and self.agpo.active,
        )
        super().fit(agent_loop_manager)

    # ---- checkpoints -------------------------------------------------------------------------------------

    def read_from(self, folder: Path) -> None:
        super().read_from(folder)
        self.controller = checkpoint.read_state(folder, self.agpo, self._lr(self.config))

    def write_to(self, folder: Path) -> None:
        checkpoint.write_state(folder, self.controller, self.agpo)
        super().write_to(folder)

    # ---- one step ----------------------------------------------------------------------------------------

    def _fetch_one_gen_batch(self) -> TensorDict:
        batch = super()._fetch_one_gen_batch()
        step, count = self._issued if self._issued[0] == self.global_steps else (self.global_steps, 0)
        # verl uses random ids; ours give every run the same order of rows.
        batch["uid"] = NonTensorStack(*[f"{step:08d}-{count + i:06d}" for i in range(len(batch))])
        self._issued = (step, count + len(batch))
        return batch

    def _balance_batch(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        batch = super()._balance_batch(batch, *args, **kwargs)
        order_rows(batch, self._mini_batch_rows, actor_ranks(self.actor_rollout_wg))
        return batch

    @property
    def _mini_batch_rows(self) -> int:
        ref = self.config.actor_rollout_ref
        return int(ref.actor.ppo_mini_batch_size) * int(ref.rollout.n)

    def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
        groups = self._collect(batch)
        self._groups = groups
        if not groups.valid_rows:
            cause = self._reward_failure or groups.first_failure
            raise RolloutFailed(
                f"step {self.global_steps}: no response got a reward, so there is nothing to learn from. First "
                f"cause: {cause}. Fix the reward function. {resume_words(self._root)}"
            )
        tokens = groups.tensor("tokens")
        rows = RowContext(
            sessions=groups.column("session"),
            final=groups.column("final"),
            valid=groups.column("valid"),
            outcomes=groups.tensor("outcome"),
            tokens=tokens,
            truncated=tokens >= int(self.config.data.max_response_length),
        )
        verl_advantage = super()._compute_advantage
        batch, made = with_rows(rows, lambda: verl_advantage(batch, metrics))
        for row, length, in_loss in zip(groups.rows, made.length.tolist(), made.in_loss.tolist(), strict=True):
            row.length, row.masked = length, row.valid and not in_loss
        columns = self._columns(groups)
        if columns:
            batch = tq.kv_batch_put(
                keys=batch.keys,
                partition_id=batch.partition_id,
                fields=TensorDict(columns, batch_size=len(batch.keys)),
            )
        return batch

    @property
    def _own_loss(self) -> bool:
        """Whether the workers need our loss; if not, verl's own loss is used."""
        return self.agpo.clip.enabled or self.agpo.step_size.enabled or self.agpo.weighs_rows

    def _update_actor(self, batch: Any, metrics: dict[str, Any]) -> Any:
        if self.agpo.step_size.enabled:
            assert self._groups is not None, "verl computed advantages in this step"
            updates = len(batch.keys) // self._mini_batch_rows * int(self.config.actor_rollout_ref.actor.ppo_epochs)
            batch.extra_info |= {
                LR_SCALE: self.controller.step_size.scale,
                LR: self._lr(self.config),
                ENTROPY: self._groups.policy_entropy,
                ONE_UPDATE: float(updates <= 1),
            }
        return super()._update_actor(batch, metrics)

    def _columns(self, groups: StepGroups) -> dict[str, torch.Tensor]:
        """The columns of each row for our loss."""
        if not self._own_loss:
            return {}
        actor = self.config.actor_rollout_ref.actor
        ranks = actor_ranks(self.actor_rollout_wg)
        updates = updates_of_rows(len(groups.rows), self._mini_batch_rows, ranks, bool(actor.shuffle))
        columns = {ROW_WEIGHT: row_weights(groups, self.agpo, updates, actor.loss_agg_mode)}
        if self.agpo.clip.enabled:
            columns |= clip_columns(groups, self.controller, self.agpo, self.settings)
        if self.agpo.loss.adaptive != "none":
            columns[GROUP] = torch.tensor(groups.prompt_of_row)
        return columns

    def _step_once(self, step_metrics: dict[str, Any], timing_raw: dict[str, float], *args: Any) -> Any:
        batch = super()._step_once(step_metrics, timing_raw, *args)
        groups, self._groups = self._groups, None
        assert groups is not None, "verl computed advantages in this step"
        self._trained.append(groups)
        self._update_sums.update(metrics.pop_update_sums(step_metrics, METRIC_PREFIX))
        return batch

    def step(self, step_metrics: dict[str, Any], timing_raw: dict[str, float]) -> Any:
        self._trained, self._update_sums = [], Counter()
        batch = super().step(step_metrics, timing_raw)
        started = time.monotonic()
        groups, drift = merged(self._trained), metrics.update_shares(self._update_sums)
        scheduled = metrics.scheduled_lr(self._update_sums)
        self._trained = []
        step_metrics.update(metrics.step_metrics(groups, self.controller, self.agpo))
        step_metrics.update(drift | metrics.rate_metrics(self._update_sums, self.controller))
        self._decisions.append(decision_rows(groups, self.global_steps))
        if self.agpo.keeps_state:
            configured = self._lr(self.config)
            schedule = scheduled / configured if scheduled is not None and configured else 1.0
            informative = self._update_sums["informative_tokens"] > 0
            kl, k3 = (drift.get(f"agpo/{name}") for name in ("step_kl", "step_kl_k3"))
            signals = groups.signals(kl, k3, schedule, informative)
            self.controller = update_state(groups.stats, signals, self.controller, self.agpo)
        step_metrics["agpo/overhead_s"] = time.monotonic() - started
        return batch

    def _collect(self, batch: Any) -> StepGroups:
        fields = ["uid", "response_mask", "entropy", *COLUMNS]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
        return collect(batch.keys, batch.tags, data)

    # ---- failures ----------------------------------------------------------------------------------------

    def _named_failures(self, sample: Callable[..., Any]) -> Callable[..., Any]:
        """verl only reports that a batch is missing; the agent-loop workers know the cause."""

        def named(*args: Any, **kwargs: Any) -> Any:
            problem: RuntimeError | None = None
            result = None
            try:
                result = sample(*args, **kwargs)
            except RuntimeError as error:
                problem = error
            failures = self._drain_failures()
            dead = next((f["error"] for f in failures if f["server_died"]), None)
            if dead is not None:
                raise RolloutFailed(
                    f"step {self.global_steps}: a vLLM rollout server died ({dead}). {resume_words(self._root)}"
                ) from problem
            if problem is not None:
                cause = failures[0]["error"] if failures else "no worker reported a cause"
                raise RolloutFailed(
                    f"step {self.global_steps}: the rollout produced no trajectory. First cause of {len(failures)}: "
                    f"{cause}. {resume_words(self._root)}"
                ) from problem
            self.ledger += TokenLedger(lost_sessions=len(failures))
            return result

        return named

    def _drain_failures(self) -> list[dict[str, Any]]:
        manager = getattr(self, "agent_loop_manager", None)
        if manager is None:
            return []
        failures, self._reward_failure = manager.drain_failures()
        return failures
