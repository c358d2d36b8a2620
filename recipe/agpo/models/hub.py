# SPDX-License-Identifier: Apache-2.0
"""A model of the hub, in the form in which it was published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from recipe.agpo.models.catalog import ModelError

# Weights once, as safetensors; no other framework's.
PATTERNS = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.txt", "*.jinja")


def download(name: str, revision: str | None, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Download ``OWNER/NAME`` to ``folder``; returns its licence and the commit that was downloaded.

    huggingface_hub keeps what it has downloaded in its own cache, so a second call goes on where the first stopped.

    Raises:
        ModelError: no such model or revision, no access, or the hub cannot be reached.
    """
    import huggingface_hub
    from huggingface_hub import errors

    try:
        card = huggingface_hub.model_info(name, revision=revision)
        say(f"downloading {name} from the hub")
        cached = huggingface_hub.snapshot_download(name, revision=card.sha, allow_patterns=list(PATTERNS))
    except errors.GatedRepoError:
        raise ModelError(
            f"{name}: its owner gives access on request. Accept its terms on its page, then `hf auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise ModelError(f"{name}: no revision {revision!r} on the hub") from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise ModelError(f"{name}: no such model on the hub, or it is private: check OWNER/NAME") from None
    except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
            raise  # of the disk
        raise ModelError(
            f"{name}: the hub could not be reached ({type(error).__name__}). Connect and unset HF_HUB_OFFLINE, or "
            "take a model that comes from the package index"
        ) from None
    copy_files(Path(cached), folder)
    data = card.card_data
    return {"licence": data.get("license") if data else None, "title": name, "commit": card.sha}


def copy_files(source: Path, folder: Path) -> None:
    """Copy the files of a snapshot, whose entries are links into the hub's cache."""
    import shutil

    for path in sorted(source.iterdir()):
        if path.is_file():
            shutil.copyfile(path, folder / path.name)
