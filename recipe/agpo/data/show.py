# SPDX-License-Identifier: Apache-2.0
"""``agpo data show``: rows as the model will see them."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from recipe.agpo.data.example import DataError
from recipe.agpo.data.prepare import rendered
from recipe.agpo.data.rows import Row, count_rows, iter_rows, prompt_text

WIDTH = 100
LONG = 400  # characters of a gold or of arguments that are printed


def shown(path: Path, n: int = 3, tokenizer: Any = None) -> str:
    """The first ``n`` rows as text: prompt (with the tokenizer's chat template, if any), gold, kind, args, tokens."""
    rows = list(islice(iter_rows(path), n))
    total = count_rows(path) if path.suffix != ".jsonl" else None
    lines = [f"{path}: {total if total is not None else 'at least ' + str(len(rows))} rows"]
    for number, row in enumerate(rows):
        try:
            prompt_text(row)
        except DataError as error:
            raise DataError(f"{path}, row {number} {error}") from None
        lines.append(_row(row, number, tokenizer))
    return "\n".join(lines)


def _row(row: Row, number: int, tokenizer: Any) -> str:
    info, reward = (row[key] if isinstance(row.get(key), dict) else {} for key in ("extra_info", "reward_model"))
    title = f"--- {row.get('data_source')} {info.get('split')} [{info.get('index', number)}] "
    lines = [title + "-" * max(0, WIDTH - len(title))]
    prompt = row["prompt"]
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if tokenizer is None:
        lines += [f"<{message.get('role', 'user')}>\n{message['content']}" for message in messages]
        tokens = ""
    else:
        text = rendered(tokenizer, messages)
        lines.append(text)
        tokens = f"   tokens {len(tokenizer.encode(text, add_special_tokens=False))}"
    lines.append("-" * 20)
    lines.append(f"gold   {_cut(reward.get('ground_truth', '(none)'))}")
    lines.append(f"kind   {info.get('verifier', '(from data_source)')}{tokens}")
    lines.append(f"args   {_cut(info.get('verifier_args') or '{}')}")
    return "\n".join(lines)


def _cut(value: Any) -> str:
    text = str(value)
    return text if len(text) <= LONG else f"{text[:LONG]}... ({len(text)} characters)"
