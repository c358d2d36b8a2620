# SPDX-License-Identifier: Apache-2.0
"""pip's settings are handed to uv as they are meant."""

import importlib.util
from pathlib import Path

spec = importlib.util.spec_from_file_location(
    "uv_settings", Path(__file__).resolve().parents[2] / "scripts/lib/uv_settings.py"
)
assert spec is not None and spec.loader is not None
uv = importlib.util.module_from_spec(spec)
spec.loader.exec_module(uv)


def test_environment_wins_over_files_and_other_sections_are_ignored() -> None:
    text = ":env:.find-links='/env'\nglobal.find-links='/file'\nglobal.cert='/c'\ndownload.cert='/no'\nnonsense\n"
    assert uv.parse_pip_config(text) == {"find-links": "/env", "cert": "/c"}


def test_nothing_configured_gives_nothing() -> None:
    assert uv.uv_settings({}, {}) == ({}, [])


def test_each_setting_has_its_counterpart() -> None:
    pip = {
        "index-url": "https://mirror.example/simple",
        "extra-index-url": "file:///a https://b.example/",
        "find-links": "/w1\n/w2",
        "trusted-host": "mirror.example",
        "cert": "/ca.pem",
        "default-timeout": "180",
    }
    env, args = uv.uv_settings(pip, {})
    assert env == {"SSL_CERT_FILE": "/ca.pem", "UV_HTTP_TIMEOUT": "180"}
    assert args == [
        *("--default-index", "https://mirror.example/simple"),
        *("--index", "file:///a"),
        *("--index", "https://b.example/"),
        *("--index-strategy", "unsafe-best-match"),
        *("--find-links", "/w1"),
        *("--find-links", "/w2"),
        *("--allow-insecure-host", "mirror.example"),
    ]


def test_what_was_set_for_uv_stays() -> None:
    env, args = uv.uv_settings(
        {"cert": "/pip.pem", "index-url": "https://pip.example"},
        {"SSL_CERT_FILE": "/mine.pem", "UV_DEFAULT_INDEX": "https://mine.example"},
    )
    assert env == {}
    assert args == []


def test_a_local_wheel_is_found_by_path_and_by_url(tmp_path: Path) -> None:
    (tmp_path / "torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl").touch()
    assert uv.holds_wheel([str(tmp_path)], "torch-2.13.0+cpu")
    assert uv.holds_wheel(["https://remote.example/", tmp_path.as_uri()], "torch-2.13.0+cpu")
    assert not uv.holds_wheel([str(tmp_path)], "torch-2.13.0")
    assert not uv.holds_wheel([str(tmp_path / "absent")], "torch-2.13.0+cpu")
