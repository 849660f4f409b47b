"""Kernels that are forked from a process which has imported torch and diffusers already.

Each notebook still has a process of its own, in which ldmkit is imported for the first time; what
they share are four seconds of other libraries' imports. A kernel that starts from nothing is tried
in ``tests/browser``.
"""

import multiprocessing
import os

_HEAVY = (
    "torch",
    "transformers.models.clip.modeling_clip",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
)


class Kernel:
    """Stands where jupyter_client has the ``subprocess.Popen`` of a kernel."""

    stdin = stdout = stderr = None

    def __init__(self, command, *, cwd, env, **_):
        forks = multiprocessing.get_context("forkserver")
        forks.set_forkserver_preload([*_HEAVY, __name__])
        ours, theirs = forks.Pipe()
        arguments = command[command.index("ipykernel_launcher") + 1 :]
        self._process = forks.Process(target=_run, args=(arguments, cwd, env, theirs), daemon=True)
        self._process.start()
        ours.recv()  # it leads a group of its own by now: jupyter_client signals the whole group
        self.pid = self._process.pid

    def poll(self):
        return self._process.exitcode

    def wait(self):
        self._process.join()
        return self._process.exitcode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def terminate(self):
        self._process.terminate()

    def kill(self):
        self._process.kill()


def _run(arguments, cwd, env, started):
    os.setsid()
    started.send(None)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance(arguments)
