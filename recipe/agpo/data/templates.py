# SPDX-License-Identifier: Apache-2.0
"""Prompt templates: the question first, then how to answer, in the form that the verifier reads.

A template never changes: another wording is another name (``boxed-2``), and the manifest says which one was used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from recipe.agpo.data.example import DataError, Example

LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True)
class Template:
    """One wording.

    Attributes:
        name: with its version, e.g. ``boxed-1``.
        instruction: what stands below the question; ``""`` for nothing.
        needs_options: whether it prints the options of a choice.
    """

    name: str
    instruction: str
    needs_options: bool = False

    @property
    def version(self) -> int:
        return int(self.name.rpartition("-")[2])

    def messages(self, example: Example) -> list[dict[str, str]]:
        """The prompt as chat messages: one user message.

        Raises:
            DataError: the template needs options and the example has none.
        """
        parts = [example.question]
        if self.needs_options:
            options: Sequence[str] = example.args.get("options") or ()
            if not options:
                raise DataError(f"template {self.name} prints options, but kind {example.kind} has none")
            letters = str(example.args.get("letters") or LETTERS)
            lines = [f"{letter}. {option}" for letter, option in zip(letters, options, strict=False)]
            parts.append("\n".join(lines))
        return [{"role": "user", "content": "\n\n".join(filter(None, [*parts, self.instruction]))}]

    def describe(self) -> dict[str, str | int]:
        """For the manifest: name, version, and a hash of the wording."""
        digest = hashlib.sha256(self.instruction.encode()).hexdigest()
        return {"name": self.name, "version": self.version, "sha256": digest}


TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        Template("boxed-1", "Work through the problem step by step and write your final answer in \\boxed{}."),
        Template("boxed-zh-1", "请一步一步地解答，并把最终答案写在 \\boxed{} 中。"),
        Template(
            "blanks-zh-1",
            "请一步一步地解答，并把最终答案写在 \\boxed{} 中。如有多个空，按顺序写在同一个 \\boxed{} 中，用分号隔开；"
            "如答案是若干序号，请连写，例如 \\boxed{①②}。",
        ),
        Template(
            "letter-1",
            "Work through the question step by step and write the letter of the correct option in \\boxed{}.",
            needs_options=True,
        ),
        Template("letter-zh-1", "请一步一步地解答，并把正确选项的字母写在 \\boxed{} 中。", needs_options=True),
        Template(
            "python-1",
            "Think the problem through step by step. Then write one complete Python 3 program that reads from standard "
            "input and writes to standard output. Put it at the end, in a block that begins with ```python and ends "
            "with ```.",
        ),
        Template("question-1", ""),  # the question alone: solved examples before it show how to answer
        Template("answer-1", "Work through it step by step and write your final answer as <answer>...</answer>."),
    )
}


def template(name: str) -> Template:
    """The template of that name.

    Raises:
        DataError: there is none.
    """
    if name not in TEMPLATES:
        raise DataError(f"template {name!r}: there are {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def without_instruction(content: str) -> str:
    """A prompt's text without the instruction of the template that made it; other texts as they are."""
    stripped = content.rstrip()
    for known in TEMPLATES.values():
        if known.instruction and stripped.endswith(known.instruction):
            return stripped[: -len(known.instruction)].rstrip()
    return content
