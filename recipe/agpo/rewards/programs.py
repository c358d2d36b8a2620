# SPDX-License-Identifier: Apache-2.0
"""The Python program that a response states: its fenced blocks, and which of them is the solution."""

from __future__ import annotations

import ast
import builtins
import importlib.util
import re
import sys
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

PARSED = 200_000  # longer blocks are not parsed; they count as programs if they mention their input
_THINKING = re.compile(r"<(/?)(?:think|thinking|thought|thoughts|reasoning|scratchpad)>", re.IGNORECASE)
# What may stand before a fence on its line: list marks, quote marks, tags such as <answer>.
_BEFORE = r"(?P<before>[ \t]*(?:(?:>|[-*+]|\d{1,9}[.)]|</?\w+>)[ \t]*)*)"
_OPEN = re.compile(_BEFORE + r"(?P<fence>`{3,}|~{3,})(?P<info>.*)")
_QUOTES = re.compile(r"(?:[ \t]{0,3}>)+")
_LABEL = re.compile(r"\{?\s*\.?(?:lang(?:uage)?\s*=\s*)?[\"']?([\w.+#/-]*)")
_CLASS = re.compile(r"\{[^}]*?\.([\w+-]+)")  # Pandoc's {#name .python}
_PYTHON = re.compile(r"(?:i|c)?(?:python|py)[-_ ]?(?:3[\d.]*)?w?|pypy[\d.]*|[\w/.-]+\.py", re.IGNORECASE)
_READS = re.compile(r"\binput\s*\(|\bstdin\b|\bfileinput\b|\bopen\s*\(\s*0\b|\bos\.read\s*\(\s*0\b")
_STARTS_LIKE_CODE = re.compile(r"(?:import |from \w+ import |def |for |while |print\(|[a-zA-Z_][\w, ]*\s*=[^=])")
_INPUT_NAMES = {"input", "raw_input", "stdin", "fileinput"}


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        label: first word behind the fence, in lower case; ``""`` without one.
        source: its text, without the indentation of the fence.
    """

    label: str
    source: str


def find_program(response: str) -> tuple[str, bool]:
    """(source, whether it stood in a fence) of the program that counts; ``""`` if there is none.

    Blocks labelled as Python win over blocks without a label; blocks of other languages never count. Of the blocks
    that are left, the last of the best class counts:

    1. a program that reads its input;
    2. one that prints and asserts nothing;
    3. any other that stands on its own.

    A block that cannot be parsed, or uses what only an earlier block defines or a module that is not installed, is a
    demonstration or a test of another block; it counts only if there is nothing else. A response without any fence
    counts as a program if it is one as a whole.
    """
    text = without_thinking(response)
    candidates = [block for block in blocks(text) if block.source.strip() and (not block.label or _is_python(block))]
    if candidates:
        return _solution(candidates), True
    if "```" not in text and "~~~" not in text and _STARTS_LIKE_CODE.match(text.strip()):
        return (text, False) if len(text) > PARSED or _parse(text) is not None else ("", False)
    return "", False


def without_thinking(response: str) -> str:
    """What stands behind the thinking; nothing if the thinking never ends."""
    tags = list(_THINKING.finditer(response)) if "<" in response else []
    if not tags:
        return response
    if not tags[-1].group(1):
        return ""
    tail = response[tags[-1].end() :]
    return tail if tail.strip() else response


def blocks(text: str) -> Iterator[Block]:
    """The closed fenced blocks of a Markdown text, in order.

    A fence of backticks or tildes is closed by one of the same kind that is at least as long and not indented deeper
    than three columns more. A block that a fence labelled as Python interrupts was never closed, and is left out.
    """
    opened: re.Match[str] | None = None
    lines: list[str] = []
    for line in text.split("\n"):
        line = line.rstrip("\r")
        found = _fence(line)
        if opened is None:
            opened, lines = found, []
        elif found is None or not _ends(opened, found):
            lines.append(line)
        elif _PYTHON.fullmatch(_label(found["info"])):
            opened, lines = found, []
        else:
            yield Block(_label(opened["info"]), _dedented(lines, opened["before"]))
            opened = None


def _fence(line: str) -> re.Match[str] | None:
    found = _OPEN.match(line)
    # With a backtick behind it, it is code within a line.
    return None if found is None or (found["fence"][0] == "`" and "`" in found["info"]) else found


def _ends(opened: re.Match[str], found: re.Match[str]) -> bool:
    same = found["fence"][0] == opened["fence"][0] and len(found["fence"]) >= len(opened["fence"])
    return same and len(found["before"].expandtabs(4)) <= len(opened["before"].expandtabs(4)) + 3


def _label(info: str) -> str:
    found = _CLASS.match(info.strip()) or _LABEL.match(info.strip())
    return found.group(1).lower() if found else ""


def _is_python(block: Block) -> bool:
    return _PYTHON.fullmatch(block.label) is not None


def _dedented(lines: Sequence[str], before: str) -> str:
    """Lines without what stood before their fence: its quote marks and as much indentation."""
    if ">" in before:
        lines = [_QUOTES.sub("", line, count=1) for line in lines]
        before = before.rpartition(">")[2]
    width = 0 if "</" in before or re.search(r"<\w", before) else len(before.expandtabs(4))
    if width:
        lines = [_without_indent(line, width) for line in lines]
    first = next((line for line in lines if line.strip()), "")
    source = "\n".join(lines)
    return textwrap.dedent(source) if first[:1] in (" ", "\t") else source


def _without_indent(line: str, width: int) -> str:
    """A line without its first ``width`` columns, as far as they are white."""
    text = line.lstrip(" \t")
    white = line[: len(line) - len(text)]
    if "\t" in white:
        white = white.expandtabs(4)
    return white[width:] + text


def _solution(candidates: Sequence[Block]) -> str:
    """The source of the last block of the best class."""
    defined: set[str] = set()
    best, chosen = (False, False, -1), ""
    for block in candidates:
        tree = _parse(block.source)
        rank = (3 if _READS.search(block.source) else 0) if tree is None else _rank(tree, defined)
        quality = (rank > 0, _is_python(block), rank)
        if quality >= best:
            best, chosen = quality, block.source
        if tree is not None:
            defined |= _defined(tree)
    return chosen


def _rank(tree: ast.Module, defined: set[str]) -> int:
    """3: reads its input; 2: prints and asserts nothing; 1: stands on its own; 0: leans on something else."""
    loaded, bound = _names(tree)
    if (loaded - bound - set(dir(builtins))) & defined or not all(map(_importable, _modules(tree))):
        return 0
    if _reads(tree, bound):
        return 3
    asserts = any(isinstance(node, ast.Assert) for node in tree.body)
    return 2 if not asserts and loaded & {"print", "stdout", "write"} else 1


def _parse(source: str) -> ast.Module | None:
    if len(source) > PARSED:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _names(tree: ast.Module) -> tuple[set[str], set[str]]:
    """(names and attributes that are read, names that are bound anywhere)."""
    loaded, bound = set[str](), set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (loaded if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.Attribute) and node.attr in ("stdout", "write"):
            loaded.add(node.attr)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            bound.add(node.name)
    return loaded, bound


def _defined(tree: ast.Module) -> set[str]:
    """Functions, classes, and variables of a block."""
    found = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    return found | {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def _reads(tree: ast.Module, bound: set[str]) -> bool:
    imported = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom) for a in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            if node.id in _INPUT_NAMES and (node.id not in bound or node.id in imported):
                return True
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            if node.attr in ("stdin", "__stdin__"):
                return True
        elif isinstance(node, ast.Constant) and node.value == "/dev/stdin":
            return True
        elif isinstance(node, ast.Call) and node.args:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            first = node.args[0]
            if name in ("open", "fdopen", "read") and isinstance(first, ast.Constant) and first.value == 0:
                return True
    return False


def _modules(tree: ast.Module) -> set[str]:
    found = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    found |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in found}


@lru_cache(maxsize=1024)
def _importable(module: str) -> bool:
    if module in sys.stdlib_module_names:
        return True
    try:
        return bool(module) and importlib.util.find_spec(module) is not None
    except (ImportError, ValueError, AttributeError):
        return False
