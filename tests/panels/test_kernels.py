"""The panels in real kernels, old and new, by the messages that a browser would send.

The installed kernel runs always. Older ones, among them Colab's pair of ipykernel 6.17 with
ipywidgets 7.7.1, are laid over this environment: pip puts them alone into a folder that the kernel
finds first. That they run with today's IPython is what was found, not what they promise.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import pytest

from .frontend import Kernel

pytestmark = pytest.mark.slow

OLDER = {
    "newest": (),
    "6.31": ("ipykernel==6.31.*",),
    "6.17, ipywidgets 7": ("ipykernel==6.17.*", "ipywidgets==7.7.1", "ipython_genutils==0.2.0"),
}
# A step takes a tenth of a second, and tells when it began.
SETUP = """
import time, tiny, ldmkit
pipe = tiny.pipeline(size="small")
pipe.set_progress_bar_config(disable=True)
began, broken = [], []
def slowly(*_):
    began.append(time.time())
    time.sleep(0.1)
    if broken:
        raise RuntimeError(broken.pop())
pipe.unet.register_forward_pre_hook(slowly)
"""
PANEL = """
panel = ldmkit.PromptPanel(pipe, "a red cat", seed=1, num_inference_steps=40, guidance_scale=2.0)
panel
"""


@pytest.fixture(scope="module")
def layer(tmp_path_factory):
    """``layer(name)``: the folder with older packages, or none."""
    made = {}

    def make(name):
        wanted = OLDER[name]
        if wanted and wanted not in made:
            made[wanted] = tmp_path_factory.mktemp("older")
            _install(made[wanted], wanted)
        return [made[wanted]] if wanted else []

    return make


def _install(folder, packages):
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder]
    done = subprocess.run([*command, *packages], capture_output=True, text=True, check=False)
    if done.returncode:
        words = f"pip could not fetch {', '.join(packages)}: {done.stderr.strip()[-300:]}"
        if os.environ.get("LDMKIT_REQUIRE_BROWSER") == "1":  # CI: what is skipped protects nothing
            pytest.fail(words)
        pytest.skip(words)


@pytest.fixture(scope="module")
def started(layer, request):
    """One kernel for the tests that want the same packages."""
    kernel = Kernel(*layer(request.param))
    versions = kernel.run(
        "import ipykernel, ipywidgets; print(ipykernel.__version__, ipywidgets.__version__)"
    )
    for package, have in zip(("ipykernel", "ipywidgets"), versions.split(), strict=True):
        for wanted in OLDER[request.param]:
            if wanted.startswith(package):
                assert have.startswith(wanted.split("==")[1].rstrip("*"))
    yield kernel
    kernel.close()


@pytest.fixture
def kernel(started):
    """The kernel; a test's panels and settings are gone after it."""
    yield started
    started.run("import ipywidgets, os; ipywidgets.Widget.close_all()")
    started.run("os.environ.pop('LDMKIT_FOREGROUND', None)")


class Panel:
    """The parts of the one ``PromptPanel``, by what they look like."""

    def __init__(self, kernel):
        self.kernel = kernel
        self.run = kernel.find("Button", description="Run")
        self.stop = kernel.find("Button", description="Stop")
        self.status = kernel.find("HTML", css="ldm-status-line")
        self.message = kernel.find("HTML", css="ldm-message")
        self.steps = kernel.find("IntText", description="Steps")
        self.seed = kernel.find("IntText", description="Seed")

    def says(self, words):
        return words in self.kernel.widgets[self.status].get("value", "")

    def warns(self, words):
        return words in self.kernel.widgets[self.message].get("value", "")

    def until_step(self, step):
        def reached():  # ten updates a second at most: one may be left out
            words = self.kernel.widgets[self.status].get("value", "")
            found = re.match(r"Step (\d+) of", words)
            return found is not None and int(found[1]) >= step

        self.kernel.until(reached, f"step {step}")

    def until_ready(self):
        ready = self.kernel.widgets[self.run]
        self.kernel.until(lambda: not ready.get("disabled"), "Run to be ready again")


@pytest.mark.parametrize("started", OLDER, indirect=True, scope="module")
def test_a_run_from_first_click_to_last(kernel):
    kernel.run(SETUP)
    kernel.run(PANEL)  # returns although nothing has run
    panel = Panel(kernel)

    # Typed, then clicked: the run starts, and its pictures come while it goes on.
    kernel.set(panel.seed, value=7)
    before = len(kernel.updates)
    kernel.click(panel.run)
    panel.until_step(3)
    pictures = [state["value"] for _, _, state in kernel.updates[before:] if is_picture(state)]
    assert pictures
    assert all(len(picture) < 8_000 for picture in pictures)

    # Another cell is answered meanwhile.
    asked = time.monotonic()
    assert kernel.run("print(6 * 7, panel.job.state)") == "42 running"
    assert time.monotonic() - asked < 3

    # Stop ends it within one step, and keeps the part.
    clicked = kernel.click(panel.stop)
    kernel.until(lambda: panel.says("Stopped after step"), "the end")
    panel.until_ready()
    later = kernel.run(f"print(sum(t > {clicked} for t in began), panel.job.state)")
    assert later in ("0 stopped", "1 stopped")
    kernel.run("kept = panel.job.wait()")
    assert kernel.run("print(kept.stopped, kept.seed, len(kept.images))") == "True 7 1"
    assert kernel.run("print(len(kept.timesteps) == len(began))") == "True"

    # What is refused is said, and the record stays.
    kernel.set(panel.steps, value=0)
    kernel.until(lambda: panel.warns("num_inference_steps must be"), "a sentence")
    kernel.click(panel.run)
    kernel.set(panel.steps, value=3)
    kernel.until(lambda: not panel.warns("num_inference_steps"), "the sentence to go")

    # A run that fails says why in one sentence; the next one works.
    kernel.run("broken.append('the lamp is out')")
    kernel.click(panel.run)
    kernel.until(lambda: panel.warns("the lamp is out"), "an error's sentence")
    panel.until_ready()
    assert kernel.run("print(panel.result is kept, panel.job.state)") == "True failed"
    kernel.click(panel.run)
    kernel.until(lambda: panel.says("3 steps in"), "the end of a run")  # `result` comes next
    assert not panel.warns("the lamp")
    assert (
        kernel.run("panel.job.wait(); print(len(panel.result.timesteps), panel.result.stopped)")
        == "3 False"
    )

    # The player came with it: its step goes both ways.
    player = find_player(kernel)
    shown = kernel.widgets[player]
    kernel.until(lambda: shown["data"]["total"] == 3, "the player")
    kernel.set(player, step=2)
    assert kernel.run("p = panel._player; print(p.step, p._player.step)") == "2 2"
    kernel.run("p.step = 1")
    assert shown["step"] == 1
    kernel.run("panel.close()")
    assert not kernel.widgets.keys() & {panel.run, panel.stop, player}


def is_picture(state):
    return isinstance(state.get("value"), bytes) and state["value"][8:12] == b"WEBP"


def find_player(kernel):
    (found,) = [key for key, state in kernel.widgets.items() if {"awake", "data"} <= state.keys()]
    return found


@pytest.mark.parametrize("started", ["newest"], indirect=True, scope="module")
def test_where_nobody_can_answer_a_run_is_in_the_foreground(kernel):
    """nbclient's kernels take no input; Stop is the interrupt button there."""
    kernel.run(SETUP)
    quiet = {"allow_stdin": False}
    kernel.run(PANEL.replace("=40", "=4"), **quiet)
    assert kernel.run("job = panel.run(); print(job.state)", **quiet) == "done"
    cell = kernel.start(
        "panel.value = {'num_inference_steps': 60}; print(panel.run().state)", **quiet
    )
    panel = Panel(kernel)
    panel.until_step(3)
    interrupted = time.time()
    kernel.interrupt()
    assert kernel.finish(cell) == "stopped"
    assert kernel.run(f"print(sum(t > {interrupted} for t in began))") in ("0", "1")


@pytest.mark.parametrize("started", ["newest"], indirect=True, scope="module")
def test_letters_reach_a_live_panel_in_threads_and_in_the_foreground(kernel):
    kernel.run(SETUP)
    live = PANEL.replace("=40", "=2").replace("guidance_scale=2.0", "guidance_scale=1.0, live=True")
    kernel.run(live)
    kernel.run("panel.job.wait()")
    (field,) = [key for key, state in kernel.widgets.items() if "vocabulary" in state]
    before = len(kernel.updates)
    text = "a red cat with a top hat"
    for end in range(1, len(text) + 1):
        kernel.set(field, value=text[:end])
    asked = "p = panel.job.wait(); print(panel.value['prompt'] == p.prompt, p.prompt)"
    assert kernel.run(asked) == f"True {text}"
    assert [state for _, _, state in kernel.updates[before:] if is_picture(state)]
    kernel.until(lambda: kernel.run("print(panel.result is not None)") == "True", "a record")
    assert kernel.run("print(panel.result.prompt)") == text

    # As in Colab: what is typed waits for a pause, and the kernel is free until then.
    kernel.run("import os; os.environ['LDMKIT_FOREGROUND'] = '1'; began.clear()")
    for end in range(1, 8):
        kernel.set(field, value=text[:end])
    kernel.until(lambda: kernel.run("print(panel.result.prompt)") == text[:7], "the run")
    assert kernel.run("print(len(began), panel.job.in_foreground)") == "2 True"
    assert kernel.run("panel.value = {'prompt': 'a dog'}; print(panel.result.prompt)") == "a dog"
