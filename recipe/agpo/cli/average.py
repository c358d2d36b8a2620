# SPDX-License-Identifier: Apache-2.0
"""``agpo average``: average the weights of exported checkpoints, whatever trained them.

Weights are read in pieces and written as they are averaged, so memory does not grow with the size of the model.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from recipe.agpo.arguments import finite
from recipe.agpo.files import FileError, check_folder, folder_aside, kind_of, make_folder, read_object
from recipe.agpo.run_folder import AVERAGE_FILE

if TYPE_CHECKING:
    from torch import Tensor

FORMAT, VERSION = "agpo-checkpoint-average", 1
INDEX = "model.safetensors.index.json"
PIECE = 1 << 22  # numbers at a time


def register(commands: Any) -> None:
    """Add the subcommand to ``agpo``'s."""
    parser = commands.add_parser(
        "average",
        help="average the weights of exported checkpoints",
        description="Average the weights of checkpoints in HF format (safetensors). Config, tokenizer and the division "
        "into files are those of the last one. A folder of verl in which the weights are is found as by `agpo eval`.",
    )
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="at least two, the oldest first")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--gamma",
        type=finite,
        default=0.0,
        help="weighting as by algorithm.agpo.average.gamma over the checkpoints in their order (0: all equally)",
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="type of the written weights (auto: as they were read)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Returns the exit code: 0: success; 1: refused, with the reason."""
    from recipe.agpo.evaluate.errors import EvaluationError

    try:
        _average(arguments.checkpoints, arguments.out, arguments.gamma, arguments.dtype)
        return 0
    except (EvaluationError, FileError, OSError) as error:
        print(f"agpo average: {error}", file=sys.stderr)
        return 1


def _average(names: list[str], out: Path, gamma: float, dtype: str) -> None:
    from recipe.agpo.evaluate.checkpoint import find

    if len(names) < 2:
        raise FileError(f"{names[0]}: one checkpoint has no average. Name at least two")
    if gamma < 0.0:
        raise FileError(f"--gamma {gamma:g}: must be at least 0")
    if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
        raise FileError(f"--out {out} is there ({kind_of(out)}). Name a new folder, or remove it")
    check_folder(out)
    out = Path(os.path.abspath(out))
    with ExitStack() as open_files:
        inputs = [Weights(find(name).folder, open_files) for name in names]
        for other in inputs[:-1]:
            inputs[-1].check_like(other)
        make_folder(out.parent)
        with folder_aside(out) as part:
            _copy_settings(inputs[-1].folder, part, dtype)
            for file in sorted(set(inputs[-1].places.values())):
                _write(part / file, file, inputs, gamma, dtype)
            payload = {"checkpoints": [str(each.folder) for each in inputs], "gamma": gamma, "dtype": dtype}
            document = {"format": FORMAT, "version": VERSION, **payload}
            (part / AVERAGE_FILE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
            if out.is_dir():
                out.rmdir()  # empty
            os.rename(part, out)
    shares = ", ".join(f"{share:.3f}" for share in _shares(len(names), gamma))
    print(f"average of {len(names)} checkpoints, weighted {shares}: {out}")


def _shares(count: int, gamma: float) -> list[float]:
    """Of each checkpoint in the average."""
    from agpo_core import averaging_rate

    shares: list[float] = []
    for number in range(1, count + 1):
        rate = averaging_rate(number, gamma)
        shares = [share * (1.0 - rate) for share in shares] + [rate]
    return shares


class Weights:
    """The safetensors files of one checkpoint: where each tensor is, its shape and type.

    Raises:
        FileError: other formats, a missing or damaged file, or an index that does not fit its files.
    """

    def __init__(self, folder: Path, open_files: ExitStack) -> None:
        self.folder = folder
        self._stack = open_files
        self._files: dict[str, Any] = {}
        self.places = self._places()
        for file in sorted(set(self.places.values())):
            self._files[file] = self._open(file)
        held = {name: file for file, opened in self._files.items() for name in opened.keys()}
        for name, file in self.places.items():
            if held.get(name) != file:
                raise FileError(f"{folder / file} has no tensor {name!r}, which {INDEX} puts there. Copy it again")
        lost = sorted(set(held) - set(self.places))
        if lost:
            raise FileError(f"{folder}: {len(lost)} tensors such as {lost[0]!r} are not in {INDEX}. Copy it again")

    def _places(self) -> dict[str, str]:
        """File of each tensor."""
        if (self.folder / INDEX).is_file():
            found = read_object(self.folder / INDEX).get("weight_map")
            if not isinstance(found, dict) or not all(_plain(file) for file in found.values()) or not found:
                raise FileError(f"{self.folder / INDEX}: weight_map must name a file for each tensor. Copy it again")
            return found
        files = sorted(path.name for path in self.folder.glob("*.safetensors"))
        if len(files) != 1:
            what = f"{len(files)} files *.safetensors and no {INDEX}" if files else "no *.safetensors"
            raise FileError(f"{self.folder} has {what}. Save the model with save_pretrained of transformers")
        opened = self._files[files[0]] = self._open(files[0])
        return dict.fromkeys(opened.keys(), files[0])

    def _open(self, file: str) -> Any:
        from safetensors import SafetensorError, safe_open

        if file in self._files:
            return self._files[file]
        if not (self.folder / file).is_file():
            raise FileError(f"{self.folder / file}: a file of the weights is missing. Copy the checkpoint again")
        try:
            return self._stack.enter_context(safe_open(self.folder / file, framework="pt"))
        except SafetensorError as error:
            raise FileError(f"{self.folder / file}: not readable as safetensors ({error}). Copy it again") from None

    def kind(self, name: str) -> tuple[list[int], str]:
        """Shape and type of a tensor."""
        piece = self._files[self.places[name]].get_slice(name)
        return piece.get_shape(), piece.get_dtype()

    def check_like(self, other: Weights) -> None:
        """Raise FileError unless ``other`` has the same tensors."""
        for one, two in ((self, other), (other, self)):
            lost = sorted(set(one.places) - set(two.places))
            if lost:
                raise FileError(
                    f"{two.folder} has no tensor {lost[0]!r} ({len(lost)} in all), and {one.folder} has. Only "
                    "checkpoints of the same model have an average"
                )
        for name in self.places:
            ours, theirs = self.kind(name), other.kind(name)
            if ours[0] != theirs[0]:
                raise FileError(
                    f"{name}: shape {ours[0]} in {self.folder} and {theirs[0]} in {other.folder}. Only checkpoints of "
                    "the same model have an average"
                )
            if ours[1] != theirs[1]:
                raise FileError(
                    f"{name}: type {ours[1]} in {self.folder} and {theirs[1]} in {other.folder}. Export both in the "
                    "same type"
                )

    def pieces(self, name: str) -> Iterator[Tensor]:
        """The tensor in pieces of at most `PIECE` numbers, along its first dimension."""
        file = self._files[self.places[name]]
        shape, _ = self.kind(name)
        if not shape:
            yield file.get_tensor(name)
            return
        row = 1
        for size in shape[1:]:
            row *= size
        step = max(1, PIECE // max(1, row))
        part = file.get_slice(name)
        for start in range(0, shape[0], step):
            yield part[start : start + step]


def _plain(file: Any) -> bool:
    """Whether this is a file name without a folder."""
    return isinstance(file, str) and file not in ("", ".", "..") and Path(file).name == file


def _write(path: Path, file: str, inputs: list[Weights], gamma: float, dtype: str) -> None:
    """One safetensors file of the average. Its format: length of the header, header in JSON, data in the same order."""
    newest = inputs[-1]
    names = sorted(name for name, place in newest.places.items() if place == file)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        shape, kind = newest.kind(name)
        written = _written(kind, dtype)
        start, end = end, end + _size(shape, written)
        header[name] = {"dtype": written, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as target:
        target.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            _write_tensor(target, name, inputs, gamma, header[name]["dtype"])
        target.flush()
        os.fsync(target.fileno())


def _write_tensor(target: BinaryIO, name: str, inputs: list[Weights], gamma: float, written: str) -> None:
    import torch

    from agpo_core import WeightAverage

    for parts in zip(*(each.pieces(name) for each in inputs), strict=True):
        if parts[-1].is_floating_point():
            average = WeightAverage(gamma)
            for part in parts:
                average.update([part])
            whole = average.tensors[0].to(_torch_type(written))
        else:
            whole = parts[-1]  # positions and counts have no average
        target.write(whole.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}


def _written(kind: str, dtype: str) -> str:
    """The type in the file, in the words of safetensors."""
    if kind not in FLOATS:
        if kind.startswith("F"):
            raise FileError(f"weights of type {kind} cannot be averaged. Export them as bfloat16 or float32")
        return kind
    return kind if dtype == "auto" else next(name for name, known in FLOATS.items() if known == dtype)


def _torch_type(kind: str) -> Any:
    import torch

    return getattr(torch, FLOATS[kind])


def _size(shape: list[int], kind: str) -> int:
    size = BYTES.get(kind, 1)  # the rest: bytes and truth values
    for length in shape:
        size *= length
    return size


def _copy_settings(folder: Path, part: Path, dtype: str) -> None:
    """Everything but weights: config, tokenizer, templates, code of the model, index."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix not in (".safetensors", ".bin", ".pt", ".pth") and path.name != AVERAGE_FILE:
            shutil.copyfile(path, part / path.name)
    if dtype != "auto":  # or the weights would be converted back when they are loaded
        config = read_object(part / "config.json")
        config |= {name: dtype for name in ("dtype", "torch_dtype") if name in config}
        (part / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
