"""JupyterLab for browser tests; the browser itself is of `pages`."""

from __future__ import annotations

import pytest
from browser import lab as lab_server
from playwright.sync_api import expect
from records.make import make


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
