"""A panel's cell run again and again, in a real kernel."""

import pytest

from .frontend import Kernel

pytestmark = pytest.mark.slow

SETUP = """
import gc, threading, time, ipywidgets, tiny, torch, ldmkit
pipe = tiny.pipeline(size="small")
def alive():
    gc.collect()
    found = getattr(ipywidgets.widgets.widget, "_instances", None)
    widgets = len(ipywidgets.Widget.widgets if found is None else found)
    tensors = sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())
    threads = [thread.name for thread in threading.enumerate() if thread.name == "ldmkit"]
    return widgets, tensors, len(threads)
"""
CELL = """
panel = ldmkit.PromptPanel(pipe, "a cat", num_inference_steps=2, guidance_scale=1.0)
panel.run().wait()
while panel.job._listeners[1]: time.sleep(0.001)
panel
"""


@pytest.fixture(scope="module")
def kernel():
    kernel = Kernel()
    kernel.run(SETUP)
    yield kernel
    kernel.close()


def test_runs_of_the_cell_leave_nothing_behind(kernel):
    for _ in range(2):
        kernel.run(CELL)
    first = kernel.run("alive()")
    for _ in range(10):
        kernel.run(CELL)
    assert kernel.run("alive()") == first
    assert kernel.run("panel.result is not None") == "True"


def test_a_record_shown_again_and_again(kernel):
    cell = "shown = ldmkit.TrajectoryPanel(traj, traj)\nshown"
    kernel.run("traj = ldmkit.record(pipe, 'a cat', num_inference_steps=2)")
    kernel.run(cell)
    first = kernel.run("alive()")
    for _ in range(5):
        kernel.run(cell)
    assert kernel.run("alive()") == first
    kernel.run("kept = shown\nshown = ldmkit.TrajectoryPanel(traj)")  # another cell
    assert kernel.run("kept.comm is not None") == "True"


def test_a_panels_player_is_its_own(kernel):
    cell = "p.run().wait()\nwhile p.job._listeners[1]: time.sleep(0.001)"
    kernel.run("one, two = (ldmkit.PromptPanel(pipe, num_inference_steps=2) for _ in range(2))")
    for name in ("one", "two"):
        kernel.run(f"p = {name}")
        kernel.run(cell)
    assert (
        kernel.run("one._player.comm is not None, two._player.comm is not None") == "(True, True)"
    )


def test_an_edited_cell_is_known_by_its_id(kernel):
    def run(code, cell):
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {},
                   "allow_stdin": True, "stop_on_error": True}  # fmt: skip
        message = kernel.client.session.msg("execute_request", content, metadata={"cellId": cell})
        kernel.client.shell_channel.send(message)
        kernel.finish(message["header"]["msg_id"])

    run("first = ldmkit.PromptPanel(pipe, 'a cat')", "one")
    run("other = ldmkit.PromptPanel(pipe, 'a cat')", "two")
    run("second = ldmkit.PromptPanel(pipe, 'a dog')  # edited", "one")
    assert kernel.run("first, other") == "(PromptPanel(closed), PromptPanel('a cat', None))"
    assert kernel.run("second") == "PromptPanel('a dog', None)"


def test_a_handler_closes_nothing(kernel):
    kernel.run(
        "button = ipywidgets.Button(description='more')\n"
        "made = []\n"
        "button.on_click(lambda _: made.append(ldmkit.PromptPanel(pipe)))\n"
        "button"
    )
    button = kernel.find("Button", description="more")
    for _ in range(2):
        kernel.click(button)
    assert kernel.run("[panel._closed for panel in made]") == "[False, False]"
