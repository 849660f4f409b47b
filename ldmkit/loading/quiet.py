"""Libraries that load without chatter and without the collector in their way."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["no_progress_bars", "swift_imports"]


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
