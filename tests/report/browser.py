"""Drive a real browser over a pipe by the DevTools protocol, recording what a page logs and requests.

It is Debian's Chromium, because the browsers of other test tools are not available everywhere. The messages
of the protocol are JSON, each followed by a zero byte, on the file descriptors 3 and 4.
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
_TIMEOUT = 60.0  # seconds for one answer


class Browser:
    """One browser with one page; close it, or use it as a context manager."""

    def __init__(self, folder: Path) -> None:
        assert CHROMIUM is not None
        self.downloads = folder / "downloads"
        self.downloads.mkdir(parents=True)
        self.logged: list[str] = []
        """The messages on the page's console, including errors and violations of its policy."""
        self.requested: list[str] = []
        """The addresses that the page requested."""
        self._events: list[str] = []
        self._last = 0
        self._unread = b""
        commands_in, self._commands = os.pipe()
        self._answers, answers_out = os.pipe()
        # bash moves the pipes to the file descriptors that the browser expects.
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
        os.close(self._commands)  # the browser exits when its command pipe closes
        os.close(self._answers)
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def open(self, file: Path, width: int, height: int) -> None:
        """Load a file in a window of this size, and wait until every chart is drawn."""
        self.resize(width, height)
        self._events.clear()
        self.call("Page.navigate", url=file.as_uri())
        self.until(lambda: "Page.loadEventFired" in self._events)
        self.wait_for_charts()

    def resize(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def wait_for_charts(self) -> None:
        """Wait until every visible chart is drawn for its width."""
        script = """[...document.querySelectorAll('.chart')].filter(c => c.clientWidth)
            .every(c => c.dataset.width === String(c.clientWidth) && c.querySelector('svg'))"""
        self.until(lambda: bool(self.run(script)))

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def point_at(self, x: float, y: float) -> None:
        """Move the mouse to a point of the window."""
        for dx in (3, 0):
            self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + dx, y=y)

    def press(self, key: str) -> None:
        """Press Enter, or a key that types no text."""
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
        """Save the visible part of the page, or all of it, as PNG."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(answer["data"]))

    def print(self) -> bytes:
        """Return the page as PDF, in the paper size of its style sheet."""
        answer = self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=False)
        return base64.b64decode(answer["data"])

    def until(self, condition: Any, seconds: float = _TIMEOUT) -> None:
        """Wait until a condition holds."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"timed out after {seconds} s; the page logged {self.logged}"
            self.call("Runtime.evaluate", expression="0")
            time.sleep(0.02)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its answer, recording the events that arrive first."""
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
            self._record(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._answers], [], [], _TIMEOUT)
            assert ready, "no answer from the browser"
            piece = os.read(self._answers, 1 << 20)
            assert piece, "the browser exited"
            self._unread += piece
        first, self._unread = self._unread.split(b"\0", 1)
        message: dict[str, Any] = json.loads(first)
        return message

    def _record(self, event: dict[str, Any]) -> None:
        method, params = event.get("method", ""), event.get("params", {})
        self._events.append(method)
        if method == "Runtime.consoleAPICalled":
            self.logged.append(" ".join(str(a.get("value", a.get("description"))) for a in params["args"]))
        elif method == "Log.entryAdded":
            self.logged.append(params["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.logged.append(json.dumps(params["exceptionDetails"])[:500])
        elif method == "Network.requestWillBeSent":
            self.requested.append(params["request"]["url"])
