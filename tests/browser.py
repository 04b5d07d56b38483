"""Headless Chromium driven over a pair of pipes (the DevTools protocol), with nothing but the standard library."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class PageError(AssertionError):
    """The page's own script failed."""


class Browser:
    """One browser with one page at a time; `problems` are the errors and warnings that the page's console had."""

    def __init__(self) -> None:
        assert CHROMIUM is not None
        self.home = TemporaryDirectory(prefix="chromium-")
        down, self.write = os.pipe()
        self.read, up = os.pipe()
        flags = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
            "--disable-background-networking", f"--user-data-dir={self.home.name}", "--remote-debugging-pipe", "about:blank",
        ]
        # the protocol is spoken on descriptors 3 and 4
        command = ["bash", "-c", f'exec "$@" 3<&{down} 4>&{up}', "bash", CHROMIUM, *flags]
        self.process = subprocess.Popen(command, pass_fds=(down, up), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(down)
        os.close(up)
        self.rest, self.count, self.session = b"", 0, ""
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.events: list[str] = []

    def close(self) -> None:
        with suppress(OSError, EOFError):
            self._send("Browser.close", at_root=True)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.read)
        os.close(self.write)
        self.home.cleanup()

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            more = os.read(self.read, 1 << 20)
            if not more:
                raise EOFError("the browser has gone")
            self.rest += more
        first, self.rest = self.rest.split(b"\0", 1)
        return json.loads(first)

    def _send(self, method: str, at_root: bool = False, **params: Any) -> dict[str, Any]:
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        if self.session and not at_root:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            found = self._message()
            if found.get("id") == self.count:
                if "error" in found:
                    raise PageError(f"{method}: {found['error']['message']}")
                return found["result"]
            self._note(found)

    def _note(self, event: dict[str, Any]) -> None:
        name, params = event.get("method", ""), event.get("params", {})
        self.events.append(name)
        if name == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description") or details["text"])
        elif name == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.problems.append(" ".join(str(a.get("value", a.get("description"))) for a in params["args"]))
        elif name == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(params["entry"]["text"])
        elif name == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def open(self, path: Path, width: int = 1280, height: int = 900, dark: bool = False, phone: bool = False) -> None:
        """Load a file in a page of this size, with nothing stored by those before, and wait until it has loaded."""
        if not self.session:
            target = self._send("Target.createTarget", at_root=True, url="about:blank")["targetId"]
            self.session = self._send("Target.attachToTarget", at_root=True, targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self._send(f"{domain}.enable")
        else:
            self.run("localStorage.clear()")
        self._send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        media = {"prefers-color-scheme": "dark" if dark else "light", "prefers-reduced-motion": "reduce"}
        self._send("Emulation.setEmulatedMedia", features=[{"name": k, "value": v} for k, v in media.items()])
        self.problems.clear()
        self.requests.clear()
        self.events.clear()
        self._send("Page.navigate", url=path.resolve().as_uri())
        while "Page.loadEventFired" not in self.events:
            self._note(self._message())

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self._send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            details = found["exceptionDetails"]
            raise PageError(details.get("exception", {}).get("description") or details["text"])
        return found["result"].get("value")

    def settle(self) -> None:
        """Wait until what was set off has been drawn."""
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def set(self, selector: str, value: str) -> None:
        """Choose the value of a field."""
        self.run(f"""(() => {{ const field = document.querySelector({json.dumps(selector)});
            field.value = {json.dumps(value)}; field.dispatchEvent(new Event("change")); }})()""")

    def click(self, selector: str) -> None:
        """A real click in the middle of what the selector finds, scrolled into view first."""
        place = self.run(f"""(() => {{
            const found = document.querySelector({json.dumps(selector)});
            found.scrollIntoView({{ block: "center", inline: "center", behavior: "instant" }});
            const box = found.getBoundingClientRect();
            return [box.left + box.width / 2, box.top + box.height / 2];
        }})()""")
        for kind in ("mousePressed", "mouseReleased"):
            self._send("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def key(self, key: str, code: int) -> None:
        """A key pressed and let go."""
        text = {"Enter": "\r", " ": " "}.get(key, "")
        for kind in ("keyDown", "keyUp"):
            self._send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code,
                       text=text if kind == "keyDown" else "")

    def type(self, selector: str, text: str) -> None:
        """Text typed into a field."""
        self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        self._send("Input.insertText", text=text)

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """The page as a picture: as tall as it is, or what is in view."""
        found = self._send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def pdf(self, path: Path) -> None:
        """The page as it prints."""
        path.write_bytes(base64.b64decode(self._send("Page.printToPDF", printBackground=True)["data"]))
