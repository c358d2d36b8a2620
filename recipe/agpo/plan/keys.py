# SPDX-License-Identifier: Apache-2.0
"""Overrides whose keys are not in the configuration, with the nearest ones that are."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence

from omegaconf import DictConfig, OmegaConf

_REFUSED = (re.compile(r"Could not override '([^']+)'"), re.compile(r"full_key: (\S+)"))
_CHOICE = re.compile(
    r"Could not find '(?P<group>[^']+)/(?P<asked>[^'/]+)'\s+Available options in '[^']*':(?P<known>.*)", re.S
)


def misspelt(compose: Callable[[list[str]], DictConfig], overrides: Sequence[str]) -> list[str]:
    """One sentence for each override whose key is unknown; empty if another thing is wrong with the overrides.

    Args:
        compose: composes the configuration from overrides, and raises Hydra's exception if it cannot.
        overrides: all overrides of the command.
    """
    kept, unknown = list(overrides), []
    while True:
        try:
            config = compose(kept)
        except Exception as error:  # Hydra's many kinds
            found = _refused(str(error), kept)
            if found is None:
                return _choice(str(error))
            kept.remove(found)
            unknown.append(found)
            continue
        return [_advice(override, keys_of(config)) for override in unknown]


def _refused(message: str, overrides: Sequence[str]) -> str | None:
    """The override that Hydra's message names."""
    for pattern in _REFUSED:
        match = pattern.search(message)
        for override in overrides:
            key = override.lstrip("+~").partition("=")[0].partition("@")[0]
            if match and not override.startswith("+") and (key == match[1] or key.startswith(f"{match[1]}.")):
                return override
    return None


def _choice(message: str) -> list[str]:
    """A group of configurations that has no such choice."""
    match = _CHOICE.search(message)
    if match is None:
        return []
    known = match["known"].partition("Config search path")[0].split()
    near = difflib.get_close_matches(match["asked"], known, n=1) or known[:1]
    group, asked = match["group"], match["asked"]
    return [f"{group}={asked}: no such choice. Known are {', '.join(known)}. Set {group}={''.join(near)}."]


def _advice(override: str, keys: Sequence[str]) -> str:
    key, _, value = override.lstrip("+~").partition("=")
    near = nearest_key(key, keys)
    if near is None:
        return (
            f"{override}: there is no key {key} in the configuration, and none like it. A new key is written with a "
            f"plus: +{key}={value}"
        )
    return f"{override}: there is no key {key} in the configuration; the nearest is {near}. Set {near}={value}."


def nearest_key(key: str, keys: Sequence[str]) -> str | None:
    """The key that was meant: with the same end, else with a similar one."""
    ends = [known for known in keys if known.endswith(f".{key}")]
    if ends:
        return min(ends, key=len)
    last = key.rpartition(".")[2]
    same = difflib.get_close_matches(
        key, [known for known in keys if known.rpartition(".")[2] == last], n=1, cutoff=0.5
    )
    close = difflib.get_close_matches(key, keys, n=1, cutoff=0.75)
    if same or close:
        return max(same + close, key=lambda known: difflib.SequenceMatcher(None, key, known).ratio())
    # A slip in the last part only, without what stands before it.
    parts = {known.rpartition(".")[2]: known for known in reversed(keys)}
    alone = difflib.get_close_matches(last, parts, n=1, cutoff=0.8)
    return parts[alone[0]] if alone else None


def keys_of(config: DictConfig) -> list[str]:
    """Every key of a configuration that has a value of its own."""
    found: list[str] = []

    def walk(prefix: str, node: object) -> None:
        if isinstance(node, dict):
            for name, value in node.items():
                if not isinstance(value, dict):
                    found.append(f"{prefix}{name}")
                walk(f"{prefix}{name}.", value)

    walk("", OmegaConf.to_container(config, resolve=False))
    return [key for key in found if not key.rpartition(".")[2].startswith("_")]
