# SPDX-License-Identifier: Apache-2.0
"""Loads a page in a real browser engine (Chromium inside Qt WebEngine), without a screen, and says what it saw.

    python tests/report/browser.py PAGE.html OUT_FOLDER light|dark

For each screen it saves ``<screen>-<scheme>.png``, the whole page, and writes ``<scheme>.json``. It runs as a process
of its own: an engine that crashes must not take the tests with it, and the colour scheme is an engine's for life.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from PySide6.QtCore import QEventLoop, QPoint, QPointF, Qt, QTimer, QUrl
from PySide6.QtGui import QImage, QMouseEvent
from PySide6.QtWebEngineCore import QWebEnginePage, QWebEngineSettings
from PySide6.QtWebEngineWidgets import QWebEngineView
from PySide6.QtWidgets import QApplication

SCHEMES = {"dark": 0, "light": 1}  # Blink's numbers
SCREENS = {"phone": (390, 844), "desktop": (1440, 900)}
TALLEST = 16000  # pixels of a screenshot
SETTLE_MS = 300
LOOK = (Path(__file__).parent / "look.js").read_text(encoding="utf-8")


class Page(QWebEnginePage):
    """Keeps what the page says on its console, and every address that it asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.console: list[str] = []

    def javaScriptConsoleMessage(self, level, message, line, source):
        self.console.append(f"{level.name}: {message} ({line})")


def wait(milliseconds: int) -> None:
    loop = QEventLoop()
    QTimer.singleShot(milliseconds, loop.quit)
    loop.exec()


def evaluate(page: QWebEnginePage, code: str):
    loop, box = QEventLoop(), []
    page.runJavaScript(f"JSON.stringify({code})", lambda value: (box.append(value), loop.quit()))
    QTimer.singleShot(20_000, loop.quit)
    loop.exec()
    return json.loads(box[0])


def load(view: QWebEngineView, path: Path) -> bool:
    loop, box = QEventLoop(), []
    view.loadFinished.connect(lambda ok: (box.append(ok), loop.quit()))
    view.load(QUrl.fromLocalFile(str(path)))
    QTimer.singleShot(30_000, loop.quit)
    loop.exec()
    return box == [True]


def hover(view: QWebEngineView, x: float, y: float) -> None:
    """Move the mouse over a point of the window."""
    target = view.focusProxy() or view
    place = QPointF(x, y)
    event = QMouseEvent(
        QMouseEvent.Type.MouseMove,
        place,
        target.mapToGlobal(QPoint(int(x), int(y))),
        Qt.MouseButton.NoButton,
        Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier,
    )
    QApplication.sendEvent(target, event)


def painted(image: QImage) -> bool:
    """Whether something stands in the lowest quarter of a picture."""
    colours = {
        image.pixel(x, y) for y in range(3 * image.height() // 4, image.height(), 7) for x in range(0, image.width(), 7)
    }
    return len(colours) > 2


def visit(path: Path, picture: Path, width: int, height: int) -> dict:
    """Look at the page on one screen."""
    view, page = QWebEngineView(), Page()
    view.setPage(page)
    page.settings().setAttribute(QWebEngineSettings.WebAttribute.ShowScrollBars, False)  # phones lay them over
    view.resize(width, height)
    view.show()
    loaded = load(view, path)
    wait(SETTLE_MS)
    seen = {"loaded": loaded, "screen": [width, height]} | evaluate(page, LOOK)
    first = seen["first_chart"]
    if first is not None:
        evaluate(page, f"(window.scrollTo({{top: {first['top'] - 100}, behavior: 'instant'}}), 1)")
        wait(SETTLE_MS)
        hover(view, first["x"], 100 + first["height"] / 2)
        wait(SETTLE_MS)
        seen["reading"] = evaluate(page, "[...document.querySelectorAll('.reading .at')].map((e) => e.textContent)")
        hover(view, 1, 1)
        evaluate(page, "(window.scrollTo({top: 0, behavior: 'instant'}), 1)")
    view.resize(width, min(TALLEST, seen["height"]))
    image = view.grab().toImage()
    for _ in range(40):  # the engine paints the new size when it finds the time
        if painted(image):
            break
        wait(SETTLE_MS)
        image = view.grab().toImage()
    seen["painted"] = painted(image)
    image.save(str(picture))
    seen["console"] = page.console
    view.setPage(None)
    page.deleteLater()
    view.deleteLater()
    wait(50)
    return seen


def main() -> int:
    path, out, scheme = Path(sys.argv[1]).resolve(), Path(sys.argv[2]), sys.argv[3]
    out.mkdir(parents=True, exist_ok=True)
    os.environ["QT_QPA_PLATFORM"] = "offscreen"
    # Containers run as root without the kernel features of the sandbox; the page is our own.
    os.environ["QTWEBENGINE_CHROMIUM_FLAGS"] = (
        f"--no-sandbox --disable-gpu --blink-settings=preferredColorScheme={SCHEMES[scheme]}"
    )
    app = QApplication(["browser"])
    seen = {name: visit(path, out / f"{name}-{scheme}.png", *size) for name, size in SCREENS.items()}
    (out / f"{scheme}.json").write_text(json.dumps(seen, indent=2), encoding="utf-8")
    app.quit()
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # Chromium's own shutdown may hang without a display server
