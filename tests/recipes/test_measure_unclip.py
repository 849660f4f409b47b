"""What single changes are asked of text diffs."""

from ldmkit.critters import parse
from ldmkit.recipes import measure_unclip
from ldmkit.recipes.evaluate import scenes


def test_a_single_change_is_one_that_captions_can_say() -> None:
    for scene, seed in scenes(200, 400_000):
        name, value, before, after = measure_unclip.one_change(scene, seed)
        asked, then = parse(after), parse(before)
        both = {**vars(asked), **vars(asked.critters[0])}
        assert both[name] == value
        assert {**vars(then), **vars(then.critters[0])}[name] != value
        assert asked.critters[0].animal == scene.critters[0].animal
