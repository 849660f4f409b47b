"""A JupyterLab of the tests' own: folders, settings and kernel that no other Jupyter shares."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import nbformat
from jupyter_client import BlockingKernelClient
from nbformat import v4
from nbformat.sign import NotebookNotary

# No question about news, no request for them.
QUIET = {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}
FLAGS = [
    "--no-browser",
    "--allow-root",  # containers of CI are root's
    "--expose-app-in-browser",  # window.jupyterapp: commands by name, awaited
    "--ServerApp.ip=127.0.0.1",
    "--ServerApp.port_retries=0",
    "--IdentityProvider.token=",
    "--ServerApp.password=",
    "--ServerApp.disable_check_xsrf=True",  # for the REST calls below
    "--LabApp.extension_manager=readonly",
]


@dataclass
class Lab:
    """The running server: ``root`` holds its notebooks."""

    url: str
    root: Path
    home: Path
    process: subprocess.Popen

    def write(
        self, name: str, *cells: str, outputs: list | None = None, kernel: bool = True
    ) -> str:
        """Writes a notebook, unsigned as a mailed one is; returns its name."""
        notebook = v4.new_notebook(cells=[v4.new_code_cell(source) for source in cells])
        for cell, data in zip(notebook.cells, outputs or [], strict=False):
            cell.execution_count = 1
            cell.outputs = [v4.new_output("execute_result", data, execution_count=1)]
        if kernel:
            notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
        nbformat.write(notebook, self.root / name)
        return name

    def trust(self, name: str) -> None:
        """Signs a notebook as ``jupyter trust`` does."""
        notary = NotebookNotary(data_dir=str(self.home / "data"))
        notary.sign(nbformat.read(self.root / name, as_version=4))
        notary.store.close()

    def theme(self, name: str) -> None:
        """Chooses Lab's theme for the pages that are opened next."""
        self._settings("themes", {"theme": name})

    def _settings(self, plugin: str, values: dict) -> None:
        path = self.home / f"settings/@jupyterlab/apputils-extension/{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))

    def api(self, path: str, method: str = "GET") -> list | None:
        """Answers of the server's REST interface."""
        request = urllib.request.Request(f"{self.url}/api/{path}", method=method)
        with urllib.request.urlopen(request, timeout=20) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    def end_sessions(self) -> None:
        """Shuts down every kernel."""
        for session in self.api("sessions"):
            self.api(f"sessions/{session['id']}", "DELETE")

    def kernel(self) -> BlockingKernelClient:
        """A second client of the one running kernel."""
        (session,) = self.api("sessions")
        file = self.home / "runtime" / f"kernel-{session['kernel']['id']}.json"
        client = BlockingKernelClient(connection_file=str(file))
        client.load_connection_file()
        client.start_channels()
        client.wait_for_ready(timeout=30)
        return client


def start(home: Path) -> Lab:
    """Starts a server below ``home`` and waits until it answers."""
    root = home / "root"
    kernel = home / "data/kernels/python3/kernel.json"
    for folder in (root, kernel.parent, home / "config", home / "runtime"):
        folder.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "Python 3", "language": "python"}
    kernel.write_text(json.dumps(spec))  # this very Python, whatever the machine has installed
    env = os.environ | {
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
    }
    port = _free_port()
    command = [sys.executable, "-m", "jupyterlab", *FLAGS, f"--port={port}"]
    with (home / "lab.log").open("w") as log:
        process = subprocess.Popen(
            [*command, f"--ServerApp.root_dir={root}"], env=env, stdout=log, stderr=log, cwd=home
        )
    lab = Lab(f"http://127.0.0.1:{port}", root, home, process)
    lab._settings("notification", QUIET)
    _wait_for(lab)
    return lab


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for(lab: Lab) -> None:
    last = time.monotonic() + 60
    while time.monotonic() < last and lab.process.poll() is None:
        try:
            lab.api("status")
            return
        except OSError:  # not listening yet
            time.sleep(0.1)  # the server has no other sign; pages are waited for by locators
    lab.process.terminate()
    raise RuntimeError(f"JupyterLab did not start:\n{(lab.home / 'lab.log').read_text()[-3000:]}")


def stop(lab: Lab) -> None:
    """Ends the kernels, then the server."""
    try:
        lab.end_sessions()
    finally:
        lab.process.terminate()
        lab.process.wait(timeout=20)
