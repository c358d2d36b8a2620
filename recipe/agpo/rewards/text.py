# SPDX-License-Identifier: Apache-2.0
"""Kind ``text``: a word or a phrase, exact or normalised."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from recipe.agpo.rewards.canonical import normalised
from recipe.agpo.rewards.extract import final_answer, last_line, tidy
from recipe.agpo.rewards.verdict import BAD_GOLD, NO_ANSWER, Judgement

_EDGES = " \t\r\n.,;:!?\"'`*_()[]{}<>“”‘’«»。，；：！？、（）《》【】"


def judge(response: str, gold: str, args: Mapping[str, Any]) -> Judgement:
    """Right if the final answer is ``gold``.

    args: ``normalise`` (default true): compare without case, width of characters, runs of spaces and punctuation at
    the ends. False: character by character, but for spaces at the ends.
    """
    if not gold.strip():
        return Judgement(0.0, False, "", BAD_GOLD, "the reference answer is empty")
    found = final_answer(response)
    answer = found.text if found else tidy(last_line(response))
    if not answer:
        return Judgement(0.0, False, "", NO_ANSWER)
    form = found is not None
    if not args.get("normalise", True):
        ours, theirs = answer.strip(), gold.strip()
    else:
        ours, theirs = plain(answer), plain(gold)
    return Judgement(float(ours == theirs), form, f"t:{ours}")


def check_gold(gold: str, args: Mapping[str, Any] | None = None) -> str | None:
    """None if answers can be judged against ``gold``, else why not."""
    return None if plain(gold) else f"the reference answer {gold[:80]!r} has no letter or digit"


def plain(text: str) -> str:
    """Normalised text: NFKC, no case, single spaces, no punctuation at the ends, no LaTeX wrapper."""
    text = normalised(text) if "\\" in text else text
    text = unicodedata.normalize("NFKC", text.encode("utf-8", "replace").decode("utf-8"))
    return re.sub(r"\s+", " ", text).casefold().strip(_EDGES)
