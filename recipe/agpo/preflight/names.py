# SPDX-License-Identifier: Apache-2.0
"""Names of methods, engines, agent loops, loggers and files that verl looks up long after the start."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from recipe.agpo.preflight.prompts import parquet_files
from recipe.agpo.preflight.words import nearest, shown, unknown
from recipe.agpo.settings import ESTIMATOR, RunConfig, keeps_ledger
from recipe.agpo.verl_api import names as verl

ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
TURNS, AGENT = f"{ROLLOUT}.multi_turn", f"{ROLLOUT}.agent"


def estimator(config: DictConfig) -> Iterator[str]:
    """A misspelt estimator: verl would look it up after the first rollout, and AGPO would stay off in silence.

    It concerns runs with a section ``algorithm.agpo``, and every run whose estimator is most like ``agpo``.
    """
    key, name = "algorithm.adv_estimator", OmegaConf.select(config, "algorithm.adv_estimator")
    known = (*verl.ESTIMATORS, ESTIMATOR)
    if str(name) in known:
        return
    ours = str(name).strip().lower() == ESTIMATOR or nearest(name, known) == ESTIMATOR
    if not ours and not keeps_ledger(config):
        return
    if name is not None and str(name) in verl.registered_estimators():
        return
    if ours or nearest(name, known):
        asked = nearest(name, known)
        yield (
            f"{key}={shown(name)}: no such estimator; the nearest name is {asked}, which may be what you meant. Known "
            f"are {', '.join(sorted(known))}. Set {key}={asked}."
        )
    elif not OmegaConf.select(config, "actor_rollout_ref.model.external_lib"):  # it may register one
        yield unknown(key, name, known, ESTIMATOR, "no such estimator")


def methods(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    """Names that select verl's code."""
    actor, algorithm, rollout = config.actor_rollout_ref.actor, config.algorithm, config.actor_rollout_ref.rollout
    penalties = {name + plus for name in verl.KL_PENALTIES for plus in ("", "+")}
    if actor.use_kl_loss and actor.kl_loss_type not in penalties:
        yield unknown(f"{ACTOR}.kl_loss_type", actor.kl_loss_type, penalties, "low_var_kl", "verl has no such KL loss")
    if algorithm.use_kl_in_reward:
        if algorithm.kl_penalty not in penalties:
            yield unknown("algorithm.kl_penalty", algorithm.kl_penalty, penalties, "kl", "verl has no such penalty")
        if algorithm.kl_ctrl.type not in verl.KL_CONTROLLERS:
            what = "verl has no such controller"
            yield unknown("algorithm.kl_ctrl.type", algorithm.kl_ctrl.type, verl.KL_CONTROLLERS, "fixed", what)
    if actor.loss_agg_mode not in verl.LOSS_AGGREGATIONS:
        what = "verl has no such aggregation"
        yield unknown(f"{ACTOR}.loss_agg_mode", actor.loss_agg_mode, verl.LOSS_AGGREGATIONS, "token-mean", what)
    filtered = algorithm.get("filter_groups")
    if filtered is not None and filtered.get("enable") and not filtered.get("metric"):
        metric = agpo.outcome_key or "reward"
        yield (
            f"algorithm.filter_groups.metric={shown(filtered.get('metric'))}: verl does not know by which number to "
            f"filter groups. Set algorithm.filter_groups.metric={metric}, or algorithm.filter_groups.enable=False."
        )
    if rollout.get("mode", "async") != "async":
        yield f"{ROLLOUT}.mode={shown(rollout.mode)}: verl has no other mode than async. Set {ROLLOUT}.mode=async."
    server = OmegaConf.select(config, f"{ROLLOUT}.name")  # verl's default is none at all
    if server not in verl.ROLLOUTS and server not in verl.registered_rollouts():
        yield unknown(f"{ROLLOUT}.name", server, verl.ROLLOUTS, "vllm", "verl has no such rollout server")
    resume = config.trainer.resume_mode
    if resume not in verl.RESUME_MODES:
        yield unknown("trainer.resume_mode", resume, verl.RESUME_MODES, "auto", "verl has no such mode")


def engine(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    """The training engine and the section of the configuration that it needs."""
    key, actor = f"{ACTOR}.strategy", config.actor_rollout_ref.actor
    strategy = actor.get("strategy")
    if strategy not in verl.STRATEGIES:
        yield unknown(key, strategy, verl.STRATEGIES, "fsdp2", "verl has no such engine")
        return
    group = verl.STRATEGIES[strategy]
    section = "fsdp_config" if group == "dp" else group
    if section not in actor:
        known = {name: verl.STRATEGIES[name] for name in verl.STRATEGIES}
        here = next((name for name, g in known.items() if ("fsdp_config" if g == "dp" else g) in actor), "fsdp2")
        yield (
            f"{key}={strategy}: its section {ACTOR}.{section} is not there, because model_engine names another engine. "
            f"Set model_engine={group}, or {key}={here}."
        )
    if strategy == "torchtitan" and agpo.logprob_temperature == "own" and agpo.adaptive:
        # Its logits are [tokens, vocabulary] and the column is [rows]: torch cannot divide one by the other.
        yield (
            f"{key}=torchtitan: verl's torchtitan engine divides the logits of all rows by one temperature, and fails "
            "on a temperature per response. Set algorithm.agpo.logprob_temperature=corrected and "
            f"algorithm.rollout_correction.rollout_is=token and {ROLLOUT}.calculate_log_probs=True, or "
            "algorithm.agpo.logprob_temperature=uncorrected."
        )


# ---- agent loops and files -----------------------------------------------------------------------------

# Key -> what verl reads from the file. `resolved`: also looked up relative to verl's folder.
FILES = {
    f"{AGENT}.agent_loop_config_path": "agent loops",
    f"{TURNS}.tool_config_path": "tools",
    f"{TURNS}.function_tool_path": "tools",
    "data.tool_config_path": "tools",
    "data.function_tool_path": "tools",
    "data.custom_cls.path": "the data set's class",
    f"{AGENT}.custom_async_server.path": "the rollout server's class",
    "trainer.v1.sampler.custom_sampler.path": "the sampler's class",
    f"{ROLLOUT}.router_config_path": "the router",
    f"{ROLLOUT}.quantization_config_file": "the quantization",
    "reward.reward_manager.module.path": "the reward manager",
}


def files(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    """Files that the workers open."""
    for key, content in FILES.items():
        parent, _, name = key.rpartition(".")
        node = OmegaConf.select(config, parent)
        # A value that follows from another key is reported there.
        if not isinstance(node, DictConfig) or not node.get(name) or OmegaConf.is_interpolation(node, name):
            continue
        path = str(node[name])
        if "://" in path or _found(path) is not None:
            continue
        yield (
            f"{key}={shown(path)}: no such file. verl would look for {content} in it. Set {key} to the path of a file "
            f"that every node can read, or leave it out: {key}=null."
        )
    yield from _loops(config)


def _found(path: str) -> Path | None:
    """The file, as verl resolves it: absolute, in this folder, or beside the package."""
    given = Path(os.path.expanduser(path))
    spec = importlib.util.find_spec("verl")
    beside = [Path(spec.origin).parents[1], Path(spec.origin).parent] if spec and spec.origin else []
    for candidate in [given] if given.is_absolute() else [Path.cwd() / given, *(folder / given for folder in beside)]:
        if candidate.is_file():
            return candidate
    return None


def _loops(config: DictConfig) -> Iterator[str]:
    """The agent loop of the run, and those that the rows name."""
    key, path = f"{AGENT}.agent_loop_config_path", OmegaConf.select(config, f"{AGENT}.agent_loop_config_path")
    known = set(verl.AGENT_LOOPS)
    if path:
        file = _found(str(path))
        if file is None:
            return  # reported above
        listed = _entries(file)
        if listed is None:
            yield (
                f"{key}={path}: not a YAML list whose entries have the keys name and _target_. Set {key} to such a "
                f"file, or leave it out: {key}=null."
            )
            return
        known |= listed
    known |= verl.registered_agent_loops()
    if not isinstance(OmegaConf.select(config, AGENT), DictConfig):
        return
    default = OmegaConf.select(config, f"{AGENT}.default_agent_loop")
    if default not in known:
        what = f"no such agent loop; one of your own is an entry of {key}"
        yield unknown(f"{AGENT}.default_agent_loop", default, known, "single_turn_agent", what)
    for files_key in ("train_files", "val_files"):
        for file_name, file in parquet_files(config, files_key):
            strange = sorted(_agents(file) - known)
            if strange:
                yield (
                    f"data.{files_key}={file_name}: the column agent_name asks for {shown(strange[0])}, which is no "
                    f"agent loop (known: {', '.join(sorted(known))}). Add it to the file of {key}, or write the "
                    "column again."
                )


def _entries(file: Path) -> set[str] | None:
    try:
        entries: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    except Exception:  # whatever a YAML parser raises
        return None
    if not isinstance(entries, list) or not all(
        isinstance(e, dict) and "name" in e and "_target_" in e for e in entries
    ):
        return None
    return {str(entry["name"]) for entry in entries}


def _agents(file: Path) -> set[str]:
    """Distinct values of the column agent_name."""
    import pyarrow
    import pyarrow.parquet

    try:
        parquet = pyarrow.parquet.ParquetFile(file)
        if "agent_name" not in parquet.schema_arrow.names:
            return set()
        found: set[str] = set()
        for batch in parquet.iter_batches(batch_size=10_000, columns=["agent_name"]):
            found |= {str(name) for name in batch.column(0).to_pylist() if name is not None}
        return found
    except (pyarrow.ArrowInvalid, OSError):
        return set()  # reported by the check of the data


def loggers(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    """Loggers that verl does not know, or whose package is not installed here."""
    given = config.trainer.logger
    listed = list(given) if isinstance(given, ListConfig) else [given]
    good = [name for name in listed if name in verl.LOGGERS and _importable(verl.LOGGERS[name])]
    for name in listed:
        if name not in verl.LOGGERS:
            asked = nearest(name, verl.LOGGERS) if name is not None else None
            instead = [asked if other == name and asked else other for other in listed if other in good or asked]
            yield (
                f"trainer.logger={_written(listed)}: {shown(name)} is no logger of verl. Known are "
                f"{', '.join(sorted(verl.LOGGERS))}. Set trainer.logger={_written(instead or ['console'])}."
            )
        elif not _importable(verl.LOGGERS[name]):
            yield (
                f"trainer.logger={_written(listed)}: {name} needs the package {verl.LOGGERS[name]}, which is not "
                f"installed. Set trainer.logger={_written(good or ['console'])}, or install the package on every node."
            )


def _importable(module: str | None) -> bool:
    return module is None or importlib.util.find_spec(module) is not None


def _written(names: list[Any]) -> str:
    if names == [None]:
        return "null"
    return f"[{','.join('null' if name is None else str(name) for name in names)}]"


# ---- warnings ------------------------------------------------------------------------------------------


def sampling(config: DictConfig) -> Iterator[str]:
    """Sampling settings that do something else than they say."""
    rollout = config.actor_rollout_ref.rollout
    cut = []
    if rollout.top_p is not None and rollout.top_p < 1:
        cut.append((f"{ROLLOUT}.top_p", rollout.top_p, 1.0))
    if rollout.top_k is not None and rollout.top_k > 0:
        cut.append((f"{ROLLOUT}.top_k", rollout.top_k, -1))
    if cut:
        yield (
            f"{' and '.join(f'{key}={value:g}' for key, value, _ in cut)}: the server's log-probabilities are those of "
            "the truncated distribution, the learner's are those of the whole one, so their difference and importance "
            f"weights from it are biased. Set {' and '.join(f'{key}={whole}' for key, _, whole in cut)}."
        )
    val = rollout.val_kwargs
    if not val.do_sample and val.temperature is not None and val.temperature > 0:
        yield (
            f"{ROLLOUT}.val_kwargs.do_sample=False with {ROLLOUT}.val_kwargs.temperature={val.temperature:g}: "
            f"verl {_V1} does not read do_sample, and validation samples at this temperature. Set "
            f"{ROLLOUT}.val_kwargs.temperature=0 for greedy answers, or {ROLLOUT}.val_kwargs.do_sample=True to say "
            "what happens."
        )
    if val.do_sample and val.temperature == 0:
        yield (
            f"{ROLLOUT}.val_kwargs.do_sample=True with {ROLLOUT}.val_kwargs.temperature=0: verl {_V1} does not read "
            f"do_sample, and validation is greedy. Set {ROLLOUT}.val_kwargs.temperature=1.0 to sample, or "
            f"{ROLLOUT}.val_kwargs.do_sample=False."
        )
    actor = config.actor_rollout_ref.actor
    penalties = {name + plus for name in verl.KL_PENALTIES for plus in ("", "+")}
    if not actor.use_kl_loss and actor.kl_loss_type not in penalties:
        yield (
            f"{ACTOR}.kl_loss_type={shown(actor.kl_loss_type)}: verl has no such KL loss. It is not used, because "
            f"{ACTOR}.use_kl_loss=False. Set {ACTOR}.kl_loss_type=low_var_kl."
        )


_V1 = "(V1 trainers)"
