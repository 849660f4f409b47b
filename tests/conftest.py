"""What every test runs under: no network but this machine, no hub, quiet libraries.

The network itself is closed by pytest-socket (``--allow-hosts`` in pyproject.toml); the variables
below also reach the processes that tests start, such as notebook kernels. They are set before
torch or a hub client can be imported.
"""

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("JUPYTER_PLATFORM_DIRS", "1")
# Small models gain nothing from more threads, and CI has two cores.
os.environ.setdefault("OMP_NUM_THREADS", str(min(2, os.cpu_count() or 1)))
if "PYTEST_XDIST_WORKER" in os.environ:  # threads that spin would wait for those of the other half
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

pytest_plugins = ("browser.pages",)

LONGEST_FIRST = ("notebooks", "browser", "panels", "space", "recording")  # folders


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items):
    """Where tests are shared out (``-n 2``), what they share is made once.

    A file goes to one process, all of JupyterLab's tests to one, and each notebook to one; the
    longest come first, so that no process ends long before the others.
    """
    for item in items:
        name = item.path.relative_to(Path(__file__).parent).as_posix()
        if "executed" in item.fixturenames:
            name += f"-{item.callspec.id}"
        elif "lab" in item.fixturenames:
            name = "jupyterlab"
        item.add_marker(pytest.mark.xdist_group(name))

    def length(item):
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        return LONGEST_FIRST.index(folder) if folder in LONGEST_FIRST else len(LONGEST_FIRST)

    items.sort(key=length)
