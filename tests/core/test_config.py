# SPDX-License-Identifier: Apache-2.0
"""Configuration: presets, validation with words that help, round trip, resolution against a framework."""

from __future__ import annotations

import dataclasses
import json

import pytest

from agpo_core import PRESETS, AGPOConfig, ClipConfig, ProbeConfig, TemperatureConfig, iter_fields, resolve


def test_preset_agpo_is_the_default() -> None:
    assert AGPOConfig() == AGPOConfig.from_dict({}) == AGPOConfig.from_preset("agpo")


def test_preset_reference() -> None:
    config = AGPOConfig.from_preset("reference")
    assert not config.probe.reuse and config.probe.size is None
    assert (config.signals.normalize, config.signals.skewness) == (False, "reference")
    t = config.temperature
    assert (t.form, t.gain, t.min, t.max, t.decay) == ("reference", 0.15, 0.5, 1.5, 0.1)
    assert (t.weight_dispersion, t.weight_vote_entropy, t.weight_skewness) == (1.0, 1.0, 0.0)
    c = config.clip
    assert (c.form, c.base, c.min, c.max, c.entropy_decay, c.kl_decay) == (
        "reference",
        0.2,
        0.05,
        0.4,
        0.01,
        0.1,
    )
    assert (c.alpha, c.gamma, c.delta, c.zeta) == (1.0, 0.5, 0.1, 0.0)
    assert (config.advantage.scale, config.advantage.epsilon) == ("dispersion", 1e-8)
    assert config.scoring == "uncorrected"


def test_preset_grpo_has_nothing_adaptive() -> None:
    config = AGPOConfig.from_preset("grpo")
    assert not config.adaptive and AGPOConfig().adaptive
    assert (config.advantage.scale, config.advantage.epsilon) == ("std", 1e-6)

    assert not (config.active or config.shapes_advantages or config.weighs_rows) and AGPOConfig().active


def test_presets_of_both_papers() -> None:
    dual, loss = AGPOConfig.from_preset("agpo_d"), AGPOConfig.from_preset("agpo_l")
    assert dual.adaptive and not dual.probe.reuse and dual.clip == AGPOConfig().clip
    assert not loss.adaptive and loss.active and loss.weighs_rows and loss.masks_groups
    assert (loss.advantage.zero_variance, loss.loss.adaptive, loss.length.weight) == ("mask", "floor", 0.1)


@pytest.mark.parametrize(
    ("settings", "weighs"),
    [
        ({}, False),
        ({"advantage": {"zero_variance": "signed"}}, False),
        ({"advantage": {"zero_variance": "signed_mask"}}, True),
        ({"loss": {"adaptive": "exp"}}, True),
        ({"allocation": {"enabled": True}}, True),
        ({"allocation": {"enabled": True, "weighting": "responses"}}, False),
        ({"length": {"weight": 0.1}}, False),
    ],
)
def test_what_needs_weights_per_response(settings: dict, weighs: bool) -> None:
    assert AGPOConfig.from_dict(settings).weighs_rows is weighs


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_round_trip(preset: str) -> None:
    config = AGPOConfig.from_dict({"preset": preset, "temperature": {"gain": 0.3}, "probe": {"size": 3}})
    plain = json.loads(json.dumps(config.to_dict()))
    assert AGPOConfig.from_dict(plain) == config
    assert AGPOConfig.from_dict(plain).fingerprint() == config.fingerprint()


def test_user_keys_win_over_the_preset_and_none_keeps_it() -> None:
    config = AGPOConfig.from_dict(
        {"preset": "reference", "clip": {"max": 0.3, "min": None, "base": None}, "temperature": None}
    )
    assert (config.clip.max, config.clip.min) == (0.3, 0.05)
    assert config.clip.base is None  # its type allows None, so None is a value
    assert config.temperature.form == "reference"
    assert AGPOConfig.from_dict({"temperature": {"gain": 1}}).temperature.gain == 1.0
    assert type(AGPOConfig.from_dict({"temperature": {"gain": 1}}).temperature.gain) is float


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"temperature": {"gian": 1.0}}, r"temperature\.gian: unknown key; did you mean temperature\.gain\?"),
        ({"gain": 1.0}, r"did you mean temperature\.gain\?"),
        ({"temprature": {}}, r"did you mean temperature\?"),
        ({"clip": {"max": "0.4"}}, r"clip\.max='0\.4': must be float, got str"),
        ({"clip": {"enabled": "true"}}, r"clip\.enabled='true': must be bool"),
        ({"clip": {"enabled": 1}}, r"clip\.enabled=1: must be bool"),
        ({"clip": {"max": True}}, r"clip\.max=True: must be float"),
        ({"clip": {"max": float("nan")}}, r"clip\.max=nan: must be a finite number"),
        ({"clip": {"max": 3}}, r"clip\.max=3\.0: must be > 0 and < 1"),
        ({"clip": {"min": 0.5}}, r"clip\.min=0\.5: must be <= algorithm\.agpo\.clip\.max=0\.4"),
        ({"clip": {"base": 0.01}}, r"clip\.base=0\.01: must be within \[0\.05, 0\.4\]"),
        ({"probe": {"size": 1}}, r"probe\.size=1: must be >= 2"),
        ({"probe": {"size": 2.0}}, r"probe\.size=2\.0: must be int"),
        ({"probe": 4}, r"probe=4: must be a mapping"),
        ({"signals": {"dispersion": "stdd"}}, r"must be one of std, mad, iqr; did you mean std\?"),
        ({"preset": "agp"}, r"preset='agp': must be one of .* did you mean agpo\?"),
        ({"scoring": "none"}, r"scoring='none': must be one of own, corrected, uncorrected"),
        ({"temperature": {"decay": 0.0}}, r"temperature\.decay=0\.0: must be > 0 and <= 1"),
    ],
)
def test_errors_name_the_key_the_value_and_the_fix(given: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        AGPOConfig.from_dict(given)


def test_direct_construction_is_checked_too() -> None:
    with pytest.raises(ValueError, match="temperature.min"):
        TemperatureConfig(min=0.0)
    with pytest.raises(ValueError, match="clip.max"):
        ClipConfig(max=1.0)
    with pytest.raises(ValueError, match="must be a ProbeConfig"):
        AGPOConfig(probe={"size": 2})  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        ProbeConfig().size = 3  # type: ignore[misc]


def test_fingerprint_follows_decisions_only() -> None:
    base = AGPOConfig().fingerprint()
    assert len(base) == 64
    assert AGPOConfig.from_dict({"reward_timeout_s": 5.0, "decisions_file": False}).fingerprint() == base
    assert AGPOConfig.from_dict({"clip": {"kl_gain": 0.4}}).fingerprint() != base


def test_every_field_is_documented() -> None:
    rows = list(iter_fields())
    keys = [key for key, *_ in rows]
    assert len(keys) == len(set(keys)) >= 40
    assert {"preset", "clip.kl_target", "temperature.gain", "probe.size", "advantage.epsilon"} <= set(keys)
    for key, type_text, default, doc, source in rows:
        assert type_text and doc.strip().endswith("."), key
        assert source in ("code", "ours"), key
        section, _, leaf = key.rpartition(".")
        owner = getattr(AGPOConfig(), section) if section else AGPOConfig()
        assert getattr(owner, leaf) == default, key
    assert dict((key, text) for key, text, *_ in rows)["probe.size"] == "int | null"


def at(config: AGPOConfig, **framework: float):  # type: ignore[no-untyped-def]
    values = {"temperature": 1.0, "clip_low": 0.2, "clip_high": 0.2, "group_size": 8} | framework
    return resolve(config, **values)  # type: ignore[arg-type]


def test_resolve_takes_the_frameworks_own() -> None:
    got = at(AGPOConfig(), temperature=0.9, clip_high=0.28)
    assert (got.tau_base, got.clip_low, got.clip_high, got.probe_size, got.group_size) == (
        0.9,
        0.2,
        0.28,
        4,
        8,
    )


@pytest.mark.parametrize(("group", "size"), [(2, 2), (3, 2), (4, 2), (5, 2), (8, 4), (16, 8)])
def test_resolve_half_of_the_group(group: int, size: int) -> None:
    assert at(AGPOConfig(), group_size=group).probe_size == size


def test_resolve_probe_sizes() -> None:
    assert at(AGPOConfig.from_preset("reference")).probe_size == 8
    assert at(AGPOConfig.from_preset("reference")).clip_low == 0.2
    assert at(AGPOConfig.from_dict({"probe": {"size": 8}})).probe_size == 8
    assert at(AGPOConfig.from_preset("grpo"), group_size=1).probe_size == 1
    with pytest.raises(ValueError, match="probe.size=9: must be <= the group size 8"):
        at(AGPOConfig.from_dict({"probe": {"size": 9}}))
    with pytest.raises(ValueError, match="at least 2 responses"):
        at(AGPOConfig(), group_size=1)


def test_resolve_names_what_to_change() -> None:
    with pytest.raises(ValueError, match=r"algorithm\.agpo\.temperature\.max=1\.6"):
        at(AGPOConfig(), temperature=1.6)
    with pytest.raises(ValueError, match=r"algorithm\.agpo\.temperature\.min=0\.6"):
        at(AGPOConfig(), temperature=0.6)
    with pytest.raises(ValueError, match=r"clip-higher.*set algorithm\.agpo\.clip\.max=0\.5"):
        at(AGPOConfig(), clip_high=0.5)
    with pytest.raises(ValueError, match=r"set algorithm\.agpo\.clip\.min=0\.03"):
        at(AGPOConfig(), clip_low=0.03)
    off = at(AGPOConfig.from_preset("grpo"), temperature=1.6, clip_low=0.03, clip_high=0.5)
    assert (off.tau_base, off.clip_low, off.clip_high) == (1.6, 0.03, 0.5)
