"""A headless Chromium, driven over its debugging pipe: no driver program, no port, no package.

Messages are JSON objects ended by a zero byte, on file descriptors 3 (to it) and 4 (from it); the
protocol is https://chromedevtools.github.io/devtools-protocol/.
"""

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium() -> str | None:
    """The program, or None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """One browser with one page; a context manager. Remembers what the page fetched and said."""

    def __init__(self, program: str, profile: Path) -> None:
        down, self._to = os.pipe()
        self._from, up = os.pipe()
        self._messages = os.fdopen(self._from, "rb")
        # the shell makes the pipes' ends 3 and 4, whatever numbers they have here
        script = f'exec "$@" 3<&{down} 4>&{up}'
        options = ["--headless", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        quiet = ["--no-first-run", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses root otherwise
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", program, *options, *quiet, *sandbox],
            pass_fds=(down, up),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(down)
        os.close(up)
        self._number = 0
        self._buffer = b""
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.send(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)
        os.close(self._to)
        self._messages.close()

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask for something, and wait for its answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self.events.append(answer)

    def open(self, url: str, *, width: int, dark: bool = False) -> None:
        """Show a page, `width` CSS pixels wide, and wait until all of it is loaded."""
        self.events.clear()
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", media="screen", features=[scheme])
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        self.send("Page.navigate", url=url)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def value(self, expression: str) -> Any:
        """What a JavaScript expression is in the page."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def fetched(self) -> list[str]:
        """Addresses that were asked for since `open`, without what is inlined."""
        asked = [event["params"] for event in self.events if event["method"] == _REQUEST]
        urls = [each["request"]["url"] for each in asked]
        return [url for url in urls if not url.startswith("data:")]

    def complaints(self) -> list[Any]:
        """What stands in the console since `open`: messages, errors, refusals."""
        said = {"Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"}
        return [event["params"] for event in self.events if event["method"] in said]

    def screenshot(self, file: Path) -> None:
        """The whole page as a PNG file."""
        taken = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(taken["data"]))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            more = os.read(self._from, 1 << 20)
            assert more, f"Chromium ended with code {self._process.wait(30)}"
            self._buffer += more
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


_REQUEST = "Network.requestWillBeSent"
