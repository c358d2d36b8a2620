# SPDX-License-Identifier: Apache-2.0
"""Print this machine's pip settings as uv's: `env NAME=VALUE` and `arg VALUE` lines, `torch local|index`.

uv does not read pip's configuration, and a machine behind a mirror has it nowhere else. Everything comes from
`pip config list` (files and PIP_* variables), so no host or path is written in this repository.

Usage: python uv_settings.py torch-2.13.0+cpu
The argument is the start of the wheel name of the torch build wanted. The torch line says whether a local
find-links folder holds that wheel.
"""

import ast
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlparse


def parse_pip_config(text: str) -> dict[str, str]:
    """Settings by name from `pip config list` lines such as `global.cert='/x'`; a PIP_* variable wins."""
    settings: dict[str, str] = {}
    from_env: dict[str, str] = {}
    for line in text.splitlines():
        key, eq, raw = line.partition("=")
        section, dot, name = key.strip().rpartition(".")
        if not eq or not dot:
            continue
        try:
            value = str(ast.literal_eval(raw.strip()))
        except (ValueError, SyntaxError):
            continue
        if section == ":env:":
            from_env[name] = value
        elif section in ("global", "install"):
            settings[name] = value
    return settings | from_env


def local_folder(location: str) -> Path | None:
    """The folder a find-links entry names (path or file: URL), or None for a remote one."""
    url = urlparse(location)
    if url.scheme == "file":
        return Path(unquote(url.path))
    return None if url.scheme else Path(location).expanduser()


def holds_wheel(locations: list[str], prefix: str) -> bool:
    """Whether a local folder among `locations` has a wheel whose name starts with `prefix`."""
    wanted = f"{prefix}-*.whl"
    folders = [folder for folder in map(local_folder, locations) if folder is not None]
    return any(folder.is_dir() and any(folder.glob(wanted)) for folder in folders)


def uv_settings(pip: dict[str, str], environ: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """uv's environment variables and arguments for these pip settings; what the caller set for uv stays."""
    env: dict[str, str] = {}
    if "cert" in pip and "SSL_CERT_FILE" not in environ:
        env["SSL_CERT_FILE"] = pip["cert"]
    if "proxy" in pip and not any(name in environ for name in ("ALL_PROXY", "HTTPS_PROXY", "https_proxy")):
        env["ALL_PROXY"] = pip["proxy"]
    if "default-timeout" in pip and "UV_HTTP_TIMEOUT" not in environ:
        env["UV_HTTP_TIMEOUT"] = pip["default-timeout"]

    args: list[str] = []
    if "index-url" in pip and not any(name in environ for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL")):
        args += ["--default-index", pip["index-url"]]
    for url in pip.get("extra-index-url", "").split():
        args += ["--index", url]
    if pip.get("extra-index-url"):
        args += ["--index-strategy", "unsafe-best-match"]  # pip's rule: the best version over all indexes
    for location in pip.get("find-links", "").split():
        args += ["--find-links", location]
    for host in pip.get("trusted-host", "").split():
        args += ["--allow-insecure-host", host]
    return env, args


def main() -> None:
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    pip = parse_pip_config(listing.stdout)
    env, args = uv_settings(pip, dict(os.environ))
    for name, value in env.items():
        print(f"env {name}={value}")
    for value in args:
        print(f"arg {value}")
    print("torch", "local" if holds_wheel(pip.get("find-links", "").split(), sys.argv[1]) else "index")


if __name__ == "__main__":
    main()
