"""Libraries that load without chatter and without the collector in their way."""

from __future__ import annotations

import gc
import importlib.util
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = [
    "no_progress_bars",
    "no_retirement_notice",
    "one_scan",
    "parts_on_demand",
    "swift_imports",
]


@contextmanager
def swift_imports() -> Iterator[None]:
    """Pauses the garbage collector while torch and diffusers are imported.

    Some 3,000 modules make objects by the million and no garbage; walking through them again and
    again takes a sixth of the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    # One line for each image processor when torchvision is missing; nothing of ours needs it.
    logger = logging.getLogger("transformers.utils.import_utils")
    logger.addFilter(_not_about_torchvision)
    try:
        yield
    finally:
        logger.removeFilter(_not_about_torchvision)
        if enabled:
            gc.enable()


def _not_about_torchvision(entry: logging.LogRecord) -> bool:
    return "requires torchvision" not in entry.getMessage()


@contextmanager
def one_scan() -> Iterator[None]:
    """Lets transformers read the heads of its 1,000 model files once instead of twice.

    It asks for the same folder first by its path, then by that of its ``__init__``, which its
    own cache takes for two things (a quarter of a second). Does nothing where it works otherwise.
    """
    from transformers.utils import import_utils

    original = getattr(import_utils, "create_import_structure_from_path", None)
    if original is None or "transformers.models" in sys.modules:
        yield
        return

    def by_folder(path: str | Path) -> Any:
        path = Path(path)
        return original(path.parent if path.name == "__init__.py" else path)

    import_utils.create_import_structure_from_path = by_folder
    try:
        yield
    finally:
        import_utils.create_import_structure_from_path = original


class _OnDemand(ModuleType):
    """A package whose modules can be imported one by one; its own names make it load whole."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":  # what inspectors poke at
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        self.__class__ = ModuleType  # type: ignore[assignment]
        if self.__spec__ is not None and self.__spec__.loader is not None:
            self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def parts_on_demand() -> None:
    """Spares diffusers the networks of families that nobody asked for.

    One U-Net needs one module of ``models.transformers``, whose ``__init__`` imports all eighty
    (half a second). Whoever wants another by name still gets it: then the package loads as it is.
    """
    for name in ("diffusers.models.autoencoders", "diffusers.models.transformers"):
        if name in sys.modules or (spec := importlib.util.find_spec(name)) is None:
            continue
        module = importlib.util.module_from_spec(spec)
        module.__class__ = _OnDemand
        sys.modules[name] = module


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Switches the loading bars of diffusers and transformers off, and on again if they were."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    shown = [of for of in (of_diffusers, of_transformers) if of.is_progress_bar_enabled()]
    for of in shown:
        of.disable_progress_bar()
    try:
        yield
    finally:
        for of in shown:
            of.enable_progress_bar()


@contextmanager
def no_retirement_notice() -> Iterator[None]:
    """Drops what diffusers says at each making of a pipeline class that it no longer mends."""
    logger = logging.getLogger("diffusers.pipelines.pipeline_utils")
    logger.addFilter(_not_about_retirement)
    try:
        yield
    finally:
        logger.removeFilter(_not_about_retirement)


def _not_about_retirement(entry: logging.LogRecord) -> bool:
    return "will not receive bug fixes" not in entry.getMessage()
