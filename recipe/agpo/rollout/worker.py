# SPDX-License-Identifier: Apache-2.0
"""Probe, then the rest of the group, per prompt inside verl's agent loop.

No prompt waits for another one: while one prompt's probe is being scored, vLLM generates for the others. The
controller state of the step does not change and comes with the prompts, so the decision on a prompt does not depend
on its worker or on the order.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import ray
import torch
import transfer_queue as tq

from agpo_core import TokenLedger
from agpo_core.state import state_from_dict
from recipe.agpo import rewards
from recipe.agpo.columns import (
    COLUMNS,
    CONTROL,
    DISCARDED,
    OUTCOME,
    PROBE,
    RECORD,
    REST,
    ROLE,
    SECONDS,
    STATUS,
    TAU,
    TEMPERATURE,
    TOKENS,
    VOTE_KEY,
    ProbeRecord,
)
from recipe.agpo.rewards.verdict import LOST, OK, RAISED
from recipe.agpo.rollout import outcomes as scoring
from recipe.agpo.rollout.outcomes import Scored
from recipe.agpo.rollout.probe import decide
from recipe.agpo.rollout.vote_keys import ProbeKeys
from recipe.agpo.settings import RunConfig, agpo_config, resolved
from recipe.agpo.verl_api.agent_loop import AgentLoopWorker, row_key, settle_sessions

logger = logging.getLogger(__name__)


class CountingWorker(AgentLoopWorker):
    """verl's agent-loop worker; counts what it generates."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ledger = TokenLedger()

    async def drain_tokens(self) -> dict[str, int]:
        """Counts since the last call."""
        drained, self._ledger = self._ledger, TokenLedger()
        return drained.to_dict()

    def count(self, outputs: list[Any], validate: bool, *, probe: bool = False, discarded: bool = False) -> int:
        """Add one session's outputs; returns its generated tokens."""
        tokens = sum(sum(output.response_mask) for output in outputs)
        if validate:
            self._ledger += TokenLedger(validation=tokens)
        else:
            self._ledger += TokenLedger(
                generated=tokens, probe=tokens if probe else 0, discarded=tokens if discarded else 0
            )
        return tokens

    async def store(self, output: Any, validate: bool, **kwargs: Any) -> None:
        """verl's own end of a session: its reward, and its row in the queue."""
        await super()._agent_loop_postprocess(output, validate, **kwargs)

    async def _agent_loop_postprocess(self, output: Any, validate: bool, **kwargs: Any) -> None:
        self.count(output if isinstance(output, list) else [output], validate)
        await self.store(output, validate, **kwargs)


@dataclass
class PromptInFlight:
    """A prompt whose probe decides something.

    Attributes:
        keys: barrier for the vote keys of its probe.
        scored: the probe sessions that are judged.
        rows: key of one stored row of each session, by session.
        record: the decision, after the probe is scored.
    """

    keys: ProbeKeys
    scored: dict[int, Scored] = field(default_factory=dict)
    rows: dict[int, str] = field(default_factory=dict)
    record: ProbeRecord | None = None


class AGPOAgentLoopWorker(CountingWorker):
    """verl's agent-loop worker with two phases per prompt."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.agpo: RunConfig = agpo_config(self.config)
        self.settings = resolved(self.config, self.agpo)
        self._in_flight: dict[str, PromptInFlight] = {}
        self._failures: list[dict[str, Any]] = []
        self._reward_failure: str | None = None
        filtered = self.config.algorithm.get("filter_groups", None)
        self._filter_metric = filtered.metric if filtered is not None and filtered.enable else None
        self._barrier: Any = None

    async def attach_barrier(self, barrier: Any) -> None:
        """The barrier from which prompts get their number of responses, if allocation is on."""
        self._barrier = barrier

    async def drain_failures(self) -> tuple[list[dict[str, Any]], str | None]:
        """Since the last call: failed sessions (uid, error, whether the server is gone), and a reward failure."""
        drained = self._failures, self._reward_failure
        self._failures, self._reward_failure = [], None
        return drained

    async def _run_prompt(
        self, prompt: dict[str, Any], sampling_params: dict[str, Any], trajectory: dict[str, Any], trace: bool = False
    ) -> None:
        control = prompt.pop(CONTROL, None)
        if control is None or trajectory["validate"] or not prompt.get("__do_sample__", True):
            # Controllers do not apply to greedy and validation rollouts.
            if not trajectory["validate"]:
                prompt |= self._columns(REST, float(sampling_params["temperature"]))
            await super()._run_prompt(prompt, sampling_params, trajectory, trace)
            return

        uid = prompt["uid"]
        await tq.async_kv_put(key=uid, partition_id="train", tag={"status": "running"})
        try:
            errors = await self._run_group(prompt, sampling_params, trajectory, trace, control)
        except Exception as failure:  # a prompt must always reach a final status
            errors = [failure]
            if self._barrier is not None:
                self._barrier.withdraw.remote(uid)
        for error in errors:
            logger.error("session of prompt %s failed", uid, exc_info=(type(error), error, error.__traceback__))
            self._failures.append({"uid": uid, "error": _brief(error), "server_died": _server_died(error)})
        keys, tags = [uid], [{"status": "failure" if errors else "finished"}]
        ended = self._in_flight.pop(uid, None)
        if ended is not None and ended.record is not None and ended.rows:
            # Together with the status, which lets the trainer read the rows.
            keys.append(ended.rows[min(ended.rows)])
            tags.append({RECORD: ended.record.to_json()})
        await tq.async_kv_batch_put(keys=keys, partition_id="train", tags=tags)

    async def _run_group(
        self,
        prompt: dict[str, Any],
        sampling_params: dict[str, Any],
        trajectory: dict[str, Any],
        trace: bool,
        control: str,
    ) -> list[BaseException]:
        """Both phases of one prompt; returns the errors of its sessions."""
        state = state_from_dict(json.loads(control))
        group_size = int(prompt.pop("__rollout_n__", self.settings.group_size))
        prompt.pop("__do_sample__", None)
        uid, base = prompt["uid"], self.settings.tau_base
        probe_size = min(self.settings.probe_size, group_size)
        reuse = self.agpo.probe.reuse

        def start(sessions: range, role: str, tau: float) -> list[asyncio.Task[Any]]:
            params = dict(sampling_params, temperature=tau)
            columns = self._columns(role, tau)
            return [
                asyncio.create_task(
                    self._run_agent_loop(params, trajectory=trajectory, trace=trace, session_id=i, **columns, **prompt)
                )
                for i in sessions
            ]

        # A discarded probe gets session ids after those of the group, so that they never collide.
        sessions = range(probe_size) if reuse else range(group_size, group_size + probe_size)
        rest = range(probe_size if reuse else 0, group_size)
        here = self._in_flight[uid] = PromptInFlight(ProbeKeys(sessions, rewards.merge_vote_keys))
        tasks = start(sessions, PROBE if reuse else DISCARDED, base)
        for session, task in zip(sessions, tasks, strict=True):
            # Also after an error: the other sessions of the probe must not wait for it.
            task.add_done_callback(partial(_gone, here.keys, session))
        # One phase if temperature and group size are fixed, because nothing depends on the probe then.
        one_phase = not self.agpo.temperature.enabled and self._barrier is None and reuse
        errors = await settle_sessions(tasks + start(rest, REST, base) if one_phase else tasks)
        probe = [here.scored[i] for i in sessions if i in here.scored]
        here.record = decide(probe, state, self.agpo, base)
        if one_phase:
            return errors
        if self._barrier is not None:
            extra = await self._barrier.submit.remote(uid, *self._probe_result(here.record.outcomes))
            rest = range(probe_size, probe_size + extra)
        return errors + await settle_sessions(start(rest, REST, here.record.tau))

    def _probe_result(self, outcomes: list[float | None]) -> tuple[float, int]:
        """Sum of the valid outcomes, each scaled to [0, 1] by the attainable bounds, and their number."""
        bounds = self.agpo.advantage
        span = bounds.outcome_max - bounds.outcome_min
        scaled = [min(1.0, max(0.0, (o - bounds.outcome_min) / span)) for o in outcomes if o is not None]
        return sum(scaled), len(scaled)

    def _columns(self, role: str, tau: float) -> dict[str, Any]:
        """Columns that verl stores with every response of these sessions."""
        columns: dict[str, Any] = {
            ROLE: role,
            TAU: torch.tensor(tau, dtype=torch.float32),
            OUTCOME: torch.tensor(float("nan"), dtype=torch.float32),
            VOTE_KEY: "",
            STATUS: OK,
            SECONDS: torch.tensor(0.0, dtype=torch.float32),
            TOKENS: torch.tensor(0, dtype=torch.int64),
        }
        if self.agpo.logprob_temperature == "own":
            columns[TEMPERATURE] = torch.tensor(tau, dtype=torch.float32)
        return columns

    async def _agent_loop_postprocess(self, output: Any, validate: bool, **kwargs: Any) -> None:
        outputs = output if isinstance(output, list) else [output]
        role = kwargs.get(ROLE, REST)
        tokens = self.count(outputs, validate, probe=role != REST, discarded=role == DISCARDED)
        if validate or not outputs:
            if outputs:
                # A hanging reward function must not hang the run; verl counts the session as failed.
                await asyncio.wait_for(self._compute_score(outputs, kwargs=kwargs), self.agpo.reward_timeout_s)
            await self.store(output, validate, **kwargs)
            return
        reward_inputs = {k: v for k, v in kwargs.items() if k not in COLUMNS and k != TEMPERATURE}
        started = time.monotonic()
        scored = await self._score(outputs, reward_inputs)
        seconds = time.monotonic() - started
        uid, session = kwargs["uid"], kwargs["session_id"]
        here = self._in_flight.get(uid)  # none in a run without a probe
        if here is not None and role != REST:
            scored = replace(scored, vote_key=await here.keys.settle(session, scored.vote_key))
            here.scored[session] = scored
        if role == DISCARDED:
            return
        kwargs[OUTCOME] = torch.tensor(scored.outcome, dtype=torch.float32)
        kwargs[VOTE_KEY], kwargs[STATUS] = scored.vote_key, scored.status
        kwargs[SECONDS] = torch.tensor(seconds, dtype=torch.float32)
        kwargs[TOKENS] = torch.tensor(tokens, dtype=torch.int64)
        if not scored.valid:
            for item in outputs:
                item.response_mask = [0] * len(item.response_mask)
        await self.store(outputs, validate, **kwargs)
        if here is not None:
            here.rows[session] = row_key(uid, session, len(outputs) - 1)

    async def _score(self, outputs: list[Any], kwargs: dict[str, Any]) -> Scored:
        """Score a session's outputs with verl's reward loop; a failure becomes a status, never an exception."""
        final = outputs[-1]
        limit = self.agpo.reward_timeout_s
        try:
            await asyncio.wait_for(self._compute_score(outputs, kwargs=kwargs), timeout=limit)
        except TimeoutError:
            scored = scoring.failed(LOST, f"no reward after {limit:g} s")
        except Exception as error:  # whatever a user's reward function raises
            scored = scoring.failed(RAISED, _brief(error))
        else:
            info = final.extra_fields.get("reward_extra_info") or {}
            response = self.tokenizer.decode(final.response_ids, skip_special_tokens=True)
            scored = scoring.judge(
                final.reward_score,
                info,
                response,
                outcome_key=self.agpo.outcome_key,
                vote_key=self.agpo.vote_key,
            )
        if not scored.valid:
            logger.error("reward of prompt %s not usable (%s): %s", kwargs["uid"], scored.status, scored.detail)
            self._reward_failure = self._reward_failure or f"{scored.status}: {scored.detail}"
            info = final.extra_fields.setdefault("reward_extra_info", {})
            if self._filter_metric is not None:
                # verl stops the run at a response without the value that it filters groups by. Not a number: it
                # keeps the group, whose other responses may still differ.
                info[self._filter_metric] = float("nan")
        final.reward_score = scored.reward
        return scored


def _gone(keys: ProbeKeys, session: int, _: asyncio.Task[Any]) -> None:
    keys.gone(session)


def _server_died(error: BaseException) -> bool:
    return isinstance(error, ray.exceptions.RayActorError) or "EngineDeadError" in f"{type(error).__name__}: {error}"


def _brief(error: BaseException) -> str:
    """Type and message; of an error in another Ray process its cause, without that process's traceback."""
    cause = getattr(error, "cause", None)
    error = cause if isinstance(cause, BaseException) else error
    return f"{type(error).__name__}: {error}"[:1000]
