"""What every test runs under: no network but this machine, no hub, quiet libraries.

The network itself is closed by pytest-socket (``--allow-hosts`` in pyproject.toml); the variables
below also reach the processes that tests start, such as notebook kernels. They are set before
torch or a hub client can be imported.
"""

import gc
import os
import sys
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

# Whoever imports a module first compiles it for all: the README's install leaves that to us, since
# most of torch and diffusers is never imported, and tests start dozens of processes.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("JUPYTER_PLATFORM_DIRS", "1")
# Small models gain nothing from more threads, and CI has two cores: of two processes each has one.
os.environ.setdefault("OMP_NUM_THREADS", str(min(2, os.cpu_count() or 1)))
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Imports make objects by the million and no garbage: the collector need not walk through them, now
# nor at each of its later rounds.
gc.disable()

pytest_plugins = ("browser.pages",)

LONGEST_FIRST = ("browser", "notebooks", "recipes", "panels", "critters", "distilling", "recording")


def pytest_collection_modifyitems(items):
    """The longest come first, so that no process of ``-n 2`` ends long before the others."""

    def length(item):
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        return LONGEST_FIRST.index(folder) if folder in LONGEST_FIRST else len(LONGEST_FIRST)

    items.sort(key=length)


def pytest_collection_finish():
    gc.collect()
    gc.freeze()
    gc.enable()


class Together(LoadScopeScheduling):
    """What tests share is made once, in one process: browser and JupyterLab, a notebook, a file."""

    def _split_scope(self, nodeid):
        file, _, name = nodeid.partition("::")
        folder = file.split("/")[-2]
        if folder == "notebooks":
            return name[name.rfind("[") :]
        return folder if folder == "browser" else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return Together(config, log)
