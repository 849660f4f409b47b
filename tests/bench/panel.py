"""How much longer a run takes in a panel, live preview on, than ``record``: in a real kernel.

    python tests/bench/panel.py [--pairs 20] [--steps 32]

Both alternate in one kernel, so that a machine that slows down slows both. A panel's run counts
from ``panel.run()`` until ``job.wait()`` returns: record, message and final picture stand. The
player is filled after that; its seconds are told by themselves.
"""

import argparse
import sys
from pathlib import Path

from jupyter_client.manager import start_new_kernel

CODE = """
import sys, time, numpy as np
sys.path.insert(0, {tests!r})
import ldmkit
pipe = ldmkit.load({name!r})
call = dict(prompt="a red cat with a top hat", seed=7, num_inference_steps={steps})
panel = ldmkit.PromptPanel(pipe, **call)
after = []

def recorded():
    ldmkit.record(pipe, **call)

def in_panel():
    panel.run().wait()

def in_turn(i):
    taken = {{}}
    for run in (recorded, in_panel) if i % 2 else (in_panel, recorded):
        start = np.array([time.perf_counter(), time.process_time()])
        run()
        taken[run] = np.array([time.perf_counter(), time.process_time()]) - start
        began = time.perf_counter()
        while panel.job is not None and panel.job._listeners[1] is not None:
            time.sleep(0.001)  # the player, before the next run begins
        if run is in_panel:
            after.append(time.perf_counter() - began)
    return taken[recorded], taken[in_panel]

in_turn(0)
after.clear()
seconds = np.array([in_turn(i) for i in range({pairs})])
rng = np.random.default_rng(0)
for clock, taken in zip(("wall", "CPU"), seconds.transpose(2, 0, 1)):
    ratios = taken[:, 1] / taken[:, 0]
    drawn = np.median(rng.choice(ratios, (2000, len(ratios))), axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    a, b = np.median(taken, axis=0)
    print(f"{{clock}}: record {{a:.3f}} s, panel {{b:.3f}} s, ratio {{np.median(ratios):.3f}} "
          f"(95 %: {{low:.3f}} to {{high:.3f}}, {{len(ratios)}} pairs)")
print(f"player filled {{np.median(after):.3f}} s later; preview {{len(panel.job.preview)}} bytes")
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--name", default="critters")
    options = vars(parser.parse_args())
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        tests = str(Path(__file__).parents[1])
        client.execute_interactive(CODE.format(tests=tests, **options), timeout=3600)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


if __name__ == "__main__":
    sys.exit(main())
