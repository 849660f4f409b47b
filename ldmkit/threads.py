"""Small networks on one torch thread, whatever the reader's own code computes on.

A step of the embedded U-Net is hundreds of parallel regions of a few microseconds. Two OpenMP
threads bring nothing there when the machine is quiet, and beside a browser or a video call each
region waits for a thread that isn't running: the same picture took thirteen times as long on two
threads as on one. ``torch.get_num_threads()`` stays what it was, here and in every other thread.
"""

from __future__ import annotations

import functools
import os
import threading
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

__all__ = ["all_on_one_thread", "in_words", "on_one_thread", "one_thread"]


@contextmanager
def one_thread() -> Iterator[None]:
    """Computes on one torch thread while the block runs, in the calling thread alone."""
    import torch

    before = 1
    try:
        with _switching:  # or a thread that begins meanwhile would take this one's 1 for its own
            before = torch.get_num_threads()
            if before != 1:
                # This sets the calling thread's number, and the one that new threads begin with.
                # The latter is put back from elsewhere: a thread keeps what it began with.
                torch.set_num_threads(1)
                _elsewhere().submit(torch.set_num_threads, before).result()
        yield
    finally:
        if before != 1:
            torch.set_num_threads(before)


_switching = threading.Lock()


@functools.cache
def _elsewhere() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="ldmkit-threads")


def _in_child() -> None:
    _elsewhere.cache_clear()
    _switching.release()


if hasattr(os, "register_at_fork"):  # a forked child has no threads but its own
    os.register_at_fork(
        before=_switching.acquire,
        after_in_parent=_switching.release,
        after_in_child=_in_child,
    )


def on_one_thread(part: Any) -> Any:
    """Has a network compute on one thread at each call, unless it is being trained.

    ``forward`` is bound anew on the instance, as accelerate's hooks do: class, weights, signature
    and ``save_pretrained`` stay, a deep copy computes on one thread too, and, other than torch's
    own hooks, it hears of an interrupted call.

    Args:
        part: a network; of an autoencoder its two halves. What is none is left alone.

    Returns:
        The same part.
    """
    halves = [getattr(part, name, None) for name in ("encoder", "decoder")]
    for network in filter(None, halves) if hasattr(part, "decode") else [part]:
        if hasattr(network, "forward"):
            network.forward = types.MethodType(_alone(type(network)), network)
    return part


def _alone(kind: Any) -> Any:
    """``forward`` of a class of networks, on one thread."""

    # Of this name, so that a network sent to another process finds its class' own there.
    @functools.wraps(kind.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.training:
            return kind.forward(self, *args, **kwargs)
        with one_thread():
            return kind.forward(self, *args, **kwargs)

    forward.on_one_thread = True  # type: ignore[attr-defined]
    return forward


def all_on_one_thread(pipe: Any) -> bool:
    """Whether every network of a pipeline computes on one thread.

    Then ``one_thread`` round a whole run spares a switch at each call.
    """
    parts = [part for part in pipe.components.values() if hasattr(part, "parameters")]
    halves = [getattr(part, "decoder", part) if hasattr(part, "decode") else part for part in parts]
    return bool(halves) and all(
        getattr(getattr(half, "forward", None), "on_one_thread", False) for half in halves
    )


def in_words() -> str:
    """How many threads compute what here, and why: a line of ``ldmkit doctor``."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    wish = os.environ.get("OMP_NUM_THREADS")
    why = f"OMP_NUM_THREADS is {wish}" if wish else f"{cores} CPU cores are free to use"
    return (
        f"torch computes on {torch.get_num_threads()} ({why}); the embedded models on 1, since "
        "their steps are too short to share and would wait for whatever else runs here"
    )
