# SPDX-License-Identifier: Apache-2.0
"""What the documents say is so: generated pages are current, named files exist, snippets run, commands compose."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


def commands():
    """Every complete shell command of the README, continuation lines joined."""
    lines = [line.split("#")[0].strip() for block in blocks("bash") for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line]


def test_links_inside_the_readme_lead_to_a_heading():
    """As a forge makes anchors of headings: lower case, no punctuation, dashes for spaces."""
    titles = re.findall(r"^#+ (.+)$", README, flags=re.M)
    anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
    links = set(re.findall(r"\]\(#([^)]+)\)", README))
    assert links and links <= anchors, links - anchors


def test_every_command_of_the_readme_is_known_to_a_test():
    known = (
        "bash scripts/run_agpo_quickstart.sh",  # tests/realstack/test_quickstart.py
        "bash scripts/run_tests.sh",  # what CI runs
        "AGPO_CPU=1 .venv/bin/agpo doctor",  # tests/recipe/test_cli.py
        "python -m recipe.agpo.main",  # composed below
        "AGPO_CPU=1 .venv/bin/agpo eval",  # tests/evaluate/test_real.py
        ".venv/bin/agpo report runs/quickstart-agpo-seed0",  # tests/report
        "agpo data prepare gsm8k",  # tests/data/test_data_cli.py
        "agpo plan scripts/run_agpo_qwen14b.sh",  # tests/plan/test_plan.py
        "bash scripts/run_agpo_qwen14b.sh",  # composed and validated in tests/plan/test_plan.py, and the next two
        "bash scripts/run_grpo_qwen14b.sh",
        "bash scripts/run_ppo_qwen14b.sh",
        "CPU=1 bash scripts/run_agpo_qwen14b.sh",  # tests/realstack/test_scripts.py
        ".venv/bin/python benchmarks/",  # tests/docs/test_commands.py
        ".venv/bin/python -m benchmarks.compare.run",  # tests/examples/test_compare.py
    )
    for command in commands():
        assert command.startswith(known), command


def test_gpu_command_composes_and_passes_the_checks(tmp_path):
    from hydra import compose, initialize_config_dir

    from recipe.agpo.preflight import find_problems, find_warnings
    from recipe.agpo.quickstart.task import make_data

    command = next(c for c in commands() if "recipe.agpo.main" in c)
    overrides = shlex.split(command)[3:]
    train, val = make_data(tmp_path, n_train=300, n_val=8)
    overrides = [o for o in overrides if not o.startswith(("data.train_files", "data.val_files"))]
    with initialize_config_dir(str(ROOT / "recipe/agpo/config"), version_base=None):
        config = compose(
            "agpo_trainer",
            [
                *overrides,
                f"data.train_files={train}",
                f"data.val_files={val}",
                f"trainer.default_local_dir={tmp_path}",
                "+reward.custom_reward_function.reward_kwargs.kind=math",  # the stand-in rows name no verifier
                "hydra.searchpath=[pkg://verl.trainer.config]",
            ],
        )
    assert find_problems(config) == []
    assert find_warnings(config) == []


SNIPPETS = [
    (page.name, snippet)
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for snippet in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.S)
]


@pytest.mark.parametrize(("page", "snippet"), SNIPPETS, ids=[page for page, _ in SNIPPETS])
def test_python_snippets_run(page, snippet):
    exec(compile(snippet, page, "exec"), {})


def test_generated_pages_are_current():
    from recipe.agpo.cli.config import markdown_table
    from recipe.agpo.training.metrics import glossary_markdown
    from tests.realstack.combinations import markdown

    assert (ROOT / "docs/combinations.md").read_text(encoding="utf-8") == markdown()
    assert (ROOT / "docs/config.md").read_text(encoding="utf-8") == markdown_table()
    assert (ROOT / "docs/metrics.md").read_text(encoding="utf-8") == glossary_markdown()


def test_the_api_page_names_every_public_name_once():
    import agpo_core

    rows = re.findall(r"^\| `(\w+)` \| \S", (ROOT / "docs/api.md").read_text(encoding="utf-8"), flags=re.M)
    assert sorted(rows) == sorted(agpo_core.__all__)
    assert all(getattr(agpo_core, name).__doc__ for name in rows if name != "PRESETS")


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")) + [ROOT / "README.md"], ids=lambda p: p.name)
def test_files_that_the_docs_name_exist(page):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:tests|recipe|agpo_core|benchmarks|scripts|docs)/[\w./-]*)`", text):
        assert (ROOT / name).exists(), name
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in link:
            assert (page.parent / link).exists(), link


def test_tuning_names_keys_and_settings_that_exist():
    from agpo_core import AGPOConfig
    from recipe.agpo.training.metrics import in_glossary

    text = (ROOT / "docs/tuning.md").read_text(encoding="utf-8")
    logged = {key for key in re.findall(r"`(agpo/[\w/{},*]+)`", text)}
    for key in logged:
        # A star stands for a side of the clip or for a status.
        assert any(in_glossary(key.replace("*", name).replace("{min,max}", "min")) for name in ("low", "ok")), key
    settings = re.findall(r"`((?:\w+\.)?\w+)=([\w.]+)`", text)
    sections = AGPOConfig().to_dict()
    checked = 0
    for key, value in settings:
        section, _, name = key.rpartition(".")
        if section in sections or key in sections:
            given = {"true": True, "false": False}.get(value, value)
            given = float(value) if re.fullmatch(r"[\d.]+", value) else given
            AGPOConfig.from_dict({section: {name: given}} if section else {key: given})
            checked += 1
    assert len(logged) > 10 and checked > 10


def test_the_method_page_names_functions_that_exist_and_true_defaults():
    import agpo_core

    text = (ROOT / "docs/method.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\|.*`tests/core/\w+\.py`.*\|$", text.split("## From formula to function")[1], flags=re.M)
    defaults, checked = agpo_core.AGPOConfig().to_dict(), 0
    for row in rows[:11]:
        _, _, functions, keys, *_ = row.split("|")
        assert all(hasattr(agpo_core, name) for name in re.findall(r"`(\w+)`", functions)), functions
        section = ""
        for key, value in re.findall(r"`([\w.]+)` ([\w.-]+?)(?:,|$| )", keys):
            section, _, name = key.rpartition(".") if "." in key else (section, "", key)
            found = defaults[section][name]
            if found == "auto":
                continue
            expected = {"true": True, "false": False}.get(value, value)
            assert expected == found or float(expected) == found, (key, value, found)
            checked += 1
    assert len(rows) >= 11 and checked >= 20


def test_the_quickstarts_numbers_are_those_of_the_recorded_run():
    recorded = json.loads((ROOT / "benchmarks/results/quickstart.json").read_text(encoding="utf-8"))
    assert recorded["line"] in (ROOT / "README.md").read_text(encoding="utf-8")
    page = (ROOT / "docs/quickstart.md").read_text(encoding="utf-8")
    by_step = re.search(r"Greedy accuracy by step: (.*?)\.\n", page, flags=re.S)
    said = [float(number) for number in re.findall(r"\b0\.\d{3}\b", by_step[1])]
    assert said == [round(value, 3) for _, value in recorded["accuracy"]]
