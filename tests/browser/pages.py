"""One chromium for all tests that look at pages; every page reports what it asked for.

A plugin of `tests/conftest.py` and not fixtures to import: an imported session fixture stands once
for each module that imports it, and a second Playwright cannot start beside a first.

Debian's chromium is looked for on the PATH. Where there is none the tests are skipped, unless
LDMKIT_REQUIRE_BROWSER=1 (CI sets it), since a skipped browser test protects nothing.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-features=PreloadTopChromeWebUI",  # a toolbar that nobody sees, per page
]


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
