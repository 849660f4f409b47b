"""What every test runs under: no network but this machine, no hub, quiet libraries.

The network itself is closed by pytest-socket (``--allow-hosts`` in pyproject.toml); the variables
below also reach the processes that tests start, such as notebook kernels. They are set before
torch or a hub client can be imported.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("JUPYTER_PLATFORM_DIRS", "1")
# Small models gain nothing from more threads, and CI has two cores.
os.environ.setdefault("OMP_NUM_THREADS", str(min(2, os.cpu_count() or 1)))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

pytest_plugins = ("browser.pages",)
