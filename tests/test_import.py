import importlib
import json
import subprocess
import sys

import pytest

import ldmkit

HEAVY = ("torch", "diffusers", "transformers", "matplotlib", "ipywidgets", "anywidget", "IPython")


def in_new_process(code):
    """What the code prints in a Python of its own, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ["ldmkit", "ldmkit.records", "ldmkit.cli", "ldmkit.critters"])
def test_import_loads_nothing_heavy(name):
    code = f"import sys, json, {name}; print(json.dumps(sorted(sys.modules)))"
    loaded = {module.partition(".")[0] for module in in_new_process(code)}
    assert "ldmkit" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_import_loads_less_than_numpy():
    # Modules stand for time here, which a busy machine would blur; tests/bench has the seconds.
    code = (
        "import sys, json; before = set(sys.modules); import ldmkit; "
        "ours = set(sys.modules) - before; import numpy; "
        "print(json.dumps([len(ours), len(set(sys.modules) - before - ours)]))"
    )
    ours, numpys = in_new_process(code)
    assert ours < numpys / 2


def test_every_public_name_is_there_and_stays_what_it_is():
    for name in ldmkit.__all__:
        value = getattr(ldmkit, name)
        assert getattr(ldmkit, name) is value
    assert dir(ldmkit) == sorted(ldmkit.__all__)


def test_public_names_are_those_of_their_homes():
    for name, home in ldmkit._HOMES.items():
        module = importlib.import_module(home)
        assert getattr(ldmkit, name) is (
            module if home == f"ldmkit.{name}" else module.__dict__[name]
        )


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'lood'"):
        ldmkit.lood  # noqa: B018


def test_star_import_gives_the_public_names():
    code = "import json; from ldmkit import *; print(json.dumps(sorted(globals())))"
    assert set(ldmkit.__all__) - {"__version__"} <= set(in_new_process(code))
