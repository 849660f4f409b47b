"""A recipe's whole run in a few steps."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from ldmkit.recipes import autoencoder, clip, data, preview, train

RECIPES = (
    "autoencoder",
    "clip",
    "data",
    "decoder",
    "evaluate",
    "judge",
    "preview",
    "prior",
    "unet",
)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes a second by the run's own clock, and few drawings are made.

    How far a run comes depends on no machine then. Metrics are taken on few drawings: they must be
    numbers here, and no more.
    """
    monkeypatch.setattr(train, "time", SimpleNamespace(perf_counter=count().__next__))
    monkeypatch.setattr(data, "_CHUNK", 50)
    whole, all_unseen = data.drawings, data.unseen

    def few(wanted: int, start: int, cache: Path) -> NDArray[np.uint8]:
        return whole(min(wanted, 150), start, cache)

    for name in RECIPES:
        recipe = import_module(f"ldmkit.recipes.{name}")
        if hasattr(recipe, "drawings"):
            monkeypatch.setattr(recipe, "drawings", few)
    for recipe in (autoencoder, preview):  # a decoder is slow
        monkeypatch.setattr(recipe, "unseen", lambda cache: all_unseen(cache)[:8])
    monkeypatch.setattr(clip, "top1", partial(clip.top1, pool=20))
