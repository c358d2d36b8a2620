# SPDX-License-Identifier: Apache-2.0
"""Everything that can be known to go wrong before Ray starts, in one message.

Each check yields problems as text: the key, its value, why it cannot work, and the override that mends it.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipe.agpo import checkpoint, cpu
from recipe.agpo.actor_loss import BASE_LOSSES
from recipe.agpo.cpu.processes import MARKER, new_run_id
from recipe.agpo.settings import RunConfig, agpo_config, is_agpo, keeps_ledger, resolved
from recipe.agpo.verl_seams import MANAGER_CLASS, VERL_VERSION

Check = Callable[[DictConfig, RunConfig], Iterator[str]]
CLIP_AWARE_LOSSES = (*BASE_LOSSES, "agpo", "bypass_mode")
MAX_PROMPTS_TOKENISED = 2000
TRAINER_MODES = ("sync", "colocate_async", "separate_async")
VERIFIERS = "pkg://recipe.agpo.rewards"
REQUIRED_COLUMNS = ("data_source", "reward_model")


class ConfigProblem(ValueError):
    """The run cannot start; the message lists every problem with its fix."""


def before_ray(config: DictConfig) -> None:
    """Check a composed verl config; called from verl's own ``validate_config`` in the driver.

    On the platform without a GPU its settings are filled in first, for every run. The rest applies to runs with
    ``algorithm.adv_estimator=agpo`` and, where it concerns the token ledger, to those with a section
    ``algorithm.agpo``.

    Raises:
        ConfigProblem: with all problems found, each with its fix.
    """
    problems = []
    # Every process of a run inherits it: verl_seams tells runs apart by it.
    os.environ.setdefault(MARKER, new_run_id())
    if cpu.enabled():
        from recipe.agpo.cpu.config import apply_cpu_defaults, cpu_conflicts

        for key, old, new in apply_cpu_defaults(config):
            print(f"[agpo] without a GPU: {key}={new} (was {old})")
        problems = [f"{key}={value} cannot work without a GPU: {need}." for key, value, need in cpu_conflicts(config)]
    problems += find_problems(config)
    if problems:
        listed = "\n".join(f"  {i}. {problem}" for i, problem in enumerate(problems, 1))
        raise ConfigProblem(f"AGPO cannot start, {len(problems)} problem(s):\n{listed}")
    for warning in find_warnings(config):
        print(f"[agpo] WARNING: {warning}")


def find_problems(config: DictConfig) -> list[str]:
    """All reasons why this run could not work, in words; empty if it can start, or is none of ours."""
    if not keeps_ledger(config):
        return []
    try:
        agpo = agpo_config(config)
    except ValueError as error:
        return [_with_prefix(str(error))]
    checks = AGPO_CHECKS if is_agpo(config) else OTHER_ESTIMATOR_CHECKS
    return [problem for check in checks for problem in check(config, agpo)]


def find_warnings(config: DictConfig) -> list[str]:
    """Settings that work but make a part of AGPO pointless."""
    if not keeps_ledger(config):
        return []
    agpo, actor = agpo_config(config), config.actor_rollout_ref.actor
    found = []
    if not is_agpo(config):
        if agpo.fingerprint() != RunConfig().fingerprint():
            found.append(
                f"algorithm.adv_estimator={config.algorithm.adv_estimator}: of algorithm.agpo only token_budget and "
                "lr_schedule have an effect. Set algorithm.adv_estimator=agpo if the controllers are wanted."
            )
        return found
    if agpo.clip.enabled and _one_update(config):
        found.append(
            f"actor_rollout_ref.actor.ppo_mini_batch_size={actor.ppo_mini_batch_size} covers the whole batch "
            f"(data.train_batch_size={config.data.train_batch_size}): with one update per batch every importance "
            "ratio is 1 and no clip ratio does anything. Set ppo_mini_batch_size to half of the batch or less, or "
            "ppo_epochs=2."
        )
    if actor.strategy == "megatron":
        found.append(
            "actor_rollout_ref.actor.strategy=megatron: AGPO has been run with FSDP2 only so far. Compare the first "
            "steps with actor_rollout_ref.actor.strategy=fsdp2 before you trust it."
        )
    filtered = config.algorithm.get("filter_groups", None)
    if filtered is not None and filtered.enable and agpo.advantage.zero_variance != "keep":
        found.append(
            f"algorithm.agpo.advantage.zero_variance={agpo.advantage.zero_variance} with "
            "algorithm.filter_groups.enable=True: the groups that it is about never arrive. Set zero_variance=keep, or "
            "filter_groups.enable=False."
        )
    if agpo.logprob_temperature == "uncorrected" and agpo.temperature.enabled:
        found.append(
            "algorithm.agpo.logprob_temperature=uncorrected: responses are sampled at their own temperature and scored "
            "at another one, as in the public code. Use own or corrected for a consistent gradient."
        )
    return found


def _versions(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    version = importlib.metadata.version("verl")
    if version != VERL_VERSION:
        yield (
            f"verl {version} is installed; recipe/agpo/verl_seams.py names the internals of verl {VERL_VERSION}, "
            f"and only that version is tested. Install it with: pip install verl=={VERL_VERSION}"
        )


def _trainer(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    if not config.trainer.use_v1:
        yield "trainer.use_v1=False: AGPO works with verl's V1 trainer. Set trainer.use_v1=True."
    mode = config.trainer.v1.trainer_mode
    if mode not in TRAINER_MODES:
        yield (
            f"trainer.v1.trainer_mode={mode}: AGPO has not been run in it. Set it to {' or '.join(TRAINER_MODES)}."
        )
    if config.reward.reward_model.enable and not config.reward.reward_model.enable_resource_pool:
        yield (
            "reward.reward_model.enable=True without a resource pool: rewards then come after the rollout, and the "
            "probe needs them during it. Set reward.reward_model.enable_resource_pool=True or use a reward function."
        )
    distillation = OmegaConf.select(config, "distillation.enabled", default=False)
    if distillation and agpo.clip.enabled:
        yield (
            "distillation.enabled=True replaces the loss that carries the per-response clip ratios. Set "
            "algorithm.agpo.clip.enabled=false or distillation.enabled=False."
        )
    groups = config.algorithm.get("filter_groups", None)
    if groups is not None and groups.enable and groups.metric == "reward" and agpo.outcome_key is not None:
        yield (
            f"algorithm.filter_groups.metric=reward filters on shaped rewards, while AGPO judges groups on "
            f"{agpo.outcome_key!r}. Set algorithm.filter_groups.metric={agpo.outcome_key}."
        )


def _separate(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    """What verl's ``separate_async`` asserts once Ray and the data are up."""
    if config.trainer.v1.trainer_mode != "separate_async":
        return
    rollout, actor = config.actor_rollout_ref.rollout, config.actor_rollout_ref.actor
    syncs = int(config.trainer.v1.separate_async.parameter_sync_step)
    batch, mini = int(config.data.train_batch_size), int(actor.ppo_mini_batch_size)
    if batch != syncs * mini:
        yield (
            f"data.train_batch_size={batch}: separate_async trains one mini-batch at a time, "
            f"trainer.v1.separate_async.parameter_sync_step={syncs} of them a step. Set "
            f"actor_rollout_ref.actor.ppo_mini_batch_size={max(1, batch // syncs)} and data.train_batch_size="
            f"{max(1, batch // syncs) * syncs}."
        )
    if int(rollout.nnodes) < 1 or int(rollout.n_gpus_per_node) < 1:
        yield (
            f"actor_rollout_ref.rollout.nnodes={rollout.nnodes}, actor_rollout_ref.rollout.n_gpus_per_node="
            f"{rollout.n_gpus_per_node}: separate_async gives the rollout GPUs of its own. Set both to at least 1, and "
            "trainer.nnodes and trainer.n_gpus_per_node to what is left for training."
        )
    if rollout.checkpoint_engine.backend == "naive":
        yield (
            "actor_rollout_ref.rollout.checkpoint_engine.backend=naive: it hands weights over inside one GPU, and "
            "separate_async keeps learner and rollout apart. Set it to nccl."
        )
    level = os.environ.get("VERL_LOGGING_LEVEL", "INFO")
    if not config.actor_rollout_ref.hybrid_engine and level in ("INFO", "DEBUG"):
        yield (
            f"actor_rollout_ref.hybrid_engine=False: verl {VERL_VERSION} stops at a faulty log line of its own then. "
            "Set the environment variable VERL_LOGGING_LEVEL=WARNING, or leave hybrid_engine at True."
        )


def _schedule(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    if agpo.lr_schedule == "tokens" and agpo.token_budget is None:
        yield (
            "algorithm.agpo.lr_schedule=tokens: there is no budget to measure against. Set "
            "algorithm.agpo.token_budget, or algorithm.agpo.lr_schedule=steps."
        )


def _rollout(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    rollout = config.actor_rollout_ref.rollout
    small, cold = agpo.adaptive and int(rollout.n) < 2, float(rollout.temperature) <= 0
    if small:
        yield (
            f"actor_rollout_ref.rollout.n={rollout.n}: a group needs at least 2 responses to have a dispersion. "
            "Set actor_rollout_ref.rollout.n=8, or algorithm.agpo.preset=grpo."
        )
    if cold:
        yield f"actor_rollout_ref.rollout.temperature={rollout.temperature}: must be > 0. Set it to 1.0."
    if not small and not cold:
        try:
            resolved(config, agpo)
        except ValueError as error:
            yield _with_prefix(str(error))
    manager = OmegaConf.select(config, "actor_rollout_ref.rollout.agent.agent_loop_manager_class")
    if manager not in (None, MANAGER_CLASS):
        yield (
            f"actor_rollout_ref.rollout.agent.agent_loop_manager_class={manager}: AGPO needs its own manager for "
            f"the probe. Leave the key out, or derive yours from {MANAGER_CLASS} and use algorithm.agpo.preset=grpo."
        )


def _scoring(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    fused = bool(config.actor_rollout_ref.model.get("use_fused_kernels", False))
    if fused and agpo.logprob_temperature == "own" and agpo.temperature.enabled:
        yield (
            "actor_rollout_ref.model.use_fused_kernels=True: verl's fused kernels take one temperature for the "
            "whole batch. Set actor_rollout_ref.model.use_fused_kernels=False, or "
            "algorithm.agpo.logprob_temperature=corrected with algorithm.rollout_correction.rollout_is=token and "
            "actor_rollout_ref.rollout.calculate_log_probs=True."
        )
    if agpo.logprob_temperature == "corrected":
        level = OmegaConf.select(config, "algorithm.rollout_correction.rollout_is")
        if level is None:
            yield (
                "algorithm.agpo.logprob_temperature=corrected needs verl's importance weights. Set "
                "algorithm.rollout_correction.rollout_is=token, or algorithm.agpo.logprob_temperature=own."
            )
        if not config.actor_rollout_ref.rollout.calculate_log_probs:
            yield (
                "algorithm.agpo.logprob_temperature=corrected needs the sampler's log-probabilities. Set "
                "actor_rollout_ref.rollout.calculate_log_probs=True."
            )


def _megatron(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    actor = config.actor_rollout_ref.actor
    if actor.strategy == "megatron" and OmegaConf.select(actor, "megatron.dynamic_context_parallel", default=False):
        yield (
            "actor_rollout_ref.actor.megatron.dynamic_context_parallel=True: whether AGPO's columns survive its "
            "scheduling of rows has not been reviewed. Set it to False."
        )


def _loss(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    mode = config.actor_rollout_ref.actor.policy_loss.get("loss_mode", "vanilla")
    if agpo.clip.enabled and mode not in CLIP_AWARE_LOSSES:
        yield (
            f"actor_rollout_ref.actor.policy_loss.loss_mode={mode} has not been tested with a clip ratio per "
            f"response. Set actor_rollout_ref.actor.policy_loss.loss_mode to one of {', '.join(BASE_LOSSES)}, or "
            "algorithm.agpo.clip.enabled=false."
        )


def _step_size(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    """The step size follows the drift between the updates of a batch: there must be one, and somebody to measure it."""
    if not agpo.step_size.enabled:
        return
    actor = config.actor_rollout_ref.actor
    mode = actor.policy_loss.get("loss_mode", "vanilla")
    if _one_update(config):
        yield (
            f"actor_rollout_ref.actor.ppo_mini_batch_size={actor.ppo_mini_batch_size} covers the whole batch "
            f"(data.train_batch_size={config.data.train_batch_size}): with one update per batch no drift can be seen, "
            "and the step size is steered by it. Set ppo_mini_batch_size to half of the batch or less, ppo_epochs=2, "
            "or algorithm.agpo.step_size.enabled=false."
        )
    if mode not in (*BASE_LOSSES, "agpo"):
        yield (
            f"actor_rollout_ref.actor.policy_loss.loss_mode={mode}: the drift that steers the step size is measured in "
            f"AGPO's loss. Set loss_mode to one of {', '.join(BASE_LOSSES)}, or algorithm.agpo.step_size.enabled=false."
        )


def _one_update(config: DictConfig) -> bool:
    """Whether a batch is one optimiser update."""
    actor = config.actor_rollout_ref.actor
    return int(actor.ppo_mini_batch_size) >= int(config.data.train_batch_size) and int(actor.ppo_epochs) == 1


def _groups(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    """Settings of groups, loss and allocation that contradict each other or verl's."""
    actor = config.actor_rollout_ref.actor
    mode = actor.policy_loss.get("loss_mode", "vanilla")
    filtered = config.algorithm.get("filter_groups", None)
    filters = filtered is not None and filtered.enable
    rule = agpo.advantage.zero_variance
    if agpo.masks_groups and actor.loss_agg_mode == "token-sum":
        yield (
            f"algorithm.agpo.advantage.zero_variance={rule} with actor_rollout_ref.actor.loss_agg_mode=token-sum: a "
            "sum has no denominator that groups could leave. Set zero_variance=keep, or loss_agg_mode=token-mean."
        )
    if agpo.weighs_rows and mode == "bypass_mode":
        yield (
            "actor_rollout_ref.actor.policy_loss.loss_mode=bypass_mode: verl's loss for it takes no weights per "
            "response, which zero_variance=mask, an adaptive loss and weighting=prompts need. Set loss_mode=vanilla."
        )
    if agpo.loss.adaptive != "none" and mode not in ("vanilla", "agpo", "bypass_mode"):
        yield (
            f"algorithm.agpo.loss.adaptive={agpo.loss.adaptive} with actor_rollout_ref.actor.policy_loss.loss_mode="
            f"{mode}: the loss of a group is defined on vanilla's. Set loss_mode=vanilla, or loss.adaptive=none."
        )
    if not agpo.allocation.enabled:
        return
    if filters:
        yield (
            "algorithm.agpo.allocation.enabled=true with algorithm.filter_groups.enable=True: both spend the step's "
            "responses again, and filtered groups are asked for one by one. Switch one of them off."
        )
    if config.reward.reward_model.enable:
        yield (
            "algorithm.agpo.allocation.enabled=true with reward.reward_model.enable=True: a reward model is given "
            "groups of rollout.n responses. Set algorithm.agpo.allocation.enabled=false."
        )


def _batches(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    ref = config.actor_rollout_ref
    ranks = int(config.trainer.n_gpus_per_node) * int(config.trainer.nnodes)
    if ref.actor.strategy == "megatron" or ref.actor.use_dynamic_bsz:
        return
    sequence_parallel = int(ref.actor.get("ulysses_sequence_parallel_size", 1) or 1)
    ranks = max(1, ranks // sequence_parallel)
    share = int(ref.actor.ppo_mini_batch_size) * int(ref.rollout.n) // ranks
    micro = ref.actor.ppo_micro_batch_size_per_gpu
    if micro and share % int(micro):
        yield (
            f"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu={micro} does not divide a rank's share of a "
            f"mini-batch (ppo_mini_batch_size {ref.actor.ppo_mini_batch_size} x n {ref.rollout.n} / {ranks} ranks "
            f"= {share}). Set it to a divisor of {share}."
        )


def _model(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    path = str(config.actor_rollout_ref.model.path)
    local = Path(os.path.expanduser(path))
    looks_local = path.startswith(("/", "./", "../", "~"))
    if looks_local and not (local / "config.json").is_file():
        yield (
            f"actor_rollout_ref.model.path={path}: there is no config.json in that folder. Point it at a folder "
            "with a Hugging Face checkpoint, or at a hub id."
        )


def _data(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    for key in ("train_files", "val_files"):
        rows, all_counted = 0, True
        for file in _listed(config, key):
            path = Path(os.path.expanduser(file))
            if "://" in file:
                all_counted = False
                continue
            if not path.is_file():
                all_counted = False
                yield f"data.{key}={file}: no such file. Set data.{key} to a parquet file in verl's schema."
                continue
            if path.suffix != ".parquet":
                all_counted = False
                continue
            found = list(_parquet_problems(config, key, path))
            yield from found
            if found:
                all_counted = False
                continue
            import pyarrow.parquet

            rows += pyarrow.parquet.ParquetFile(path).metadata.num_rows
        if key == "train_files" and all_counted and 0 < rows < int(config.data.train_batch_size):
            yield (
                f"data.train_files holds {rows} prompts, fewer than data.train_batch_size="
                f"{config.data.train_batch_size}: no batch can be made. Set data.train_batch_size={rows} or less."
            )


def _splits(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    """Nobody trains on what the result is measured with."""
    from recipe.agpo.data import check_training_files

    files = [path for _, path in _parquet_files(config, "train_files")]
    for problem in check_training_files([path for path in files if not list(_schema_problems(config, "", path))]):
        yield f"data.train_files: {problem}"


def _listed(config: DictConfig, key: str) -> list[str]:
    """The files of ``data.<key>``, which verl takes as one or as a list."""
    files = config.data[key]
    return [str(file) for file in ([files] if isinstance(files, str) else list(files or []))]


def _parquet_files(config: DictConfig, key: str) -> Iterator[tuple[str, Path]]:
    """Those of them that are parquet files here: as they are written in the config, and as paths."""
    for file in _listed(config, key):
        path = Path(os.path.expanduser(file))
        if path.suffix == ".parquet" and path.is_file():
            yield file, path


def _parquet_problems(config: DictConfig, key: str, path: Path) -> Iterator[str]:
    found = list(_schema_problems(config, key, path))
    yield from found
    if not found and not config.data.get("filter_overlong_prompts", True):
        import pyarrow.parquet

        yield from _long_prompts(config, key, pyarrow.parquet.ParquetFile(path))


def _schema_problems(config: DictConfig, key: str, path: Path) -> Iterator[str]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        yield f"data.{key}={path}: not a readable parquet file ({error}). Write it again."
        return
    names = file.schema_arrow.names
    needed = (config.data.get("prompt_key", "prompt"), *REQUIRED_COLUMNS)
    missing = [name for name in needed if name not in names]
    if missing:
        yield (
            f"data.{key}={path}: column(s) {', '.join(missing)} missing (found: {', '.join(names)}). verl's schema "
            "needs prompt, data_source and reward_model; data.prompt_key names the prompt column."
        )
    elif file.metadata.num_rows == 0:
        yield f"data.{key}={path}: the data set is empty. Write at least data.train_batch_size rows."


def _long_prompts(config: DictConfig, key: str, file: Any) -> Iterator[str]:
    """Prompts over the limit stop verl in the middle of a step unless it filters them."""
    if config.data.get("truncation", "error") != "error":
        return
    try:
        from transformers import AutoTokenizer

        path = config.actor_rollout_ref.model.get("tokenizer_path") or config.actor_rollout_ref.model.path
        # What is here already: a check must not wait for a download, nor for the retries of a machine without one.
        tokenizer = AutoTokenizer.from_pretrained(os.path.expanduser(str(path)), local_files_only=True)
    except (OSError, ValueError):
        return
    limit, column = int(config.data.max_prompt_length), config.data.get("prompt_key", "prompt")
    batch = next(file.iter_batches(batch_size=MAX_PROMPTS_TOKENISED, columns=[column]), None)
    messages = [] if batch is None else batch.column(0).to_pylist()
    try:
        lengths = [_prompt_length(tokenizer, message) for message in messages]
    except Exception as error:  # noqa: BLE001 - whatever a chat template raises
        yield (
            f"data.{key}: the tokenizer of {path} cannot render the prompts ({type(error).__name__}: {error}). Use "
            "a model with a chat template, or set actor_rollout_ref.model.custom_chat_template."
        )
        return
    over = [length for length in lengths if length > limit]
    if over:
        yield (
            f"data.{key}: {len(over)} of the first {len(lengths)} prompts are longer than data.max_prompt_length="
            f"{limit} tokens (the longest has {max(over)}). Set data.max_prompt_length={max(over)}, or "
            "data.filter_overlong_prompts=True to leave them out, or data.truncation=left."
        )


def _prompt_length(tokenizer: Any, messages: Any) -> int:
    if isinstance(messages, str):
        return len(tokenizer(messages)["input_ids"])
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _reward(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    path = OmegaConf.select(config, "reward.custom_reward_function.path")
    if not path:
        return
    name = config.reward.custom_reward_function.name
    from verl.utils.import_utils import load_extern_object

    try:
        load_extern_object(module_path=path, object_name=name)
    except Exception as error:  # noqa: BLE001 - a user's module may raise anything
        cause = error.__cause__ or error
        yield (
            f"reward.custom_reward_function.path={path}, name={name}: could not be loaded ({type(cause).__name__}: "
            f"{cause}). Every reward would fail. Try it in a Python shell; a module of a package is named "
            "pkg://package.module."
        )
        return
    if str(path) == VERIFIERS and name in ("compute_score", "compute_score_sync"):
        yield from _verifiers(config)


def _verifiers(config: DictConfig) -> Iterator[str]:
    """Our own verifiers: every row has one, and each of them works on this machine."""
    from recipe.agpo.rewards import UnknownKind, kind_of
    from recipe.agpo.rewards.self_test import self_test

    settings = OmegaConf.select(config, "reward.custom_reward_function.reward_kwargs") or {}
    kinds: set[str] = set()
    for key in ("train_files", "val_files"):
        for file, path in _parquet_files(config, key):
            for source, named in _sources(path):
                try:
                    kinds.add(kind_of(source, {"verifier": named}, settings.get("kind")))
                except UnknownKind as error:
                    yield f"data.{key}={file}: {error}"
                    break
    for problem in self_test(kinds, settings.get("runner")) if kinds else ():
        yield f"reward.custom_reward_function.path={VERIFIERS}: {problem}. Run: agpo doctor"


def _sources(path: Path) -> set[tuple[str, str | None]]:
    """The distinct (data_source, extra_info.verifier) of a file; read in pieces."""
    import pyarrow.parquet

    found: set[tuple[str, str | None]] = set()
    try:
        file = pyarrow.parquet.ParquetFile(path)
        names = [name for name in ("data_source", "extra_info") if name in file.schema_arrow.names]
        for batch in file.iter_batches(batch_size=10_000, columns=names):
            columns = batch.to_pydict()
            infos = columns.get("extra_info") or [None] * len(batch)
            for source, info in zip(columns.get("data_source", []), infos, strict=True):
                found.add((str(source), (info or {}).get("verifier") if isinstance(info, dict) else None))
    except (pyarrow.ArrowInvalid, OSError):
        return set()  # said by the check of the data
    return found


def _resume(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    try:
        folder = checkpoint.checkpoint_to_resume(config)
        if folder is not None:
            if is_agpo(config):
                checkpoint.read_state(folder, agpo)
            checkpoint.read_ledger(folder)
    except checkpoint.ResumeError as error:
        yield str(error)


def _disk(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    """A full disk in the middle of a checkpoint is found out hours after the start."""
    from recipe.agpo.plan.estimate import cost, shape_of

    shape = shape_of(config)
    if shape is None or int(config.trainer.save_freq) <= 0:
        return
    folder = Path(os.path.expanduser(str(config.trainer.default_local_dir))).absolute()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    each = cost(config, shape, 0, True).checkpoint_gib
    kept = int(config.trainer.max_actor_ckpt_to_keep or 1)
    needed, free = (kept + 1) * each, shutil.disk_usage(existing).free / 2**30
    # verl deletes the oldest checkpoint only after the newest is written.
    if needed > free:
        yield (
            f"trainer.default_local_dir={folder}: {free:,.0f} GiB are free there, and {kept} checkpoint(s) kept while "
            f"another is written take about {needed:,.0f} GiB ({each:,.1f} each). Set another "
            "trainer.default_local_dir, a lower trainer.max_actor_ckpt_to_keep, or trainer.save_freq=-1."
        )


def _with_prefix(message: str) -> str:
    return message if "algorithm.agpo" in message else f"algorithm.agpo: {message}"


AGPO_CHECKS: tuple[Check, ...] = (
    _versions,
    _trainer,
    _separate,
    _schedule,
    _rollout,
    _scoring,
    _megatron,
    _loss,
    _step_size,
    _groups,
    _batches,
    _model,
    _data,
    _splits,
    _reward,
    _resume,
    _disk,
)
OTHER_ESTIMATOR_CHECKS: tuple[Check, ...] = (
    _versions,
    _separate,
    _schedule,
    _model,
    _data,
    _splits,
    _reward,
    _resume,
    _disk,
)
