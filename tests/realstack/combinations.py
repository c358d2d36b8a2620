# SPDX-License-Identifier: Apache-2.0
"""What is run together on the real stack. ``docs/combinations.md`` is written from here:

python -m tests.realstack.combinations > docs/combinations.md
"""

from __future__ import annotations

ACTOR = "actor_rollout_ref.actor"
# part -> its overrides on top of preset agpo
PARTS: dict[str, tuple[str, ...]] = {
    "clip-higher": (f"{ACTOR}.clip_ratio_high=0.28",),
    "dynamic sampling": ("algorithm.filter_groups.enable=True", "algorithm.filter_groups.metric=acc"),
    "Dr.GRPO": ("algorithm.norm_adv_by_std_in_grpo=False", f"{ACTOR}.loss_agg_mode=seq-mean-token-sum-norm"),
    # With the clip ratios of verl's own examples: no lower clip, and 0.0003.
    "CISPO": (f"{ACTOR}.policy_loss.loss_mode=cispo", f"{ACTOR}.clip_ratio_low=10"),
    "GSPO": (
        f"{ACTOR}.policy_loss.loss_mode=gspo",
        f"{ACTOR}.loss_agg_mode=seq-mean-token-mean",
        f"{ACTOR}.clip_ratio_low=0.0003",
        f"{ACTOR}.clip_ratio_high=0.0004",
    ),
    "LoRA": (
        "actor_rollout_ref.model.lora_rank=4",
        "actor_rollout_ref.model.lora_alpha=8",
        "actor_rollout_ref.rollout.load_format=safetensors",
        "actor_rollout_ref.rollout.layered_summon=true",
    ),
    "KL loss": (f"{ACTOR}.use_kl_loss=true", "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=8"),
    "signed groups": ("algorithm.agpo.advantage.zero_variance=signed",),
    "signed and masked groups": ("algorithm.agpo.advantage.zero_variance=signed_mask",),
    "adaptive loss": ("algorithm.agpo.loss.adaptive=exp",),
    "length reward": ("algorithm.agpo.length.weight=0.2",),
    "allocation": ("algorithm.agpo.allocation.enabled=true",),
    "weighting by responses": ("algorithm.agpo.allocation.weighting=responses",),
    "average of the weights": (
        "algorithm.agpo.average.enabled=true",
        "algorithm.agpo.average.offload=true",
        "trainer.test_freq=2",
    ),
    "fused kernels, so corrected scoring": ("actor_rollout_ref.model.use_fused_kernels=True",),
}
# Together in one run, with adaptive temperature and clip ratio; the planted outcomes that it is run with (planted.py);
# how the run ends after two steps.
COMBINATIONS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "A": (("clip-higher", "dynamic sampling", "Dr.GRPO", "CISPO"), "failing", "vLLM dies"),
    "B": (("GSPO", "LoRA", "KL loss", "length reward", "signed groups", "average of the weights"), "mixed", "done"),
    "C": (
        ("clip-higher", "Dr.GRPO", "LoRA", "signed and masked groups", "adaptive loss", "length reward", "allocation"),
        "goes_down",
        "no verdicts",
    ),
    "D": (
        ("allocation", "weighting by responses", "fused kernels, so corrected scoring", "average of the weights"),
        "mixed",
        "done",
    ),
}
NIGHTLY = ("B", "D")  # the others run with every change
EXCLUDED = {
    ("allocation", "dynamic sampling"): "both change the number of a step's responses",
    ("adaptive loss", "CISPO"): "a group's loss is defined on the clipped surrogate",
    ("adaptive loss", "GSPO"): "the same",
    ("signed and masked groups", "dynamic sampling"): "dynamic sampling drops such groups; a warning is given",
}


def overrides(name: str) -> list[str]:
    return [override for part in COMBINATIONS[name][0] for override in PARTS[part]]


def markdown() -> str:
    """The page of the docs."""
    lines = [
        "# Combinations that are tested together",
        "",
        "Generated from `tests/realstack/combinations.py`. `tests/realstack/test_combinations.py` runs each",
        "combination for two steps on the real stack, with AGPO's adaptive temperature and clip ratio on:",
        f"{' and '.join(name for name in COMBINATIONS if name not in NIGHTLY)} with every change, "
        f"{' and '.join(NIGHTLY)} every night (`bash scripts/run_tests.sh --all`).",
        "",
        "| part | overrides | " + " | ".join(COMBINATIONS) + " |",
        "|---|---|" + "---|" * len(COMBINATIONS),
    ]
    for part, settings in PARTS.items():
        marks = " | ".join("yes" if part in parts else "" for parts, *_ in COMBINATIONS.values())
        lines.append(f"| {part} | {', '.join(f'`{setting}`' for setting in settings)} | {marks} |")
    lines += ["", "Not possible together:", ""]
    lines += [f"- {first} and {second}: {why}." for (first, second), why in EXCLUDED.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
