"""How much sooner two workers of one thread each finish a sweep than one does: a ratio.

    python tests/bench/sweep.py [--pairs 5] [--pictures 8] [--steps 20] [--engines]

Both have opened the model before the clock runs. One and two alternate, so that a machine that
slows down slows both; the ratio is the median of the pairs' ratios. Needs two idle cores.
``--engines`` takes ipyparallel's instead of a process pool's.
"""

import argparse
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context

import ldmkit


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--engines", action="store_true")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # the workers inherit it
    make = engines if options.engines else processes
    with ExitStack() as stack:
        pools = [stack.enter_context(make(count)) for count in (1, 2)]
        for pool in pools:
            seconds(pool, options, pictures=16, steps=1)  # each worker opens the model
        ratios = []
        for i in range(options.pairs):
            order = pools if i % 2 == 0 else pools[::-1]
            taken = {id(pool): seconds(pool, options) for pool in order}
            one, two = (taken[id(pool)] for pool in pools)
            ratios.append(one / two)
            print(f"one worker {one:.2f} s, two {two:.2f} s: {one / two:.2f} x")
    print(f"median {statistics.median(ratios):.2f} x of {len(ratios)} pairs")


def seconds(pool, options, pictures=None, steps=None):
    start = time.perf_counter()
    grid = ldmkit.sweep(
        "critters",
        {"seed": range(pictures or options.pictures)},
        "a red cat wearing a top hat in the snow",
        num_inference_steps=steps or options.steps,
        clip=False,
        executor=pool,
    )
    assert None not in grid.images
    return time.perf_counter() - start


def processes(count):
    return ProcessPoolExecutor(count, mp_context=get_context("spawn"))


class engines:
    """ipyparallel's executor, and its cluster while a block runs."""

    def __init__(self, count):
        import ipyparallel

        self.cluster = ipyparallel.Cluster(n=count, log_level=40)

    def __enter__(self):
        return self.cluster.start_and_connect_sync().executor()

    def __exit__(self, *error):
        self.cluster.stop_cluster_sync()


if __name__ == "__main__":
    main()
