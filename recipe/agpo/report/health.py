# SPDX-License-Identifier: Apache-2.0
"""Checks of a run's health: each has one number, two thresholds, a verdict and advice.

The thresholds are rules of thumb for where a person should look, not results of a study.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from recipe.agpo.report import measures
from recipe.agpo.report.read import Run
from recipe.agpo.report.text import number

SPACE = "\u00a0"  # keeps a number and its unit on one line


class Verdict(Enum):
    """In order of urgency."""

    BAD = "bad"
    LOOK = "look"
    OK = "ok"
    UNKNOWN = "not measured"


class Unit(Enum):
    """How a number is written."""

    SHARE = "share"
    TIMES = "times"
    COUNT = "count"
    FLAG = "flag"
    NATS = "nats"

    def show(self, value: float) -> str:
        """The number for a person."""
        match self:
            case Unit.SHARE:
                return f"{number(100 * value, 2)}{SPACE}%"
            case Unit.TIMES:
                return f"{number(value, 2)}{SPACE}×"
            case Unit.COUNT:
                return f"{value:.0f}"
            case Unit.FLAG:
                return "yes" if value else "no"
            case Unit.NATS:
                return number(value, 2)


@dataclass(frozen=True)
class Check:
    """One check. The verdict is "look" above ``look`` and "bad" above ``bad``; larger is always worse.

    Attributes:
        name: stable, for tests and links.
        title: what is measured, as a noun phrase.
        measure: the number, None where the log lacks it.
        look, bad: thresholds; ``bad`` None: never bad by itself.
        advice: what it means and what to do, one or two sentences.
        override: overrides to add to the training command, one per line; empty if no setting helps.
        needs: what must be logged for this number.
    """

    name: str
    title: str
    measure: Callable[[Run], float | None]
    unit: Unit
    look: float
    bad: float | None
    advice: str
    override: str = ""
    needs: str = ""

    @property
    def limits(self) -> str:
        """The thresholds in words."""
        if self.unit is Unit.FLAG:
            return "look if yes"
        words = f"look above {self.unit.show(self.look)}"
        return words if self.bad is None else f"{words}, bad above {self.unit.show(self.bad)}"


@dataclass(frozen=True)
class Finding:
    """What a check says about one run."""

    check: Check
    value: float | None

    @property
    def verdict(self) -> Verdict:
        if self.value is None:
            return Verdict.UNKNOWN
        if self.check.bad is not None and self.value > self.check.bad:
            return Verdict.BAD
        return Verdict.LOOK if self.value > self.check.look else Verdict.OK

    @property
    def shown(self) -> str:
        return "–" if self.value is None else self.check.unit.show(self.value)


AGPO_LOG = "metrics under agpo/ (a run of our trainer)"
VALIDATIONS = "two validations (trainer.test_freq, trainer.val_before_train)"
STEP_SIZE_LOG = "agpo/step_size/scale and its settings (run.json or a checkpoint)"
LOWER_RATE = "actor_rollout_ref.actor.optim.lr=<half of it>"
HIGHER_RATE = "actor_rollout_ref.actor.optim.lr=<ten times it>"
CHECKS: tuple[Check, ...] = (
    Check(
        "no_gain",
        "Part of the run without any gain",
        measures.no_gain,
        Unit.SHARE,
        0.2,
        0.5,
        "Neither validation nor reward has risen beyond its noise. The policy does not learn: look at the checks of "
        "the reward, the step size and the gradient, and at the samples. If those are in order, the learning rate is "
        "too low or the prompts are too hard.",
        HIGHER_RATE,
        f"{measures.FEWEST} training steps with a reward, or two validations",
    ),
    Check(
        "validation_flat",
        "Validation without a gain beyond its noise",
        measures.validation_flat,
        Unit.FLAG,
        0.0,
        None,
        f"The noise is {measures.NOISE:g} standard errors of the difference of two accuracies on as many problems. A "
        "reward that rises alone may come from prompts that the policy knows by heart, or from an error of the "
        "verifier: read the samples.",
        "",
        VALIDATIONS,
    ),
    Check(
        "reward_flat",
        "Reward without a gain beyond its noise",
        measures.reward_flat,
        Unit.FLAG,
        0.0,
        None,
        "The mean reward of the recent steps is not above that of the early ones by more than its variation from step "
        "to step.",
        HIGHER_RATE,
        f"{measures.FEWEST} training steps with a reward",
    ),
    Check(
        "reward_lost",
        "Fall of the reward from its best",
        measures.reward_lost,
        Unit.SHARE,
        0.1,
        0.25,
        "The policy was better before. Keep the checkpoint of the best validation, and lower the learning rate.",
        LOWER_RATE,
        f"{measures.FEWEST} training steps with a reward that is not negative",
    ),
    Check(
        "failing",
        "Wrong responses, whole run",
        measures.failing,
        Unit.SHARE,
        0.95,
        0.97,
        "Almost every response was wrong from beginning to end, so few groups have a gradient. Read the samples: "
        "is the answer in the form that the verifier reads? If so, use easier prompts, a stronger model, or more "
        "responses of each prompt.",
        "actor_rollout_ref.rollout.n=<larger>",
        "outcomes from 0 to 1 of five steps",
    ),
    Check(
        "solved",
        "Correct responses, whole run",
        measures.solved,
        Unit.SHARE,
        0.95,
        0.98,
        "Almost every response was correct from beginning to end, so few groups have a gradient and there is "
        "nothing to learn. Use harder prompts; if they are hard, look for an error of the verifier.",
        "data.train_files=<harder prompts>",
        "outcomes from 0 to 1 of five steps",
    ),
    Check(
        "still",
        "Recent steps without a gradient",
        measures.still,
        Unit.SHARE,
        0.25,
        0.75,
        "The gradient is 0, so these steps change nothing: every group has equal outcomes, or every response is "
        "left out of the loss.",
        "",
        "actor/grad_norm",
    ),
    Check(
        "step_at_min",
        "Recent steps with the step size at its minimum",
        measures.step_at_min,
        Unit.SHARE,
        0.25,
        0.75,
        "The controller cannot lower the learning rate further, or it has been led there by noise. If the drift is "
        "above its target, lower the learning rate; if not, the run is stuck: raise the minimum and start again "
        "from the best checkpoint.",
        "algorithm.agpo.step_size.min=<ten times it>",
        STEP_SIZE_LOG,
    ),
    Check(
        "step_at_max",
        "Recent steps with the step size at its maximum",
        measures.step_at_max,
        Unit.SHARE,
        0.9,
        None,
        "The drift stays below its target with the largest step size, so the configured learning rate decides and the "
        "controller does not. A higher learning rate can be tried.",
        HIGHER_RATE,
        STEP_SIZE_LOG,
    ),
    Check(
        "step_far",
        "Step size away from 1",
        measures.step_far,
        Unit.TIMES,
        100.0,
        None,
        "The effective learning rate is far from the configured one. The controller may be correct: look at the drift "
        "and at the gain. If both are in order, set the learning rate near the effective one, so that warm-up, "
        "schedule and weight decay fit it.",
        "actor_rollout_ref.actor.optim.lr=<the effective one>",
        "agpo/step_size/scale",
    ),
    Check(
        "accuracy",
        "Fall of validation accuracy from its best",
        measures.accuracy_lost,
        Unit.SHARE,
        0.1,
        0.25,
        "The policy was better before. Keep the checkpoint of the best validation, and lower the learning rate.",
        LOWER_RATE,
        VALIDATIONS,
    ),
    Check(
        "zero_variance",
        "Groups without contrast",
        measures.zero_variance,
        Unit.SHARE,
        0.6,
        0.9,
        "All outcomes of these prompts are equal, so they have no gradient. Prompts are too easy or too hard for this "
        "policy: choose others, or sample more responses of each.",
        "actor_rollout_ref.rollout.n=<larger>",
        AGPO_LOG,
    ),
    Check(
        "entropy_lost",
        "Loss of policy entropy since the start",
        measures.entropy_lost,
        Unit.SHARE,
        0.6,
        0.9,
        "The policy is becoming certain and explores less. Some loss of entropy is normal while the accuracy rises; "
        "with falling or constant accuracy it is a collapse.",
        "actor_rollout_ref.actor.entropy_coeff=0.001",
        "agpo/signal/policy_entropy or actor/entropy",
    ),
    Check(
        "entropy_grown",
        "Policy entropy against the start",
        measures.entropy_grown,
        Unit.TIMES,
        2.0,
        5.0,
        "The responses become random. Lower the learning rate, and remove an entropy bonus.",
        LOWER_RATE + "\nactor_rollout_ref.actor.entropy_coeff=0",
        "agpo/signal/policy_entropy or actor/entropy",
    ),
    Check(
        "drift",
        "Drift against the run's target",
        measures.drift,
        Unit.TIMES,
        2.0,
        5.0,
        "The policy moves further per step than its controller wants (step_size.drift_target, or clip.kl_target "
        f"without a step size; without both, a step KL of {measures.KL_LIMIT:g} nats per token). Lower the learning "
        "rate or use fewer updates per step.",
        LOWER_RATE,
        "agpo/step_kl_k3 and the policy entropy, agpo/step_kl, or actor/ppo_kl",
    ),
    Check(
        "no_drift",
        "Policy that hardly moves",
        measures.no_drift,
        Unit.FLAG,
        0.0,
        None,
        "The drift is below a thousandth of its target. With one update per step it cannot be measured and is 0; "
        "otherwise the learning rate is too low, or the groups have no gradient.",
        HIGHER_RATE,
        "agpo/step_kl_k3 and the policy entropy, agpo/step_kl, or actor/ppo_kl",
    ),
    Check(
        "clip_fraction",
        "Clipped tokens",
        measures.clip_fraction,
        Unit.SHARE,
        0.2,
        0.4,
        "Many tokens have no gradient because they are clipped. Lower the learning rate or use fewer updates per step.",
        LOWER_RATE,
        "agpo/clip_fraction or actor/pg_clipfrac",
    ),
    Check(
        "clip_idle",
        "No token is clipped",
        measures.clip_idle,
        Unit.FLAG,
        0.0,
        None,
        "With one update per step no token can be clipped, so the clip controller has no effect. Use more "
        "mini-batches per step.",
        "actor_rollout_ref.actor.ppo_mini_batch_size=<smaller>",
        "agpo/clip_fraction or actor/pg_clipfrac",
    ),
    Check(
        "tau_bound",
        "Prompts with temperature at a bound",
        measures.tau_at_bound,
        Unit.SHARE,
        0.25,
        0.5,
        "Many temperatures are cut off at a bound. Lower the gain, or move that bound.",
        "algorithm.agpo.temperature.gain=0.075",
        AGPO_LOG,
    ),
    Check(
        "eps_bound",
        "Prompts with clip ratio at a bound",
        measures.eps_at_bound,
        Unit.SHARE,
        0.25,
        0.5,
        "Many clip ratios are cut off at a bound. Lower the gains, or move that bound.",
        "algorithm.agpo.clip.entropy_gain=0.25\nalgorithm.agpo.clip.kl_gain=0.25",
        AGPO_LOG,
    ),
    Check(
        "no_probe",
        "Prompts without a usable probe",
        measures.no_probe,
        Unit.SHARE,
        0.05,
        0.5,
        "Fewer than two probe responses had an outcome in time: these prompts use the base values. Fix the verifier, "
        "or wait longer for it.",
        "algorithm.agpo.reward_timeout_s=120",
        AGPO_LOG,
    ),
    Check(
        "unjudged",
        "Responses that no verifier could judge",
        measures.unjudged,
        Unit.SHARE,
        0.01,
        0.1,
        "No reward in time, a worker killed from outside, a broken grader or a reference answer that cannot be used: "
        "these responses are not trained on. The statuses below give the reasons.",
        "algorithm.agpo.reward_timeout_s=120",
        AGPO_LOG,
    ),
    Check(
        "no_answer",
        "Responses without a readable answer",
        measures.no_answer,
        Unit.SHARE,
        0.2,
        0.5,
        "The verifier found no final answer, so they count as wrong. Compare the samples with the form that the "
        "prompt requests; truncated responses have no answer either.",
        "data.max_response_length=<larger>",
        AGPO_LOG,
    ),
    Check(
        "cut_off",
        "Responses at the length limit",
        measures.cut_off,
        Unit.SHARE,
        0.1,
        0.4,
        "These responses were truncated at the token limit. Raise the limit.",
        "data.max_response_length=<larger>",
        "response_length/max",
    ),
    Check(
        "lost_sessions",
        "Sessions lost in the rollout",
        measures.lost_sessions,
        Unit.SHARE,
        0.0,
        0.01,
        "They failed before their response was complete; train.log has the errors.",
        "",
        AGPO_LOG,
    ),
    Check(
        "learner_gap",
        "Sampler against learner, nats per token",
        measures.learner_gap,
        Unit.NATS,
        0.02,
        0.1,
        "The learner computes other probabilities than the sampler. This is expected unless logprob_temperature is "
        "own; otherwise check numeric formats and the weight transfer.",
        "algorithm.agpo.logprob_temperature=own\nactor_rollout_ref.rollout.calculate_log_probs=True",
        "rollout_corr/log_ppl_abs_diff (actor_rollout_ref.rollout.calculate_log_probs=True)",
    ),
    Check(
        "not_finite",
        "Steps with a value that is not finite",
        measures.not_finite,
        Unit.SHARE,
        0.0,
        0.05,
        "A gradient, loss, entropy, KL or reward is not a number. An update without a finite gradient is skipped; "
        "three in a row stop the run. Lower the learning rate, and look at the reward function if the reward is "
        "among them.",
        LOWER_RATE,
        "actor/grad_norm, actor/pg_loss, critic/score/mean",
    ),
    Check(
        "budget",
        "Tokens over the budget",
        measures.over_budget,
        Unit.SHARE,
        0.05,
        0.25,
        "The run ends after the step that reaches the budget, and one step has many tokens relative to the budget. "
        "Compare runs at equal tokens, not at their ends.",
        "data.train_batch_size=<smaller>",
        "a budget (algorithm.agpo.token_budget)",
    ),
    Check(
        "past_plan",
        "Steps beyond the planned ones",
        measures.past_plan,
        Unit.SHARE,
        0.0,
        None,
        "The run has more steps than its last launch announced: the folder holds the steps of another run, or the "
        "number of steps was changed on resuming.",
        "",
        "run.json",
    ),
    Check(
        "discarded",
        "Discarded tokens",
        measures.discarded,
        Unit.SHARE,
        0.1,
        None,
        "Probe responses (the first of each group) are not used.",
        "algorithm.agpo.probe.reuse=true",
        AGPO_LOG,
    ),
    Check(
        "missing_steps",
        "Steps missing in the log",
        measures.missing_steps,
        Unit.COUNT,
        0.0,
        None,
        "Curves have gaps. A metrics file of an earlier attempt is not in the folder.",
        "",
        "a training step",
    ),
    Check(
        "bad_lines",
        "Unreadable lines in the files",
        measures.bad_lines,
        Unit.COUNT,
        0.0,
        None,
        "A crash may cut the last line of a file; more than that means a damaged file. The list at the end names them.",
        "",
        "a file",
    ),
)


LEARNING = "no_gain"  # the check without which nothing is said about a run


def findings(run: Run) -> list[Finding]:
    """Every check on one run, in the order of ``CHECKS``."""
    return [Finding(check, check.measure(run)) for check in CHECKS]


def overall(found: Sequence[Finding]) -> Verdict:
    """The most urgent verdict. UNKNOWN if nothing is beyond its limits and the log does not tell whether it learns."""
    order = list(Verdict)
    worst = min((finding.verdict for finding in found), key=order.index, default=Verdict.UNKNOWN)
    learns = any(f.check.name == LEARNING and f.value is not None for f in found)
    return Verdict.UNKNOWN if worst is Verdict.OK and not learns else worst


def in_words(run: Run, found: Sequence[Finding]) -> str:
    """The verdict on a run as its headline."""
    if not run.training:
        return "No training step yet"
    verdict = overall(found)
    words = {
        Verdict.OK: "Healthy",
        Verdict.LOOK: "Worth a look",
        Verdict.BAD: "Not healthy",
        Verdict.UNKNOWN: "Too early to say" if measures.early_days(run) else "Too little is logged to say",
    }[verdict]
    if verdict in (Verdict.BAD, Verdict.LOOK) and any(f.check.name == LEARNING and f.verdict is verdict for f in found):
        words += ": no gain"
    done = measures.progress(run)
    if done is None or done == 1.0:
        return words
    of = f" of {run.planned_steps}" if run.planned_steps else ""
    return f"{words}, {run.steps}{of} steps, {100 * done:.0f} % of the plan"
