# SPDX-License-Identifier: Apache-2.0
"""The average of the weights in transformers' training loop: kept after each update, saved in each checkpoint.

``checkpoint-N/average`` holds the averaged model in HF format and what a resumed run needs. ``agpo eval --model
checkpoint-N`` takes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from agpo_core import AverageConfig, AverageError, WeightAverage
from agpo_core.sealed import read_sealed, write_sealed

FOLDER, FILE, TENSORS = "average", "agpo_average.json", "agpo_average.pt"
FORMAT, VERSION = "agpo-weight-average", 1


def check_average(average: AverageConfig, args: Any) -> None:
    """Raise ValueError for arguments with which the average would not be what it says."""
    for applies, what, fix in (
        (args.world_size > 1, "world_size > 1", "each process may hold a part of the model only; launch a single one"),
        (args.use_vllm, "use_vllm=True", "TRL would evaluate with the weights that vLLM has; set use_vllm=False"),
    ):
        if average.enabled and applies:
            raise ValueError(f"AGPO in TRL: average.enabled=true does not work with {what}: {fix}")


class AveragedWeights(TrainerCallback):
    """Averages the trained parameters of the model after every update of the optimiser."""

    def __init__(self, config: AverageConfig, model: Any) -> None:
        self._model, self._validate = model, config.validate
        self.average = WeightAverage.from_config(config)

    @property
    def _weights(self) -> list[Tensor]:
        return [parameter for parameter in self._model.parameters() if parameter.requires_grad]

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.average.update(self._weights)

    @contextmanager
    def while_evaluating(self) -> Iterator[None]:
        """The model has the averaged weights inside the block."""
        if not self._validate:
            yield
            return
        with self.average.swapped(self._weights):
            yield

    def save(self, checkpoint: Path, processing_class: Any) -> None:
        """Write ``checkpoint/average``; its JSON file last."""
        if not self.average.count:
            return
        folder = checkpoint / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(self.average.state_dict(), folder / TENSORS)
        with self.average.swapped(self._weights):
            self._model.save_pretrained(folder)
        if processing_class is not None:
            processing_class.save_pretrained(folder)
        write_sealed(folder / FILE, FORMAT, VERSION, {"updates": self.average.count})

    def load(self, checkpoint: Path) -> None:
        """Continue the average of a checkpoint; one without an average begins a new one.

        Raises:
            ValueError: the average is damaged, or of another model.
        """
        folder = checkpoint / FOLDER
        if not folder.exists():
            print(f"[agpo] {checkpoint} has no average of the weights: it begins with the next update.")
            return
        read_sealed(folder / FILE, FORMAT, (VERSION,), ["updates"])  # the folder is whole
        try:
            self.average.load_state_dict(torch.load(folder / TENSORS, weights_only=True), self._weights)
        except AverageError as error:
            raise ValueError(f"{folder / TENSORS}: {error}") from error
