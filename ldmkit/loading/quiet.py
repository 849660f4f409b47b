"""Libraries that load without chatter and without the collector in their way."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["no_progress_bars", "one_scan", "swift_imports"]


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
