"""Panels work in threads here, as in most notebooks, whatever the environment says."""

import pytest

from ldmkit.panels.job import SWITCH


@pytest.fixture(autouse=True)
def _in_threads(monkeypatch):
    monkeypatch.delenv(SWITCH, raising=False)
