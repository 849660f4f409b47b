"""What tests of panels do and look at: a run that is held, fields, messages, living widgets."""

import threading
import time
from contextlib import contextmanager

import ipywidgets


def living():
    """Every widget that ipywidgets' registry keeps: of version 8, of version 7."""
    found = getattr(ipywidgets.widgets.widget, "_instances", None)
    return set(ipywidgets.Widget.widgets if found is None else found)


def tree(widget):
    """A widget and all that it is made of."""
    yield widget
    for child in getattr(widget, "children", ()):
        yield from tree(child)


def message(panel):
    return panel._form._message.value


def field(panel, name):
    return panel._form._fields[name]


def places(panel):
    return panel._view._view.data["places"]


def settled(panel):
    """Waits for what a panel does after its run."""
    last = time.monotonic() + 20
    while any(told is not None for told in panel.job._listeners) and time.monotonic() < last:
        time.sleep(0.005)


@contextmanager
def held(pipe, at=3, *, worker_only=False):
    """The network of a pipeline stands before its ``at``-th call until the gate opens.

    Args:
        pipe: the pipeline, or its network.
        at: which call.
        worker_only: others than the worker thread pass.
    """
    gate, reached, calls = threading.Event(), threading.Event(), []

    def stand(module, args):
        if worker_only and threading.current_thread().name != "ldmkit":
            return
        calls.append(1)
        if len(calls) == at:
            reached.set()
            assert gate.wait(30)

    handle = getattr(pipe, "unet", pipe).register_forward_pre_hook(stand)
    try:
        yield gate, reached
    finally:
        gate.set()
        handle.remove()
