"""A real browser for the tests: Chromium, driven through chromedriver over WebDriver, which is JSON over HTTP.

    with Browser() as browser:
        browser.open("http://127.0.0.1:3000/")
        browser.click("#ping")

Left out is what the tests do not need of the protocol: https://www.w3.org/TR/webdriver2/ has the rest.
"""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests
from support import ROOT, SECONDS, Pair

from exposee import REFUSALS
from server import Server
from wire import Answer, Request

PAGE, BLANK = ROOT / "console.html", "about:blank"
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the name that WebDriver gives to references to elements
KEYS = {"Enter": "\ue007", "Escape": "\ue00c", "Tab": "\ue004", "Up": "\ue013", "Down": "\ue015", "End": "\ue010"}
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",  # as root, in a container, there is none
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--lang=en-US",
)


class Missing(Exception):
    """There is no browser on this machine; str() says how to get one."""


class Refused(Exception):
    """WebDriver answered with an error."""


def find_programs() -> tuple[str, str]:
    """(chromedriver, browser). Missing when one of them is not installed."""
    driver = shutil.which("chromedriver")
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next((path for name in names if (path := shutil.which(name))), None)
    if driver and browser:
        return driver, browser
    raise Missing("no chromium and chromedriver: apt-get install chromium chromium-driver, or your system's like")


class Browser:
    """One browser with one tab and a fresh profile. Elements are named by CSS selectors."""

    def __init__(self, width: int = 1280, height: int = 800) -> None:
        driver, binary = find_programs()
        self._base = ""
        self._profile = tempfile.TemporaryDirectory(prefix="browser", ignore_cleanup_errors=True)
        self._driver = subprocess.Popen(
            [driver, "--port=0"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._http = requests.Session()
        self._http.trust_env = False  # no proxy between us and our own machine
        try:
            self._start(binary)
        except BaseException:
            self.close()
            raise
        self.resize(width, height)

    def _start(self, binary: str) -> None:
        assert self._driver.stdout
        for line in self._driver.stdout:
            match = re.search(r"on port (\d+)\.$", line.strip())
            if match:
                self._base = f"http://127.0.0.1:{match[1]}/session"
                break
        options = {"binary": binary, "args": [*ARGUMENTS, f"--user-data-dir={self._profile.name}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self._call("POST", "", {"capabilities": {"alwaysMatch": wanted}})
        self._base += f"/{session['sessionId']}"

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        response = self._http.request(method, self._base + path, json=body, timeout=6 * SECONDS)
        value = response.json()["value"]
        if response.status_code != 200:
            raise Refused(f"{value['error']}: {value['message'].splitlines()[0]}")
        return value

    # Pages

    def open(self, url: str) -> None:
        if self._call("GET", "/url") != BLANK:
            self._call("POST", "/url", {"url": BLANK})  # else a mere change of the fragment loads nothing
        if url != BLANK:
            self._call("POST", "/url", {"url": url})

    def back(self) -> None:
        self._call("POST", "/back", {})

    def run(self, script: str, *arguments: Any) -> Any:
        """Call `script` as the body of a function in the page; what it returns."""
        return self._call("POST", "/execute/sync", {"script": script, "args": arguments})

    def wait_for(self, script: str, *arguments: Any) -> Any:
        """Wait until the expression `script` is true in the page, and return its value."""
        end = time.monotonic() + SECONDS
        while not (value := self.run(f"return {script}", *arguments)):
            assert time.monotonic() < end, f"{script} did not become true; the log: {self.log()}"
            time.sleep(0.02)
        return value

    def wait_for_text(self, selector: str, text: str) -> None:
        """Wait until an element that fits has `text` in it."""
        script = "[...document.querySelectorAll(arguments[0])].some((e) => e.textContent.includes(arguments[1]))"
        try:
            self.wait_for(script, selector, text)
        except AssertionError:
            raise AssertionError(f"{selector} has no {text!r}: {self.texts(selector)}; the log: {self.log()}") from None

    def texts(self, selector: str) -> list[str]:
        """What the elements that fit say, in the order of the page."""
        script = "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)"
        found: list[str] = self.run(script, selector)
        return found

    def log(self) -> list[str]:
        """What the browser has complained about since the last call: errors and refusals by the CSP among it."""
        return [entry["message"] for entry in self._call("POST", "/se/log", {"type": "browser"})]

    # Hands

    def _find(self, selector: str) -> str:
        found = self._call("POST", "/element", {"using": "css selector", "value": selector})
        return f"/element/{found[ELEMENT]}"

    def click(self, selector: str) -> None:
        self._call("POST", self._find(selector) + "/click", {})

    def write(self, selector: str, text: str) -> None:
        """Put `text` into a field, instead of what is there."""
        field = self._find(selector)
        self._call("POST", field + "/clear", {})
        self._call("POST", field + "/value", {"text": text})

    def choose(self, selector: str, value: str) -> None:
        """Choose an option of a select element, as soon as it has it."""
        script = "[...document.querySelector(arguments[0]).options].some((o) => o.value === arguments[1])"
        self.wait_for(script, selector, value)
        self.click(f"{selector} option[value='{value}']")

    def press(self, *keys: str) -> None:
        """Press keys, by their names in KEYS, wherever the focus is."""
        actions = [{"type": way, "value": KEYS[key]} for key in keys for way in ("keyDown", "keyUp")]
        self._call("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def allow_clipboard(self, origin: str) -> None:
        """Let pages from there write to the clipboard, as a click does anyway, and read it, so that a test can."""
        granted = {"origin": origin, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
        self._devtools("Browser.grantPermissions", granted)

    def accept(self) -> str:
        """Say yes to a question of the page's; returns the question."""
        text = self._call("GET", "/alert/text")
        self._call("POST", "/alert/accept", {})
        return str(text)

    # Eyes

    def resize(self, width: int, height: int, mobile: bool = False) -> None:
        """Give the page exactly this size: a window has a frame around it, and no window is 360 pixels wide."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self._devtools("Emulation.setDeviceMetricsOverride", metrics)

    def scheme(self, name: str) -> None:
        """Prefer "light" or "dark"."""
        feature = {"name": "prefers-color-scheme", "value": name}
        self._devtools("Emulation.setEmulatedMedia", {"features": [feature]})

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """Write what is to be seen as PNG; with `whole`, the page to its end."""
        taken = self._devtools("Page.captureScreenshot", {"captureBeyondViewport": whole})
        path.write_bytes(base64.b64decode(taken["data"]))

    def _devtools(self, command: str, parameters: dict[str, Any]) -> Any:
        return self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def close(self) -> None:
        try:
            if self._base.count("/") > 3:
                self._call("DELETE", "")
        finally:
            self._driver.terminate()
            self._driver.wait(SECONDS)
            assert self._driver.stdout
            self._driver.stdout.close()
            self._http.close()
            self._profile.cleanup()

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# --- the page, served as the exposee serves it ---------------------------------------------------------------------


class Console:
    """A pair's exposee with its page on a port of its own. `cut` breaks the streams at their next news."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.pair = Pair(folder, **options)
        self.cut = threading.Event()
        self.streams = 0  # how many have been opened
        routes = self.pair.exposee.routes
        stream = routes["/deliveries/stream"]["GET"]
        assert stream
        self.stream = stream
        routes = {**routes, "/deliveries/stream": {"GET": self._stream}}
        self.server = Server(("127.0.0.1", 0), routes, refusals=REFUSALS)
        self.url = self.server.url + "/"
        self._thread = threading.Thread(target=self.server.run, daemon=True)
        self._thread.start()

    def _stream(self, request: Request) -> Answer:
        answer = self.stream(request)
        stream, self.streams = answer.stream, self.streams + 1
        assert stream

        def until_cut() -> Iterator[bytes]:
            try:
                for piece in stream:
                    if self.cut.is_set():
                        raise ConnectionResetError
                    yield piece
            finally:
                stream.close()

        answer.stream = until_cut()
        return answer

    def close(self) -> None:
        self.server.stop()
        self._thread.join(SECONDS)
        self.pair.close()

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
