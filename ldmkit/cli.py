"""The command ``ldmkit``: demo | lab | doctor | models | fetch.

Each command imports what it needs when it runs, so that ``ldmkit --help`` answers at once. What
a user can mend is told in one sentence on stderr and ends with status 1; a misspelt command or
option ends with status 2, as argparse has it.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import os
import subprocess
import sys
import warnings
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ldmkit
from ldmkit.check import whole

if TYPE_CHECKING:
    from ldmkit.records import Trajectory

__all__ = ["main"]

PROMPT = "a red cat wearing a top hat in the snow"
_DEMO_FILES = {"picture": "picture.png", "page": "trajectory.html", "contact sheet": "sheet.png"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status.

    Args:
        argv: the words after ``ldmkit``; by default the process' own.
    """
    options = _parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):  # a terminal that lacks a letter shows "?" instead
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default", UserWarning)
            warnings.showwarning = _show_warning
            return int(options.command(options))
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, TypeError, OSError, RuntimeError, MemoryError) as error:
        if os.environ.get("LDMKIT_TRACEBACK"):
            raise
        print(f"ldmkit: {_one_line(error)}", file=sys.stderr)
        return 1


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    from tqdm.auto import tqdm

    tqdm.write(f"ldmkit: {_one_line(message)}", file=sys.stderr)  # above a bar that is being drawn


def _one_line(message: Warning | BaseException | str) -> str:
    return " ".join(str(message).split()) or type(message).__name__


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ldmkit", description="See, measure and take apart latent diffusion."
    )
    parser.add_argument("--version", action="version", version=f"ldmkit {ldmkit.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="make a picture and the page of its steps")
    demo.add_argument("--out", type=Path, default=Path("ldmkit-demo"), metavar="DIR")
    demo.add_argument("--no-open", action="store_true", help="don't open the page")
    demo.add_argument("--prompt", default=PROMPT, help="the words (default: %(default)r)")
    demo.add_argument("--seed", type=int, default=7, help="of the first noise (%(default)s)")
    demo.add_argument("--model", default="critters", metavar="NAME", help="see `ldmkit models`")
    demo.set_defaults(command=_demo)

    lab = commands.add_parser("lab", help="copy the notebooks and open JupyterLab there")
    lab.add_argument("folder", type=Path, nargs="?", default=Path("ldmkit-lab"), metavar="DIR")
    lab.add_argument("--no-open", action="store_true", help="copy only")
    lab.set_defaults(command=_lab)

    doctor = commands.add_parser("doctor", help="what is installed here, and what will bite")
    doctor.set_defaults(command=_doctor)

    models = commands.add_parser("models", help="the models that ldmkit knows by name")
    models.set_defaults(command=_models)

    fetch = commands.add_parser("fetch", help="download a model ahead of class")
    fetch.add_argument("name", metavar="NAME", help="a name of `ldmkit models`, or a hub id")
    fetch.set_defaults(command=_fetch)
    return parser


def _demo(options: argparse.Namespace) -> int:
    from ldmkit.lab import writable_folder

    seed = whole("--seed", options.seed, 0, 2**63 - 1)
    folder = writable_folder(options.out, _DEMO_FILES.values())  # before a minute is spent
    pipe = ldmkit.load(options.model)
    print(f"Drawing {options.prompt!r} with {options.model}, seed {options.seed} …", flush=True)
    traj = ldmkit.record(pipe, options.prompt, seed=seed, keep="all")
    written = _write_demo(traj, folder)
    for what, path in written.items():
        print(f"  {what:<14} {path}")
    if options.no_open:
        return 0
    if not _open_page(written["page"]):
        print("No browser opens from here: open the page yourself, it needs no network.")
    return 0


def _write_demo(traj: Trajectory, folder: Path) -> dict[str, Path]:
    """Writes picture, page and contact sheet; returns where, by what they are."""
    from ldmkit.figures import sheet_image
    from ldmkit.records.record import write_atomically

    folder.mkdir(parents=True, exist_ok=True)
    paths = {what: folder / name for what, name in _DEMO_FILES.items()}
    traj.to_png(paths["picture"])  # which says how to make it again
    traj.to_html(paths["page"])
    write_atomically(paths["contact sheet"], lambda part: sheet_image(traj).save(part, "PNG"))
    return paths


def _open_page(path: Path) -> bool:
    """Opens a page in a browser, unless only a terminal's text browser would answer."""
    displays = ("DISPLAY", "WAYLAND_DISPLAY", "WSL_DISTRO_NAME", "BROWSER")
    if sys.platform.startswith("linux") and not any(os.environ.get(name) for name in displays):
        return False
    return webbrowser.open(path.as_uri())


def _lab(options: argparse.Namespace) -> int:
    import importlib.util

    from ldmkit.lab import copy_notebooks, writable_folder

    folder = writable_folder(options.folder)
    for name, fate in copy_notebooks(folder).items():
        print(f"  {fate:<12} {folder / name}")
    if options.no_open:
        return 0
    if importlib.util.find_spec("jupyterlab") is None:
        raise RuntimeError(
            'JupyterLab is not installed here; run `pip install "ldmkit[lab]"`, '
            f"or open the notebooks in {folder} with the Jupyter that you have."
        )
    return subprocess.call([sys.executable, "-m", "jupyterlab", str(folder)])


def _doctor(options: argparse.Namespace) -> int:
    from ldmkit.doctor import examine

    report = examine()
    print(report)
    return 1 if report.broken else 0


def _models(options: argparse.Namespace) -> int:
    table = ldmkit.models()
    narrow = [name for name in table.columns if name not in ("family", "memory", "embedded")]
    print(dataclasses.replace(table, columns=tuple(narrow)))  # a terminal's width
    return 0


def _fetch(options: argparse.Namespace) -> int:
    from ldmkit.loading import fetch

    row = next((row for row in ldmkit.models() if row["name"] == options.name), None)
    if row is not None and row["embedded"]:
        print(f"{options.name} travels in the package: there is nothing to fetch.")
        return 0
    print(f"{options.name} is in {fetch(options.name)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
