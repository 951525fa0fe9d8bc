"""A real browser, driven over a pipe by the DevTools protocol: what a page logs, asks for and answers.

Debian's Chromium, since the browsers of other test tools cannot be had everywhere. The protocol's messages
are JSON, each ended by a zero byte, on the file descriptors 3 and 4.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--remote-debugging-pipe",
)
_PATIENCE = 60.0  # seconds for one answer


class Browser:
    """One browser with one page; close it, or use it as a context."""

    def __init__(self, folder: Path) -> None:
        assert CHROMIUM is not None
        self.downloads = folder / "downloads"
        self.downloads.mkdir(parents=True)
        self.said: list[str] = []
        """What the page's console showed, errors and refusals of its policy included."""
        self.asked: list[str] = []
        """The addresses that the page asked for."""
        self._events: list[str] = []
        self._last = 0
        self._rest = b""
        commands_in, self._commands = os.pipe()
        self._answers, answers_out = os.pipe()
        # bash puts the pipes where the browser expects them.
        line = f'exec "$@" 3<&{commands_in} 4>&{answers_out}'
        program = ["bash", "-c", line, "bash", CHROMIUM, *_FLAGS, f"--user-data-dir={folder / 'profile'}"]
        self._process = subprocess.Popen(
            program,
            pass_fds=(commands_in, answers_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands_in)
        os.close(answers_out)
        self._session = ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._commands)  # with its commands gone the browser ends
        os.close(self._answers)
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def open(self, file: Path, width: int, height: int) -> None:
        """Load a file in a window of this size and wait until every chart is drawn."""
        self.resize(width, height)
        self._events.clear()
        self.call("Page.navigate", url=file.as_uri())
        self.until(lambda: "Page.loadEventFired" in self._events)
        self.drawn()

    def resize(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def drawn(self) -> None:
        """Wait until every chart that has room is drawn for it."""
        script = """[...document.querySelectorAll('.chart')].filter(c => c.clientWidth)
            .every(c => c.dataset.room === String(c.clientWidth) && c.querySelector('svg'))"""
        self.until(lambda: bool(self.run(script)))

    def run(self, script: str) -> Any:
        """Return the value of an expression."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def point_at(self, x: float, y: float) -> None:
        """Move the mouse to a place of the window."""
        for dx in (3, 0):
            self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + dx, y=y)

    def press(self, key: str) -> None:
        """Press a key that has no text, or Enter."""
        codes = {"Enter": 13, "Tab": 9, " ": 32}
        more = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=codes[key],
                **(more if kind == "keyDown" else {}),
            )

    def picture(self, file: Path, whole: bool = False) -> None:
        """Save what is seen, or the whole page, as PNG."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(answer["data"]))

    def print(self) -> bytes:
        """Return the page as PDF, in its own paper size."""
        answer = self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=False)
        return base64.b64decode(answer["data"])

    def until(self, true: Any, seconds: float = _PATIENCE) -> None:
        """Wait until something is true."""
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, f"not within {seconds} s; the page said {self.said}"
            self.call("Runtime.evaluate", expression="0")
            time.sleep(0.02)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its answer, noting what happens before it comes."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if self._session and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._last:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], _PATIENCE)
            assert ready, "the browser does not answer"
            piece = os.read(self._answers, 1 << 20)
            assert piece, "the browser has ended"
            self._rest += piece
        first, self._rest = self._rest.split(b"\0", 1)
        message: dict[str, Any] = json.loads(first)
        return message

    def _note(self, event: dict[str, Any]) -> None:
        method, params = event.get("method", ""), event.get("params", {})
        self._events.append(method)
        if method == "Runtime.consoleAPICalled":
            self.said.append(" ".join(str(a.get("value", a.get("description"))) for a in params["args"]))
        elif method == "Log.entryAdded":
            self.said.append(params["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.said.append(json.dumps(params["exceptionDetails"])[:500])
        elif method == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])
