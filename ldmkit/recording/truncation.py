"""What of the words reached each text encoder: heard while the run reads them, not foretold.

Families differ in who reads what. SDXL's second encoder reads ``prompt_2`` or else ``prompt``,
SD3's third reads on to ``max_sequence_length`` where CLIP stops at 77, others put a template round
the words or spell out a learnt word first. So the tokenizers are listened to while the pipeline
calls them, and what was cut is told, by the names of the encoders, before the first step.
"""

from __future__ import annotations

import copy
import functools
import inspect
import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from typing import Any, NamedTuple

from ldmkit.check import cut, plain, say
from ldmkit.recording.call import WORDS
from ldmkit.recording.hooks import runs_elsewhere

__all__ = ["Heard", "heard"]

_THEIRS = ("was truncated because", "Token indices sequence length is longer")
_Counter = functools.partial[int]  # of a text's tokens, by one tokenizer
_UNBOUNDED = 1_000_000  # a tokenizer without a limit tells a far larger one


class _Reading(NamedTuple):
    """One text as one encoder reads it, in tokens of the reader's words alone."""

    keyword: str  # "prompt", "prompt, number 2 of 3,"
    encoder: str  # "text_encoder_2 (CLIP)"
    tokens: int
    read: int


class _Origin(NamedTuple):
    """Where a text that an encoder reads came from.

    Attributes:
        keyword: as in ``_Reading``.
        part: what in the text is of the reader's words.
        words: all of them.
    """

    keyword: str
    part: str
    words: str


class Heard:
    """What the text encoders of one run have been given to read.

    Args:
        pipe: the pipeline, or whatever else holds ``tokenizer``, ``tokenizer_2``...
        call: its keywords, the words among them.
    """

    def __init__(self, pipe: Any, call: Mapping[str, Any]) -> None:
        self.pipe = pipe
        self._words = [pair for name, value in call.items() for pair in _each(name, value)]
        # Templates (Qwen-Image) stand ahead of the words, and the embeddings are cut once more.
        ahead = getattr(pipe, "prompt_template_encode_start_idx", None)
        self._ahead = ahead if isinstance(ahead, int) else None
        self._most = _most_of(pipe, call) if self._ahead is not None else None
        self._texts: dict[tuple[str, str], tuple[_Counter, int]] = {}
        self.cut = False  # whether any text was longer than its encoder reads
        self.told = False
        self.held: list[tuple[logging.Handler, logging.LogRecord]] = []  # the libraries' own words

    def listen(
        self, name: str, tokenizer: Any, text: Any, most: int, specials: bool = True
    ) -> None:
        """Notes a text, or several, of which a tokenizer keeps ``most`` tokens.

        Args:
            name: of the tokenizer.
            tokenizer: what reads.
            text: the text, or several.
            most: tokens.
            specials: whether marks of beginning and end are added, and count.
        """
        count = functools.partial(_count, tokenizer, specials=specials)
        for one in [text] if isinstance(text, str) else text:
            own = most
            if self._ahead is not None and self._most is not None and not self._is_bare(one):
                own = min(most, self._ahead + self._most)
            self._texts[name, one] = count, own
            # No text has more tokens than bytes, but for those that are put round it: nearly
            # every prompt ends here.
            if not self.cut and len(one.encode("utf-8", "replace")) + 8 > own:
                self.cut = count(one) > own

    def _is_bare(self, text: str) -> bool:
        """Whether a text is the reader's words with no template round them."""
        return any(text == words for _, words in self._words)

    def framed(self, tokenizer: str, text: str) -> bool:
        """Whether an encoder has read these words within others and never alone, till ``tell``."""
        read = {_plain(own) for name, own in self._texts if name == tokenizer}
        return _plain(text) not in read and any(_plain(text) in own for own in read)

    def tell(self) -> None:
        """Says for each text that was cut where each encoder stopped, and which one read on."""
        texts, self._texts, self.told = self._texts, {}, True
        held, self.held = self.held, []
        if not self.cut:  # what ldmkit did not hear, the libraries say themselves
            for handler, entry in held:
                handler.handle(entry)
            return
        readings = [
            self._reading(origin, name, text, count, most)
            for (name, text), (count, most) in texts.items()
            for origin in self._origins(text, count.args[0])
        ]
        for keyword in dict.fromkeys(one.keyword for one in readings):
            words = _sentence(keyword, [one for one in readings if one.keyword == keyword])
            if words:
                say(words)

    def _reading(
        self, origin: _Origin, name: str, text: str, count: _Counter, most: int
    ) -> _Reading:
        """Words within a template are cut where nothing of what stands behind them is left."""
        keyword, part, words = origin
        at = text.find(part)
        before, behind = text[:at], text[at + len(part) :]
        frame = count(before + behind)
        ahead = count(before) if self._ahead is None or self._is_bare(text) else self._ahead
        read = max(0, most - ahead)
        if words != part:  # the pipeline had cut them before
            read = min(read, count(text) - frame)
        tokens = count(before + words + behind) - frame
        return _Reading(keyword, _encoder(self.pipe, name), tokens, read)

    def _origins(self, text: str, tokenizer: Any) -> list[_Origin]:
        """Where a text came from.

        They are two where the same was asked for and steered away from.
        """
        spell = getattr(self.pipe, "maybe_convert_prompt", None)  # learnt words of several tokens
        found = [
            _Origin(keyword, text, text)
            for keyword, words in self._words
            if text == words or (spell is not None and text == spell(words, tokenizer))
        ] or [  # within a template, or cleaned of capitals and gaps
            _Origin(keyword, *((words, words) if words in text else (text, text)))
            for keyword, words in self._words
            if words.strip() and _plain(words) in _plain(text)
        ]
        if not found:  # cut by the pipeline itself, within a template (Kandinsky 5)
            ends = ((keyword, _end_of(text, words), words) for keyword, words in self._words)
            found = [_Origin(*one) for one in ends if one[1]]
        sides = {("negative_" in one.keyword): one for one in reversed(found)}
        begin = cut(plain(" ".join(text.split())), 40)
        return list(sides.values()) or [_Origin(f"text “{begin}”", text, text)]


def _end_of(text: str, words: str) -> str:
    """The end of a text, if it is the beginning of these words: two of them at least."""
    at = text.find(words[:12]) if len(words) > 12 else -1
    return text[at:] if at >= 0 and words.startswith(text[at:].rstrip()) else ""


def _each(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """The texts of one keyword, each with the name that a sentence gives it."""
    if not WORDS.fullmatch(name) or value is None:
        return
    texts = [value] if isinstance(value, str) else list(value)
    for i, text in enumerate(texts, 1):
        yield name if len(texts) == 1 else f"{name}, number {i} of {len(texts)},", text


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _most_of(pipe: Any, call: Mapping[str, Any]) -> int | None:
    usual = inspect.signature(type(pipe).__call__).parameters.get("max_sequence_length")
    most = call.get("max_sequence_length", None if usual is None else usual.default)
    return most if isinstance(most, int) else None


def _count(tokenizer: Any, text: str, *, specials: bool = True) -> int:
    own = {} if specials else {"add_special_tokens": False}
    return len(tokenizer(text, truncation=False, verbose=False, **own).input_ids)


def _encoder(pipe: Any, tokenizer: str) -> str:
    """``tokenizer_2`` -> ``text_encoder_2 (CLIP)``."""
    name = re.sub("tokenizer|^.*processor", "text_encoder", tokenizer)
    kind = type(getattr(pipe, name, None)).__name__
    kind = re.sub(r"(Text|Encoder|WithProjection|For\w+|Model)+$", "", kind)
    return name if kind in ("NoneType", "") else f"{name} ({kind})"


def _sentence(keyword: str, readings: list[_Reading]) -> str:
    """What one text lost; empty where every encoder read all of it."""
    if all(one.tokens <= one.read for one in readings):
        return ""
    if len(readings) == 1:
        one = readings[0]
        who = "the text encoder" if one.encoder.startswith("text_encoder (") else one.encoder
        return (
            f"The {keyword} has {one.tokens:,} tokens and {who} reads {one.read:,}: "
            "the words after that have no effect; shorten it."
        )
    far = max(_share(one) for one in readings)
    behind = [one for one in readings if _share(one) < far] or readings
    ahead = [one for one in readings if one not in behind]
    places = dict.fromkeys((one.read, one.tokens) for one in behind)
    stops = ", ".join(
        _who([one for one in behind if (one.read, one.tokens) == place], "stops", "stop")
        + f" after {place[0]:,} of {place[1]:,} tokens"
        for place in places
    )
    if not ahead:
        return f"The {keyword} is cut: {stops}; the words after that have no effect; shorten it."
    goes = _who(ahead, "reads on", "read on")
    if far < 1:
        end = f" to {ahead[0].read:,} of {ahead[0].tokens:,}; the words after that have no effect"
    else:
        end = f" to the end, all {ahead[0].tokens:,}"
    return f"The {keyword} is cut: {stops}, {goes}{end}; begin with what matters most."


def _who(readings: list[_Reading], does: str, do: str) -> str:
    names = list(dict.fromkeys(one.encoder for one in readings))
    return f"{' and '.join(names)} {does if len(names) == 1 else do}"


def _share(one: _Reading) -> float:
    return min(1.0, one.read / max(1, one.tokens))


# --- listening -----------------------------------------------------------------------------------

Listener = Callable[[Any, Any, Mapping[str, Any]], None]

# A tokenizer is shared by pipelines and by threads: only who records in this thread listens.
_listener: ContextVar[Listener | None] = ContextVar("words", default=None)
_guard = threading.Lock()
# Tokenizers note on themselves how a text is to be padded and cut: of two threads that read at once
# one gets what the other asked for.
_reading = threading.RLock()
_opened: dict[int, _Opened] = {}  # by the tokenizer's id


class _Opened(NamedTuple):
    """A tokenizer that is listened to.

    Attributes:
        kind: its own class.
        listeners: how many there are.
        apart: a copy for those who listen, where another thread was inside when the first came.
    """

    kind: type
    listeners: int
    apart: Any


@contextmanager
def heard(found: Heard) -> Iterator[Heard]:
    """Listens to a pipeline's tokenizers while the block runs; tells at its end at the latest.

    The libraries' own words on a long prompt, which repeat all of it, wait until ``tell`` and are
    dropped, in this thread, where it has something to say.

    Args:
        found: what listens; ``tell`` may be called before, such as at the first step.
    """
    parts = _tokenizers(found.pipe)
    names = {id(tokenizer): name for name, tokenizer in reversed(parts.items())}

    def listen(tokenizer: Any, text: Any, options: Mapping[str, Any]) -> None:
        limited = options.get("truncation") not in (None, False, "do_not_truncate")
        if limited or options.get("padding") == "max_length":
            most = options.get("max_length") or tokenizer.model_max_length
            if isinstance(most, int) and 0 < most < _UNBOUNDED and id(tokenizer) in names:
                # A tokenizer of one's own may count otherwise: then its library speaks alone.
                with suppress(TypeError, ValueError, AttributeError):
                    specials = options.get("add_special_tokens", True)
                    found.listen(names[id(tokenizer)], tokenizer, text, most, specials)

    with ExitStack() as stack:
        for tokenizer in parts.values():
            stack.enter_context(_open(tokenizer))
        stack.callback(_listener.reset, _listener.set(listen))
        stack.enter_context(_said_once(found))
        try:
            yield found
        finally:
            found.tell()


def _tokenizers(pipe: Any) -> dict[str, Any]:
    """Name to tokenizer; a processor of words and pictures has one inside."""
    own = getattr(pipe, "__dict__", {})
    parts = {name: getattr(part, "tokenizer", part) for name, part in own.items()}
    return {
        name: part
        for name, part in parts.items()
        if callable(part) and isinstance(getattr(part, "model_max_length", None), int)
    }


@contextmanager
def _open(tokenizer: Any) -> Iterator[None]:
    """Lets a tokenizer's calls be heard: Python looks ``__call__`` up on the class alone."""
    key = id(tokenizer)
    with _guard:
        opened = _opened.get(key)
        if opened is None:
            kind: Any = type(tokenizer)
            tokenizer.__class__ = _hearing(kind)
            opened = _Opened(kind, 0, _copy_if_taken(tokenizer, kind))
        _opened[key] = opened._replace(listeners=opened.listeners + 1)
    try:
        yield
    finally:
        with _guard:
            opened = _opened.pop(key)
            if opened.listeners > 1:
                _opened[key] = opened._replace(listeners=opened.listeners - 1)
            else:
                tokenizer.__class__ = opened.kind


def _copy_if_taken(tokenizer: Any, kind: type) -> Any:
    """A copy for the record, where another thread began to read before there was anything to hear.

    It holds no lock, and how it pads and cuts stands on the tokenizer: neither may change the
    other's. Which thread is where is read from the code that runs, never from its names.
    """
    calls = {getattr(getattr(kind, name, None), "__code__", None) for name in _READ} - {None}
    with _reading:  # nobody who is heard is inside
        if not runs_elsewhere(calls):
            return None
        apart = None
        with suppress(Exception):  # one of a student's that can't be copied is shared as it is
            apart = copy.deepcopy(tokenizer)
            apart.__class__ = kind
        return apart


_READ = ("__call__", "_encode_plus")  # where a tokenizer notes how it pads; encode() passes there


@functools.cache
def _hearing(kind: type) -> type:
    def call(self: Any, text: Any = None, *args: Any, **options: Any) -> Any:
        listener = _listener.get()
        with _reading:
            opened = _opened.get(id(self))
            if listener is None or opened is None:
                return kind.__call__(self, text, *args, **options)
            if _are_words(text):
                listener(self, text, options)
            one = self if opened.apart is None else opened.apart
            return kind.__call__(one, text, *args, **options)

    def encode(self: Any, *args: Any, **options: Any) -> Any:
        with _reading:
            return super(heard_kind, self)._encode_plus(*args, **options)

    names = {"__call__": call, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    if hasattr(kind, "_encode_plus"):
        names["_encode_plus"] = encode
    heard_kind: Any = type(kind.__name__, (kind,), names)
    return heard_kind


def _are_words(text: Any) -> bool:
    several = isinstance(text, (list, tuple)) and all(isinstance(one, str) for one in text)
    return isinstance(text, str) or several


@contextmanager
def _said_once(found: Heard) -> Iterator[None]:
    thread = threading.get_ident()

    def keep(handler: logging.Handler, entry: logging.LogRecord) -> bool:
        if entry.thread != thread or not any(words in entry.getMessage() for words in _THEIRS):
            return True
        if not (found.told or found.cut):
            found.held.append((handler, entry))
        return found.told and not found.cut

    filters = [
        (handler, functools.partial(keep, handler))
        for library in ("diffusers", "transformers")
        for handler in logging.getLogger(library).handlers
    ]
    for handler, own in filters:
        handler.addFilter(own)
    try:
        yield
    finally:
        for handler, own in filters:
            handler.removeFilter(own)
