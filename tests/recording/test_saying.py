"""Who hears a run's sentences: a listener of this thread, or everybody as a warning."""

import threading
import warnings

import pytest

from ldmkit.recording.saying import heard_by, say


def test_a_warning_where_nobody_listens():
    def caller():
        say("mind this", stacklevel=1)

    with pytest.warns(UserWarning, match="^mind this$") as caught:
        caller()
    assert caught[0].filename == __file__


def test_a_listener_hears_it_and_only_in_its_thread():
    heard, elsewhere = [], []

    def other():
        try:
            say("from the other thread", stacklevel=1)
        except UserWarning as warning:
            elsewhere.append(str(warning))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with heard_by(heard.append):
            say("one", stacklevel=1)
            with heard_by(lambda words: None):
                say("two", stacklevel=1)
            say("three", stacklevel=1)
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
        with pytest.raises(UserWarning, match="four"):
            say("four", stacklevel=1)
    assert heard == ["one", "three"]
    assert elsewhere == ["from the other thread"]
