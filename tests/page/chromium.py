"""A headless Chromium, driven over its own pipe (Chrome DevTools Protocol); it ends with this process, however that ends."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from threading import Condition, Thread
from typing import Any

from tests.servers import die_with_parent

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--no-default-browser-check",
    "--disable-extensions", "--disable-component-update", "--disable-background-networking", "--disable-sync", "--mute-audio",
    "--disable-background-timer-throttling", "--disable-backgrounding-occluded-windows", "--disable-renderer-backgrounding",
    "--disable-features=Translate,MediaRouter,OptimizationHints", "--remote-debugging-pipe",
)  # fmt: skip
KEYS = {"Enter": ("\r", 13), "Escape": ("", 27), "Tab": ("", 9)}


def find_chromium() -> str | None:
    """The program, or None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Failed(AssertionError):
    """The browser refused a command, or the page threw."""


class Chromium:
    """The browser process. Commands may be sent from one thread; what the browser says is read by another."""

    def __init__(self, program: str, environment: dict[str, str] | None = None) -> None:
        self._folder = tempfile.mkdtemp(prefix="swt-chromium-")
        theirs, self._write = os.pipe()
        self._read, theirs_too = os.pipe()

        def wire() -> None:
            die_with_parent()
            # Its pipe is file 3 and 4; first out of the way, in case one of ours has that number.
            low, high = os.dup(theirs), os.dup(theirs_too)
            os.dup2(low, 3)
            os.dup2(high, 4)

        self._process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={self._folder}", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=environment, close_fds=False, preexec_fn=wire, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        os.close(theirs_too)
        self._numbers = count(1)
        self._answers: dict[int, dict[str, Any]] = {}
        self._changed = Condition()
        self._pages: dict[str, Page] = {}
        self._open = True
        self._reader = Thread(target=self._listen, daemon=True)
        self._reader.start()

    def close(self) -> None:
        """End it and wait for its end."""
        with suppress(OSError, Failed):
            self.send("Browser.close", wait=5)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        self._reader.join(5)
        os.close(self._read)
        shutil.rmtree(self._folder, ignore_errors=True)

    def send(self, method: str, session: str | None = None, *, wait: float = 30, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        return self.answer(self.begin(method, session, **parameters), wait, method)

    def begin(self, method: str, session: str | None = None, **parameters: Any) -> int:
        """Send a command; returns its number."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        return number

    def answer(self, number: int, wait: float, about: str) -> dict[str, Any]:
        """Wait for the answer to a command."""
        self.wait(lambda: number in self._answers, wait, about)
        answer = self._answers.pop(number)
        if "error" in answer:
            raise Failed(f"{about}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    def wait(self, happened: Callable[[], object], seconds: float, about: str) -> None:
        """Wait until something that the browser says makes it so."""
        with self._changed:
            if not self._changed.wait_for(lambda: happened() or not self._open, seconds):
                raise Failed(f"waited {seconds:g} s for {about}")
            if not happened():
                raise Failed(f"Chromium ended while {about} was waited for")

    @contextmanager
    def context(self) -> Iterator[Context]:
        """A profile of its own: cookies, storage, pages; gone at the end."""
        number = self.send("Target.createBrowserContext")["browserContextId"]
        try:
            yield Context(self, number)
        finally:
            for page in [page for page in self._pages.values() if page.context == number]:
                self._pages.pop(page.session)
            self.send("Target.disposeBrowserContext", browserContextId=number)

    def attach(self, context: str, target: str) -> Page:
        """Drive a page."""
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, context, target, session)
        return page

    def _listen(self) -> None:
        rest = b""
        while chunk := self._chunk():
            *messages, rest = (rest + chunk).split(b"\0")
            with self._changed:
                for message in messages:
                    self._take(json.loads(message))
                self._changed.notify_all()
        with self._changed:
            self._open = False
            self._changed.notify_all()

    def _chunk(self) -> bytes:
        try:
            return os.read(self._read, 1 << 20)
        except OSError:
            return b""

    def _take(self, message: dict[str, Any]) -> None:
        if "id" in message:
            self._answers[message["id"]] = message
        elif page := self._pages.get(message.get("sessionId", "")):
            page.take(message["method"], message["params"])


class Context:
    """One profile."""

    def __init__(self, chromium: Chromium, number: str) -> None:
        self._chromium = chromium
        self._number = number

    def page(self, script: str = "", *, width: int = 1280, height: int = 860) -> Page:
        """A new page that runs `script` before everything else in each document."""
        target = self._chromium.send(
            "Target.createTarget", url="about:blank", browserContextId=self._number, width=width, height=height, newWindow=True
        )["targetId"]
        page = self._chromium.attach(self._number, target)
        page.prepare(script)
        return page


class Page:
    """One tab, and what happened in it."""

    def __init__(self, chromium: Chromium, context: str, target: str, session: str) -> None:
        self._chromium = chromium
        self.context = context
        self.session = session
        self._target = target
        self.told: list[Any] = []  # what the page gave to `tell(…)`, as JSON
        self.dialogs: list[str] = []
        self.errors: list[str] = []
        self.loads = 0

    def prepare(self, script: str) -> None:
        """Switch on what is used here."""
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")
        self.send("Emulation.setFocusEmulationEnabled", enabled=True)
        self.send("Runtime.addBinding", name="tell")
        if script:
            self.send("Page.addScriptToEvaluateOnNewDocument", source=script)

    def take(self, method: str, told: dict[str, Any]) -> None:
        """What the browser says about this page; called by the thread that reads."""
        if method == "Runtime.bindingCalled":
            self.told.append(json.loads(told["payload"]))
        elif method == "Page.javascriptDialogOpening":
            self.dialogs.append(told["message"])
            self._chromium.begin("Page.handleJavaScriptDialog", self.session, accept=False)
        elif method == "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Page.loadEventFired":
            self.loads += 1

    def send(self, method: str, *, wait: float = 30, **parameters: Any) -> dict[str, Any]:
        """Send a command about this page."""
        return self._chromium.send(method, self.session, wait=wait, **parameters)

    def open(self, url: str) -> None:
        """Go there, and wait until it is loaded."""
        before = self.loads
        answer = self.send("Page.navigate", url=url)
        assert "errorText" not in answer, f"{url}: {answer['errorText']}"
        if "loaderId" in answer:  # else only the part behind # is another one
            self._chromium.wait(lambda: self.loads > before, 30, f"{url} to load")

    def reload(self) -> None:
        """Load it again."""
        before = self.loads
        self.send("Page.reload", ignoreCache=True)
        self._chromium.wait(lambda: self.loads > before, 30, "the page to load again")

    def run(self, expression: str, *, wait: float = 30) -> Any:
        """The value of an expression; a promise is waited for."""
        answer = self.send("Runtime.evaluate", wait=wait, expression=expression, awaitPromise=True, returnByValue=True, userGesture=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise Failed(f"{expression}: {details.get('exception', {}).get('description') or details['text']}")
        return answer["result"].get("value")

    def until(self, expression: str, seconds: float = 15) -> Any:
        """Wait until a change of the document makes the expression true; returns its value."""
        watch = f"""new Promise((resolve) => {{
            const look = () => {{
                let found = null;
                try {{ found = ({expression}); }} catch {{}}
                if (!found) return false;
                resolve(found);
                return true;
            }};
            if (look()) return;
            const all = {{subtree: true, childList: true, attributes: true, characterData: true}};
            new MutationObserver((_, observer) => look() && observer.disconnect()).observe(document, all);
        }})"""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return self.run(watch, wait=max(0.1, deadline - time.monotonic()))
            except Failed as failed:
                if "context was destroyed" in str(failed) or "Cannot find context" in str(failed) or "navigated" in str(failed):
                    continue  # it was loaded again meanwhile
                if time.monotonic() < deadline:
                    raise
                raise Failed(f"waited {seconds:g} s for {expression}; the page says:\n{self.text()}\nerrors: {self.errors}") from None

    def text(self) -> str:
        """What the page shows."""
        return str(self.run("document.body.innerText"))

    def click(self, selector: str, seconds: float = 15) -> None:
        """Click an element that can be seen and that nothing covers; it may have to appear first."""
        hit = f"""(() => {{
            const node = document.querySelector({json.dumps(selector)});
            if (!node || node.disabled) return false;
            node.scrollIntoView({{block: "center"}});
            const box = node.getBoundingClientRect();
            const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
            return Boolean(top && node.contains(top));
        }})()"""
        self.until(hit, seconds)
        self.run(f"(node => {{ node.focus({{preventScroll: true}}); node.click(); }})(document.querySelector({json.dumps(selector)}))")

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self.send("Input.insertText", text=text)

    def press(self, key: str) -> None:
        """Press and release a key."""
        text, code = KEYS.get(key, (key, ord(key[0].upper())))
        about = {"key": key, "text": text, "windowsVirtualKeyCode": code, "code": key}
        self.send("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **about)
        self.send("Input.dispatchKeyEvent", type="keyUp", **about)

    def offline(self, is_off: bool) -> None:
        """Cut the page off from the network, or give it back; open sockets are cut as well."""
        self.send("Network.emulateNetworkConditions", offline=is_off, latency=0, downloadThroughput=-1, uploadThroughput=-1)

    def emulate(self, *, width: int = 1280, height: int = 860, scale: float = 1, mobile: bool = False, dark: bool = False) -> None:
        """The size and kind of the screen."""
        self.send("Emulation.setScrollbarsHidden", hidden=True)
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=mobile)
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def shot(self) -> bytes:
        """A picture of what is to be seen, as PNG."""
        return base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"])

    def close(self) -> None:
        """Close the tab."""
        self._chromium.send("Target.closeTarget", targetId=self._target)
