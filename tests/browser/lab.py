"""A JupyterLab of the tests' own: folders, settings and kernel that no other Jupyter shares."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import nbformat
import numpy as np
from jupyter_client import BlockingKernelClient
from nbformat import v4
from nbformat.sign import NotebookNotary
from playwright.sync_api import expect

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


PIXELS = """canvas => {
    const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    return Array.from(data);
}"""
KERNEL_ANSWERS = """async () => {
    const {sessionContext} = window.jupyterapp.shell.currentWidget;
    await sessionContext.ready;
    await sessionContext.session.kernel.info;
}"""
COMMAND = """async ([name, wait]) => {
    const {commands, shell} = window.jupyterapp;
    await shell.currentWidget.context.ready;
    const done = commands.execute(name);
    if (wait) await done;
}"""


def command(page, name, *, wait=True):
    """Runs one of Lab's commands to its end, or without waiting for it."""
    page.evaluate(COMMAND, [name, wait])


def run_all(page, *, wait=True):
    page.evaluate(KERNEL_ANSWERS)  # a run before its first answer is lost
    command(page, "notebook:run-all-cells", wait=wait)


def at_step(page, step):
    """Waits until that step, counted from 1 as the player says it, is painted."""
    expect(page.locator(".ldm-player")).to_have_attribute("data-step", str(step), timeout=30_000)


def pixels(page, lane):
    """What a lane's canvas holds, as (H * W * 4,)."""
    return canvas_pixels(page.locator(f'.ldm-lane[data-lane="{lane}"] canvas'))


def canvas_pixels(canvas):
    """What a canvas holds, as (H * W * 4,)."""
    return np.array(canvas.evaluate(PIXELS), np.uint8)


def only_from(lab, seen):
    """No request left this machine."""
    origin = re.compile(rf"({re.escape(lab.url)}/|blob:|data:)")
    assert [url for url in seen.requests if not origin.match(url)] == []


def asked(client, expression):
    """repr of an expression in the kernel."""
    reply = client.execute_interactive("", user_expressions={"it": expression}, timeout=30)
    answer = reply["content"]["user_expressions"]["it"]
    assert answer["status"] == "ok", answer
    return answer["data"]["text/plain"]


def brightness(locator, name):
    """Red, green and blue of a computed colour, summed: 0 to 765."""
    colour = locator.evaluate(f"e => getComputedStyle(e).{name}")
    scale = 255 if colour.startswith("color(srgb") else 1
    return scale * sum(map(float, re.findall(r"[\d.]+", colour)[:3]))


class Sent:
    """Counts the messages of widgets that a page sends to its kernel, on its websockets."""

    def __init__(self):
        self.messages = 0

    def listen(self, page):
        """Call before the page is opened: ``open_notebook(name, sent.listen)``."""
        page.on("websocket", lambda socket: socket.on("framesent", self._frame))

    def _frame(self, payload):
        body = payload if isinstance(payload, bytes) else payload.encode()
        self.messages += b'"comm_msg"' in body


# A hand that moves the slider once per frame of the browser, there and back.
SCRUB = """async ([player, frames]) => {
    const slider = document.querySelectorAll('.ldm-player')[player].querySelector('.ldm-slider');
    const frame = () => new Promise(requestAnimationFrame);
    const shown = new Set();
    for (let i = 1; i <= frames; i++) {
        slider.value = i % (2 * slider.max) > slider.max ? 2 * slider.max - i : i;
        slider.dispatchEvent(new Event('input'));
        await frame();
        shown.add(slider.closest('.ldm-player').dataset.step);
    }
    return shown.size;
}"""


def scrub(page, frames, player=0):
    """Moves a slider for so many frames; returns how many steps were painted meanwhile."""
    return page.evaluate(SCRUB, [player, frames])
