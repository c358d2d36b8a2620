# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of parallel sizes, batches and tokens: what verl asserts in its workers, hours after the start.

With G GPUs, R = G / (GPUs of one replica) data-parallel ranks, n responses per prompt and m prompts per mini-batch:
R divides m n; a rank's share m n / R is a multiple of its micro-batch; and a micro-batch holds the longest row. A batch
that is no multiple of a mini-batch is padded by verl, and needs no check.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from omegaconf import DictConfig, OmegaConf

from recipe.agpo.preflight.roles import (
    ACTOR,
    CRITIC,
    CRITIC_TOKENS,
    MODEL,
    REF,
    Role,
    Size,
    gpus,
    model_values,
    product,
    roles,
    whole,
)
from recipe.agpo.preflight.words import either
from recipe.agpo.settings import RunConfig

ROLLOUT = "actor_rollout_ref.rollout"
BATCH, READ = "data.train_batch_size", "data.gen_batch_size"
MINI, CRITIC_MINI = f"{ACTOR}.ppo_mini_batch_size", f"{CRITIC}.ppo_mini_batch_size"
MICRO = f"{ACTOR}.ppo_micro_batch_size_per_gpu"
HEADS, GROUPS, LAYERS = "num_attention_heads", "num_key_value_heads", "num_hidden_layers"


# ---- parallel sizes ------------------------------------------------------------------------------------


def parallel(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    """Sizes that do not divide the GPUs, the attention heads or the layers."""
    for role in roles(config):
        misfit = [*_misfit(role), *_replicas(config, role)]
        yield from misfit
        if not misfit:
            yield from _model_misfit(config, role)
    yield from _rollout(config)


def _misfit(role: Role) -> Iterator[str]:
    """One replica must fit a whole number of times into the GPUs."""
    names = [size for size in role.splits if size.value > 1] or [role.splits[0]]
    if role.gpus % role.replica:
        # The largest size is the one to lower; the others keep their values.
        widest = max(names, key=lambda size: size.value)
        others = role.replica // widest.value
        fits = [d for d in divisors(role.gpus) if role.gpus % (d * others) == 0]
        if not fits:
            everywhere = " and ".join(f"{size.key}=1" for size in names)
            yield f"{_product(names)} GPUs hold one replica, and the run has {role.gpus}. Set {everywhere}."
            return
        near = closest(widest.value, fits)
        yield (
            f"{_product(names)} GPUs hold one replica of {role.key}, which does not divide the {role.gpus} GPU(s) of "
            f"the run (trainer.nnodes x trainer.n_gpus_per_node). Nearest valid for {widest.key}: {either(near)}. "
            f"Set {widest.key}={near[0]}."
        )
    elif role.experts and role.gpus % product(role.experts):
        expert = max(role.experts, key=lambda size: size.value)
        others = product(role.experts) // expert.value
        near = closest(expert.value, [d for d in divisors(role.gpus) if role.gpus % (d * others) == 0] or [1])
        yield (
            f"{_product(role.experts)} GPUs hold one replica of the experts of {role.key}, which does not divide the "
            f"{role.gpus} GPU(s) of the run. Set {expert.key}={near[0]}."
        )


def _replicas(config: DictConfig, role: Role) -> Iterator[str]:
    """torchtitan is told the number of replicas; the other engines compute it."""
    if role.engine != "torchtitan" or role.gpus % role.replica:
        return
    shards, copies = (
        f"{role.key}.torchtitan.data_parallel_shard_size",
        f"{role.key}.torchtitan.data_parallel_replicate_size",
    )
    told = int(OmegaConf.select(config, shards)) * int(OmegaConf.select(config, copies))
    if told != role.ranks:
        yield (
            f"{shards} x {copies} = {told}: {role.gpus} GPU(s) / {role.replica} of a replica are {role.ranks} ranks. "
            f"Set {shards}={role.ranks} and {copies}=1."
        )


def _model_misfit(config: DictConfig, role: Role) -> Iterator[str]:
    """Heads and layers, where the model's configuration is known here."""
    values = model_values(config, role.model)
    heads, groups, layers = (whole(values, name) for name in (HEADS, GROUPS, LAYERS))
    first = role.splits[0]
    alone = role.replica // first.value
    fits = [d for d in divisors(role.gpus) if role.gpus % (d * alone) == 0]
    if first.value > 1 and heads:
        if role.engine in ("dp", "veomni"):
            groups = groups or heads

            def accepts(d: int) -> bool:
                return heads % d == 0 and (groups % d == 0 or d % groups == 0)

        else:

            def accepts(d: int) -> bool:
                return heads % d == 0

        if not accepts(first.value):
            near = closest(first.value, [d for d in fits if accepts(d)])
            yield (
                f"{first.key}={first.value}: the model has {heads} attention heads and {groups or heads} key-value "
                f"heads, which cannot be split over {first.value} GPUs. Nearest valid: {either(near)}. Set "
                f"{first.key}={near[0]}."
            )
    if role.engine == "megatron" and layers:
        pipeline = role.splits[1]
        uneven = any("pipeline" in str(name) for name in _override(config, role.key))
        if layers % pipeline.value and not uneven:
            others = role.replica // pipeline.value
            fits = [d for d in divisors(role.gpus) if role.gpus % (d * others) == 0 and layers % d == 0]
            near = closest(pipeline.value, fits)
            yield (
                f"{pipeline.key}={pipeline.value}: the model's {layers} layers cannot be split evenly over "
                f"{pipeline.value} stages. Nearest valid: {either(near)}. Set {pipeline.key}={near[0]}."
            )
    packed = f"{role.model}.use_remove_padding"
    if role.engine == "dp" and first.value > 1 and not OmegaConf.select(config, packed):
        yield (
            f"{first.key}={first.value}: sequence parallelism works on packed sequences only. Set {packed}=True, or "
            f"{first.key}=1."
        )
    sharded = f"{role.key}.{'fsdp' if role.key == CRITIC else 'fsdp_config'}.fsdp_size"
    size = OmegaConf.select(config, sharded) if role.engine == "dp" else None
    if size is not None and (size == 0 or 0 < size < role.gpus and role.gpus % size):
        yield f"{sharded}={size}: does not divide the {role.gpus} GPU(s) of the run. Set {sharded}=-1."


def _override(config: DictConfig, key: str) -> list[str]:
    """Keys of Megatron's transformer configuration that the user has set."""
    node = OmegaConf.select(config, f"{key}.megatron.override_transformer_config")
    return [str(name) for name, value in node.items() if value is not None] if isinstance(node, DictConfig) else []


def _rollout(config: DictConfig) -> Iterator[str]:
    """A rollout server on its GPUs, and the model's heads on them."""
    rollout = config.actor_rollout_ref.rollout
    if rollout.pipeline_model_parallel_size > 1:
        yield (
            f"{ROLLOUT}.pipeline_model_parallel_size={rollout.pipeline_model_parallel_size}: verl's rollout servers "
            f"have no pipeline. Set {ROLLOUT}.pipeline_model_parallel_size=1."
        )
        return
    tensor, data = int(rollout.tensor_model_parallel_size), int(rollout.data_parallel_size)
    expert = rollout.get("expert_parallel_size")
    if (
        OmegaConf.select(config, f"{ROLLOUT}.name") != "trtllm"
        and expert is not None
        and expert > 1
        and expert != tensor * data
    ):
        yield (
            f"{ROLLOUT}.expert_parallel_size={expert}: verl wants it to be tensor_model_parallel_size x "
            f"data_parallel_size = {tensor * data}. Set {ROLLOUT}.expert_parallel_size={tensor * data}."
        )
    if OmegaConf.select(config, f"{ROLLOUT}.disaggregation.enabled"):
        return  # servers for prompts and for responses, each with a size of its own
    heads = whole(model_values(config, MODEL), HEADS)
    for total, node, where in _pools(config):

        def accepts(t: int, total: int = total, node: int = node) -> bool:
            size = t * data
            return total % size == 0 and (node % size == 0 or size % node == 0) and (heads is None or heads % t == 0)

        if accepts(tensor):
            continue
        near = closest(tensor, [d for d in divisors(total) if accepts(d)])
        if not near:
            yield (
                f"{ROLLOUT}.data_parallel_size={data}: a server of that many replicas does not fit {where}. Set "
                f"{ROLLOUT}.data_parallel_size=1 and {ROLLOUT}.tensor_model_parallel_size=1."
            )
            return
        by_data = f" x {ROLLOUT}.data_parallel_size={data}" if data > 1 else ""
        by_heads = f" and the model's {heads} attention heads" if heads is not None and heads % tensor else ""
        yield (
            f"{ROLLOUT}.tensor_model_parallel_size={tensor}{by_data}: must divide {where}{by_heads}. Nearest valid: "
            f"{either(near)}. Set {ROLLOUT}.tensor_model_parallel_size={near[0]}."
        )
        return


def _pools(config: DictConfig) -> list[tuple[int, int, str]]:
    """GPUs that rollout servers share: all of them, those of a node, and their name."""
    trainer, rollout = config.trainer, config.actor_rollout_ref.rollout
    found = []
    separate = trainer.v1.trainer_mode == "separate_async"
    if not separate or config.actor_rollout_ref.get("hybrid_engine", True):
        node = int(trainer.n_gpus_per_node)
        found.append((gpus(config), node, f"the {gpus(config)} GPU(s) of the run, {node} on each node"))
    if separate and int(rollout.nnodes) > 0 and int(rollout.n_gpus_per_node) > 0:
        node = int(rollout.n_gpus_per_node)
        total = node * int(rollout.nnodes)
        found.append((total, node, f"the {total} GPU(s) of the rollout, {node} on each node"))
    return found


# ---- batches -------------------------------------------------------------------------------------------


def batches(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    """Mini-batches over ranks, micro-batches in a rank's share, and the batch itself.

    One set of sizes that fits together is the fix of every misfit.
    """
    found = roles(config)
    if not found or found[0].key != ACTOR or any(role.gpus % role.replica for role in found):
        return  # the number of ranks is not known
    given, sizes = _Sizes(config, found), _Sizes(config, found)
    misfits = given.misfits()
    if not misfits:
        return
    sizes.settle()
    fix = " and ".join(f"{key}={value}" for key, value in sizes.values.items() if value != given.values[key])
    for misfit in misfits:
        yield f"{misfit} Set {fix}."


class _Sizes:
    """The sizes of a run that must fit together, by key; 0 for one that is not used."""

    def __init__(self, config: DictConfig, found: list[Role]) -> None:
        self.actor = found[0]
        self.critic = next((role for role in found if role.key == CRITIC), None)
        rollout, trainer = config.actor_rollout_ref.rollout, config.trainer
        self.n, self.gpus = int(rollout.n), self.actor.gpus
        self.dynamic = bool(config.actor_rollout_ref.actor.use_dynamic_bsz)
        separate = trainer.v1.trainer_mode == "separate_async"
        self.syncs = int(trainer.v1.separate_async.parameter_sync_step) if separate else 0
        self.values = {BATCH: int(config.data.train_batch_size), MINI: _size(config, MINI)}
        self.ranks = self.actor.ranks
        if self.critic is not None:
            if OmegaConf.is_interpolation(config.critic, "ppo_mini_batch_size"):
                self.ranks = math.lcm(self.ranks, self.critic.ranks)  # its mini-batch is the actor's
            else:
                self.values[CRITIC_MINI] = _size(config, CRITIC_MINI)
        self.critic_dynamic = self.critic is None or bool(config.critic.use_dynamic_bsz)
        self.values[MICRO] = 0 if self.dynamic else _size(config, MICRO)
        # Log-probs: the key, and the ranks that share the batch.
        self.scored = {f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu": self.actor.ranks}
        self.scored |= {f"{REF}.log_prob_micro_batch_size_per_gpu": role.ranks for role in found if role.key == REF}
        for key in self.scored:
            by_tokens = OmegaConf.select(config, key.replace("micro_batch_size_per_gpu", "use_dynamic_bsz"))
            self.values[key] = 0 if by_tokens else _size(config, key)
        filtered = OmegaConf.select(config, "algorithm.filter_groups.enable")
        exact = filtered or OmegaConf.select(config, "trainer.v1.sampler.sync_refill_failed_groups")
        # verl reads prompts one by one where it replaces some of them, whatever the key says.
        one_by_one = exact or trainer.v1.trainer_mode != "sync"
        self.values[READ] = 0 if one_by_one else _size(config, READ)

    # What must hold, for the sizes as they are.

    def misfits(self) -> list[str]:
        return [*self._minis(), *self._batch(), *self._micros()]

    def _minis(self) -> Iterator[str]:
        for key, role, ranks in self._trained():
            mini = self.values[key]
            if mini * self.n % ranks:
                unit = self._unit(ranks)
                yield (
                    f"{key}={mini} x {ROLLOUT}.n={self.n} = {mini * self.n} rows cannot be shared equally by {ranks} "
                    f"data-parallel ranks ({role.gpus} GPU(s), {role.replica} for one replica). Nearest valid: "
                    f"{either(multiples(mini, unit))}."
                )
            # verl refuses it only where it counts micro-batches in rows; else it pads the batch.
            by_rows = not (self.critic_dynamic if key == CRITIC_MINI else self.dynamic)
            if by_rows and mini > self.values[BATCH]:
                yield f"{key}={mini}: is larger than {BATCH}={self.values[BATCH]}."

    def _trained(self) -> Iterator[tuple[str, Role, int]]:
        yield MINI, self.actor, self.ranks
        if CRITIC_MINI in self.values and self.critic is not None:
            yield CRITIC_MINI, self.critic, self.critic.ranks

    def _batch(self) -> Iterator[str]:
        batch, multiple = self.values[BATCH], self._multiple()
        if batch * self.n % multiple:
            yield (
                f"{BATCH}={batch} x {ROLLOUT}.n={self.n} = {batch * self.n} rows are no multiple of {multiple}, which "
                f"verl asks for with {self.gpus} GPU(s). Nearest valid: "
                f"{either(multiples(batch, self._unit(multiple)))}."
            )
        read = self.values[READ]
        if read and batch % read:
            near = either(closest(read, divisors(batch)))
            yield f"{READ}={read}: does not divide {BATCH}={batch}. Nearest valid: {near}."

    def _micros(self) -> Iterator[str]:
        micro, mini, share = self.values[MICRO], self.values[MINI], self._share()
        if micro and mini * self.n % self.actor.ranks == 0 and share % micro:
            yield (
                f"{MICRO}={micro} does not divide a rank's share of a mini-batch (ppo_mini_batch_size {mini} x n "
                f"{self.n} / {self.actor.ranks} ranks = {share}). Nearest divisors of {share}: "
                f"{either(closest(micro, divisors(share)))}."
            )
        for key, ranks in self.scored.items():
            size, rows = self.values[key], self._padded()
            if size and rows % ranks == 0 and (share := rows // ranks) % size:
                yield (
                    f"{key}={size} does not divide a rank's share of the batch ({rows} rows / {ranks} ranks = "
                    f"{share}). Nearest divisors of {share}: {either(closest(size, divisors(share)))}."
                )

    def _unit(self, multiple: int) -> int:
        """Prompts whose responses are a multiple of this number."""
        return multiple // math.gcd(multiple, self.n)

    def _multiple(self) -> int:
        """Of which verl wants the rows of a batch to be a multiple, where it counts micro-batches in rows."""
        if self.dynamic:
            return 1
        return self.actor.ranks * (self.values[MICRO] or 1) if self.actor.engine == "megatron" else self.gpus

    def _share(self) -> int:
        return self.values[MINI] * self.n // self.actor.ranks

    def _padded(self) -> int:
        """Rows whose log-probs are computed at once: verl pads the batch to whole mini-batches."""
        taken = self.values[MINI] if self.syncs else self.values[BATCH]
        multiple = math.lcm(self.actor.ranks, *(self.values[key] * self.n for key, _, _ in self._trained()))
        return -(-taken * self.n // multiple) * multiple

    # The nearest sizes that fit together.

    def settle(self) -> None:
        for key, _, ranks in self._trained():
            self._settle_mini(key, ranks)
        if self.values[MICRO]:
            self.values[MICRO] = closest(self.values[MICRO], divisors(self._share()))[0]
        if self.syncs:
            self.values[BATCH] = self.syncs * self.values[MINI]
        elif any(True for _ in self._batch()) or self.values[BATCH] < self._least():
            unit = self._unit(self._multiple())
            # Fewer prompts are always there, more need not be.
            below, above = self.values[BATCH] // unit * unit, -(-max(self.values[BATCH], self._least()) // unit) * unit
            self.values[BATCH] = below if below >= self._least() else above
        if self.values[READ]:
            self.values[READ] = closest(self.values[READ], divisors(self.values[BATCH]))[0]
        for key, ranks in self.scored.items():
            if self.values[key] and self._padded() % ranks == 0:
                self.values[key] = closest(self.values[key], divisors(self._padded() // ranks))[0]

    def _least(self) -> int:
        return max(self.values[key] for key, _, _ in self._trained())

    def _settle_mini(self, key: str, ranks: int) -> None:
        batch, mini = self.values[BATCH], self.values[key]
        if mini * self.n % ranks == 0 and mini <= batch:
            return
        unit = self._unit(ranks)
        # With one update per batch the controllers have nothing to measure: half of the batch, where that is possible.
        for most in (batch // 2, batch):
            fitting = [m for m in (*multiples(mini, unit), most // unit * unit) if 0 < m <= most]
            if fitting:
                self.values[key] = fitting[0]
                return
        self.values[key], self.values[BATCH] = unit, max(batch, 2 * unit)


def _size(config: DictConfig, key: str) -> int:
    value = OmegaConf.select(config, key)
    return 0 if value is None else int(value)


# ---- tokens --------------------------------------------------------------------------------------------


def tokens(config: DictConfig, agpo: RunConfig) -> Iterator[str]:
    """The longest prompt with the longest response must fit the model, its server, and a micro-batch."""
    data = config.data
    longest = int(data.max_prompt_length) + int(data.max_response_length)
    text = f"data.max_prompt_length={data.max_prompt_length} + data.max_response_length={data.max_response_length}"
    yield from _model_length(config, longest, text)
    for key, role in _budgets(config):
        budget = OmegaConf.select(config, key)
        budget = CRITIC_TOKENS if budget is None and role.key == CRITIC else budget
        if budget is None or int(budget) * role.stretch >= longest:
            continue
        by = f" x {role.sequence.key}={role.stretch}" if role.sequence and role.stretch > 1 else ""
        listed = "++" if key.startswith(CRITIC) else ""
        yield (
            f"{key}={budget}{by} = {int(budget) * role.stretch} tokens, fewer than {text} = {longest}: verl stops at "
            f"the first micro-batch with a longer row. Set {listed}{key}={-(-longest // role.stretch)}."
        )
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    if bool(actor.use_dynamic_bsz) != bool(rollout.log_prob_use_dynamic_bsz):
        yield (
            f"{ROLLOUT}.log_prob_use_dynamic_bsz={rollout.log_prob_use_dynamic_bsz}: verl wants the value of "
            f"{ACTOR}.use_dynamic_bsz. Set {ROLLOUT}.log_prob_use_dynamic_bsz={actor.use_dynamic_bsz}."
        )


def _budgets(config: DictConfig) -> Iterator[tuple[str, Role]]:
    """Keys of the token budgets that are used, each once: the others follow from the actor's."""
    for role in roles(config):
        if role.key == ACTOR:
            if config.actor_rollout_ref.actor.use_dynamic_bsz:
                yield f"{ACTOR}.ppo_max_token_len_per_gpu", role
                if not OmegaConf.is_interpolation(config.actor_rollout_ref.rollout, "log_prob_max_token_len_per_gpu"):
                    yield f"{ROLLOUT}.log_prob_max_token_len_per_gpu", role
        elif role.key == REF:
            follows = OmegaConf.is_interpolation(config.actor_rollout_ref.ref, "log_prob_max_token_len_per_gpu")
            if config.actor_rollout_ref.ref.log_prob_use_dynamic_bsz and not follows:
                yield f"{REF}.log_prob_max_token_len_per_gpu", role
        else:
            # verl's critic fills micro-batches by tokens, and reads no other of its keys for that.
            yield f"{CRITIC}.ppo_infer_max_token_len_per_gpu", role


def _model_length(config: DictConfig, longest: int, text: str) -> Iterator[str]:
    """What the server accepts: responses that it cuts would not count as truncated."""
    key, given = f"{ROLLOUT}.max_model_len", config.actor_rollout_ref.rollout.max_model_len
    positions = whole(model_values(config, MODEL), "max_position_embeddings")
    shorter = "data.max_response_length={}"
    if positions is not None and longest > positions:
        prompt = int(config.data.max_prompt_length)
        fix = (
            shorter.format(positions - prompt)
            if prompt < positions
            else f"data.max_prompt_length={max(1, positions // 2)} and {shorter.format(max(1, positions // 2))}"
        )
        limit = f" and {key}={positions}" if given is not None and int(given) != positions else ""
        yield (
            f"{text} = {longest} tokens, more than the {positions} positions of the model: longer responses would be "
            f"cut without being counted as truncated. Set {fix}{limit}."
        )
    elif given is not None and int(given) < longest:
        yield (
            f"{key}={given}: fewer than {text} = {longest} tokens; longer responses would be cut without being "
            f"counted as truncated. Set {key}={longest}."
        )
    elif given is not None and positions is not None and int(given) > positions:
        yield f"{key}={given}: more than the {positions} positions of the model. Set {key}={positions}."


# ---- the nearest valid values --------------------------------------------------------------------------


def divisors(number: int) -> list[int]:
    """All divisors, ascending."""
    small = [d for d in range(1, math.isqrt(max(1, number)) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def closest(value: int, valid: list[int]) -> list[int]:
    """The nearest valid value below and above, the nearer one first."""
    below = max((v for v in valid if v <= value), default=None)
    above = min((v for v in valid if v > value), default=None)
    found = [v for v in (below, above) if v is not None]
    return sorted(found, key=lambda v: abs(v - value))


def multiples(value: int, unit: int) -> list[int]:
    """The nearest multiples of ``unit`` below and above, the nearer one first."""
    below = value // unit * unit
    found = [m for m in (below, below + unit) if m > 0]
    return sorted(found, key=lambda m: abs(m - value))


def _product(sizes: list[Size] | tuple[Size, ...]) -> str:
    return " x ".join(f"{size.key}={size.value}" for size in sizes) + f" = {product(tuple(sizes))}"
