"""A real Chromium without a window, driven over a pipe by its own DevTools protocol."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["Browser", "Page", "chromium", "open_browser"]

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe"),
)
PATIENCE = 120.0
"""Seconds that the browser has for an answer, on a busy machine."""


def chromium() -> str:
    """The path of an installed Chromium, or nothing."""
    return next(filter(None, map(shutil.which, NAMES)), "")


@contextmanager
def open_browser(profile: Path) -> Iterator[Browser]:
    """A browser with a new profile; it ends with the context."""
    from_us, to_browser = os.pipe()
    from_browser, to_us = os.pipe()
    # It reads from 3 and writes to 4.
    redirect = f'exec "$@" 3<&{from_us} 4>&{to_us}'
    process = subprocess.Popen(
        ["bash", "-c", redirect, "bash", chromium(), *FLAGS, f"--user-data-dir={profile}"],
        pass_fds=(from_us, to_us),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(from_us)
    os.close(to_us)
    try:
        yield Browser(to_browser, from_browser)
    finally:
        process.kill()
        process.wait()
        os.close(to_browser)
        os.close(from_browser)


class Browser:
    """Calls of the protocol, and the events that come between their answers."""

    def __init__(self, out: int, into: int) -> None:
        self._out, self._into = out, into
        self._last = 0
        self._rest = b""
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str = "", **params: Any) -> dict[str, Any]:
        """The result of a command. Raises RuntimeError: it was refused; TimeoutError."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        message |= {"sessionId": session} if session else {}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE
        while True:
            answer = self._read(deadline - time.monotonic())
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])
            self.events.append(answer)

    def page(self, url: str, width: int = 1440, height: int = 900, *, dark: bool = False) -> Page:
        """A page at a size and in a colour scheme."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        page = Page(self, str(attached["sessionId"]))
        page.call("Page.enable")
        page.call("Runtime.enable")
        page.call("Log.enable")
        follow = {"autoAttach": True, "waitForDebuggerOnStart": False, "flatten": True}
        page.call("Target.setAutoAttach", **follow)
        page.resize(width, height)
        page.scheme("dark" if dark else "light")
        page.call("Page.bringToFront")  # nothing is drawn behind another page
        page.call("Page.navigate", url=url)
        return page

    def _read(self, seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._into], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError("the browser does not answer")
            self._rest += os.read(self._into, 1 << 20)
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))


class Page:
    """One page of a browser."""

    def __init__(self, browser: Browser, session: str) -> None:
        self.browser, self.session = browser, session

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A command of the protocol for this page."""
        return self.browser.call(method, self.session, **params)

    def resize(self, width: int, height: int) -> None:
        """The window's size in CSS pixels; below 500 it is that of a phone."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def scheme(self, name: str) -> None:
        """``light`` or ``dark``, as the system would say."""
        feature = {"name": "prefers-color-scheme", "value": name}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def frame(self) -> Page:
        """The page in the newest frame that has a process of its own, as a sandboxed one has."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            self.evaluate("0")
            for event in reversed(self.browser.events):
                params = event.get("params", {})
                if event["method"] != "Target.attachedToTarget":
                    continue
                if params["targetInfo"]["type"] == "iframe":
                    inside = Page(self.browser, str(params["sessionId"]))
                    inside.call("Runtime.enable")
                    return inside
            time.sleep(0.05)
        raise TimeoutError("the page has no frame of its own")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression. Raises RuntimeError: it failed."""
        options = {"returnByValue": True, "awaitPromise": True}
        result = self.call("Runtime.evaluate", expression=expression, **options)
        if "exceptionDetails" in result:
            raise RuntimeError(str(result["exceptionDetails"]))
        return result["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Wait until an expression is true. Raises TimeoutError."""
        deadline = time.monotonic() + PATIENCE
        while not self.evaluate(f"Boolean({expression})"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"never true: {expression}")
            time.sleep(0.05)

    def screenshot(self, path: Path) -> Path:
        """The whole page as PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(shot["data"]))
        return path

    def troubles(self) -> list[str]:
        """Errors and warnings on the page's console so far."""
        found = []
        for event in self.browser.events:
            if event.get("sessionId") != self.session:
                continue
            params = event.get("params", {})
            kind = event["method"]
            if kind == "Runtime.exceptionThrown":
                found.append(str(params["exceptionDetails"]))
            elif kind == "Runtime.consoleAPICalled" and params["type"] in {"error", "warning"}:
                found.append(str(params["args"]))
            elif kind == "Log.entryAdded" and params["entry"]["level"] == "error":
                found.append(str(params["entry"]))
        return found
