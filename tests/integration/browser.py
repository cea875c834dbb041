"""A headless Chromium, driven through pipes by its own protocol: no driver, no port, no package."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 60.0  # seconds, on a machine that has other things to do
_FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
    *("--host-resolver-rules=MAP * ~NOTFOUND", "--remote-debugging-pipe"),
]
# The protocol speaks through the descriptors 3 and 4.
_LAUNCH = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)


def find() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass
class View:
    """A page that was opened, and what happened meanwhile."""

    browser: "Browser"
    session: str
    complaints: list[str] = field(default_factory=list)
    """Errors and warnings of the console."""
    requests: list[str] = field(default_factory=list)
    """Addresses of whatever the page asked for."""

    def ask(self, method: str, **words: Any) -> dict[str, Any]:
        return self.browser.ask(method, self.session, **words)

    def value(self, expression: str) -> Any:
        """Of JavaScript."""
        return self.ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def picture(self, *, whole: bool = False) -> bytes:
        """A PNG of what is seen, or of the whole page."""
        made = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(made["data"])


class Browser:
    """One process; `view` opens a page."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = write, read
        self._left = b""
        self._count = 0
        self._views: dict[str, View] = {}
        self._loaded: set[str] = set()

    def view(self, url: str, *, width: int, height: int, is_dark: bool = False) -> View:
        target = self.ask("Target.createTarget", None, url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", None, targetId=target, flatten=True)["sessionId"]
        view = self._views[session] = View(browser=self, session=session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            view.ask(f"{domain}.enable")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        view.ask("Emulation.setEmulatedMedia", features=[scheme])
        is_phone = width < 600
        view.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=is_phone)
        view.ask("Page.navigate", url=url)
        while session not in self._loaded:
            self._hear(self._next())
        return view

    def ask(self, method: str, session: str | None, **words: Any) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": words}
        os.write(self._write, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self._count:
                assert "error" not in found, f"{method}: {found}"
                return found["result"]
            self._hear(found)

    def _hear(self, event: dict[str, Any]) -> None:
        view = self._views.get(event.get("sessionId", ""))
        if view is None:
            return
        words = event.get("params", {})
        match event.get("method"):
            case "Page.loadEventFired":
                self._loaded.add(view.session)
            case "Network.requestWillBeSent":
                view.requests.append(words["request"]["url"])
            case "Log.entryAdded" if words["entry"]["level"] in ("error", "warning"):
                view.complaints.append(words["entry"]["text"])
            case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown":
                view.complaints.append(json.dumps(words))
            case _:
                pass

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE
        while b"\0" not in self._left:
            is_there = select.select([self._read], [], [], max(0.0, until - time.monotonic()))[0]
            more = os.read(self._read, 1 << 20) if is_there else b""
            assert more, "the browser says nothing"
            self._left += more
        first, self._left = self._left.split(b"\0", 1)
        return json.loads(first)


@contextmanager
def started(program: str, profile: Path) -> Iterator[Browser]:
    """Start it with an empty profile, and end it."""
    ours: list[int] = []
    theirs: list[int] = []
    for inner, outer in (os.pipe(), os.pipe()[::-1]):
        # Above 4, so that neither stands in the way of the other.
        theirs.append(fcntl.fcntl(inner, fcntl.F_DUPFD, 10))
        os.close(inner)
        ours.append(outer)
    command = [sys.executable, "-c", _LAUNCH, *map(str, theirs), program, *_FLAGS, f"--user-data-dir={profile}"]
    process = subprocess.Popen(
        command, pass_fds=theirs, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for end in theirs:
        os.close(end)
    try:
        browser = Browser(*ours)
        yield browser
        browser.ask("Browser.close", None)
        process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()
        for end in ours:
            os.close(end)
