"""What a walk or a sum is made of: words, a drawn critter, a picture, an earlier record.

``checked_end`` says what may stand at an end, ``EndField`` lets a reader pick it.
"""

from __future__ import annotations

import operator
import os
import random
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import ipywidgets
from PIL import Image

from ldmkit.check import short, whole
from ldmkit.critters import Scene
from ldmkit.figures.captions import prompt_of
from ldmkit.figures.html import shorten, text
from ldmkit.figures.webp import spread, webp
from ldmkit.panels.fields import WordsField, row, small_button
from ldmkit.panels.settings import LARGEST_SEED
from ldmkit.panels.upload import take
from ldmkit.recording.call import check_prompt
from ldmkit.records import Embedding, Trajectory, Walk
from ldmkit.records.rgb import to_rgb
from ldmkit.space.interpolate import label_of

__all__ = ["EndField", "WalkFrame", "checked_end", "given", "name_of"]

KINDS = {
    "words": "Words",
    "critter": "Drawn critter",
    "picture": "Picture",
    "record": "Earlier record",
}
NOTHING = {"picture": "picture", "record": "earlier record"}  # kinds that begin empty
SIDE = 1024  # pixels that are kept of a picture
THUMB = 128
MOST_RECORDS = 60  # in the list to choose from
A_PICTURE = "A picture here"
_MOST_SEEDS = 1000


@dataclass(frozen=True, eq=False)
class WalkFrame:
    """One place of an earlier walk."""

    walk: Walk
    index: int

    @property
    def label(self) -> str:
        """Its words."""
        return self.walk.labels[self.index]


def checked_end(name: str, entry: Any) -> Any:
    """What may stand at an end, as it is kept: pictures upright and small, seeds as scenes.

    Args:
        name: of the setting, for the sentence.
        entry: words, a PIL picture or a ``Path``, a ``Scene`` or its seed, an ``Embedding``, a
            ``Trajectory``, a ``Walk`` (its last picture).

    Raises:
        TypeError: something else.
        ValueError: words beyond all measure, a picture that can't be taken.
    """
    if isinstance(entry, str):
        check_prompt(name, entry)
        return entry
    if isinstance(entry, (Image.Image, os.PathLike)):
        return _kept(entry)
    if isinstance(entry, Walk):
        return WalkFrame(entry, len(entry) - 1)
    if isinstance(entry, (Scene, Embedding, Trajectory, WalkFrame)):
        return entry
    if _is_whole(entry):
        seed = whole(f"{name}, as a critter's seed,", entry, 0, LARGEST_SEED)
        return _sampled(seed)
    raise TypeError(
        f"{name} must be words, a PIL picture, a critters.Scene or its seed, an Embedding, a "
        f"Trajectory or a Walk, got {short(entry)}; open a file with PIL.Image.open(path)."
    )


def _is_whole(entry: Any) -> bool:
    try:
        return not isinstance(entry, bool) and operator.index(entry) is not None
    except TypeError:  # an array has __index__ and no answer
        return False


_seeds: dict[Scene, int] = {}  # of scenes that were given by seed: their field shows it


def _sampled(seed: int) -> Scene:
    scene = Scene.sample(seed)
    if len(_seeds) >= _MOST_SEEDS:
        del _seeds[next(iter(_seeds))]
    _seeds[scene] = seed
    return scene


def _kept(picture: Any) -> Image.Image:
    try:
        kept = to_rgb(picture, side=SIDE)
    except OSError as error:  # of a path; a panel says what is wrong with a value
        raise ValueError(str(error)) from None
    # What label_of calls it: the name of its file.
    path = picture if isinstance(picture, os.PathLike) else getattr(picture, "filename", "")
    kept.filename = os.fspath(path)  # type: ignore[attr-defined]
    return kept


def given(end: Any, *, as_picture: bool) -> Any:
    """An end as ``interpolate`` takes it.

    Args:
        end: as ``checked_end`` gave it.
        as_picture: whether the picture of an earlier walk is wanted, not its embedding.
    """
    if not isinstance(end, WalkFrame):
        return end
    embeddings = () if as_picture else end.walk.embeddings
    return embeddings[end.index] if embeddings else end.walk.images[end.index]


def name_of(end: Any, number: int = 0) -> str:
    """What an end is called."""
    return end.label if isinstance(end, WalkFrame) else label_of(end, number)


def _kind_of(end: Any) -> str:
    if isinstance(end, str):
        return "words"
    if isinstance(end, Scene):
        return "critter"
    return "picture" if isinstance(end, Image.Image) else "record"


def _picture_of(end: Any) -> Image.Image | None:
    if isinstance(end, Scene):
        return end.draw(96)
    if isinstance(end, WalkFrame):
        return end.walk.images[end.index]
    if isinstance(end, Trajectory):
        return end.images[0] if end.images else None
    return end if isinstance(end, Image.Image) else None


def records_here() -> dict[str, Any]:
    """The records among a notebook's variables, by what they are called there."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    names: Mapping[str, Any] = getattr(shell, "user_ns", {})
    found: dict[str, Any] = {}
    for name, value in list(names.items()):
        if name.startswith("_"):
            continue
        is_panel = isinstance(value, ipywidgets.Widget)
        record = getattr(value, "result", None) if is_panel else value
        called = f"{name}.result" if is_panel else name
        if isinstance(record, Walk):
            for i in spread(len(record), 5):
                words = f"{called}, {record.axis} = {record.t[i]:.2g}: {record.labels[i]}"
                found[words] = WalkFrame(record, i)
        elif isinstance(record, Trajectory) and record.images:
            found[f"{called}: {prompt_of(record) or 'no words'}"] = record
        elif isinstance(record, Embedding):
            found[f"{called}: {record.label}"] = record
    return dict(list(found.items())[-MOST_RECORDS:])


class EndField(ipywidgets.VBox):
    """Picks one end; ``value`` is what was picked.

    Args:
        title: stands above it.
        vocabulary: words that the model learned; empty where it knows all.
        on_edit: called with what the reader picked.
        on_wrong: called with a sentence where it can't be taken.
        on_turn: called where the reader turned to a kind of which nothing is picked yet.
        on_enter: called on Ctrl+Enter in the words.
    """

    def __init__(
        self,
        title: str,
        vocabulary: Iterable[str],
        *,
        on_edit: Callable[[Any], None],
        on_wrong: Callable[[str], None],
        on_turn: Callable[[], None] = lambda: None,
        on_enter: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_edit, self._on_wrong, self._on_turn = on_edit, on_wrong, on_turn
        self._end: Any = ""
        self._filling, self._number = False, 0
        self._kept: dict[str, Any] = {}  # the last of each kind: to and fro loses nothing
        self._refused: dict[str, Any] = {}  # what stands in a kind's field and can't be taken
        self._found: dict[str, Any] = {}
        self._kind = ipywidgets.Dropdown(
            options=[(words, kind) for kind, words in KINDS.items()], description=title
        )
        self._kind.add_class("ldm-kind")
        self._words = WordsField(
            vocabulary, title="", placeholder="a red cat with a top hat", on_enter=on_enter
        )
        self._seed = ipywidgets.IntText(description="Seed")
        self._dice = small_button("random", "Throw dice: another critter")
        self._critter = row("ldm-seed", [self._seed, self._dice])
        self._upload = ipywidgets.FileUpload(
            accept="image/*", multiple=False, description="Choose a picture"
        )
        self._records = ipywidgets.Dropdown(options=[("none yet", None)])
        self._again = small_button("refresh", "Look for new records in this notebook")
        self._record = row("ldm-seed", [self._records, self._again])
        self._thumb = ipywidgets.Image(format="webp")
        self._thumb.add_class("ldm-end-picture")
        self._said = ipywidgets.HTML()
        self._said.add_class("ldm-end-words")
        self._shown = row("ldm-end-shown", [self._thumb, self._said])
        for field in (self._kind, self._seed):
            field.style.description_width = "initial"
        parts = {
            "words": self._words,
            "critter": self._critter,
            "picture": self._upload,
            "record": self._record,
        }
        self._parts = parts
        super().__init__([self._kind, *parts.values(), self._shown])
        self.add_class("ldm-end")
        self._listen()
        self._draw()

    def _listen(self) -> None:
        self._kind.observe(self._kind_chosen, names=["value"])
        self._words.observe(lambda change: self._edited(change["new"]), names=["value"])
        self._seed.observe(lambda change: self._edited(change["new"]), names=["value"])
        self._dice.on_click(lambda _: self._throw())
        self._upload.observe(lambda _: self._uploaded(), names=["value"])
        self._records.observe(lambda change: self._record_chosen(change["new"]), names=["value"])
        self._again.on_click(lambda _: self._look_for_records())

    @property
    def end(self) -> Any:
        """What is picked, as ``checked_end`` gives it."""
        return self._end

    def standing(self, name: str = "") -> Any:
        """What stands in the field, as ``checked_end`` gives it.

        Args:
            name: of the end, for the sentence; by default the field's title.

        Raises:
            TypeError, ValueError: what was refused still stands there, or nothing was picked yet:
                ``end`` is older than what the reader sees.
        """
        kind, name = self._kind.value, name or self._kind.description
        if kind in self._refused:
            return checked_end(name, self._refused[kind])
        if kind != _kind_of(self._end):
            raise ValueError(
                f"{name}: no {NOTHING[kind]} is chosen yet; choose one, or take words."
            )
        return self._end

    def count_as(self, number: int, title: str = "") -> None:
        """Which of several ends it is, from 0: what has no name is called by its number."""
        self._number = number
        self._kind.description = title or self._kind.description
        self._draw()

    def fill(self, end: Any) -> None:
        """Shows an end, without a call of ``on_edit``."""
        kind = self._kind.value
        if end is self._end and kind == _kind_of(end) and kind not in self._refused:
            return
        self._filling = True
        try:
            self._take(end)
            kind = _kind_of(end)
            self._kind.value = kind
            if kind == "words" and self._words.value != end:
                self._words.value = end
            if kind == "critter":
                self._seed.value = _seeds.get(end, self._seed.value)
            if kind == "record":
                self._look_for_records()
        finally:
            self._filling = False

    @property
    def marks_words(self) -> bool:
        """Whether a browser has marked unknown words."""
        return bool(self._words.awake)

    def _take(self, end: Any) -> None:
        self._end = self._kept[_kind_of(end)] = end
        self._refused.pop(_kind_of(end), None)
        self._draw()

    def _draw(self) -> None:
        kind = self._kind.value if not self._filling else _kind_of(self._end)
        for name, part in self._parts.items():
            part.layout.display = "" if name == kind else "none"
        shown = _kind_of(self._end) == kind
        picture = _picture_of(self._end) if shown else None
        self._thumb.value = webp(picture, THUMB, 85) if picture is not None else b""
        self._thumb.layout.display = "" if picture is not None else "none"
        words = name_of(self._end, self._number) if shown and kind != "words" else ""
        self._said.value = text(shorten(words, 160))
        self._shown.layout.display = "none" if kind == "words" or not shown else ""

    def _edited(self, entry: Any) -> None:
        if self._filling:
            return
        try:
            self._take(checked_end(self._kind.description, entry))
        except (TypeError, ValueError) as error:
            self._refused[self._kind.value] = entry
            self._on_wrong(str(error))
            return
        self._on_edit(self._end)

    def _kind_chosen(self, change: Any) -> None:
        if self._filling:
            return
        kind = change["new"]
        if kind == "record":
            self._look_for_records()
        if kind in self._refused:
            self._draw()
            self._edited(self._refused[kind])
        elif kind in self._kept:
            self._edited(self._kept[kind])
        elif kind == "words":
            self._edited(self._words.value)
        elif kind == "critter":
            self._edited(self._seed.value)
        else:  # nothing to take yet: what was picked before stays until then
            self._draw()
            self._on_turn()

    def _throw(self) -> None:
        self._seed.value = random.randrange(100_000)  # few digits: a class reads them aloud

    def _uploaded(self) -> None:
        take(self._upload, self._edited, self._on_wrong, self._on_wrong, A_PICTURE)

    def _look_for_records(self) -> None:
        was, self._filling = self._filling, True
        try:
            self._found = records_here()
            own = self._kept.get("record")
            if own is not None:
                self._found = {f"now: {name_of(own)}": own} | self._found
            names = list(self._found)
            options = [(shorten(name, 70), i) for i, name in enumerate(names)]
            self._records.options = [("choose one" if options else "none yet", None), *options]
            self._records.value = 0 if own is not None else None
        finally:
            self._filling = was

    def _record_chosen(self, index: Any) -> None:
        if index is not None and not self._filling:
            self._edited(list(self._found.values())[index])
