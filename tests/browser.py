"A headless Chromium for the tests, driven by selenium: open a page, ask it questions, wait for an answer."

import os
import shutil
import tempfile
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import JavascriptException
from selenium.webdriver.support.ui import WebDriverWait

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1400,1000",
    "--hide-scrollbars",
)


def find_browser() -> tuple[str, str] | None:
    "The paths of browser and driver, or None: the tests then skip. $CHROMIUM and $CHROMEDRIVER name others."
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    browser = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    driver = os.environ.get("CHROMEDRIVER") or shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


class Browser:
    "One browser with one page; use it as a context."

    def __enter__(self) -> "Browser":
        found = find_browser()
        if not found:
            raise RuntimeError("no browser or no driver; on Debian: apt-get install chromium chromium-driver")
        options = webdriver.ChromeOptions()
        options.binary_location, driver = found  # both named: selenium then looks for nothing on the network
        self.home = tempfile.mkdtemp(prefix="disti-chromium-")
        for flag in (*FLAGS, f"--user-data-dir={self.home}"):
            options.add_argument(flag)
        try:
            self.page = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        except BaseException:
            shutil.rmtree(self.home, ignore_errors=True)
            raise
        self.page.set_page_load_timeout(60)
        return self

    def __exit__(self, *_: object) -> None:
        self.page.quit()
        shutil.rmtree(self.home, ignore_errors=True)

    def open(self, url: str) -> None:
        "Open an address and wait until it has loaded."
        self.page.get(url)

    def ask(self, script: str) -> Any:
        "The value of an expression in the page."
        return self.page.execute_script(f"return {script}")

    def until(self, script: str, seconds: float = 30) -> Any:
        "Wait until an expression in the page is true; its value. A page that is being replaced is asked again."
        waiting = WebDriverWait(self.page, seconds, 0.1, ignored_exceptions=[JavascriptException])
        return waiting.until(lambda _: self.ask(script), f"not true after {seconds} s: {script}")
