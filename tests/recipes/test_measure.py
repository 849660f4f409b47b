"""What is measured is written part by part, and the model card says it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ldmkit.recipes import measure, measure_unclip
from ldmkit.recipes.train import WEIGHTS


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of weights with figures of an earlier measurement and a card."""
    (tmp_path / "metrics.json").write_text(json.dumps({"clip": {"x": 1}, "unclip": {"walks": 3}}))
    (tmp_path / "MODEL_CARD.md").write_text("a\n<!-- unclip -->\nold\n<!-- /unclip -->\nb\n")
    (tmp_path / "w.safetensors").write_bytes(b"")
    monkeypatch.setattr(measure, "WEIGHTS", tmp_path)
    return tmp_path


def figures(shipped: Path) -> dict[str, Any]:
    return dict(json.loads((shipped / "metrics.json").read_text()))


def test_one_part_again_leaves_the_others_and_the_card_has_all(shipped: Path) -> None:
    parts = {"walks": dict, "prior": lambda: {"y": 2}}
    measure.update_card("unclip", parts, lambda m: f"rows of {sorted(m)}", ["prior"], "unclip")
    assert figures(shipped) == {"clip": {"x": 1}, "unclip": {"walks": 3, "prior": {"y": 2}}}
    card = (shipped / "MODEL_CARD.md").read_text()
    assert card == "a\n<!-- unclip -->\nrows of ['prior', 'walks']\n<!-- /unclip -->\nb\n"
    assert (shipped / "SHA256SUMS").read_text().endswith("  w.safetensors\n")


def test_the_card_waits_until_every_part_was_measured(shipped: Path) -> None:
    parts: dict[str, Any] = {"clip": dict, "judge": lambda: {"z": 4}, "pipeline": dict}
    measure.update_card("measured", parts, lambda m: pytest.fail("not yet"), ["judge"])
    assert figures(shipped)["judge"] == {"z": 4}


def test_a_stop_keeps_what_was_measured_before(shipped: Path) -> None:
    def stop() -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure.update_card("measured", {"judge": lambda: {"z": 4}, "clip": stop}, str)
    assert figures(shipped) == {"clip": {"x": 1}, "unclip": {"walks": 3}, "judge": {"z": 4}}


def test_a_part_that_nobody_knows_is_told_before_any_is_measured(shipped: Path) -> None:
    parts: dict[str, Any] = {"walks": lambda: pytest.fail("it measured")}
    with pytest.raises(ValueError, match="--only must be one of walks, got 'walk'"):
        measure.update_card("unclip", parts, str, ["walks", "walk"], "unclip")


@pytest.mark.parametrize("section", ["measured", "unclip"])
def test_the_shipped_card_says_what_the_shipped_figures_are(section: str) -> None:
    found = json.loads((WEIGHTS / "metrics.json").read_text())
    rows = {"measured": lambda: measure.card_rows(found)}
    rows["unclip"] = lambda: measure_unclip.card_rows(found["unclip"])
    card = (WEIGHTS / "MODEL_CARD.md").read_text()
    told = card.split(f"<!-- {section} -->\n")[1].split(f"\n<!-- /{section} -->")[0]
    assert rows[section]() == told
