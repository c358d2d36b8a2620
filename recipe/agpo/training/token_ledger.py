# SPDX-License-Identifier: Apache-2.0
"""For runs of every method: the ledger of generated tokens, the token budget, bounded dumps, and clear errors.

Tokens are counted in the agent loop, where they are sampled. The counts include responses that dynamic sampling drops,
discarded probes, and responses without a reward.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from agpo_core import TokenLedger
from agpo_core.files import remove_leftovers
from recipe.agpo.settings import agpo_config
from recipe.agpo.training import checkpoint, failures
from recipe.agpo.verl_api.updates import SCHEDULE_POSITION

if TYPE_CHECKING:
    Trainer: Any  # whichever of verl's V1 trainers it is mixed into
else:
    Trainer = object


def ledger_trainer(base: type) -> type:
    """``base``, one of verl's trainers, with the ledger."""
    return type(f"Ledger{base.__name__}", (LedgerMixin, base), {})


class LedgerMixin(Trainer):
    """For any of verl's V1 trainers: keeps the ledger over restarts, ends the run at its token budget, reports failures

    See ``failures`` for the errors.
    """

    def __init__(self, config: Any) -> None:
        self.ledger = TokenLedger()
        self._spent = TokenLedger()  # since the last logged step
        settings = agpo_config(config)
        self.token_budget = settings.token_budget
        self._schedule_follows_tokens = settings.lr_schedule == "tokens"
        self._dump_steps, self._dump_responses = settings.dump_steps, settings.dump_responses
        self._gradient = failures.GradientWatch()
        super().__init__(config=config)

    def fit(self, agent_loop_manager: Any) -> None:
        if self.token_budget is not None and not self.ledger.left(self.token_budget):
            self._end("before this start")
        with failures.lost_workers_named(self._root):
            super().fit(agent_loop_manager)

    @property
    def _root(self) -> Path:
        return Path(self.config.trainer.default_local_dir).absolute()

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, float]) -> Any:
        batch = super().step(metrics, timing_raw)
        self._drain()
        metrics.update(ledger_metrics(self._spent, self.ledger, self.token_budget))
        self._spent = TokenLedger()
        self._gradient.see(metrics, self.global_steps, failures.resume_words(self._root))
        metrics["agpo/nonfinite_steps"] = float(self._gradient.in_a_row)
        if self.token_budget is not None and not self.ledger.left(self.token_budget):
            self._end(f"in step {self.global_steps}")
        return batch

    def _update_actor(self, batch: Any, metrics: dict[str, Any]) -> Any:
        return super()._update_actor(self._with_schedule(batch, "actor_rollout_ref.actor.optim"), metrics)

    def _update_critic(self, batch: Any, metrics: dict[str, Any]) -> Any:
        return super()._update_critic(self._with_schedule(batch, "critic.optim"), metrics)

    def _with_schedule(self, batch: Any, optim: str) -> Any:
        """Tell the workers the schedule's position after this update; see ``verl_api.updates``."""
        if self._schedule_follows_tokens:
            assert self.token_budget is not None, "checked before the start"
            self._drain()
            share = min(1.0, self.ledger.generated / self.token_budget)
            horizon = OmegaConf.select(self.config, f"{optim}.total_training_steps")
            batch.extra_info[SCHEDULE_POSITION] = share * float(horizon)
        return batch

    def _drain(self) -> None:
        spent = self.agent_loop_manager.drain_tokens()
        self.ledger, self._spent = self.ledger + spent, self._spent + spent

    # ---- dumps of responses ------------------------------------------------------------------------------

    def _log_rollout_data(self, batch: Any, timing_raw: dict[str, float], rollout_data_dir: str) -> None:
        # Before verl reads and decodes what would be left out.
        keys = sorted(batch.keys)[: self._dump_responses]
        super()._log_rollout_data(batch.select_keys(keys), timing_raw, rollout_data_dir)

    def _dump_generations(
        self, inputs: Any, outputs: Any, gts: Any, scores: Any, reward_extra_infos_dict: Any, dump_path: str
    ) -> None:
        most = self._dump_responses
        extra = {key: values[:most] for key, values in reward_extra_infos_dict.items() if len(values) == len(inputs)}
        if self._dump_steps is not None:
            remove_old_dumps(Path(dump_path), keep=self._dump_steps - 1, before=self.global_steps)
        super()._dump_generations(inputs[:most], outputs[:most], gts[:most], scores[:most], extra, dump_path)

    def _end(self, when: str) -> None:
        """Make the current step the last one; verl then saves and validates, if these are enabled."""
        self.total_training_steps = self.global_steps
        trainer = self.config.trainer
        trainer.save_freq, trainer.test_freq = min(trainer.save_freq, 1), min(trainer.test_freq, 1)
        print(
            f"[agpo] token budget reached {when}: {self.ledger.generated:,} of {self.token_budget:,} generated tokens. "
            "The run ends here. To continue, raise algorithm.agpo.token_budget and run the same command."
        )

    def _load_checkpoint(self) -> None:
        for place in (self._root, *self._root.glob("global_step_*")):
            remove_leftovers(place, "agpo_*")  # of a start that was killed while it saved
        super()._load_checkpoint()
        if self.global_steps == 0:
            return
        folder = checkpoint.checkpoint_to_resume(self.config)
        assert folder is not None, "verl resumed, so there is a checkpoint"
        self.read_from(folder)

    def _save_checkpoint(self) -> None:
        if self._gradient.in_a_row:
            print(f"[agpo] step {self.global_steps} is not saved: its gradient was not finite.")
            return
        folder = self._root / f"global_step_{self.global_steps}"
        with failures.failed_saves_named(folder):
            # Before verl marks this checkpoint as the latest.
            self.write_to(folder)
            super()._save_checkpoint()

    def read_from(self, folder: Path) -> None:
        """Load AGPO's files from a checkpoint folder."""
        self.ledger = checkpoint.read_ledger(folder)

    def write_to(self, folder: Path) -> None:
        """Write AGPO's files into a checkpoint folder."""
        # An asynchronous rollout continues after the step; verl saves what it has finished with the checkpoint.
        self._drain()
        checkpoint.write_ledger(folder, self.ledger)


def remove_old_dumps(folder: Path, *, keep: int, before: int) -> None:
    """Remove verl's dumps ``<step>.jsonl`` but those of the ``keep`` newest steps before ``before``.

    Dumps of later steps are removed too: an earlier attempt wrote them, and the resumed run has not got there.
    """
    found = {int(file.stem): file for file in folder.glob("*.jsonl") if file.stem.isascii() and file.stem.isdecimal()}
    kept = sorted(step for step in found if step < before)[-keep:] if keep else []
    for step, file in found.items():
        if step not in kept and step != before:
            file.unlink(missing_ok=True)


def ledger_metrics(spent: TokenLedger, total: TokenLedger, budget: int | None) -> dict[str, float]:
    """The metrics that this class adds to a step."""
    out = {}
    for name, cumulative in total.to_dict().items():
        if name != "lost_sessions":
            out[f"agpo/tokens/{name}"] = float(spent.to_dict()[name])
            out[f"agpo/tokens/{name}_cumulative"] = float(cumulative)
    out["agpo/rollout/lost_sessions_cumulative"] = float(total.lost_sessions)
    if budget is not None:
        out["agpo/tokens/budget_left"] = float(total.left(budget))
    return out
