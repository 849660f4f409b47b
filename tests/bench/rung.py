"""How much of the gap between plain DDIM and the teacher a rung in class closes in ten minutes.

    python tests/bench/rung.py [--minutes 10] [--rung 4] [--captions 200]

Obedience on evaluation seeds, the same noise for all: the teacher with as few steps as the student,
the student, the teacher with 64. The share of the gap has a bootstrap interval over captions. Bar:
half. How many updates fit is found out first, since the learning rate's course needs their number.
"""

import argparse
import time

import numpy as np

import ldmkit
from ldmkit.critters import Scene

SEED = 500_000


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rung", type=int, default=4)
    parser.add_argument("--captions", type=int, default=200)
    options = parser.parse_args()
    pipe, rung = ldmkit.load("critters", device="cpu"), options.rung

    moments = []
    ldmkit.distill(
        pipe, (rung,), updates=3 * rung + 1, on_update=lambda _: moments.append(time.monotonic())
    )
    each = (moments[-1] - moments[0]) / (len(moments) - 1)  # whole rounds of lessons
    updates = max(rung, round(60 * options.minutes / each))
    began = time.monotonic()
    ladder = ldmkit.distill(pipe, (rung,), updates=updates)
    taken = (time.monotonic() - began) / 60
    print(f"{updates} updates in {taken:.1f} minutes, {ladder!r}", flush=True)

    scenes = [Scene.sample(SEED + i, held_out=False) for i in range(options.captions)]
    captions = [scene.caption(SEED + i) for i, scene in enumerate(scenes)]
    plain, learned, teacher = (
        ldmkit.compare(one, captions, num_inference_steps=(steps,), seed=SEED).values["score"]
        for one, steps in ((pipe, rung), (ladder.student(rung), rung), (pipe, 64))
    )
    again = np.random.default_rng(0).integers(0, len(plain), (2000, len(plain)))
    low, high = np.nanpercentile(share(*(x[again] for x in (plain, learned, teacher))), [2.5, 97.5])
    print(
        f"obedience: plain DDIM {plain.mean():.3f}, student {learned.mean():.3f}, teacher of 64 "
        f"steps {teacher.mean():.3f}; share of the gap {share(plain, learned, teacher):.2f} "
        f"(95 %: {low:.2f} to {high:.2f}), bar 0.5"
    )


def share(plain, learned, teacher):
    """Of the gap between the first and the last, how much the middle one has closed."""
    plain, learned, teacher = (x.mean(-1) for x in (plain, learned, teacher))
    with np.errstate(divide="ignore", invalid="ignore"):
        return (learned - plain) / (teacher - plain)


if __name__ == "__main__":
    main()
