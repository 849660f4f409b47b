"""From process start to the first picture, over a bare ``import torch, diffusers``: a ratio.

    python tests/bench/start.py [--pairs 5] [--steps 20] [FOLDER_OR_NAME]

Each run is a process of its own; both kinds alternate. On a busy machine trust the CPU's ratio.
Libraries that happen to be installed count: transformers and diffusers import scipy and pandas
where they find them.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

BARE = "import torch, diffusers"
PICTURE = """
import ldmkit
pipe = ldmkit.load({what!r})
import torch
generator = torch.Generator("cpu").manual_seed(7)
image = pipe("a red cat", num_inference_steps={steps}, guidance_scale=4.0, generator=generator)
assert image.images[0].size[0] >= 32
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", help="folder or name; else a folder of random weights")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        what = options.what or random_weights(folder)
        picture = PICTURE.format(what=what, steps=options.steps)
        for code in (BARE, picture):  # once for the disk's cache
            run(code)
        seconds = np.array([(run(BARE), run(picture)) for _ in range(options.pairs)])
    for clock, (bare, full) in zip(("wall", "CPU"), np.median(seconds, axis=0).T, strict=True):
        ratios = seconds[:, 1, int(clock == "CPU")] / seconds[:, 0, int(clock == "CPU")]
        print(
            f"{clock}: bare {bare:.2f} s, first picture {full:.2f} s, ratio "
            f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"
        )


def random_weights(folder):
    code = f"import tiny; tiny.pipeline().save_pretrained({folder!r})"
    here = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": here}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True)
    return folder


def run(code):
    """(wall, CPU) seconds of a process that runs the code."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, used


if __name__ == "__main__":
    main()
