"""Every bar of daily use as a ratio, in one run: what a call costs beside the bare pipeline.

    python tests/bench/classroom.py [--pairs 10] [--steps 20] [--only record,display]

Each ratio is taken from interleaved runs in one process (a kernel of its own for panels, processes
of their own for threads), median with a bootstrap interval of 95 %. On a busy machine trust the
CPU's clock; the two rows about busy machines make their own and want a quiet one.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

import ldmkit

HERE = str(Path(__file__).resolve().parent)
PROMPT, GUIDANCE = "a red cat with a top hat", 3.5
PICTURE = """
import sys, time, torch
sys.path.insert(0, {here!r})
from classroom import bare_run
if {threads}:
    torch.set_num_threads({threads})
run = bare_run({steps})
run()
taken = []
for _ in range({repeats}):
    start = time.perf_counter()
    run()
    taken.append(time.perf_counter() - start)
print(sorted(taken)[len(taken) // 2])
"""
BUSY = "while True: pass"
PANEL = """
import sys, time, numpy as np
sys.path.insert(0, {here!r})
import ldmkit
from classroom import GUIDANCE, PROMPT, bare_run, report
bare = bare_run({steps})
panel = ldmkit.PromptPanel(ldmkit.load("critters"), prompt=PROMPT, seed=7,
                           num_inference_steps={steps}, guidance_scale=GUIDANCE)

def in_panel():
    panel.run().wait()

def clocks():
    return np.array([time.perf_counter(), time.process_time()])

def quiet():  # the player is filled after the run: not before the next one begins
    last = time.process_time()
    while True:
        time.sleep(0.2)
        now = time.process_time()
        if now - last < 0.02:
            return
        last = now

rows = []
for i in range({pairs} + 1):
    taken = {{}}
    for run in (bare, in_panel) if i % 2 else (in_panel, bare):
        start = clocks()
        run()
        taken[run] = clocks() - start
        quiet()
    rows.append((taken[in_panel], taken[bare]))
report("panel's run / bare", 1.35, np.array(rows[1:]))
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument(
        "--only", help="names, with commas: record, embedding, display, student, panel, busy"
    )
    options = parser.parse_args()
    known = {
        "record": recording,
        "embedding": embedding,
        "display": display,
        "student": student,
        "panel": panel,
        "busy": busy,
    }
    for name in options.only.split(",") if options.only else known:
        known[name](options.pairs, options.steps)


def bare_run(steps):
    """The bare pipeline, as a user calls it."""
    pipe = ldmkit.load("critters")
    call = {"num_inference_steps": steps, "guidance_scale": GUIDANCE}
    return lambda: pipe(PROMPT, generator=torch.Generator("cpu").manual_seed(7), **call)


def recording(pairs, steps):
    pipe, bare = ldmkit.load("critters"), bare_run(steps)
    call = {"seed": 7, "num_inference_steps": steps, "guidance_scale": GUIDANCE}
    for name, bar, more in (("", 1.3, {}), (', keep="all"', 1.5, {"keep": "all"})):

        def recorded(more=more):
            ldmkit.record(pipe, PROMPT, **call, **more)

        report(f"record{name} / bare", bar, interleaved(recorded, bare, pairs))


def embedding(pairs, steps):
    unclip = ldmkit.load("critters-unclip")
    point = ldmkit.clip_space(unclip).encode_text(PROMPT)

    def decoded(**more):
        ldmkit.decode_embedding(unclip, point, seed=7, num_inference_steps=steps, **more)

    taken = interleaved(decoded, lambda: decoded(preview="none"), pairs)
    report('decode_embedding / preview="none"', 1.15, taken)


def display(pairs, steps):
    call = {"seed": 7, "num_inference_steps": steps, "guidance_scale": GUIDANCE}
    traj = ldmkit.record(ldmkit.load("critters"), PROMPT, **call)
    taken = interleaved(traj._repr_mimebundle_, bare_run(steps), pairs)
    report("display / bare", 0.15, taken)


def student(pairs, steps):
    """However many steps the others take: the teacher's 64 are what its students are for."""
    quick = ldmkit.load("critters", variant="steps4")
    call = {"num_inference_steps": 4, "guidance_scale": 1.0}

    def few():
        quick(PROMPT, generator=torch.Generator("cpu").manual_seed(7), **call)

    taken = interleaved(bare_run(64), few, pairs)
    report("64 guided steps / 4 of the student (at least)", 15, taken)


def panel(pairs, steps):
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3")
    try:
        code = PANEL.format(here=HERE, pairs=pairs, steps=steps)
        client.execute_interactive(code, timeout=3600)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def busy(pairs, steps):
    """Threads: torch's own number beside one niced process; any beside one on each core."""
    taken = {"default": [], "one": [], "crowded": [], "quiet": []}
    for _ in range(max(2, pairs // 4)):
        taken["quiet"].append(picture(steps, threads=0, others=0))
        taken["one"].append(picture(steps, threads=1, others=1, nice=10))
        taken["default"].append(picture(steps, threads=0, others=1, nice=10))
        taken["crowded"].append(picture(steps, threads=0, others=os.cpu_count()))
    middle = {name: np.median(seconds) for name, seconds in taken.items()}
    ratio = middle["default"] / middle["one"]
    line("torch's threads / one, beside one niced process, wall", 1.3, ratio)
    line("a busy process on each core / quiet, wall", 3.5, middle["crowded"] / middle["quiet"])


def picture(steps, threads, others, nice=0):
    """Seconds of a picture in a process of its own, beside others that never rest."""
    command = [sys.executable, "-c", BUSY]
    beside = [subprocess.Popen(command, preexec_fn=lambda: os.nice(nice)) for _ in range(others)]
    free = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "MKL_"))}
    code = PICTURE.format(here=HERE, threads=threads, steps=steps, repeats=5)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], env=free, capture_output=True, check=True
        )
    finally:
        for process in beside:
            process.kill()
            process.wait()
    return float(done.stdout.split()[-1])


def interleaved(ours, theirs, pairs):
    """(pairs, 2, 2) seconds: ours and theirs, by wall and CPU; who goes first alternates."""
    ours(), theirs()  # warm
    rows = []
    for i in range(pairs):
        taken = {}
        for run in (ours, theirs) if i % 2 else (theirs, ours):
            start = np.array([time.perf_counter(), time.process_time()])
            run()
            taken[run] = np.array([time.perf_counter(), time.process_time()]) - start
        rows.append((taken[ours], taken[theirs]))
    return np.array(rows)


def report(name, bar, seconds):
    rng = np.random.default_rng(0)
    for clock, taken in zip(("wall", "CPU"), seconds.transpose(2, 0, 1), strict=True):
        ratios = taken[:, 0] / taken[:, 1]
        drawn = np.median(rng.choice(ratios, (2000, len(ratios))), axis=1)
        low, high = np.percentile(drawn, [2.5, 97.5])
        interval = f" (95 %: {low:.3f} to {high:.3f}, {len(ratios)} pairs)"
        line(f"{name}, {clock}", bar, np.median(ratios), interval)


def line(name, bar, ratio, interval=""):
    print(f"{name:58} {ratio:6.3f}  bar {bar:<5}{interval}", flush=True)


if __name__ == "__main__":
    main()
