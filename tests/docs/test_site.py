# SPDX-License-Identifier: Apache-2.0
"""The documents as a site: built strictly, so no link is dead and no page is lost; and what is in it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Tabs, in the order in which a reader needs them.
ORDER = ["Home", "Try", "Train", "Tune", "Evaluate", "Port", "Understand", "Contribute"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    python = os.environ.get("AGPO_DOCS_PYTHON")
    if not python:
        pytest.skip("no environment with mkdocs: run scripts/run_tests.sh, which makes it (AGPO_DOCS_PYTHON)")
    out = tmp_path_factory.mktemp("site")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [python, "-m", "mkdocs", "build", "--strict", "--site-dir", out],
        cwd=ROOT,
        env=kept | {"NO_MKDOCS_2_WARNING": "1", "PATH": f"{Path(python).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return out


class Addresses(HTMLParser):
    """Links, sources and anchors of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        for name in ("src", "href"):
            if name in given and tag in ("script", "img", "link") and given.get("rel") != "canonical":
                self.loaded.append(given[name])


def addresses(page: Path) -> Addresses:
    parser = Addresses()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser


def target(page: Path, site: Path, link: str) -> Path:
    """The file that a link of a page leads to."""
    path = unquote(urlparse(link).path)
    found = site / path.lstrip("/") if path.startswith("/") else page.parent / path if path else page
    found = Path(os.path.normpath(found))
    return found / "index.html" if found.is_dir() else found


def test_every_page_is_there_in_the_readers_order(site: Path) -> None:
    home = (site / "index.html").read_text(encoding="utf-8")
    tabs = re.findall(r'<li class="md-tabs__item[^"]*">\s*<a[^>]*>\s*([^<]+?)\s*</a>', home)
    assert tabs == ORDER
    for page in (ROOT / "docs").glob("*.md"):
        assert (site / page.stem / "index.html").is_file() or page.stem == "index", page
    assert (site / "repository/CONTRIBUTING/index.html").is_file()


def test_no_link_is_dead_and_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    """Also what --strict does not see: links within the theme, pictures, anchors of other pages."""
    found = {page: addresses(page) for page in site.rglob("*.html")}
    checked = 0
    for page, content in found.items():
        for link in content.loaded:
            assert not urlparse(link).netloc, f"{page}: {link}"
        for link in [*content.links, *content.loaded]:
            if urlparse(link).scheme or page.name == "404.html":
                continue
            aim = target(page, site, link)
            assert aim.is_file(), f"{page.relative_to(site)}: {link}"
            anchor = urlparse(link).fragment
            if anchor and aim.suffix == ".html" and link in content.links:
                assert unquote(anchor) in found[aim].anchors, f"{page.relative_to(site)}: {link}"
            checked += 1
    assert checked > 1000


def test_the_search_knows_the_words_of_every_page(site: Path) -> None:
    index = json.loads((site / "search/search_index.json").read_text(encoding="utf-8"))
    texts = {entry["location"].partition("#")[0]: "" for entry in index["docs"]}
    for entry in index["docs"]:
        texts[entry["location"].partition("#")[0]] += entry["text"]
    assert "drift_target" in texts["config/"] and "Neyman" in texts["papers/"]
    assert all(f"{page.stem}/" in texts for page in (ROOT / "docs").glob("*.md") if page.stem != "index")


def test_the_reference_has_every_public_name(site: Path) -> None:
    import agpo_core

    anchors = addresses(site / "reference/index.html").anchors
    missing = [
        n for n in agpo_core.__all__ if not any(a.startswith("agpo_core.") and a.endswith(f".{n}") for a in anchors)
    ]
    assert missing == []


def test_the_papers_page_names_functions_that_exist() -> None:
    import agpo_core

    rows = re.findall(r"^\| (?!what|---)(.+) \|$", (ROOT / "docs/papers.md").read_text(encoding="utf-8"), flags=re.M)
    named = {name for row in rows for name in re.findall(r"`([a-zA-Z_]{4,})`", row.split(" | ")[-1])}
    assert len(rows) > 15 and len(named) > 10
    assert [name for name in named if not hasattr(agpo_core, name)] == []
