"A headless Chromium, driven through its own debugging protocol: open a page, ask it questions, take its picture."

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
    "--disable-dev-shm-usage",
    "--window-size=1400,1000",
    "--hide-scrollbars",
)


def find_chromium() -> str | None:
    "The browser's path, or None: the tests then skip."
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


class Browser:
    "One browser with one page; use it as a context."

    def __enter__(self) -> "Browser":
        from websocket import create_connection

        self.home = tempfile.mkdtemp(prefix="disti-chromium-")
        self.process = subprocess.Popen(
            [find_chromium() or "chromium", *FLAGS, f"--user-data-dir={self.home}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            port_file = Path(self.home, "DevToolsActivePort")
            self.wait(lambda: port_file.exists() and port_file.read_text().count("\n"), "the browser's port", 60)
            port, path = port_file.read_text().splitlines()[:2]
            self.socket = create_connection(f"ws://127.0.0.1:{port}{path}", timeout=60, http_no_proxy=["127.0.0.1"])
            self.number, self.session = 0, ""
            page = self.send("Target.createTarget", url="about:blank")["targetId"]
            self.session = self.send("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime"):
                self.send(f"{domain}.enable")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.home, ignore_errors=True)

    def send(self, method: str, **params: Any) -> dict:
        "One command of the protocol and its answer."
        self.number += 1
        session = {"sessionId": self.session} if self.session else {}
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": params} | session))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def open(self, url: str) -> None:
        "Open an address and wait until it has loaded."
        self.send("Page.navigate", url=url)
        self.wait(
            lambda: self.ask("document.readyState") == "complete" and self.ask("location.href") != "about:blank", url
        )

    def ask(self, script: str) -> Any:
        "The value of an expression in the page."
        found = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{script}: {found['result'].get('description', found['exceptionDetails'])}")
        return found["result"].get("value")

    def until(self, script: str, seconds: float = 30) -> Any:
        "Wait until an expression in the page is true; its value."
        return self.wait(lambda: self.ask(script), script, seconds)

    def picture(self, path: str | Path, whole: bool = False) -> Path:
        "Save what is seen (or the whole page) as a PNG."
        shot = self.send(
            "Page.captureScreenshot",
            format="png",
            captureBeyondViewport=whole,
            **(
                {
                    "clip": {
                        "x": 0,
                        "y": 0,
                        "width": 1400,
                        "height": min(self.ask("document.documentElement.scrollHeight"), 8000),
                        "scale": 1,
                    }
                }
                if whole
                else {}
            ),
        )
        Path(path).write_bytes(base64.b64decode(shot["data"]))
        return Path(path)

    @staticmethod
    def wait(test, what: str, seconds: float = 30) -> Any:
        "Ask again until the answer is true."
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if value := test():
                    return value
            except RuntimeError as error:  # the page is being replaced
                if "context" not in str(error):
                    raise
            time.sleep(0.1)
        raise TimeoutError(f"waited {seconds} s for {what}")
