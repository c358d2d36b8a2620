# SPDX-License-Identifier: Apache-2.0
"""``agpo data show``: rows as the model will see them."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from recipe.agpo import prompts
from recipe.agpo.data.example import DataError
from recipe.agpo.data.rows import Row, count_rows, iter_rows, prompt_text

WIDTH = 100
COUNTED = 10_000  # rows whose lengths are shown
LONG = 400  # characters of a gold or of arguments that are printed


def shown(path: Path, n: int = 3, tokenizer: Any = None) -> str:
    """The first ``n`` rows and, with a tokenizer, the lengths of the prompts, as text.

    A row has its prompt (rendered, special tokens included), gold, kind, arguments and number of tokens.
    """
    rows = list(islice(iter_rows(path), n))
    total = count_rows(path) if path.suffix != ".jsonl" else None
    lines = [f"{path}: {total if total is not None else 'at least ' + str(len(rows))} rows"]
    for number, row in enumerate(rows):
        try:
            prompt_text(row)
        except DataError as error:
            raise DataError(f"{path}, row {number} {error}") from None
        lines.append(_row(row, number, tokenizer))
    lines.append("-" * WIDTH)
    if tokenizer is None:
        lines.append("lengths: give --tokenizer PATH; it also renders the prompts as the model reads them")
    else:
        lines += _lengths(path, tokenizer)
    return "\n".join(lines)


def _row(row: Row, number: int, tokenizer: Any) -> str:
    info, reward = (row[key] if isinstance(row.get(key), dict) else {} for key in ("extra_info", "reward_model"))
    title = f"--- {row.get('data_source')} {info.get('split')} [{info.get('index', number)}] "
    lines = [title + "-" * max(0, WIDTH - len(title))]
    messages = _messages(row)
    tokens = ""
    if tokenizer is None:
        lines += [f"<{message.get('role', 'user')}>\n{message['content']}" for message in messages]
    else:
        ids, problem = _ids(tokenizer, messages)
        lines.append(prompts.shown(tokenizer, ids) if ids is not None else problem)
        tokens = "" if ids is None else f"   {prompts.summary(tokenizer, ids)}"
    lines.append("-" * 20)
    lines.append(f"gold   {_cut(reward.get('ground_truth', '(none)'))}")
    lines.append(f"kind   {info.get('verifier', '(from data_source)')}{tokens}")
    lines.append(f"args   {_cut(info.get('verifier_args') or '{}')}")
    return "\n".join(lines)


def _lengths(path: Path, tokenizer: Any) -> list[str]:
    lengths, failed = [], 0
    for row in islice(iter_rows(path), COUNTED):
        ids, _ = _ids(tokenizer, _messages(row))
        failed += ids is None
        lengths += [] if ids is None else [len(ids)]
    found = prompts.length_lines(lengths)
    return [*found, f"{failed} prompts cannot be rendered"] if failed else found


def _messages(row: Row) -> list[dict[str, Any]]:
    prompt = row.get("prompt")
    return prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]


def _ids(tokenizer: Any, messages: list[dict[str, Any]]) -> tuple[list[int] | None, str]:
    """The tokens, or why there are none."""
    try:
        return prompts.render(tokenizer, messages, chat_template=prompts.template_for(tokenizer)), ""
    except Exception as error:  # whatever a template raises
        return None, f"(the chat template raises {type(error).__name__}: {error})"


def _cut(value: Any) -> str:
    text = str(value)
    return text if len(text) <= LONG else f"{text[:LONG]}... ({len(text)} characters)"
