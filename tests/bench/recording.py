"""How much longer a recorded run takes than the bare pipeline: a ratio, interleaved.

    python tests/bench/recording.py [--pairs 20] [--steps 20] [--folder FOLDER] [--preview none]

Bare and recorded runs alternate, so that a machine that slows down slows both; the ratio is the
median of the pairs' ratios with a bootstrap interval of 95 %. On a busy machine trust the CPU's.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny

import ldmkit
from ldmkit.recording import record


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--folder", help="a pipeline's folder or name; else random weights")
    parser.add_argument("--preview", default="none")
    options = parser.parse_args()
    pipe = ldmkit.load(options.folder) if options.folder else tiny.pipeline()
    pipe.set_progress_bar_config(disable=True)
    call = {"num_inference_steps": options.steps, "guidance_scale": 4.0}
    keep = ("latents", "denoised", "noise_pred")

    def bare():
        pipe("a red cat", generator=torch.Generator("cpu").manual_seed(7), **call)

    def recorded():
        record(pipe, "a red cat", seed=7, keep=keep, preview=options.preview, **call)

    bare(), recorded()  # warm
    seconds = np.array([in_turn(bare, recorded, i) for i in range(options.pairs)])
    for clock, taken in zip(("wall", "CPU"), seconds.transpose(2, 0, 1), strict=True):
        report(clock, taken)


def report(clock, seconds):
    ratios = seconds[:, 1] / seconds[:, 0]
    rng = np.random.default_rng(0)
    drawn = np.median(rng.choice(ratios, (2000, len(ratios))), axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    bare, recorded = np.median(seconds, axis=0)
    print(
        f"{clock}: bare {bare:.3f} s, recorded {recorded:.3f} s, ratio {np.median(ratios):.3f} "
        f"(95 %: {low:.3f} to {high:.3f}, {len(ratios)} pairs)"
    )


def in_turn(bare, recorded, i):
    """((wall, CPU) of bare, the same of recorded) in seconds; who goes first alternates."""
    order = (bare, recorded) if i % 2 == 0 else (recorded, bare)
    taken = {}
    for run in order:
        start = np.array([time.perf_counter(), time.process_time()])
        run()
        taken[run] = np.array([time.perf_counter(), time.process_time()]) - start
    return taken[bare], taken[recorded]


if __name__ == "__main__":
    main()
