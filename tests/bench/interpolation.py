"""Seconds for a frame of the embedded interpolation, warm: whole walks in batches, and one alone.

    python tests/bench/interpolation.py [--folder FOLDER] [--frames 9] [--steps 10] [--repeats 10]

A walk's time is divided by its frames, encoding of the ends included; a frame alone is what a
panel asks for while the reader drags. Medians with bootstrap intervals of 95 %. On a busy machine
trust the CPU's clock (of all threads together).
"""

import argparse
import time

import numpy as np

import ldmkit
from ldmkit.critters import Scene

SEED = 400_000  # below the evaluation's


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", default="critters-unclip", help="an unCLIP's name or folder")
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--guidance", type=float, help="by default the weights' own")
    options = parser.parse_args()
    unclip = ldmkit.load(options.folder)
    call = {"num_inference_steps": options.steps}
    if options.guidance is not None:
        call["guidance_scale"] = options.guidance

    def walk(number):
        ends = Scene.sample(SEED + 2 * number), Scene.sample(SEED + 2 * number + 1)
        ldmkit.interpolate(unclip, *ends, num_frames=options.frames, **call)
        return options.frames

    clip = ldmkit.clip_space(unclip)
    ends = [clip.encode_image(Scene.sample(SEED + i).draw(64)) for i in range(2)]

    def alone(number):
        ldmkit.interpolate(unclip, *ends, t=[(number + 0.5) / options.repeats], **call)
        return 1

    for name, run in ((f"a walk of {options.frames}", walk), ("a frame alone", alone)):
        run(0)  # warm
        report(name, np.array([timed(run, i) for i in range(options.repeats)]))


def timed(run, number):
    """(wall, CPU) seconds for a frame."""
    start = np.array([time.perf_counter(), time.process_time()])
    frames = run(number)
    return (np.array([time.perf_counter(), time.process_time()]) - start) / frames


def report(name, seconds):
    rng = np.random.default_rng(0)
    for clock, taken in zip(("wall", "CPU"), seconds.T, strict=True):
        drawn = np.median(rng.choice(taken, (2000, len(taken))), axis=1)
        low, high = np.percentile(drawn, [2.5, 97.5])
        print(
            f"{name}, {clock}: {np.median(taken):.3f} s a frame "
            f"(95 %: {low:.3f} to {high:.3f}, n = {len(taken)})"
        )


if __name__ == "__main__":
    main()
