"""``import ldmkit`` over ``import numpy``: a ratio, each in processes of their own, alternating.

    python tests/bench/imports.py [--pairs 20]

The clock runs around the import statement alone, since Python's own start costs both the same.
"""

import argparse
import subprocess
import sys

import numpy as np

CODE = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=20)
    pairs = parser.parse_args().pairs
    seconds("numpy"), seconds("ldmkit")  # once for the disk's cache
    ours, numpys = np.array([(seconds("ldmkit"), seconds("numpy")) for _ in range(pairs)]).T
    ratios = ours / numpys
    print(
        f"ldmkit {np.median(ours) * 1000:.1f} ms, numpy {np.median(numpys) * 1000:.1f} ms, ratio "
        f"{np.median(ratios):.3f} ({ratios.min():.3f} to {ratios.max():.3f})"
    )


def seconds(module):
    done = subprocess.run([sys.executable, "-c", CODE.format(module)], capture_output=True)
    return float(done.stdout)


if __name__ == "__main__":
    main()
