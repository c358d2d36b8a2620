# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from agpo_core import Reason
from recipe.agpo.cli import report
from recipe.agpo.palette import SERIES
from recipe.agpo.report import evidence, panels
from recipe.agpo.report.curves import MOST, over, stacked, thin
from recipe.agpo.report.page import page
from recipe.agpo.report.panels import REASONS, VERDICTS
from recipe.agpo.report.read import read_run, read_runs
from recipe.agpo.report.style import style
from recipe.agpo.report.text import compact, duration, number, ticks, visible
from recipe.agpo.run_folder import write_launch
from recipe.agpo.settings import RunConfig
from tests.report import runs

EVIL = [
    "</script><script>window.injected = 1</script>",
    '<img src=x onerror="window.injected = 2">',
    "\"><svg onload='window.injected = 3'>",
    "]]></pre></body><!-- & &lt; &amp;",
    "javascript:alert(1) \x00\x1b[31m \u202eright to left\u2066 \ud800",
]
STYLE = style()


class Parsed(HTMLParser):
    """Tags, their attributes and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "line", "rect", "circle", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)

    def count(self, tag: str) -> int:
        return sum(found == tag for found, _ in self.tags)


def evil_run(folder: Path) -> Path:
    """A run in trouble, whose every text tries to leave its place."""
    trouble = {"agpo/zero_variance_share": 0.7, "agpo/tau/share_at_max": 0.6, f"val-core/{EVIL[0]}/acc/mean@1": 0.5}
    runs.agpo_run(folder, 6, change=lambda step, data: data.update(trouble))
    runs.dump(folder / "rollouts", 6, [(evil, evil, float(i)) for i, evil in enumerate(EVIL[:4])])
    path = folder / "checkpoints" / "agpo_decisions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row |= {"prompt": EVIL[0], "tau_reason": EVIL[1], "eps_reason": EVIL[2], "vote_keys": EVIL, "outcomes": EVIL}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "quickstart.json").write_text(json.dumps({"method": EVIL[0], "seed": EVIL[1]}))
    config = {"actor_rollout_ref": {"model": {"path": EVIL[0]}}, "data": {"train_batch_size": EVIL[1]}}
    write_launch(folder, {"started": EVIL[2], "commit": EVIL[3], "overrides": EVIL, "machine": EVIL, "config": config})
    return folder


def test_untrusted_text_stays_text(tmp_path: Path) -> None:
    folder = tmp_path / "<b onclick=alert(1)>"
    folder.mkdir()
    html = page([read_run(evil_run(folder))])
    html.encode("utf-8")
    parsed = Parsed(html)
    assert parsed.count("script") == 1 and parsed.count("img") == 0 and parsed.count("b") > 0
    assert not parsed.unbalanced and not parsed.open
    assert not [name for _, attributes in parsed.tags for name in attributes if name.startswith("on")]
    for evil in EVIL[:4]:
        assert evil in parsed.text, "shown as it is"
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", html)
    assert visible(EVIL[4]) == "javascript:alert(1) \\u0000\\u001b[31m \\u202eright to left\\u2066 \\ud800"


def test_page_fetches_nothing_and_runs_its_own_script_only(tmp_path: Path) -> None:
    parsed = Parsed(page([read_run(runs.agpo_run(tmp_path, 6))]))
    policy = next(a["content"] for _, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none';") and "script-src 'sha256-" in policy
    assert not [a for _, a in parsed.tags if "src" in a or not (a.get("href") or "#").startswith("#")]
    assert "@import" not in STYLE and "url(" not in STYLE
    assert any(a.get("name") == "viewport" for _, a in parsed.tags)


def test_same_files_give_the_same_page(tmp_path: Path) -> None:
    folder = runs.agpo_run(tmp_path, 12)
    runs.dump(folder / "rollouts", 12, [("1+1=", "2", 1.0)])
    assert page([read_run(folder)]) == page([read_run(folder)])


def test_every_curve_of_a_full_run_is_drawn(tmp_path: Path) -> None:
    parsed = Parsed(page([read_run(runs.agpo_run(tmp_path, 30))]))
    titles = re.findall(r"(.+?)\.", "\n".join(a["aria-label"] or "" for t, a in parsed.tags if a.get("role") == "img"))
    for title in (
        "Accuracy, sums",
        "Reward",
        "Response length",
        "Policy entropy",
        "Step KL",
        "Clipped tokens",
        "Sampler against learner",
        "Temperature tau",
        "Clip ratio eps, lower",
        "Prompts at a bound",
        "Reasons",
        "Over prompts",
        "Tokens by use",
        "Verdicts",
        "Prompts solved",
        "Generated tokens",
    ):
        assert title in titles, title
    assert "Not in the log" not in parsed.text


def test_parts_that_most_runs_leave_off_are_drawn_where_a_run_has_them(tmp_path: Path) -> None:
    config = RunConfig.from_dict({"advantage": {"zero_variance": "mask"}, "allocation": {"enabled": True}})
    for name in ("plain", "parts"):
        (tmp_path / name).mkdir()
    plain = runs.agpo_run(tmp_path / "plain", 6)
    parts = runs.agpo_run(tmp_path / "parts", 6, config=config)
    assert "Masked groups" not in page([read_run(plain)])
    shown = page([read_run(parts)])
    assert "Masked groups" in shown and "Largest group" in shown and "Length reward" not in shown
    assert "Masked groups" in page(read_runs([plain, parts]))


@pytest.mark.parametrize("kind", ["empty", "started", "no validation", "no decisions", "baseline", "one step"])
def test_partial_runs_say_what_is_missing(kind: str, tmp_path: Path) -> None:
    if kind == "started":
        (tmp_path / "metrics.000.jsonl").write_bytes(runs.line(0, {runs.ACCURACY: 0.4}))
    elif kind == "baseline":
        runs.grpo_run(tmp_path)
    elif kind != "empty":
        runs.agpo_run(tmp_path, 1 if kind == "one step" else 8)
    if kind == "no decisions":
        (tmp_path / "checkpoints" / "agpo_decisions.jsonl").unlink()
    if kind == "no validation":
        file = tmp_path / "metrics.000.jsonl"
        file.write_bytes(file.read_bytes().replace(b"val-core", b"val-off"))
    text = Parsed(page([read_run(tmp_path)])).text
    expected = {
        "empty": ["No training step yet", "missing: metrics*.jsonl"],
        "started": ["No training step yet", "missing: training steps", "metrics.000.jsonl: 1 lines"],
        "no validation": ["Not in the log: no validation (trainer.test_freq)", "missing: validation"],
        "no decisions": ["No decisions file in the checkpoint folder", "missing: decisions of each prompt"],
        "baseline": [
            "missing: metrics of the controllers",
            "estimated",
            "missing: settings (run.json, or a checkpoint)",
        ],
        "one step": ["steps1", "missing: response dumps"],
    }[kind]
    for words in expected:
        assert words in text, words


def test_several_runs_share_panels_and_compare_at_equal_tokens(tmp_path: Path) -> None:
    folders = [tmp_path / "long", tmp_path / "short", tmp_path / "grpo"]
    for folder in folders:
        folder.mkdir()
    runs.agpo_run(folders[0], 30)
    runs.agpo_run(folders[1], 12)
    runs.grpo_run(folders[2], 20)
    parsed = Parsed(page(read_runs(folders)))
    reward = next(a["aria-label"] for _, a in parsed.tags if (a.get("aria-label") or "").startswith("Reward"))
    assert reward is not None and all(f"{folder.name}: from" in reward for folder in folders)
    assert "sums at 4\u202f800 tokens0.500" in parsed.text, "12 steps of 400 tokens; validated at 5, 10, ..."
    assert "No such controller." in parsed.text


def test_trouble_comes_with_advice_the_worst_first(tmp_path: Path) -> None:
    text = Parsed(page([read_run(evil_run(tmp_path))])).text
    assert "Not healthy" in text and "1 bad, 1 look" in text
    bad, look = text.index("Prompts with temperature at a bound: 60"), text.index("Groups without contrast: 70")
    assert bad < look < text.index("Fall of validation accuracy")
    assert "algorithm.agpo.temperature.gain=0.075" in text


def test_ten_thousand_steps_stay_a_small_page(tmp_path: Path) -> None:
    _, logged = read_run(runs.agpo_run(tmp_path, 3)).records[-1]
    with (tmp_path / "metrics.000.jsonl").open("wb") as file:
        for step in range(1, 10_001):
            noise = {key: value * (1.5 + math.sin(step)) for key, value in logged.items()}
            file.write(runs.line(step, noise | {"training/global_step": step}))
    html = page([read_run(tmp_path)])
    assert len(html) < 500_000
    assert number(logged["critic/score/mean"] * (1.5 + math.sin(10_000))) in Parsed(html).text, "the last value itself"
    assert "10,000 records are drawn as groups of up to 50" in html


def test_thinning_keeps_mean_and_range() -> None:
    points = [(float(i), float(i % 7), i % 7 - 1.0, i % 7 + 1.0) for i in range(1001)]
    small = thin(points)
    assert len(small) <= MOST and thin(points[:MOST]) == points[:MOST]
    assert min(p[2] for p in small) == -1.0 and max(p[3] for p in small) == 7.0
    assert small[0] == (2.5, 2.5, -1.0, 6.0), "steps 0 to 5"


def test_stacks_and_clocks() -> None:
    layers = {"a": {1.0: 1.0, 2.0: 3.0}, "b": {1.0: 1.0}}
    shares = stacked([1.0, 2.0, 3.0], layers, share=True)
    assert shares == {"a": [(1.0, 0.5), (2.0, 1.0)], "b": [(1.0, 0.5), (2.0, 0.0)]}
    accuracy, tokens = [(0.0, 0.4), (5.0, 0.5), (9.0, 0.6)], [(1.0, 10.0), (5.0, 50.0)]
    assert over(accuracy, tokens) == [(0.0, 0.4), (50.0, 0.5), (50.0, 0.6)]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0.0, 0.25, 0.5, 0.75, 1.0]),
        (0.7, 1.4, [0.8, 1.0, 1.2, 1.4]),
        (3.0, 3.0, [3.0]),
        (-1.0, 1.0, [-1.0, -0.5, 0.0, 0.5, 1.0]),
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_numbers_for_a_person() -> None:
    shown = [number(v) for v in (0.0, 0.43751, 25.04, 395508.0, 1.25e-4, 12.3e9, -0.5)]
    assert shown == ["0", "0.438", "25", "395\u202f508", "1.25e-4", "1.23e10", "-0.5"]
    assert [compact(v) for v in (0.0, 2500.0, 1e6, 5e-4, 0.25)] == ["0", "2.5k", "1M", "5e-4", "0.25"]
    assert [duration(v) for v in (61.0, 600.0, 9000.0)] == ["61 s", "10 min", "2 h 30 min"]


def test_every_reason_and_status_has_a_colour() -> None:
    assert set(REASONS) == {reason.label for reason in Reason}
    for name in (*REASONS.values(), *VERDICTS.values()):
        assert STYLE.count(f"--{name}:") == 2, f"{name} in the light and in the dark scheme"


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours ``#rrggbb`` as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_is_readable_in_both_schemes(scheme: int) -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    colours = dict(re.findall(r"--(\w+): (#\w{6});", STYLE.split("prefers-color-scheme: dark")[scheme]))
    for ground in ("paper", "panel"):
        for text in ("ink", "muted", "ok", "look", "bad"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        for line in (f"r{i}" for i in range(len(SERIES))):
            assert contrast(colours[line], colours[ground]) >= 3.0, (line, ground)


def arguments(*paths: Path, out: Path | None = None, watch: int | None = None) -> Any:
    import argparse

    return argparse.Namespace(runs=list(paths), out=out, watch=watch)


def test_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = runs.agpo_run(tmp_path, 6)
    assert report.run(arguments(folder)) == 0
    assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert capsys.readouterr().out == (
        f"{folder.name}: 6 steps, not measured (Too early to say)\npage: {folder / 'report.html'}\n"
    )
    assert report.run(arguments(folder / "absent")) == 2
    assert "absent" in capsys.readouterr().err
    assert report.run(arguments(folder, out=tmp_path / "new" / "folder.html")) == 0
    for out in (folder, folder / "report.html" / "x.html", next(folder.glob("metrics*.jsonl")), Path("/dev/null")):
        assert report.run(arguments(folder, out=out)) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_command_is_understood() -> None:
    import argparse

    parser = argparse.ArgumentParser()
    report.register(parser.add_subparsers(dest="command"))
    given = parser.parse_args(["report", "a", "b", "--out", "c.html"])
    assert (given.runs, given.out, given.watch) == ([Path("a"), Path("b")], Path("c.html"), None)
    assert parser.parse_args(["report", "a", "--watch"]).watch == report.WATCH_S
    assert parser.parse_args(["report", "a", "--watch", "3"]).watch == 3


def test_watching_writes_the_page_again_until_it_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = runs.agpo_run(tmp_path, 3)
    pages: list[str] = []

    def sleep(seconds: float) -> None:
        pages.append((folder / "report.html").read_text(encoding="utf-8"))
        assert seconds == 7
        if len(pages) == 3:
            raise KeyboardInterrupt
        if len(pages) == 1:
            runs.agpo_run(folder, 5)

    monkeypatch.setattr(report.time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        report.run(arguments(folder, watch=7))
    assert '<meta http-equiv="refresh" content="7">' in pages[0] and pages[0] != pages[1] == pages[2]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines if "steps" in line] == [f"{folder.name}: {n} steps" for n in (3, 5)]


def test_what_is_no_run_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, words, data, photos = (tmp_path / n for n in ("notes.txt", "a\nb.jsonl", "rows.jsonl", "photos"))
    text.write_text("root:x:0:0\n" * 10)
    words.write_text("not JSON\n")
    data.write_text('{"prompt": "1+1="}\n')
    photos.mkdir()
    (photos / "cat.png").write_bytes(b"\x89PNG")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "nowhere").symlink_to(tmp_path / "absent")
    for path in (
        text,
        words,
        data,
        photos,
        tmp_path / "pipe",
        tmp_path / "nowhere",
        Path("/dev/null"),
        Path("/proc/stat"),
    ):
        assert report.run(arguments(path)) == 2, path
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and path.name.replace("\n", "\\x0a") in said, said
    assert not list(tmp_path.rglob("*.html"))


def test_a_run_folder_with_a_line_break_in_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "two\nlines\t\x1b[31m"
    folder.mkdir()
    runs.agpo_run(folder, 3)
    assert report.run(arguments(folder)) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert "<h1>two\\x0alines" in (folder / "report.html").read_text(encoding="utf-8")


WITHOUT = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "verl", "vllm", "ray", "tensordict", "omegaconf", "hydra"):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocked())
from recipe.agpo.cli import main
sys.exit(main(["report", sys.argv[1]]))
"""


def test_the_report_needs_no_torch(tmp_path: Path) -> None:
    folder = runs.agpo_run(tmp_path, 12)
    done = subprocess.run([sys.executable, "-c", WITHOUT, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (folder / "report.html").read_text(encoding="utf-8") == page([read_run(folder)])


def test_every_panel_has_a_table_and_named_axes(tmp_path: Path) -> None:
    html = page([read_run(runs.agpo_run(tmp_path, 30))])
    figures = re.findall(r'<figure class="panel (?!empty).*?</figure>', html, flags=re.S)
    assert len(figures) > 20
    for figure in figures:
        parsed = Parsed(figure)
        assert parsed.count("table") == 1 and parsed.count("td") >= 2
        names = re.findall(r'<text class="axis"[^>]*>([^<]*)</text>', figure)
        assert len(names) == 2 and all(names), names
        assert 'tabindex="0"' in figure
    reward = Parsed(next(figure for figure in figures if ">Reward<" in figure)).text
    logged = dict(read_run(tmp_path).series("critic/score/mean"))
    assert reward.endswith(f"30{number(logged[30.0])}"), "the last row of the table"


def test_prompts_are_shown_by_their_text_and_reasons_in_words(tmp_path: Path) -> None:
    folder = runs.agpo_run(tmp_path, 6)
    dumps = folder / "checkpoints" / "rollouts"
    dumps.mkdir()
    texts = [f"You are asked: what is {p + 7} + {p}? Think first." for p in range(runs.PROMPTS)]
    rows = [{"input": t, "output": "1", "score": 0.0, "uid": f"{6:08d}-{p:06d}_0_0"} for p, t in enumerate(texts)]
    (dumps / "6.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    html = page([read_run(folder)])
    assert ">…7 + 0?…<" in html and ">…8 + 1?…<" in html, "without what all prompts begin and end with"
    text = Parsed(html).text
    assert any(words in text for words in ("all correct: ", "all wrong: ", "certain: cooled", "uncertain: heated"))


def test_reasons_in_words() -> None:
    directions = ("heated", "cooled")
    assert set(evidence.REASONS) == {reason.label for reason in Reason}
    assert evidence.why("zero_dispersion", [1.0, 1.0], 0.8, 1.0, directions) == "all correct: cooled"
    assert evidence.why("zero_dispersion", [0.0, None], 1.2, 1.0, directions) == "all wrong: heated"
    assert evidence.why("zero_dispersion", [0.5, 0.5], 1.0, 1.0, directions) == "all equal: base value"
    assert evidence.why("zero_dispersion", [1.0], 0.8, None, directions) == "all correct"
    assert (
        evidence.why("a_new_one", [], None, None, directions) == "a new one"
        and evidence.why(None, [], 1, 1, directions) == ""
    )


def test_the_step_size_has_a_section_with_the_effective_rate(tmp_path: Path) -> None:
    run = read_run(runs.agpo_run(tmp_path, 12))
    assert dict(panels.effective_rate(run)) == pytest.approx({float(s): 0.5e-4 for s in range(1, 13)})
    html = page([run])
    assert "Effective learning rate = rate × step size" in html and ">target 0.005<" in html
    (tmp_path / "grpo").mkdir()
    plain = page([read_run(runs.grpo_run(tmp_path / "grpo"))])
    assert "Effective learning rate" in plain and ">Step size</span>" not in plain


def test_the_header_says_what_was_started(tmp_path: Path) -> None:
    folder = runs.agpo_run(tmp_path, 6)
    for start in ("2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00"):
        launch = {"started": start, "overrides": ["a.b=1", "hub_token=very-secret"], "commit": "abc123"}
        launch |= {"versions": {"verl": "0.9.1"}, "machine": {"processor": "Fast", "cores": 2, "memory_gib": 8.0}}
        actor = {"optim": {"lr": 1e-6}, "ppo_mini_batch_size": 8}
        config = {"data": {"train_batch_size": 32}, "actor_rollout_ref": {"model": {"path": "org/m"}, "actor": actor}}
        config["actor_rollout_ref"]["rollout"] = {"n": 8}
        write_launch(folder, launch | {"config": config, "planned": {"steps": 9}})
    text = Parsed(page([read_run(folder)])).text
    for words in ("org/m", "1e-6", "32 prompts × 8 responses, 8 prompts per update", "2026-01-02", "after 2 earlier"):
        assert words in text, words
    for words in ("Fast, 2 cores, 8.0 GiB", "abc123", "verl 0.9.1", "a.b=1", "6 of 9"):
        assert words in text, words
    assert "very-secret" not in text and "very-secret" not in (folder / "run.json").read_text()


def test_runs_have_the_colour_of_their_method(tmp_path: Path) -> None:
    for name in ("one", "two", "grpo"):
        (tmp_path / name).mkdir()
    folders = [
        runs.agpo_run(tmp_path / "one", 3),
        runs.grpo_run(tmp_path / "grpo", 3),
        runs.agpo_run(tmp_path / "two", 3),
    ]
    badges = panels.badges(read_runs(folders))
    assert [badge.style for badge in badges] == ["r0", "r1", "r2"] and [b.letter for b in badges] == ["A", "B", "C"]
