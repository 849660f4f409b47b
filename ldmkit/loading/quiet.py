"""Libraries that load without chatter and without the collector in their way.

What is switched here (the collector, bars, modules of the libraries) belongs to the whole process,
and a panel's thread may load a model while a cell does. So each switch is counted: whoever comes
first throws it, whoever leaves last puts it back. What is dropped from a log is dropped for the
thread that asked alone.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

__all__ = [
    "Switch",
    "no_progress_bars",
    "no_retirement_notice",
    "one_load",
    "parts_on_demand",
    "swift_imports",
    "unsaid",
]


class Switch:
    """A switch of the whole process that several threads may want thrown at once."""

    def __init__(self, throw: Callable[[], Callable[[], None]]) -> None:
        """Of a function that throws it and returns another that puts it back."""
        self._throw, self._count, self._lock = throw, 0, threading.Lock()
        self._put_back: Callable[[], None] = lambda: None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Thrown while the block runs, and as long as any other thread's block does."""
        with self._lock:
            if not self._count:
                self._put_back = self._throw()
            self._count += 1
        try:
            yield
        finally:
            with self._lock:
                self._count -= 1
                if not self._count:
                    self._put_back()


#: Held while a model is opened. The libraries take torch's functions that fill new weights away
#: meanwhile, and change its default dtype; of two threads the later would make that last for good.
one_load = threading.RLock()


@contextmanager
def unsaid(*loggers: str, words: str = "") -> Iterator[None]:
    """Drops what this thread's code says below an error; other threads are heard.

    Args:
        *loggers: names of the loggers that speak, not of their parents.
        words: only what has these words.
    """
    me = threading.get_ident()

    def keep(entry: logging.LogRecord) -> bool:
        mine = entry.thread == me and entry.levelno < logging.ERROR
        return not (mine and words in entry.getMessage())

    speakers = [logging.getLogger(name) for name in loggers]
    for speaker in speakers:
        speaker.addFilter(keep)
    try:
        yield
    finally:
        for speaker in speakers:
            speaker.removeFilter(keep)


def _stop_collector() -> Callable[[], None]:
    if not gc.isenabled():
        return lambda: None
    gc.disable()
    return gc.enable


_no_collector = Switch(_stop_collector)


@contextmanager
def swift_imports() -> Iterator[None]:
    """Pauses the garbage collector while torch and diffusers are imported.

    Some 3,000 modules make objects by the million and no garbage; walking through them again and
    again takes a sixth of the time.
    """
    # One line for each image processor when torchvision is missing; nothing of ours needs it.
    torchvision = unsaid("transformers.utils.import_utils", words="requires torchvision")
    with _no_collector(), torchvision:
        yield


class _OnDemand(ModuleType):
    """Stands for a package whose modules can be imported one by one.

    Whoever asks for one of its own names has Python import the package as it is, under Python's own
    locks, so that a second thread waits until the first has all of it.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":  # what inspectors poke at
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        with _one_by_one:
            if sys.modules.get(self.__name__) is self:
                del sys.modules[self.__name__]
        whole = importlib.import_module(self.__name__)
        for part, module in list(vars(self).items()):  # those that came one by one
            if isinstance(module, ModuleType):
                vars(whole).setdefault(part, module)
        return getattr(whole, name)


_one_by_one = threading.Lock()


def parts_on_demand() -> None:
    """Spares diffusers the networks of families that nobody asked for.

    One U-Net needs one module of ``models.transformers``, whose ``__init__`` imports all eighty
    (a third of a second). Whoever wants another by name still gets it.
    """
    for name in ("diffusers.models.autoencoders", "diffusers.models.transformers"):
        if name in sys.modules or (spec := importlib.util.find_spec(name)) is None:
            continue
        module = importlib.util.module_from_spec(spec)
        module.__class__ = _OnDemand
        sys.modules.setdefault(name, module)


def _hide_bars() -> Callable[[], None]:
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    shown = [of for of in (of_diffusers, of_transformers) if of.is_progress_bar_enabled()]
    for of in shown:
        of.disable_progress_bar()

    def show() -> None:
        for of in shown:
            of.enable_progress_bar()

    return show


#: Switches the loading bars of diffusers and transformers off, and on again if they were.
no_progress_bars = Switch(_hide_bars)


@contextmanager
def no_retirement_notice() -> Iterator[None]:
    """Drops what diffusers says at each making of a pipeline class that it no longer mends."""
    with unsaid("diffusers.pipelines.pipeline_utils", words="will not receive bug fixes"):
        yield
