# SPDX-License-Identifier: Apache-2.0
"""MkDocs hook of ``mkdocs.yml``: files outside ``docs/`` that pages link to, and a page with every docstring.

A page or picture outside ``docs/`` gets the address ``repository/<its path>``; links to it are rewritten. The documents
therefore have links that work in a checkout and on a forge too.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = "repository"
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")  # in the navigation, whether or not a page links to them
LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def on_files(files: Files, *, config: Any) -> Files:
    """Add the files outside ``docs/`` that are linked to, and the API reference."""
    waiting = [*PAGES, *(f"docs/{file.src_uri}" for file in files.documentation_pages())]
    seen: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        if not path.startswith("docs/"):
            files.append(
                File.generated(config, _address(path), abs_src_path=str(ROOT / path), inclusion=InclusionLevel.INCLUDED)
            )
        if path.endswith(".md"):
            waiting += [linked for _, linked in _links(path, (ROOT / path).read_text(encoding="utf-8")) if linked]
    files.append(File.generated(config, "reference.md", content=_reference()))
    for file in list(files):
        if file.src_uri.endswith(".py"):
            files.remove(file)
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Rewrite links between ``docs/`` and the rest of the repository."""
    uri = page.file.src_uri
    path = uri.removeprefix(f"{OUTSIDE}/") if uri.startswith(f"{OUTSIDE}/") else f"docs/{uri}"
    targets = dict(_links(path, markdown))

    def rewritten(match: re.Match[str]) -> str:
        target = targets.get(match[2])
        if target is None:
            return match[0]
        return match[1] + posixpath.relpath(_address(target), posixpath.dirname(uri) or ".") + match[3]

    return LINK.sub(rewritten, markdown)


def _links(path: str, text: str) -> list[tuple[str, str | None]]:
    """(link as written, path in the repository) of every link that leads to a file of the repository."""
    found = []
    for match in LINK.finditer(FENCE.sub("", text)):
        if "://" not in match[2]:
            target = posixpath.normpath(posixpath.join(posixpath.dirname(path), match[2]))
            found.append((match[2], target if (ROOT / target).is_file() else None))
    return found


def _address(path: str) -> str:
    """Where a file of the repository is in the site's sources."""
    return path.removeprefix("docs/") if path.startswith("docs/") else f"{OUTSIDE}/{path}"


def _reference() -> str:
    """Every public name with its docstring, in the sections of ``docs/api.md``."""
    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    lines = [
        "# API reference",
        "",
        "Every public name of `agpo_core`, from its docstring. [api.md](api.md) is the list.",
    ]
    for line in text.splitlines():
        if line.startswith("## "):
            lines += ["", line]
        elif named := re.match(r"\| `(\w+)` \| \S", line):
            lines += ["", f"::: agpo_core.{named[1]}"]
    return "\n".join(lines) + "\n"
