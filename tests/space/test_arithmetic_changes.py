"""What changed and what stayed, on drawings that are known exactly."""

from dataclasses import replace

from PIL import Image

from ldmkit.critters import Critter, Scene
from ldmkit.space.arithmetic import changes, tell_changes

SCENE = Scene(
    (Critter("cat", "red", "nothing", "happy"),), "beach", None, "cartoon", "big", "centre"
)
CROWNED = replace(SCENE, critters=(replace(SCENE.critters[0], wears="crown"),))


def test_a_crown_is_all_that_changed():
    found = changes(SCENE.draw(), CROWNED.draw())
    assert found.pop("wears") == ("nothing", "crown")
    assert all(before == after for before, after in found.values())
    assert found["animal"] == ("cat", "cat")
    assert {"colour", "place", "style", "size", "side", "number"} <= found.keys()
    assert "background" not in found  # the beach has none


def test_lines():
    first, second, empty = tell_changes(
        [SCENE.draw(), CROWNED.draw(), Image.new("RGB", (64, 64), "gray")]
    )
    assert "animal cat" in first
    assert "wears nothing" in first
    assert second.startswith("wears: nothing → crown; kept number, place")
    assert "number: one → none" in empty
    assert empty.endswith("kept nothing")
    assert tell_changes([]) == ()


def test_two_critters():
    pair = Scene(
        (Critter("cat", "red", "nothing", "happy"), Critter("dog", "blue", "crown", "sad"))
    )
    pair = replace(pair, place="night", style="cartoon", size="small", side="centre")
    found = changes(pair.draw(), SCENE.draw())
    assert found["animal 2"] == ("dog", None)
    assert found["number"] == ("two", "one")
    assert "mood" not in found  # hidden in two
