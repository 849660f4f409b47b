"""A kernel, and a front end without a browser: it clicks and types by the messages of widgets."""

from __future__ import annotations

import os
import queue
import sys
import time
from pathlib import Path

from jupyter_client import KernelManager
from jupyter_client.kernelspec import KernelSpec

WAIT = 120  # seconds; importing torch takes many on a busy machine


class Kernel:
    """One kernel of this Python; ``folders`` hold the packages that it finds first."""

    def __init__(self, *folders: Path, **env: str) -> None:
        self._manager = KernelManager()
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        self._manager._kernel_spec = KernelSpec(argv=argv, display_name="test", language="python")
        tests = Path(__file__).parents[1]
        path = os.pathsep.join(map(str, [*folders, tests.parent, tests]))
        self._manager.start_kernel(env=os.environ | {"PYTHONPATH": path} | env)
        self.client = self._manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=WAIT)
        self.widgets: dict[str, dict] = {}  # model id -> its state, as a browser would hold it
        self.updates: list[tuple[float, str, dict]] = []

    def close(self) -> None:
        self.client.stop_channels()
        self._manager.shutdown_kernel(now=True)

    def interrupt(self) -> None:
        """What the notebook's interrupt button does."""
        self._manager.interrupt_kernel()

    def start(self, code: str, **options) -> str:
        """Sends a cell; ``finish`` waits for it."""
        return self.client.execute(code, **options)

    def finish(self, cell: str) -> str:
        """Waits for a cell; returns what it printed or showed, and fails as the cell does."""
        words = []
        deadline = time.monotonic() + WAIT
        while time.monotonic() < deadline:
            message = self._hear()
            if message is None or message["parent_header"].get("msg_id") != cell:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "error":
                raise AssertionError("\n".join(content["traceback"]))
            if kind == "stream":
                words.append(content["text"])
            if kind == "execute_result":
                words.append(content["data"]["text/plain"])
            if kind == "status" and content["execution_state"] == "idle":
                return "".join(words).strip()
        raise AssertionError("the cell did not end")

    def run(self, code: str, **options) -> str:
        """Runs a cell to its end."""
        return self.finish(self.start(code, **options))

    def until(self, condition, what: str) -> None:
        """Follows the kernel's messages until something is true of the widgets."""
        deadline = time.monotonic() + WAIT
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain for {what}"
            self._hear()

    def find(self, model: str, **state) -> str:
        """The id of the one widget of a model whose state holds these values."""
        found = [
            key
            for key, have in self.widgets.items()
            if have.get("_model_name") == f"{model}Model"
            and all(
                value in have.get("_dom_classes", ()) if name == "css" else have.get(name) == value
                for name, value in state.items()
            )
        ]
        assert len(found) == 1, f"{len(found)} widgets are {model} with {state}"
        return found[0]

    def click(self, widget: str) -> float:
        """Presses a button; returns when."""
        return self._send(widget, {"method": "custom", "content": {"event": "click"}})

    def set(self, widget: str, **state) -> float:
        """Changes a widget as its view does."""
        self.widgets[widget].update(state)
        return self._send(widget, {"method": "update", "state": state, "buffer_paths": []})

    def _send(self, widget: str, data: dict) -> float:
        message = self.client.session.msg("comm_msg", {"comm_id": widget, "data": data})
        self.client.shell_channel.send(message)
        return time.time()

    def _hear(self) -> dict | None:
        try:
            message = self.client.get_iopub_msg(timeout=1)
        except queue.Empty:
            return None
        content = message["content"]
        if message["msg_type"] == "comm_open":
            self.widgets[content["comm_id"]] = dict(content["data"].get("state", {}))
        elif message["msg_type"] == "comm_msg" and content["data"].get("method") == "update":
            self._update(content["comm_id"], content["data"], message["buffers"])
        elif message["msg_type"] == "comm_close":
            self.widgets.pop(content["comm_id"], None)
        return message

    def _update(self, widget: str, data: dict, buffers: list) -> None:
        state = dict(data["state"])
        for path, buffer in zip(data.get("buffer_paths", []), buffers, strict=True):
            if len(path) == 1:
                state[path[0]] = bytes(buffer)
        self.widgets.setdefault(widget, {}).update(state)
        self.updates.append((time.time(), widget, state))
