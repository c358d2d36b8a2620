# SPDX-License-Identifier: Apache-2.0
"""Refuse unsupported arguments when the trainer is constructed, with the argument to change."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from agpo_core import AdvantageConfig, AGPOConfig, Controller

CLIPPED_LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")  # the losses of TRL that clip at 1-eps and 1+eps


def controller_of(agpo: AGPOConfig, args: Any) -> Controller:
    """The controllers under TRL's arguments."""
    return Controller(
        agpo,
        temperature=args.temperature,
        clip_low=args.epsilon,
        clip_high=args.epsilon if args.epsilon_high is None else args.epsilon_high,
        group_size=args.num_generations,
        lr=args.learning_rate,
    )


def check_settings(
    agpo: AGPOConfig, args: Any, reward_funcs: Any, outcome: str | None, others: Mapping[str, Any]
) -> None:
    """Raise ValueError for the first unsupported argument of the trainer; warn if a controller has no effect."""
    refused = [
        (args.world_size > 1, "world_size > 1", "the controllers see one process; launch a single one"),
        (
            args.use_vllm,
            "use_vllm=True",
            "TRL sends vLLM one temperature for the whole batch; set use_vllm=False",
        ),
        (
            args.use_transformers_continuous_batching,
            "use_transformers_continuous_batching=True",
            "rows of different temperature share a batch there; set it to False",
        ),
        (args.torch_compile, "torch_compile=True", "row temperatures are set by a hook; set it to False"),
        (
            agpo.clip.enabled and args.loss_type not in CLIPPED_LOSSES,
            f"loss_type={args.loss_type!r}",
            f"it has no clip ratio to adapt; use one of {', '.join(CLIPPED_LOSSES)} or set clip.enabled=false",
        ),
        (
            agpo.logprob_temperature != "own",
            f"logprob_temperature={agpo.logprob_temperature!r}",
            "TRL scores at the sampling temperature; set logprob_temperature=own",
        ),
        (
            not agpo.probe.reuse,
            "probe.reuse=false",
            "TRL trains on every response that it samples; set it to true",
        ),
        (
            agpo.advantage != AdvantageConfig(),
            f"advantage={agpo.advantage}",
            "TRL computes the advantages: leave it, set scale_rewards",
        ),
        (agpo.loss.adaptive != "none", f"loss.adaptive={agpo.loss.adaptive!r}", "TRL computes the loss; set none"),
        (agpo.length.weight > 0.0, f"length.weight={agpo.length.weight:g}", "TRL computes the advantages; set 0"),
        (
            agpo.allocation.enabled,
            "allocation.enabled=true",
            "TRL's groups have num_generations members; set it to false",
        ),
        (
            agpo.step_size.enabled and not agpo.adaptive,
            "step_size.enabled=true without a probe",
            "the drift is measured beside it; set temperature.enabled=true, or step_size.enabled=false",
        ),
    ]
    for name in ("tools", "rollout_func", "environment_factory"):
        refused.append((others.get(name) is not None, name, "several turns have no single temperature; leave it out"))
    for applies, what, why in refused:
        if applies:
            raise ValueError(f"AGPO in TRL cannot work with {what}: {why}")
    _check_outcome(outcome, reward_funcs)
    _check_schedule(agpo, args)


def _check_outcome(outcome: str | None, reward_funcs: Any) -> None:
    functions = reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]
    names = [getattr(function, "__name__", type(function).__name__) for function in functions]
    if outcome is None and len(names) > 1:
        raise ValueError(f"reward_funcs: which one is the outcome? Set outcome to one of {', '.join(names)}")
    if outcome is not None and outcome not in names:
        raise ValueError(f"outcome={outcome!r}: must name one of reward_funcs: {', '.join(names)}")


def _check_schedule(agpo: AGPOConfig, args: Any) -> None:
    every = args.steps_per_generation * args.num_iterations  # micro-batches per generation batch
    accumulation = args.gradient_accumulation_steps
    if args.save_strategy == "steps" and (args.save_steps < 1 or args.save_steps * accumulation % every):
        raise ValueError(
            f"save_steps={args.save_steps}: a checkpoint in the middle of a generation batch makes TRL sample it anew "
            f"on resume, so the run would not continue; set a multiple of {max(1, every // accumulation)}"
        )
    if agpo.step_size.enabled and accumulation % every == 0:
        raise ValueError(
            "step_size.enabled=true with one update per generation batch: the drift, which the step size needs, "
            "cannot be measured. Set num_iterations=2, steps_per_generation above gradient_accumulation_steps, or "
            "step_size.enabled=false."
        )
    if agpo.clip.enabled and accumulation % every == 0:
        warnings.warn(
            "one update per generation batch: every importance ratio is 1 and a clip ratio has no effect. Set "
            "num_iterations=2, or steps_per_generation above gradient_accumulation_steps.",
            stacklevel=4,
        )


def check_head(trainer: Any, agpo: AGPOConfig) -> None:
    """Raise ValueError unless the model's logits are linear in the last hidden state."""
    if trainer._is_vlm:
        raise ValueError("AGPO in TRL works with text models: pass a tokenizer as processing_class, not a processor")
    config = trainer.model.config.get_text_config()
    head = trainer.model.get_output_embeddings()
    bent = {
        "caps its logits, final_logit_softcapping,": getattr(config, "final_logit_softcapping", None) is not None,
        "has a bias in its output head": getattr(head, "bias", None) is not None,
    }
    for what, applies in bent.items():
        if applies and agpo.temperature.enabled:
            raise ValueError(
                f"model: {config.model_type} {what}, so TRL cannot be given a temperature per response; use a model "
                "without, or set temperature.enabled=false"
            )
