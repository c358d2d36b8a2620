# SPDX-License-Identifier: Apache-2.0
"""``agpo data mix``: one training file out of several, in given shares.

The shares come out exactly (to a row); only the order is drawn. Rows of a set are taken without replacement until it is
exhausted, then from the start in a new order. At most ``GROUPS`` row groups of each set are held.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from recipe.agpo.data.example import DataError
from recipe.agpo.data.manifest import FORMAT, dump, manifest_path, package_version, read_manifest
from recipe.agpo.data.prepare import folder_of, plain_name
from recipe.agpo.data.rows import Row, RowWriter, count_rows, open_parquet, reading, schema
from recipe.agpo.data.sources import file_sha256
from recipe.agpo.files import Replacement

GROUPS = 4  # a set of up to 4,096 rows is shuffled completely, a larger one in blocks of that size


def mix(
    weights: Mapping[str, float],
    source: Path,
    out: Path,
    *,
    size: int,
    seed: int = 0,
    split: str = "train",
    repeat: bool = True,
) -> dict[str, Any]:
    """Write ``<out>/<split>.parquet`` and its manifest.

    Args:
        weights: data set name to weight; shares are weights over their sum.
        source: folder that ``prepare`` wrote to.
        out: folder of the mixture.
        size: rows wanted.
        seed: of the order and of the choice of rows.
        split: which split of each set.
        repeat: False: never use a row twice; the mixture ends where the shares cannot be kept any more.

    Returns:
        The manifest; ``parts`` says for each set what share came out and how often its rows were used.

    Raises:
        DataError: a weight that is not positive, a set that is not there or empty, size < 1.
    """
    if size < 1:
        raise DataError(f"size={size}: must be at least 1")
    if not weights:
        raise DataError("a mixture needs at least one set")
    bad = {name: weight for name, weight in weights.items() if not (weight > 0 and math.isfinite(weight))}
    if bad:
        raise DataError(f"weights must be positive numbers: {bad}")
    names = sorted(weights)
    plain_name(split, "split")
    paths = {name: folder_of(Path(source), name) / f"{split}.parquet" for name in names}
    manifests = {name: _manifest(name, paths[name]) for name in names}
    available = {name: count_rows(paths[name]) for name in names}
    empty = [name for name in names if not available[name]]
    if empty:
        raise DataError(f"no rows in {', '.join(empty)} ({split})")
    quotas = _quotas(weights, size)
    if not repeat:
        quotas = _quotas(weights, _largest(weights, size, available))
    total = sum(quotas.values())

    final = Path(out) / f"{split}.parquet"
    over = next((name for name in names if final.exists() and final.samefile(paths[name])), None)
    if over is not None:
        raise DataError(f"{final} is {over} itself: a mixture does not replace its source. Name another --out")
    with Replacement() as aside:
        writer = RowWriter(aside.add(final))
        try:
            streams = {name: _stream(paths[name], f"{seed}:{name}") for name in names}
            for name in _order(quotas, seed):
                writer.add(next(streams[name]))
        finally:
            content = writer.close()
        manifest = {
            "format": FORMAT,
            "name": "mix",
            "split": split,
            "rows": writer.rows,
            "counts": {"asked": size, "written": writer.rows},
            "parts": [
                {
                    "name": name,
                    "weight": float(weights[name]),
                    "rows": quotas[name],
                    "share": round(quotas[name] / total, 6) if total else 0.0,
                    "available": available[name],
                    "times_repeated": max(0, math.ceil(quotas[name] / available[name]) - 1),
                    "passes": round(quotas[name] / available[name], 4),
                    "content_sha256": manifests[name].get("content_sha256"),
                    "file_sha256": None if "content_sha256" in manifests[name] else file_sha256(paths[name]),
                    "licence": manifests[name].get("licence", "not known: check the source"),
                }
                for name in names
            ],
            "content_sha256": content,
            "seed": seed,
            "repeat": repeat,
            "training_allowed": all(manifests[name].get("training_allowed", split == "train") for name in names),
            "package_version": package_version(),
        }
        aside.add(manifest_path(final)).write_text(dump(manifest), encoding="utf-8")
        manifest_path(final).unlink(missing_ok=True)
        aside.commit()
    return manifest


def _manifest(name: str, path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"{name}: {path} is not there; prepare it first")
    return read_manifest(path) or {}


def _quotas(weights: Mapping[str, float], size: int) -> dict[str, int]:
    """Rows of each set: ``size * w / sum(w)``, rounded by the largest remainder; ties go by name."""
    total = sum(map(Fraction, weights.values()))
    exact = {name: size * Fraction(weights[name]) / total for name in sorted(weights)}
    quotas = {name: math.floor(value) for name, value in exact.items()}
    rest = size - sum(quotas.values())
    for name in sorted(exact, key=lambda name: (quotas[name] - exact[name], name))[:rest]:
        quotas[name] += 1
    return quotas


def _largest(weights: Mapping[str, float], size: int, available: Mapping[str, int]) -> int:
    """The largest mixture, at most ``size``, in which no set is used up; rounding can cost the last rows."""
    total = sum(map(Fraction, weights.values()))
    bound = min([size, *(math.floor((available[n] + 1) * total / Fraction(w)) for n, w in weights.items())])
    while bound > 0 and any(quota > available[name] for name, quota in _quotas(weights, bound).items()):
        bound -= 1
    return bound


def _order(quotas: Mapping[str, int], seed: int) -> Iterator[str]:
    """Each name as often as its quota, every order equally likely."""
    rng = _rng(f"{seed}:order")
    left = dict(quotas)
    names = sorted(left)
    for remaining in range(sum(left.values()), 0, -1):
        draw = rng.randrange(remaining)
        for name in names:
            if draw < left[name]:
                left[name] -= 1
                yield name
                break
            draw -= left[name]


def _stream(path: Path, key: str) -> Iterator[Row]:
    """All rows in a drawn order, again and again, each time in another."""
    import pyarrow as pa

    file = open_parquet(path)
    columns = schema().names
    if not set(columns) <= set(file.schema_arrow.names):
        raise DataError(f"{path}: it lacks columns of {', '.join(columns)}; prepare it first")
    epoch = 0
    while True:
        rng = _rng(f"{key}:{epoch}")
        groups = list(range(file.num_row_groups))
        rng.shuffle(groups)
        for start in range(0, len(groups), GROUPS):
            with reading(path):
                chosen = groups[start : start + GROUPS]
                table = pa.concat_tables(file.read_row_group(g, columns=columns) for g in chosen)
            order = list(range(table.num_rows))
            rng.shuffle(order)
            for number in order:
                with reading(path):
                    row = table.slice(number, 1).to_pylist()[0]
                yield row
        epoch += 1


def _rng(key: str) -> random.Random:
    return random.Random(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"))
