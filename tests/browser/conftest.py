"""One chromium for all browser tests; every page reports what it asked for and complained of.

Debian's chromium is looked for on the PATH. Where there is none the tests are skipped, unless
LDMKIT_REQUIRE_BROWSER=1 (CI sets it), since a skipped browser test protects nothing.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from browser import lab as lab_server
from playwright.sync_api import Page, expect, sync_playwright
from records.make import make

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@dataclass
class Seen:
    """A page and what it did: requests beyond its own files, console errors, dialogs."""

    page: Page
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)

    def listen(self) -> Seen:
        """Starts to take notes; call before the page is opened."""
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.on("console", lambda m: m.type in ("error", "warning") and self._error(m.text))
        self.page.on("pageerror", lambda e: self._error(str(e)))
        self.page.on("dialog", self._dialog)
        return self

    def _error(self, words):
        self.errors.append(words)

    def _dialog(self, dialog):
        self.dialogs.append(dialog.message)
        dialog.dismiss()


@pytest.fixture(scope="session")
def chromium_path():
    for name in ("chromium", "chromium-browser"):
        if path := shutil.which(name):
            return path
    words = "No chromium on the PATH; install Debian's package 'chromium' to run browser tests."
    if os.environ.get("LDMKIT_REQUIRE_BROWSER") == "1":
        pytest.fail(words)
    pytest.skip(words)
    return None


@pytest.fixture(scope="session")
def browser(chromium_path):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def new_page(browser):
    """``new_page(**options of a browser context) -> Seen``; contexts are closed afterwards."""
    contexts = []

    def make(**options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(15_000)
        return Seen(page).listen()

    yield make
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def shots():
    """An ignored folder for screenshots: look at them."""
    folder = Path(__file__).parent / "shots"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def lab(chromium_path, tmp_path_factory):
    lab = lab_server.start(tmp_path_factory.mktemp("lab"))
    make(32).save(lab.root / "run.safetensors")
    yield lab
    lab_server.stop(lab)


@pytest.fixture
def open_notebook(lab, new_page):
    """``open_notebook(name, prepare=None) -> Seen``; kernels end with the test."""

    def open_(name, prepare=lambda page: None):
        seen = new_page(viewport={"width": 1280, "height": 860})
        seen.page.set_default_timeout(40_000)  # Lab itself takes seconds on a busy machine
        prepare(seen.page)
        seen.page.goto(f"{lab.url}/doc/tree/{name}?reset")
        expect(seen.page.locator(".jp-Notebook .jp-Cell").first).to_be_visible(timeout=60_000)
        return seen

    yield open_
    lab.end_sessions()
    lab.theme("JupyterLab Light")
