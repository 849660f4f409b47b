"""Pictures a second while somebody types into a live panel, in a real kernel.

    python tests/bench/live.py [--seconds 10] [--keys 12] [--variant steps4]

A front end without a browser sends each letter as a browser's message does, at a steady pace, and
counts the pictures that the kernel sends back, those alone that differ from the one before.
``letters`` writes sentences letter by letter, ``slider`` moves the steps from 1 to 8 and back,
three times as often. Bar: 8 pictures a second.
"""

import argparse
import sys
import time
from itertools import cycle, pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from panels.frontend import Kernel

BAR = 8
SENTENCES = (
    "a red cat with a top hat in the snow",
    "a blue owl with a crown at the beach",
    "a green dog with glasses in space",
)
SETUP = """
import ldmkit
pipe = ldmkit.load("critters", variant={variant!r})
panel = ldmkit.PromptPanel(pipe, "a cat", seed=7, live=True)
panel
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--keys", type=float, default=12, help="letters a second")
    parser.add_argument("--variant", default="steps4")
    options = parser.parse_args()
    kernel = Kernel()
    try:
        kernel.run(SETUP.format(variant=options.variant))
        ended = kernel.run("panel.job.wait().image.size")
        assert ended == "(64, 64)"
        (field,) = [key for key, state in kernel.widgets.items() if "vocabulary" in state]
        steps = kernel.find("IntSlider", description="Steps")
        letters = ({"value": s[: i + 1]} for s in cycle(SENTENCES) for i in range(len(s)))
        moves = ({"value": n} for n in cycle([1, 2, 3, 4, 5, 6, 7, 8, 7, 6, 5, 4, 3, 2]))
        typed(kernel, "letters", field, letters, options.keys, options.seconds)
        typed(kernel, "slider", steps, moves, 3 * options.keys, options.seconds)
    finally:
        kernel.close()


def typed(kernel, name, widget, states, pace, seconds):
    """Sends states at a pace, counts pictures; prints the row."""
    kernel.run("import time; used = time.process_time()")
    first = len(kernel.updates)
    began, sent = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        while time.monotonic() - began >= sent / pace:
            kernel.set(widget, **next(states))
            sent += 1
        hear(kernel, until=began + sent / pace)
    taken = time.monotonic() - began
    shown = [(moment, len(state["value"])) for moment, _, state in kernel.updates[first:]
             if isinstance(state.get("value"), bytes)]  # fmt: skip
    used = float(kernel.run("panel.job.wait(); print(time.process_time() - used)"))
    gaps = sorted(b - a for (a, _), (b, _) in pairwise(shown))
    print(
        f"{name}: {len(shown) / taken:.1f} pictures a second (bar {BAR}) for {sent / taken:.1f} "
        f"requests a second; longest gap {gaps[-1]:.2f} s, {max(size for _, size in shown)} bytes "
        f"at most, {used / len(shown):.3f} CPU seconds a picture",
        flush=True,
    )


def hear(kernel, until):
    """Follows the kernel's messages until a moment."""
    while (left := until - time.monotonic()) > 0:
        if kernel.client.iopub_channel.socket.poll(1000 * left):
            kernel._hear()


if __name__ == "__main__":
    main()
