# SPDX-License-Identifier: Apache-2.0
"""Benchmarks and tasks as verl parquet files: prepared, checked, mixed, shown. See ``docs/data.md``.

Needs pyarrow; neither torch nor verl. ``transformers`` only where a tokenizer is given, ``datasets`` only for the hub.
"""

from recipe.agpo.data.benchmarks import BENCHMARKS, Benchmark, benchmark
from recipe.agpo.data.example import BadRow, DataError, Example
from recipe.agpo.data.manifest import check_training_files, read_manifest
from recipe.agpo.data.mix import mix
from recipe.agpo.data.overlap import check_overlap
from recipe.agpo.data.prepare import Options, folder_of, prepare, prepare_gym

__all__ = [
    "BENCHMARKS",
    "BadRow",
    "Benchmark",
    "DataError",
    "Example",
    "Options",
    "benchmark",
    "check_overlap",
    "check_training_files",
    "folder_of",
    "mix",
    "prepare",
    "prepare_gym",
    "read_manifest",
]
