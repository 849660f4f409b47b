"""A notebook runs once, in a kernel of its own; its tests share what came of it."""

import os
from unittest import mock

import pytest
from nbclient import NotebookClient
from notebooks.forked import Kernel

OUTCOMES = pytest.StashKey[dict]()


def execute(notebook, place):
    """In an empty folder, without hub, with settings of IPython's own."""
    environment = dict(os.environ) | {"IPYTHONDIR": str(place / "ipython")}
    environment.pop("MPLBACKEND", None)  # no backend set, as in class
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(place)}},
    )
    launched = "jupyter_client.provisioning.local_provisioner.launch_kernel"
    with mock.patch(launched, Kernel):
        client.execute(env=environment)
    return notebook


@pytest.fixture
def executed(request, path, tmp_path_factory):
    """The test's notebook, run to its end; raises what stopped it, to each of its tests."""
    outcomes = request.config.stash.setdefault(OUTCOMES, {})
    if path not in outcomes:
        try:
            outcomes[path] = execute(request.module.prepared(path), tmp_path_factory.mktemp("nb"))
        except Exception as error:
            outcomes[path] = error
    if isinstance(outcomes[path], Exception):
        raise outcomes[path]
    return outcomes[path]
