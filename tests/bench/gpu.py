"""Recorded over bare on Stable Diffusion 1.5's shapes (random weights), with the peak of memory.

    python tests/bench/gpu.py [--device cuda] [--pairs 10] [--steps 20] [--dtype float16] [--narrow]

Bare and recorded runs alternate; the ratio is the median of the pairs' ratios. ``--narrow`` tries
the script itself on a CPU.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import sized

import ldmkit


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--narrow", action="store_true")
    options = parser.parse_args()
    pipe = sized.stable(options.device, getattr(torch, options.dtype), narrow=options.narrow)
    call = {"num_inference_steps": options.steps, "guidance_scale": 7.5}

    def bare():
        pipe("a red cat", generator=torch.Generator("cpu").manual_seed(7), **call)

    def recorded():
        ldmkit.record(pipe, "a red cat", seed=7, preview="none", **call)

    ways = {"bare": bare, "recorded": recorded}
    measured = {name: [] for name in ways}
    for run in ways.values():
        run()  # warm
    for i in range(options.pairs):
        for name in list(ways) if i % 2 == 0 else [*ways][::-1]:
            measured[name].append(seconds_and_peak(ways[name], options.device))
    for name, runs in measured.items():
        seconds, peaks = zip(*runs, strict=True)
        print(
            f"{name}: {statistics.median(seconds):.3f} s, peak {max(peaks) / 2**20:.0f} MiB of GPU"
        )
    ratios = [
        two[0] / one[0] for one, two in zip(measured["bare"], measured["recorded"], strict=True)
    ]
    print(f"recorded over bare: {statistics.median(ratios):.3f} ({len(ratios)} pairs)")


def seconds_and_peak(run, device):
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    run()
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - start, torch.cuda.max_memory_allocated() if on_gpu else 0


if __name__ == "__main__":
    main()
