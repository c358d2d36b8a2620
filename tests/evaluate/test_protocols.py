# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from recipe.agpo.evaluate.errors import EvaluationError
from recipe.agpo.evaluate.protocols import protocol, request_seed, steps


def test_named_values():
    greedy, sampled = protocol("greedy"), protocol("sampled")
    assert (greedy.temperature, greedy.top_p, greedy.samples) == (0.0, 1.0, 1)
    assert (sampled.temperature, sampled.top_p, sampled.samples) == (1.0, 1.0, 8)
    assert str(sampled).startswith("sampled: temperature 1, top-p 1, 8 responses a problem, at most 2048 tokens")


def test_fingerprint_changes_with_every_field():
    base = protocol("sampled")
    changes = {"temperature": 0.5, "top_p": 0.9, "samples": 4, "max_tokens": 7, "seed": 1}
    others = [dataclasses.replace(base, **{name: value}) for name, value in changes.items()]
    assert len({one.fingerprint for one in [base, protocol("greedy"), *others]}) == 2 + len(changes)
    assert base.fingerprint == protocol("sampled").fingerprint
    assert {field.name for field in dataclasses.fields(base)} == {"name", *changes}


@pytest.mark.parametrize(
    ("name", "changed", "says"),
    [
        ("greedy", {"temperature": 0.7}, "--protocol sampled"),
        ("greedy", {"samples": 4}, "--protocol sampled"),
        ("greedy", {"top_p": 0.9}, "--protocol sampled"),
        ("sampled", {"temperature": 0.0}, "--protocol greedy"),
        ("sampled", {"temperature": -1.0}, "above 0"),
        ("sampled", {"temperature": float("nan")}, "above 0"),
        ("sampled", {"samples": 0}, "at least 1"),
        ("sampled", {"max_tokens": 0}, "at least 1"),
        ("sampled", {"top_p": 0.0}, "above 0 and at most 1"),
        ("beam", {}, "known are greedy, sampled"),
    ],
)
def test_refusals_in_words(name, changed, says):
    with pytest.raises(EvaluationError, match=says):
        protocol(name, **changed)


def test_request_seeds_are_fixed_and_distinct():
    seeds = {request_seed(0, problem, k) for problem in ("a", "b", "c") for k in range(50)}
    assert len(seeds) == 150
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert request_seed(0, "a", 0) == request_seed(0, "a", 0) != request_seed(1, "a", 0)


def test_steps():
    assert steps(1, None, "pass") == (1,)
    assert steps(6, None, "pass") == (1, 2, 4, 6)
    assert steps(8, [8, 2, 2], "pass") == (2, 8)
    with pytest.raises(EvaluationError, match="pass@8 needs at least 8 samples.*--samples 8"):
        steps(1, [8], "pass")
    with pytest.raises(EvaluationError, match="at least 1"):
        steps(4, [0], "maj")


def test_evaluation_imports_nothing_of_the_method():
    """Controllers cannot touch an evaluation that has never heard of them; nor does it wait for torch or vLLM."""
    code = (
        "import sys, pathlib, tempfile\n"
        "from tests.evaluate import standin\n"
        "from recipe.agpo.evaluate import checkpoint, compare, data, generate, judge, metrics, protocols, report, run\n"
        "from recipe.agpo.cli import eval\n"
        "standin.evaluate(pathlib.Path(tempfile.mkdtemp()), standin.task([standin.benchmark(3)]), standin.Model(),\n"
        "                 standin.Judge())\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "assert not loaded & {'agpo_core', 'verl', 'vllm', 'torch', 'ray'}, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
