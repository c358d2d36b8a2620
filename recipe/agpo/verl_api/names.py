# SPDX-License-Identifier: Apache-2.0
"""Names that verl 0.9.1 accepts. Importing its registries takes ten seconds; a contract test compares them."""

from __future__ import annotations

import sys

ESTIMATORS = (
    "gae",
    "grpo",
    "reinforce_plus_plus",
    "reinforce_plus_plus_baseline",
    "remax",
    "rloo",
    "opo",
    "grpo_passk",
    "gpg",
    "rloo_vectorized",
    "grpo_vectorized",
    "optimal_token_baseline",
    "tir_optimal_token_baseline",
    "gdpo",
)
# Each also with a plus, for the unbiased gradient. `full` is documented and not implemented.
KL_PENALTIES = ("kl", "k1", "abs", "mse", "k2", "low_var_kl", "k3")
KL_CONTROLLERS = ("fixed", "adaptive")
LOSS_AGGREGATIONS = ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")
RESUME_MODES = ("auto", "disable", "resume_path")
ROLLOUTS = ("vllm", "sglang", "trtllm")
AGENT_LOOPS = ("single_turn_agent", "tool_agent")
# Logger -> the module that it imports; None: none beyond verl's own.
LOGGERS = {
    "wandb": "wandb",
    "tracking": "wandb",
    "mlflow": "mlflow",
    "swanlab": "swanlab",
    "vemlp_wandb": "volcengine_ml_platform",
    "tensorboard": "tensorboard",
    "console": None,
    "clearml": "clearml",
    "trackio": "trackio",
    "file": None,
    "rl_insight": None,
}
# Strategy -> the group of verl's configuration (model_engine=...) that has its sections.
STRATEGIES = {
    "fsdp": "dp",
    "fsdp2": "dp",
    "fsdp_turbo": "dp",
    "megatron": "megatron",
    "torchtitan": "torchtitan",
    "veomni": "veomni",
}
# Columns of verl's batches and arguments of its agent loops. A column of the data with such a name replaces what verl
# puts there, or is given to a function twice. Those that verl overwrites itself (uid, index, raw_prompt) are not here.
BATCH_COLUMNS = frozenset(
    """
    prompts responses response_mask loss_mask input_ids attention_mask position_ids
    rollout_log_probs old_log_probs log_probs ref_log_prob entropy values advantages returns
    rm_scores token_level_scores token_level_rewards rollout_is_weights
    num_turns metrics extra_fields routed_experts multi_modal_inputs multi_modal_data teacher_ids teacher_logprobs
    sampling_params trajectory trace session_id validate __rollout_n__ __do_sample__
    temperature use_remove_padding use_dynamic_bsz max_token_len_per_gpu micro_batch_size_per_gpu use_fused_kernels
    num_mini_batch disable_auto_offload no_lora_adapter images_seqlens force_group_size pad_mode
    """.split()
)


def registered_estimators() -> set[str]:
    """verl's, and those of other plugins. Seconds to import: only for a name that is not verl's."""
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY

    return {str(name) for name in ADV_ESTIMATOR_REGISTRY}


def registered_rollouts() -> set[str]:
    """The same for rollout servers."""
    from verl.workers.rollout.base import _ROLLOUT_REGISTRY

    return {name for name, _ in _ROLLOUT_REGISTRY}


def registered_agent_loops() -> set[str]:
    """Agent loops that another plugin has registered in this process."""
    loops = sys.modules.get("verl.experimental.agent_loop.agent_loop")
    return {str(name) for name in getattr(loops, "_agent_loop_registry", {})}
