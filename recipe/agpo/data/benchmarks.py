# SPDX-License-Identifier: Apache-2.0
"""The benchmarks: for each its splits, its reader for the public format, and what is known of its licence."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from recipe.agpo.data import gold
from recipe.agpo.data.example import BadRow, DataError, Example, gold_problem, text_of

MAX_TESTS = 50  # CodeContests has up to hundreds of tests a problem; each costs a process start for every response
GYM = "reasoning_gym"
Record = Mapping[str, Any]
_OPTION = re.compile(r"\s*[(（]?\s*([A-J])\s*[)）.、:：]\s*")


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: as on the command line and in ``data_source``.
        kind: the usual kind of its rows (a row may have another: see the reader).
        language: ``en`` or ``zh``.
        splits: the public splits; one with only ``test`` is test data whatever its file is called.
        read: from one record of the public format to an example; raises BadRow.
        template: name of the default template.
        hub_id: a public copy in this format, None if none is known to us.
        hub_config: its configuration name, None for the default.
        licence: what is publicly known.
        sizes: split to the numbers of rows of its public copies; nothing for a split whose size is not known to us.
    """

    name: str
    kind: str
    language: str
    splits: tuple[str, ...]
    read: Callable[[Record], Example]
    template: str
    licence: str
    hub_id: str | None = None
    hub_config: str | None = None
    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def test_only(self) -> bool:
        return self.splits == ("test",)


def read_gsm8k(record: Record) -> Example:
    """question, answer; the gold stands behind ``####``."""
    question, answer = text_of(record, "question"), text_of(record, "answer")
    _, mark, last = answer.rpartition("####")
    if not mark or not last.strip():
        raise BadRow("answer has nothing behind ####")
    return Example(question, last.strip().replace(",", ""), "math")


def read_math(record: Record) -> Example:
    r"""problem, solution (level, type); the gold is the last ``\boxed``."""
    return Example(text_of(record, "problem"), gold.boxed(text_of(record, "solution")), "math")


def read_ocw(record: Record) -> Example:
    r"""problem, solution (type, idx); the last ``\boxed``, with the unit that follows it.

    A plain number is judged with a tolerance (kind ``numeric``), anything else as kind ``math``.
    """
    question, solution = text_of(record, "problem"), text_of(record, "solution")
    answer = gold.boxed(solution)
    found = gold.last_box(solution)
    raw_id = _raw_id(record, "idx")
    if gold.is_plain_number(answer):
        unit = gold.unit_behind(found[1]) if found else ""
        return Example(question, answer, "numeric", {"rel_tol": 0.01, "abs_tol": 0, "unit": unit}, raw_id)
    return Example(question, _mathematics(answer), "math", {}, raw_id)


def read_cmath(record: Record) -> Example:
    """question, answer (or golden); grade, reasoning_step and num_digits are not used."""
    answer = next((record[key] for key in ("answer", "golden") if record.get(key) is not None), None)
    return Example(text_of(record, "question"), gold.plain_answer(answer), "math")


def read_mmlu(record: Record) -> Example:
    """question, choices, answer (index or letter); type or subject is not used."""
    options, answer = _options(record.get("choices")), record.get("answer")
    if isinstance(answer, int) and not isinstance(answer, bool):
        if not 0 <= answer < len(options):
            raise BadRow(f"answer {answer} is no index of {len(options)} choices")
        answer = "ABCDEFGHIJ"[answer]
    return _choice(text_of(record, "question"), options, answer)


def read_sat(record: Record) -> Example:
    """id, question, options as one text ``A) ... B) ...``, Answer."""
    options = gold.split_options(text_of(record, "options"))
    return _choice(text_of(record, "question"), options, text_of(record, "Answer", "answer"), _raw_id(record, "id"))


def read_gaokao_qa(record: Record) -> Example:
    """passage, question, options (a mapping from letters, or a list ``(A)...``), label (one letter or several)."""
    options = record.get("options")
    if isinstance(options, Mapping):
        letters = "ABCDEFGHIJ"[: len(options)]
        if sorted(options) != list(letters):
            raise BadRow(f"options have the letters {sorted(options)}, not {list(letters)}")
        options = [options[letter] for letter in letters]
    texts = [_without_letter(text, i) for i, text in enumerate(_options(options))]
    return _choice(_with_passage(record), texts, text_of(record, "label"))


def read_gaokao_cloze(record: Record) -> Example:
    """passage, question, answer; several blanks are separated by semicolons."""
    answer = gold.blanks(gold.plain_answer(record.get("answer")))
    # Chosen statements are a text: as a number, ①③ would be 13.
    kind = "text" if re.fullmatch(r"[①-⑳]+", answer) else "math"
    return Example(_with_passage(record), answer, kind, {"normalise": True} if kind == "text" else {})


def read_competition(record: Record) -> Example:
    r"""problem (or question), answer, else the last ``\boxed`` of solution; AMC gives answers as 27.0."""
    answer = record.get("answer")
    if answer is None:
        answer = gold.boxed(text_of(record, "solution"))
    return Example(text_of(record, "problem", "question"), gold.plain_answer(answer), "math", {}, _raw_id(record, "id"))


def read_code_contests(record: Record) -> Example:
    """description, public_tests / private_tests / generated_tests, time_limit, memory_limit_bytes.

    The first ``MAX_TESTS`` distinct tests count, public ones first.
    """
    question = text_of(record, "description")
    for key, standard in (("input_file", "stdin"), ("output_file", "stdout")):
        if record.get(key) not in (None, "", standard):
            raise BadRow(f"{key} is {record[key]!r}: programs that use files cannot be judged")
    tests: dict[str, str] = {}
    for key in ("public_tests", "private_tests", "generated_tests"):
        for given, expected in _tests(record.get(key), key):
            tests.setdefault(given, expected)
    if not tests:
        raise BadRow("there is no test")
    chosen = [{"input": given, "output": expected} for given, expected in list(tests.items())[:MAX_TESTS]]
    args = {
        "language": "python3",
        "time_limit_s": _seconds(record.get("time_limit")),
        "memory_limit_mb": _megabytes(record.get("memory_limit_bytes")),
    }
    reference = json.dumps({"tests": chosen}, ensure_ascii=False)
    return Example(question, reference, "code", args, _raw_id(record, "name"))


def read_gym(record: Record) -> Example:
    """dataset, config, entry: one item of a reasoning-gym task.

    Raises:
        BadRow: the task's own scorer does not give its own answer full marks once the entry has been JSON.
    """
    from recipe.agpo.rewards import gym

    question = text_of(record["entry"], "question")
    try:
        reference = json.dumps({key: record[key] for key in ("dataset", "config", "entry")}, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise BadRow(f"the entry cannot be written as JSON: {error}") from None
    answer = record["entry"].get("answer")
    if answer is not None:
        try:
            marks = gym.score(str(answer), reference)
        except Exception as error:  # hundreds of scorers, each with its own failures
            raise BadRow(f"its scorer fails on its own answer: {type(error).__name__}: {error}") from None
        if marks < 1.0:
            raise BadRow(f"its scorer gives its own answer {marks:g} marks")
    return Example(question, reference, "gym", {})


BENCHMARKS: dict[str, Benchmark] = {
    item.name: item
    for item in (
        Benchmark(
            "gsm8k",
            "math",
            "en",
            ("train", "test"),
            read_gsm8k,
            "boxed-1",
            "MIT (OpenAI's public repository)",
            "openai/gsm8k",
            "main",
            sizes={"train": (7473,), "test": (1319,)},
        ),
        Benchmark(
            "math",
            "math",
            "en",
            ("train", "test"),
            read_math,
            "boxed-1",
            "MIT in the authors' public repository; the problems come from competitions: check the source",
            "DigitalLearningGmbH/MATH-lighteval",
            sizes={"train": (7500, 12_000), "test": (5000, 500)},
        ),
        Benchmark(
            "mmlu_stem",
            "choice",
            "en",
            ("test",),
            read_mmlu,
            "letter-1",
            "MMLU: MIT in the authors' public repository; for the STEM selection check the source",
            sizes={"test": (3018,)},
        ),
        Benchmark(
            "cmath",
            "math",
            "zh",
            ("validation", "test"),
            read_cmath,
            "boxed-zh-1",
            "CC BY 4.0 on the authors' data set card; check the source",
            "weitianwen/cmath",
            sizes={"validation": (600,), "test": (1098, 600)},
        ),
        Benchmark(
            "sat_math",
            "choice",
            "en",
            ("test",),
            read_sat,
            "letter-1",
            "not known to us: check the source",
            sizes={"test": (32, 220)},
        ),
        Benchmark(
            "gaokao_math_qa",
            "choice",
            "zh",
            ("test",),
            read_gaokao_qa,
            "letter-zh-1",
            "part of AGIEval, which refers to the licences of the original data: check the source",
            sizes={"test": (351,)},
        ),
        Benchmark(
            "gaokao_math_cloze",
            "math",
            "zh",
            ("test",),
            read_gaokao_cloze,
            "blanks-zh-1",
            "part of AGIEval, which refers to the licences of the original data: check the source",
            sizes={"test": (118,)},
        ),
        Benchmark(
            "ocw",
            "numeric",
            "en",
            ("test",),
            read_ocw,
            "boxed-1",
            "made from MIT OpenCourseWare, whose material is CC BY-NC-SA: check the source",
            sizes={"test": (272,)},
        ),
        Benchmark(
            "code_contests",
            "code",
            "en",
            ("train", "validation", "test"),
            read_code_contests,
            "python-1",
            "CC BY 4.0 on the data set card, with parts under other terms named there: check the source",
            "deepmind/code_contests",
            sizes={"train": (13_328,), "validation": (117,), "test": (165,)},
        ),
        Benchmark(
            "aime24",
            "math",
            "en",
            ("test",),
            read_competition,
            "boxed-1",
            "competition problems, no licence known to us: check the source",
            "math-ai/aime24",
            sizes={"test": (30,)},
        ),
        Benchmark(
            "amc23",
            "math",
            "en",
            ("test",),
            read_competition,
            "boxed-1",
            "competition problems, no licence known to us: check the source",
            "math-ai/amc23",
            sizes={"test": (40, 83)},
        ),
    )
}


def benchmark(name: str) -> Benchmark:
    """The benchmark of that name; ``reasoning_gym:<task>`` is one as well.

    Raises:
        DataError: there is none.
    """
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    family, _, task = name.partition(":")
    if family == GYM and task:
        licence = "generated; reasoning-gym is Apache-2.0"
        return Benchmark(name, "gym", "en", ("train", "validation", "test"), read_gym, "answer-1", licence)
    raise DataError(f"data set {name!r}: there are {', '.join(BENCHMARKS)}, {GYM}:<task>")


def _choice(question: str, options: Sequence[str], answer: Any, raw_id: str = "") -> Example:
    if not isinstance(answer, str) or not answer.strip():
        raise BadRow(f"answer is {'null' if answer is None else repr(answer)}, not a letter")
    letters = "".join(sorted(set(re.sub(r"[\s,，、]", "", answer.upper()))))
    args = {"options": list(options), "letters": "ABCDEFGHIJ"[: len(options)]}
    return Example(question, letters, "choice", args, raw_id)


def _options(value: Any) -> list[str]:
    if not isinstance(value, list | tuple) or not value:
        raise BadRow(f"the options are {'null' if value is None else type(value).__name__}, not a list")
    if len(value) > 10:
        raise BadRow(f"{len(value)} options: there are letters for 10")
    return [str(option).strip() for option in value]


def _without_letter(text: str, index: int) -> str:
    match = _OPTION.match(text)
    return text[match.end() :] if match and match.group(1) == "ABCDEFGHIJ"[index] else text


def _with_passage(record: Record) -> str:
    question, passage = text_of(record, "question"), record.get("passage")
    return f"{passage.strip()}\n\n{question}" if isinstance(passage, str) and passage.strip() else question


def _mathematics(answer: str) -> str:
    r"""Spellings that no LaTeX parser reads: ``np.arcsin``, ``7.6 Z`` for a product, ``E_1,E_2`` for two answers."""
    text = re.sub(r"\s+", " ", answer.replace("$", "")).strip()
    text = re.sub(r"\bnp\.(arc)?(sin|cos|tan|log|exp)\b", r"\\\1\2", text)
    text = re.sub(r"^([\d.]+) ([A-Z])$", r"\1\2", text)
    if "," in text and gold_problem(Example("", text, "math")):
        return re.sub(r"\s*,\s*", "; ", text)
    return text


def _tests(value: Any, key: str) -> list[tuple[str, str]]:
    """``{input: [...], output: [...]}`` or ``[{input, output}, ...]`` as pairs; nothing for null."""
    if value is None:
        return []
    if isinstance(value, Mapping):
        given, expected = value.get("input"), value.get("output")
        if not isinstance(given, list) or not isinstance(expected, list) or len(given) != len(expected):
            raise BadRow(f"{key} has not as many inputs as outputs")
        pairs = list(zip(given, expected, strict=True))
    elif isinstance(value, list) and all(isinstance(test, Mapping) for test in value):
        pairs = [(test.get("input"), test.get("output")) for test in value]
    else:
        raise BadRow(f"{key} is {type(value).__name__}, not tests")
    if not all(isinstance(text, str) for pair in pairs for text in pair):
        raise BadRow(f"{key} has a test whose input or output is no text")
    return pairs


def _seconds(value: Any) -> float:
    """A time limit in seconds: a number, or ``{seconds, nanos}``; 2.0 where there is none."""
    if isinstance(value, Mapping):
        value = (value.get("seconds") or 0) + (value.get("nanos") or 0) * 1e-9
    return float(value) if isinstance(value, int | float) and value > 0 else 2.0


def _megabytes(value: Any) -> int:
    return max(16, round(value / 1e6)) if isinstance(value, int | float) and value > 0 else 256


def _raw_id(record: Record, key: str) -> str:
    value = record.get(key)
    return "" if value is None else str(value)
