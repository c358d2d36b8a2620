# SPDX-License-Identifier: Apache-2.0
"""verl's Megatron engine on this CPU: its own forward_step, logits processor, loss call and Megatron's schedule.

What stands in: the transformer with its sequence packing, which wants CUDA, is an embedding that gives logits, and the
schedule's one counter, which it wants on the GPU, is made on the CPU. Run as a process of its own by
test_megatron_contract.py (``AGPO_CPU=1``, megatron-core on the path); prints JSON.
"""

from __future__ import annotations

import json
import os
import types
from types import SimpleNamespace

import torch
import verl.workers.engine.megatron.transformer_impl as engine_module
from megatron.core import parallel_state
from megatron.core.enums import ModelType
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu
from verl.workers.config import ActorConfig
from verl.workers.config.actor import PolicyLossConfig

from agpo_core import LossConfig
from recipe.agpo.columns import CLIP_HIGH, CLIP_LOW, GROUP, ROW_WEIGHT
from recipe.agpo.training.actor_loss import METRIC_PREFIX, ActorLoss

VOCABULARY = 11
LENGTHS = [(2, 3), (3, 5), (1, 4), (2, 2)]  # prompt and response tokens
TAU = torch.tensor([0.7, 1.0, 1.3, 0.9])


class Defaults(SimpleNamespace):
    """A model's config for Megatron's schedule; what is not set is off."""

    def __getattr__(self, name: str) -> None:
        return None


class Logits(torch.nn.Module):
    """The stand-in for the transformer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(VOCABULARY, VOCABULARY)
        self.model_type = ModelType.encoder_or_decoder
        self.config = Defaults(autocast_dtype=torch.float32, calculate_per_token_loss=False)

    def set_input_tensor(self, _: object) -> None:
        """Megatron's schedule calls it."""


def forward(model, input_ids, _, *, logits_processor, logits_processor_args, **__):
    """As verl's forward functions: packed logits into the processor, nested tensors out of it."""
    offsets, packed = input_ids.offsets(), input_ids.values().unsqueeze(0)
    made = logits_processor(
        model.table(packed),
        label=packed.roll(-1, dims=1),
        temperature=logits_processor_args["temperature"].values().unsqueeze(0),
    )
    return {name: torch.nested.nested_tensor_from_jagged(values[0], offsets) for name, values in made.items()}


class TorchWithoutGpu(types.ModuleType):
    """torch for Megatron's schedule: what it makes on the GPU is made here."""

    def __getattr__(self, name: str) -> object:
        return getattr(torch, name)

    def zeros(self, *size: object, device: object = None, **kwargs: object) -> torch.Tensor:
        return torch.zeros(*size, **kwargs)


class Engine(engine_module.MegatronEngineWithLMHead):
    def __init__(self, model: Logits, micro_batch: int) -> None:
        self.module, self.enable_routing_replay = [model], False
        self.tf_config = SimpleNamespace(calculate_per_token_loss=False)
        self.engine_config = SimpleNamespace(
            dynamic_context_parallel=False,
            use_fused_kernels=False,
            use_remove_padding=True,
            pad_to_length=False,
            pad_bshd_to_minibatch_max=False,
            context_parallel_size=1,
            entropy_from_logits_with_chunking=False,
        )
        self.model_config = SimpleNamespace(
            mtp=SimpleNamespace(enable=False, enable_train=False),
            hf_config=SimpleNamespace(model_type="none"),
            tokenizer=SimpleNamespace(pad_token_id=0),
        )
        self.micro_batch = micro_batch

    def _get_context_parallel_layout(self, _: object) -> str:
        return "zigzag"


def nested(rows):
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def batch(micro_batch: int) -> TensorDict:
    torch.manual_seed(1)
    ids = [torch.randint(1, VOCABULARY, (p + r,)) for p, r in LENGTHS]
    columns = {
        "input_ids": nested(ids),
        "prompts": nested([row[:p] for row, (p, _) in zip(ids, LENGTHS, strict=True)]),
        "responses": nested([row[p:] for row, (p, _) in zip(ids, LENGTHS, strict=True)]),
        "response_mask": nested([torch.ones(r, dtype=torch.int64) for _, r in LENGTHS]),
        "loss_mask": nested([torch.ones(r, dtype=torch.int64) for _, r in LENGTHS]),
        "old_log_probs": nested([-2.0 - torch.rand(r) for _, r in LENGTHS]),
        "advantages": nested([torch.full((r,), a) for (_, r), a in zip(LENGTHS, (1.0, 0.8, -1.0, 0.5), strict=True)]),
        "temperature": TAU.clone(),
        CLIP_LOW: torch.tensor([0.1, 0.2, 0.3, 0.2]),
        CLIP_HIGH: torch.tensor([0.2, 0.4, 0.3, 0.2]),
        ROW_WEIGHT: torch.tensor([1.0, 1.5, 1.0, 0.5]),
        GROUP: torch.tensor([0, 1, 0, 1]),
    }
    data = TensorDict(columns, batch_size=len(LENGTHS))
    tu.assign_non_tensor(
        data,
        use_dynamic_bsz=False,
        micro_batch_size_per_gpu=micro_batch,
        global_batch_size=len(LENGTHS),
        calculate_entropy=True,
    )
    return data


def loss(mode: str, adaptive: str) -> ActorLoss:
    config = ActorConfig(
        strategy="megatron",
        rollout_n=2,
        ppo_mini_batch_size=2,
        ppo_micro_batch_size_per_gpu=1,
        loss_agg_mode=mode,
        clip_ratio_low=0.2,
        clip_ratio_high=0.2,
        policy_loss=PolicyLossConfig(loss_mode="agpo"),
    )
    return ActorLoss(config, LossConfig(adaptive=adaptive, floor=0.3))


def update(micro_batch: int, mode: str, adaptive: str) -> dict:
    """Gradient and metrics of one update, without the optimiser."""
    model = Logits()
    engine, data, function = Engine(model, micro_batch), batch(micro_batch), loss(mode, adaptive)
    function.before_update(engine, data)
    assert model.table.weight.grad is None, "the pass before the update leaves no gradient"
    output = engine.forward_backward_batch(data, function)
    tokens = output["metrics"][f"{METRIC_PREFIX}tokens"].aggregate()
    return {"gradient": model.table.weight.grad.flatten().tolist(), "tokens": int(tokens)}


def direct(mode: str) -> list[float]:
    """The same gradient without engine, schedule and micro-batches, from the columns."""
    model, data = Logits(), batch(1)
    rows = []
    for i, (prompt, _) in enumerate(LENGTHS):
        ids = data["input_ids"].unbind()[i]
        scored = torch.log_softmax(model.table(ids) / TAU[i], -1)[:-1].gather(-1, ids[1:, None]).squeeze(-1)
        ratio = (scored[prompt - 1 :] - data["old_log_probs"].unbind()[i]).exp()
        advantage = data["advantages"].unbind()[i] * data[ROW_WEIGHT][i]
        held = ratio.clamp(1 - data[CLIP_LOW][i], 1 + data[CLIP_HIGH][i])
        row = torch.maximum(-advantage * ratio, -advantage * held)
        rows.append(torch.where(advantage < 0, torch.minimum(row, -advantage * 3.0), row))
    total = torch.cat(rows).mean() if mode == "token-mean" else torch.stack([row.mean() for row in rows]).mean()
    total.backward()
    return model.table.weight.grad.flatten().tolist()


def log_probs() -> dict:
    """What the engine scores, and the closed form at each row's own temperature."""
    model, found = Logits(), []

    def keep(model_output, data, dp_group=None):
        found.extend(row.tolist() for row in model_output["log_probs"].unbind())
        return torch.zeros(()), {}

    data = batch(2)
    Engine(model, 2).forward_backward_batch(data, keep, forward_only=True)
    expected = []
    for ids, tau in zip(data["input_ids"].unbind(), TAU, strict=True):
        scored = torch.log_softmax(model.table(ids) / tau, -1)[:-1]
        expected.append(scored.gather(-1, ids[1:, None]).squeeze(-1).tolist())
    return {"found": [row[: len(e)] for row, e in zip(found, expected, strict=True)], "expected": expected}


def main() -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", RANK="0", WORLD_SIZE="1")
    store = torch.distributed.TCPStore("127.0.0.1", 0, 1, is_master=True, wait_for_workers=False)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    import verl.models.mcore
    from megatron.core.pipeline_parallel import schedules

    schedules.torch = TorchWithoutGpu("torch")
    verl.models.mcore.get_mcore_engine_forward_fn = lambda _: forward
    modes = ("token-mean", "seq-mean-token-mean")
    updates = {
        f"{mode} {adaptive} {size}": update(size, mode, adaptive)
        for mode in modes
        for adaptive in ("none", "exp")
        for size in (1, 2, 4)
    }
    print(json.dumps({"log_probs": log_probs(), "updates": updates, "direct": {mode: direct(mode) for mode in modes}}))


if __name__ == "__main__":
    main()
