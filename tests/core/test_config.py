# SPDX-License-Identifier: Apache-2.0
"""Configuration: presets, validation with words that help, round trip, resolution against a framework."""

from __future__ import annotations

import dataclasses
import json
import pickle
import warnings
from typing import ClassVar

import pytest

from agpo_core import (
    PRESETS,
    AdvantageConfig,
    AGPOConfig,
    ClipConfig,
    LengthConfig,
    ProbeConfig,
    RunningStat,
    TemperatureConfig,
    iter_fields,
    resolve,
)
from agpo_core.schema import option


def test_preset_agpo_is_the_default() -> None:
    assert AGPOConfig() == AGPOConfig.from_dict({}) == AGPOConfig.from_preset("agpo")


def test_preset_reference() -> None:
    config = AGPOConfig.from_preset("reference")
    assert not config.probe.reuse and config.probe.size is None
    assert (config.signals.normalize, config.signals.skewness) == (False, "reference")
    t = config.temperature
    assert (t.form, t.gain, t.min, t.max) == ("reference", 0.15, 0.5, 1.5)
    assert (t.weight_dispersion, t.weight_vote_entropy, t.weight_skewness) == (1.0, 1.0, 0.0)
    c = config.clip
    assert (c.form, c.base, c.min, c.max) == ("reference", 0.2, 0.05, 0.4)
    r = config.reference
    assert (r.alpha, r.gamma, r.delta, r.zeta, r.entropy_ema_weight) == (1.0, 0.5, 0.1, 0.0, 0.01)
    assert config.signals.ema_weight == 0.1
    assert (config.advantage.scale, config.advantage.epsilon) == ("dispersion", 1e-8)
    assert config.logprob_temperature == "uncorrected"


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
    assert plain["temperature"]["base"] == "auto"
    assert AGPOConfig.from_dict(plain).fingerprint() == config.fingerprint()


def test_user_keys_win_over_the_preset_and_none_keeps_it() -> None:
    config = AGPOConfig.from_dict(
        {"preset": "reference", "clip": {"max": 0.3, "min": None, "base": None}, "temperature": None}
    )
    assert (config.clip.max, config.clip.min) == (0.3, 0.05)
    assert config.clip.base == 0.2  # also where None is a value: that is written auto
    assert AGPOConfig.from_dict({"preset": "reference", "clip": {"base": "auto"}}).clip.base is None
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
        ({"clip": {"min": 0.5}}, r"clip\.min=0\.5: must be <= clip\.max=0\.4"),
        ({"clip": {"base": 0.01}}, r"clip\.base=0\.01: must be within \[0\.05, 0\.4\]"),
        ({"probe": {"size": 1}}, r"probe\.size=1: must be >= 2"),
        ({"probe": {"size": 2.0}}, r"probe\.size=2\.0: must be int"),
        ({"probe": 4}, r"probe=4: must be a mapping"),
        ({"signals": {"dispersion": "stdd"}}, r"must be one of std, mad, iqr; did you mean std\?"),
        ({"preset": "agp"}, r"preset='agp': must be one of .* did you mean agpo\?"),
        ({"logprob_temperature": "none"}, r"logprob_temperature='none': must be one of own, corrected, uncorrected"),
        ({"signals": {"ema_weight": 0.0}}, r"signals\.ema_weight=0\.0: must be > 0 and <= 1"),
        ({"probe": {"size": "half"}}, r"probe\.size='half': must be int"),
        ({"clip": {"min": "auto"}}, r"clip\.min='auto': must be float"),
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
        AGPOConfig(probe=2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="preset='gro': .* did you mean grpo"):
        AGPOConfig(preset="gro")  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        ProbeConfig().size = 3  # type: ignore[misc]


def test_fingerprint_follows_decisions_only() -> None:
    base = AGPOConfig().fingerprint()
    assert len(base) == 64
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
    assert dict((key, text) for key, text, *_ in rows)["probe.size"] == "int | auto"


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
    with pytest.raises(ValueError, match=r"temperature\.max=1\.6"):
        at(AGPOConfig(), temperature=1.6)
    with pytest.raises(ValueError, match=r"temperature\.min=0\.6"):
        at(AGPOConfig(), temperature=0.6)
    with pytest.raises(ValueError, match=r"\(0\.3, 0\.2\): the lower must not exceed.*lower clip ratio to 0\.2"):
        at(AGPOConfig(), clip_low=0.3)
    for wrong in (0.0, -0.2, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="must be above 0"):
            at(AGPOConfig(), clip_low=wrong)
        with pytest.raises(ValueError, match="must be above 0"):
            at(AGPOConfig(), clip_high=wrong)
    off = at(AGPOConfig.from_preset("grpo"), temperature=1.6, clip_low=0.03, clip_high=0.5)
    assert (off.tau_base, off.clip_low, off.clip_high) == (1.6, 0.03, 0.5)


@pytest.mark.parametrize(("low", "high"), [(3e-4, 4e-4), (0.03, 0.5), (0.2, 5.0), (10.0, 0.2), (1.0, 1.0)])
def test_resolve_takes_the_published_clip_ratios_of_other_losses(low: float, high: float) -> None:
    got = at(AGPOConfig(), clip_low=low, clip_high=high)
    assert (got.clip_low, got.clip_high) == (low, high)


# ---- a preset is a preset, however the config is made ---------------------------------------------------------


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_the_constructor_applies_the_preset(preset: str) -> None:
    config = AGPOConfig(preset=preset)  # type: ignore[arg-type]
    assert config == AGPOConfig.from_preset(preset)
    assert config.adaptive == (preset in ("agpo", "agpo_d", "reference"))
    assert dataclasses.replace(config) == config


def test_sections_given_to_the_constructor() -> None:
    """A mapping changes the preset's section, an object replaces it."""
    config = AGPOConfig(preset="reference", clip={"max": 0.3}, length=LengthConfig(weight=0.1))  # type: ignore[arg-type]
    assert (config.clip.max, config.clip.form, config.length.weight) == (0.3, "reference", 0.1)
    assert AGPOConfig(preset="reference", clip=ClipConfig(max=0.3)).clip.form == "log"
    assert AGPOConfig(preset="reference", logprob_temperature="own").logprob_temperature == "own"
    with pytest.raises(ValueError, match="clip.mox: unknown key; did you mean clip.max"):
        AGPOConfig(clip={"mox": 0.3})  # type: ignore[arg-type]


# ---- old names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"scoring": "corrected"}, {"logprob_temperature": "corrected"}),
        ({"temperature": {"decay": 0.3}}, {"signals": {"ema_weight": 0.3}}),
        ({"clip": {"kl_decay": 0.3, "decay": 0.3}}, {"signals": {"ema_weight": 0.3}}),
        ({"clip": {"entropy_decay": 0.3}}, {"signals": {"ema_weight": 0.3}}),
        (
            {"preset": "reference", "clip": {"entropy_decay": 0.3}},
            {"preset": "reference", "reference": {"entropy_ema_weight": 0.3}},
        ),
        ({"clip": {"alpha": 2.0, "zeta": 0.1}}, {"reference": {"alpha": 2.0, "zeta": 0.1}}),
        ({"advantage": {"zero_variance": "drop"}}, {"advantage": {"zero_variance": "keep"}}),
    ],
)
def test_old_names_are_accepted_with_a_message(old: dict, new: dict) -> None:
    with pytest.warns(FutureWarning, match="is now called"):
        config = AGPOConfig.from_dict(old)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert config == AGPOConfig.from_dict(new)
        assert config == AGPOConfig.from_saved(old)


def test_old_names_that_disagree_are_refused() -> None:
    with pytest.warns(FutureWarning), pytest.raises(ValueError, match=r"clip\.decay=0\.2: is now called signals.ema_w"):
        AGPOConfig.from_dict({"temperature": {"decay": 0.1}, "clip": {"decay": 0.2}})
    with pytest.warns(FutureWarning), pytest.raises(ValueError, match=r"scoring='own'.*set to 'corrected'"):
        AGPOConfig.from_dict({"scoring": "own", "logprob_temperature": "corrected"})
    with pytest.warns(FutureWarning, match="zero_variance=keep"):
        assert AdvantageConfig(zero_variance="drop").zero_variance == "keep"  # type: ignore[arg-type]
    with pytest.warns(FutureWarning, match="ema_weight"):
        assert RunningStat.empty(0.25).decay == 0.25


def test_a_null_under_an_old_name_says_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert AGPOConfig.from_dict({"scoring": None, "clip": {"decay": None, "alpha": None}}) == AGPOConfig()


OLD_DUMP = {  # what version 0.1 saved with a state
    "preset": "agpo",
    "probe": {"size": None, "reuse": True},
    "signals": {"dispersion": "std", "skewness": "adjusted", "normalize": True},
    "temperature": {"enabled": True, "form": "log", "gain": 0.15, "min": 0.7, "max": 1.4, "decay": 0.1, "base": None},
    "clip": {"enabled": True, "decay": 0.1, "entropy_decay": 0.1, "kl_decay": 0.1, "alpha": 1.0, "base": None},
    "advantage": {"zero_variance": "drop"},
    "scoring": "own",
}


def test_a_state_of_an_older_version_belongs_to_the_same_settings() -> None:
    assert AGPOConfig().decides_like("an old fingerprint", OLD_DUMP)
    changed = OLD_DUMP | {"temperature": OLD_DUMP["temperature"] | {"gain": 0.2}}  # type: ignore[operator]
    apart = OLD_DUMP | {"clip": OLD_DUMP["clip"] | {"kl_decay": 0.2}}  # type: ignore[operator]
    for other in (changed, apart, {"preset": "grpo"}, {"unknown": 1}, None):
        assert not AGPOConfig().decides_like("an old fingerprint", other)
    assert AGPOConfig().decides_like(AGPOConfig().fingerprint(), None)


# ---- frameworks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "algorithm.agpo", "trainer.adaptive"])
def test_messages_name_keys_as_the_framework_keeps_them(prefix: str) -> None:
    dot = f"{prefix}." if prefix else ""
    with pytest.raises(ValueError) as error:
        AGPOConfig.from_dict({"clip": {"min": 0.5}}, prefix=prefix)
    assert str(error.value) == f"{dot}clip.min=0.5: must be <= {dot}clip.max=0.4; lower it or raise max"
    with pytest.raises(ValueError) as error:
        at(AGPOConfig(), temperature=0.6, prefix=prefix)  # type: ignore[arg-type]
    assert f"set {dot}temperature.min=0.6" in str(error.value)
    with pytest.raises(ValueError) as error:
        AGPOConfig.from_dict([], prefix=prefix)  # type: ignore[arg-type]
    assert str(error.value) == f"{prefix or 'settings'}: must be a mapping, got list"
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


@dataclasses.dataclass(frozen=True)
class OfAFramework(AGPOConfig):
    not_deciding: ClassVar[tuple[str, ...]] = ("folder",)

    folder: str | None = option(None, "Where to. auto: nowhere.")
    judge: str = option("exact", "Who judges.")


def test_a_framework_adds_settings_of_its_own() -> None:
    config = OfAFramework.from_dict({"preset": "grpo", "folder": "out", "judge": "model"})
    assert not config.adaptive and (config.folder, config.judge) == ("out", "model")
    assert OfAFramework.from_dict(config.to_dict()) == config
    assert OfAFramework(folder="x").fingerprint() == OfAFramework().fingerprint()
    assert OfAFramework(judge="x").fingerprint() != OfAFramework().fingerprint()
    assert [key for key, *_ in iter_fields(OfAFramework)][-2:] == ["folder", "judge"]
    with pytest.raises(ValueError, match="foldr: unknown key; did you mean folder"):
        OfAFramework.from_dict({"foldr": "x"})
    with pytest.raises(ValueError, match="folder: unknown key"):
        AGPOConfig.from_dict({"folder": "x"})
