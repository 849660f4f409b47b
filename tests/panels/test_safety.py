"""A panel shows no picture before the safety checker's verdict, and says why."""

import time

import pytest
import tiny
import tiny_encoders

from ldmkit.panels import PromptPanel
from ldmkit.recording.safety import WITHHELD


def seen_while_running(**options):
    """(the pictures that stood in the panel while it ran, its sentence, the record)."""
    pipe = tiny_encoders.with_checker(tiny.pipeline(size="small"))
    panel = PromptPanel(pipe, "a cat", num_inference_steps=6, **options)
    try:
        shown, paint = [], panel._paint
        panel._paint = lambda encoded: (shown.append(encoded), paint(encoded))
        plain = pipe.unet.forward

        def slow(*args, **kwargs):  # a preview is drawn at 10 Hz at most
            time.sleep(0.06)
            return plain(*args, **kwargs)

        pipe.unet.forward = slow
        job = panel.run()
        traj = job.wait(60)
        return [one for one in shown[:-1] if one], " ".join(job.notes), traj
    finally:
        panel.close()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_nothing_unchecked_is_shown():
    pictures, said, traj = seen_while_running()
    assert pictures == []
    assert WITHHELD in said
    assert "blacked out 1 of 1 pictures" in said
    assert traj.hidden == (True,)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_for_those_who_must():
    pictures, said, traj = seen_while_running(unsafe_previews=True)
    assert pictures
    assert WITHHELD not in said
    assert traj.hidden == ()
