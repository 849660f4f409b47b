"""Notebooks run while the other tests go on: in kernels of their own, two at a time.

What is embedded computes on one thread, so that two kernels keep two cores busy. They are nicer
than the tests beside them, and begin when the tests have been collected, which costs no assertion:
each test waits for its own notebook. Tests of one notebook share its kernel.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from nbclient import NotebookClient

AT_ONCE = 2


class Kernels:
    """Notebooks by their path, executed or still waiting for a kernel."""

    def __init__(self, folder):
        self.folder = folder
        self.pool = ThreadPoolExecutor(AT_ONCE, "notebook")
        self.futures = {}
        self.running = set()
        # As it is now: tests that run meanwhile change their own.
        self.environment = dict(os.environ) | {"OMP_NUM_THREADS": "1"}
        self.environment.pop("MPLBACKEND", None)  # no backend set, as in class

    def begin(self, prepare, path):
        if path not in self.futures:
            place = self.folder / path.stem
            place.mkdir()
            self.futures[path] = self.pool.submit(self._execute, prepare, path, place)

    def _execute(self, prepare, path, place):
        """In an empty folder, without hub, with settings of IPython's own."""
        notebook = prepare(path)
        client = NotebookClient(
            notebook,
            timeout=600,
            kernel_name="python3",
            resources={"metadata": {"path": str(place)}},
        )
        self.running.add(client)
        try:
            environment = self.environment | {"IPYTHONDIR": str(place / "ipython")}
            client.execute(env=environment, preexec_fn=nicer if hasattr(os, "nice") else None)
        finally:
            self.running.discard(client)
        return notebook

    def end(self):
        """Leaves no kernel behind, also where the tests were stopped."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        for client in list(self.running):
            if client.km is not None and client.km.has_kernel:
                client.km.provisioner.process.kill()
        self.pool.shutdown()


def nicer():
    os.nice(5)


KERNELS = pytest.StashKey[Kernels]()


def pytest_collection_finish(session):
    if session.config.option.collectonly:
        return
    for item in session.items:
        if "executed" in getattr(item, "fixturenames", ()):
            if KERNELS not in session.config.stash:
                folder = item.config._tmp_path_factory.mktemp("notebooks")
                session.config.stash[KERNELS] = Kernels(folder)
            session.config.stash[KERNELS].begin(item.module.prepared, item.callspec.params["path"])


def pytest_sessionfinish(session):
    if KERNELS in session.config.stash:
        session.config.stash[KERNELS].end()


@pytest.fixture
def executed(request, path):
    """The test's notebook, run to its end; raises what stopped it."""
    return request.config.stash[KERNELS].futures[path].result()
