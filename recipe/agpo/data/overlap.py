# SPDX-License-Identifier: Apache-2.0
"""n-gram overlap between training and evaluation sets.

A training row overlaps an evaluation row if they share a sequence of ``n`` tokens. Tokens are words in lower case
(NFKC), single Chinese characters, the signs ``+ * / = < > ^`` and the minus before a number; other punctuation, dashes
and hyphens do not count. A text of fewer than ``n`` tokens overlaps only with the very same text. Only the evaluation
side is held, as hashes.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from recipe.agpo.data.example import DataError
from recipe.agpo.data.rows import Row, iter_rows, prompt_text
from recipe.agpo.data.sources import file_sha256
from recipe.agpo.data.templates import without_instruction

FORMAT = "agpo-overlap-1"
N = 13
MAX_PAIRS = 200  # listed in the report; all are counted
EXCERPT = 160
# What stands in so many rows of an evaluation set is a frame around the problem, not the problem.
FRAME_ROWS, FRAME_SHARE = 5, 0.05
_MODULUS, _BASE = 2**61 - 1, 1_000_003_579
_CJK = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+|[+*/=<>^]|[-\u2212](?=\s*[\d(\\.])")
_HYPHEN = re.compile(r"(?<=[^\W\d_])-(?=[^\W\d_])")


class OverlapIndex:
    """The n-grams of evaluation sets.

    Args:
        n: tokens of an n-gram, at least 2.
    """

    def __init__(self, n: int = N) -> None:
        if n < 2:
            raise DataError(f"n={n}: must be at least 2")
        self.n = n
        self._rows: list[tuple[str, int]] = []  # set and row index by the row's number here
        self._grams: dict[int, int | tuple[int, ...]] = {}  # n-gram -> number of its row, or of its rows
        self._begin = 0

    def add(self, row: Row, place: str, index: int) -> None:
        """Add one evaluation row; ``place`` names its set."""
        number = len(self._rows)
        self._rows.append((place, index))
        for gram in set(ngrams(question_of(row), self.n)):
            known = self._grams.get(gram)
            if known is None:
                self._grams[gram] = number
            else:
                self._grams[gram] = (*known, number) if isinstance(known, tuple) else (known, number)

    def end_set(self) -> None:
        """End of an evaluation set: its frames, what 5 % of its rows and more than five share, are forgotten."""
        size = len(self._rows) - self._begin
        most = max(FRAME_ROWS, FRAME_SHARE * size)
        for gram, numbers in list(self._grams.items()):
            if isinstance(numbers, tuple) and sum(number >= self._begin for number in numbers) > most:
                del self._grams[gram]
        self._begin = len(self._rows)

    def shared(self, row: Row) -> dict[int, int]:
        """Number of each evaluation row that shares n-grams with ``row``, and how many it shares."""
        found: Counter[int] = Counter()
        for gram in set(ngrams(question_of(row), self.n)):
            numbers = self._grams.get(gram)
            if isinstance(numbers, tuple):
                found.update(numbers)
            elif numbers is not None:
                found[numbers] += 1
        return dict(found)

    def place_of(self, number: int) -> tuple[str, int]:
        return self._rows[number]

    def name_of(self, number: int) -> str:
        place, index = self._rows[number]
        return f"{place} row {index}"

    @property
    def size(self) -> int:
        """Distinct n-grams held."""
        return len(self._grams)


def question_of(row: Row) -> str:
    """The prompt's text without our own instruction, which every row has."""
    return without_instruction(prompt_text(row))


def tokens(text: str) -> list[str]:
    """Normalised tokens; see the module."""
    return _TOKEN.findall(_HYPHEN.sub(" ", unicodedata.normalize("NFKC", text).casefold()))


def ngrams(text: str, n: int) -> Iterator[int]:
    r"""Hashes of all n-grams of a text, ``sum_i h(token_i) B^(n-1-i) mod 2^61-1``, rolling, so linear in its length."""
    found = tokens(text)
    if not found:
        return
    if len(found) < n:
        # Signs that are no tokens can be all that two short texts differ in.
        yield _hash(" ".join(unicodedata.normalize("NFKC", text).casefold().split()))
        return
    drop = pow(_BASE, n, _MODULUS)
    value = 0
    for position, token in enumerate(found):
        value = (value * _BASE + _hash(token)) % _MODULUS
        if position >= n:
            value = (value - _hash(found[position - n]) * drop) % _MODULUS
        if position >= n - 1:
            yield value


def index_files(paths: Sequence[Path], n: int = N) -> OverlapIndex:
    """An index over evaluation files; each file is a set."""
    index = OverlapIndex(n)
    for path in paths:
        for number, row, _ in asked_rows(path):
            index.add(row, label(path), _index_of(row, number))
        index.end_set()
    return index


def asked_rows(path: Path) -> Iterator[tuple[int, Row, str]]:
    """(number, row, question) of every row of a file.

    Raises:
        DataError: it cannot be read, has no rows, or a row has no prompt: nothing could overlap with it.
    """
    number = -1
    for number, row in enumerate(iter_rows(path)):
        try:
            question = question_of(row)
        except DataError as error:
            raise DataError(f"{path}, row {number} {error}") from None
        yield number, row, question
    if number < 0:
        raise DataError(f"{path} has no rows: there is nothing to check")


def check_overlap(
    train: Sequence[Path], against: Sequence[Path], n: int = N, max_pairs: int = MAX_PAIRS
) -> dict[str, Any]:
    """Compare training files with evaluation files.

    Args:
        train: parquet or .jsonl files in verl's schema; read as a stream.
        against: the same; their n-grams are held, some 100 bytes each.
        n: tokens of an n-gram.
        max_pairs: how many pairs the report lists.

    Returns:
        The report (JSON-able, same files same report): ``rows`` of each side, ``train_rows_overlapping``,
        ``eval_rows_overlapping``, the same ``by_set``, and ``pairs`` with the most shared n-grams first.

    Raises:
        DataError: a file is missing, or n < 2.
    """
    train, against = sorted(map(Path, train)), sorted(map(Path, against))
    index = index_files(against, n)
    by_set: dict[tuple[str, str], tuple[set[int], set[int]]] = {}
    pairs: list[tuple[int, str, int, str, int, str]] = []
    hit_train, train_rows, pair_count, hit_eval = 0, 0, 0, set[int]()
    for path in train:
        for number, row, question in asked_rows(path):
            train_rows += 1
            shared = index.shared(row)
            hit_train += bool(shared)
            hit_eval.update(shared)
            for found, count in shared.items():
                place, eval_index = index.place_of(found)
                ours, theirs = by_set.setdefault((label(path), place), (set(), set()))
                ours.add(number)
                theirs.add(found)
                excerpt = " ".join(question.split())[:EXCERPT]
                pairs.append((-count, label(path), _index_of(row, number), place, eval_index, excerpt))
                pair_count += 1
            if len(pairs) > 4 * max_pairs:
                pairs = sorted(pairs)[:max_pairs]
    return {
        "format": FORMAT,
        "n": n,
        "train": [{"name": label(path), "sha256": file_sha256(path)} for path in train],
        "against": [{"name": label(path), "sha256": file_sha256(path)} for path in against],
        "rows": {"train": train_rows, "eval": len(index._rows)},
        "train_rows_overlapping": hit_train,
        "eval_rows_overlapping": len(hit_eval),
        "by_set": [
            {"train": ours, "eval": theirs, "train_rows": len(a), "eval_rows": len(b)}
            for (ours, theirs), (a, b) in sorted(by_set.items())
        ],
        "pair_count": pair_count,
        "pairs": [
            {"shared": -count, "train": ours, "train_index": i, "eval": theirs, "eval_index": j, "train_text": text}
            for count, ours, i, theirs, j, text in sorted(pairs)[:max_pairs]
        ],
    }


def report_table(report: dict[str, Any], pairs: int = 10) -> str:
    """The report for a terminal."""
    lines = [
        f"{report['n']}-grams: {report['train_rows_overlapping']} of {report['rows']['train']} training rows share one "
        f"with {report['eval_rows_overlapping']} of {report['rows']['eval']} evaluation rows"
    ]
    for entry in report["by_set"]:
        lines.append(
            f"  {entry['train']} -> {entry['eval']}: {entry['train_rows']} training rows, "
            f"{entry['eval_rows']} evaluation rows"
        )
    if report["pairs"]:
        lines.append(f"{'shared':>6}  training row -> evaluation row: text of the training row")
    for pair in report["pairs"][:pairs]:
        where = f"{pair['train']}[{pair['train_index']}] -> {pair['eval']}[{pair['eval_index']}]"
        lines.append(f"{pair['shared']:>6}  {where}: {pair['train_text'][:80]}")
    if report["pair_count"] > pairs:
        lines.append(f"        ... {report['pair_count'] - pairs} more pairs")
    return "\n".join(lines)


def label(path: Path) -> str:
    """``gsm8k/test.parquet``: enough to tell sets apart, and the same on every machine."""
    return f"{path.parent.name}/{path.name}" if path.parent.name else path.name


def _index_of(row: Row, number: int) -> int:
    info = row.get("extra_info")
    found = info.get("index") if isinstance(info, dict) else None
    return found if isinstance(found, int) else number


@lru_cache(maxsize=1 << 16)
def _hash(token: str) -> int:
    return int.from_bytes(hashlib.blake2b(token.encode("utf-8", "replace"), digest_size=8).digest(), "big") % _MODULUS
