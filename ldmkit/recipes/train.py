"""The one training loop: a run that can stop and go on, averaged weights, whole exports.

A run lives in an ignored folder: ``checkpoint.safetensors`` (weights, their average and the
optimiser's state; its metadata has step and seconds), ``state.json`` with the same for a reader,
and ``metrics.jsonl`` with one line a minute.
"""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import cos, pi
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

import ldmkit.critters
from ldmkit.critters.world import VERSION
from ldmkit.records.record import write_atomically

WEIGHTS = Path(ldmkit.critters.__file__).parent / "weights"
CLIP, VAE, UNET = (
    str(WEIGHTS / name) for name in ("critters-clip", "critters/vae", "critters/unet")
)
_LONGEST = 20.0  # seconds that a step may count

Model = TypeVar("Model", bound=torch.nn.Module)


# --- the loop ----------------------------------------------------------------------------------


def train_model(
    model: Model,
    name: str,
    options: argparse.Namespace,
    loss: Callable[[Run, np.random.Generator], torch.Tensor],
    evaluate: Callable[[], dict[str, float]],
    optimizer: torch.optim.Optimizer,
    *,
    decay: float = 0.999,
    clip: float = 1.0,
    after: Callable[[], object] = lambda: None,
) -> Model:
    """Train a model until its minutes are over; a run that was stopped goes on.

    Args:
        model: what is trained.
        name: of the run's folder, where ``--name`` gives none.
        options: of `arguments`.
        loss: a step's, given the run (its ``step`` and ``progress``) and the step's own random
            numbers.
        evaluate: metrics for the log, each minute; the model then has its averaged weights.
        optimizer: of the model's parameters.
        decay: of the averaged weights.
        clip: largest norm of a step's gradient.
        after: called after each step.

    Returns:
        The model with its averaged weights, ready to use.
    """
    model.to(options.device).train()
    folder = options.name or name
    run = Run(folder, model, optimizer, options.minutes, options.rate, options.runs, decay)

    def look() -> dict[str, float]:
        with run.averaged(), torch.no_grad():
            return evaluate()

    # Fused attention's backward is slow in bfloat16 on CPUs.
    cpu = options.device == "cpu"
    with sdpa_kernel(SDPBackend.MATH if cpu else list(SDPBackend.__members__.values())):
        for step in run.steps(look):
            run.update(loss(run, np.random.default_rng((options.seed, step))), clip)
            after()
    model.load_state_dict(run.average)
    return model.eval()


# --- a run -------------------------------------------------------------------------------------


@dataclass
class Run:
    """One training run in a folder: weights, their moving average, optimiser, clock.

    Attributes:
        name: the folder's name below ``runs``.
        model: what is trained.
        optimizer: its optimiser.
        minutes: length of the whole run, over all its sessions; the learning rate follows a cosine.
        rate: peak learning rate.
        decay: of the averaged weights, after a short ramp.
        warm: steps until the learning rate is at its peak.
    """

    name: str
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    minutes: float
    rate: float
    runs: Path
    decay: float = 0.999
    warm: int = 200
    step: int = 0
    seconds: float = 0.0
    loss: torch.Tensor | None = None  # of the last fifty steps or so
    _saved: float = 0.0
    _logged: float = 0.0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._averaging = EMAModel(self.model.parameters(), self.decay, foreach=True)
        self._resume()

    @property
    def folder(self) -> Path:
        """Where checkpoint, state and metrics lie."""
        return self.runs / self.name

    @property
    def average(self) -> dict[str, torch.Tensor]:
        """The averaged weights by name, as `load_state_dict` takes them."""
        names = [name for name, _ in self.model.named_parameters()]
        averages = dict(zip(names, self._averaging.shadow_params, strict=True))
        return self.model.state_dict() | averages

    @property
    def progress(self) -> float:
        """0 at the start, 1 when the minutes are used up."""
        return min(1.0, self.seconds / (60 * self.minutes))

    def steps(self, evaluate: Callable[[], dict[str, float]]) -> Iterator[int]:
        """Yield step numbers until the time is over; log each minute, save every five.

        Between two yields the caller computes a loss and calls `update`.
        """
        bar = tqdm(
            total=round(self.minutes * 60), initial=round(self.seconds), unit="s", desc=self.name
        )
        self._saved = self._logged = self.seconds
        while self.progress < 1:
            start = time.perf_counter()
            self._set_rate()
            yield self.step
            self.step += 1
            # A run that was stopped for a while and let go on has not learned meanwhile.
            self.seconds += min(time.perf_counter() - start, _LONGEST)
            bar.n = round(self.seconds)
            if self.seconds - self._logged >= 60 or self.progress >= 1:
                self._log(evaluate(), bar)
            if self.seconds - self._saved >= 300:
                self.save()
        self.save()

    def update(self, loss: torch.Tensor, clip: float = 1.0) -> None:
        """Backward, clip, step, average."""
        # Left where it is: to read it would have the CPU wait for the GPU at every step.
        latest = loss.detach()
        self.loss = latest if self.loss is None else self.loss.lerp(latest, 0.02)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        self.optimizer.step()
        self._averaging.optimization_step = self.step  # it counts from 0 in every session
        self._averaging.step(self.model.parameters())

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Context: the model holds its averaged weights inside."""
        self._averaging.store(self.model.parameters())
        self._averaging.copy_to(self.model.parameters())
        self.model.eval()
        try:
            yield
        finally:
            self._averaging.restore(self.model.parameters())
            self.model.train()

    def save(self) -> None:
        """Write the checkpoint so that a stop at any moment leaves an old or a new one."""
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{k}": torch.as_tensor(v) for k, v in state.items()}
        whole = {k: v.contiguous().clone() for k, v in tensors.items()}
        state = {"step": self.step, "seconds": self.seconds}
        words = {name: str(value) for name, value in state.items()}
        write_atomically(
            self.folder / "checkpoint.safetensors", lambda part: save_file(whole, part, words)
        )
        write_text(self.folder / "state.json", json.dumps(state))
        self._saved = self.seconds

    def _resume(self) -> None:
        path = self.folder / "checkpoint.safetensors"
        if not path.exists():
            return
        tensors = load_file(path)
        with safe_open(path, "pt") as file:  # the one file that was written in one piece with them
            words = file.metadata() or {}

        def pick(prefix: str) -> dict[str, torch.Tensor]:
            return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}

        self.model.load_state_dict(pick("model."))
        average = pick("average.")  # by name: a safetensors file sorts them
        self._averaging.shadow_params = [
            average[name].to(weight.device) for name, weight in self.model.named_parameters()
        ]
        states: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in pick("optimizer.").items():
            index, name = key.split(".", 1)
            states.setdefault(int(index), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": states, "param_groups": groups})
        if not {"step", "seconds"} <= words.keys():  # a checkpoint of old
            words = json.loads((self.folder / "state.json").read_text())
        self.step, self.seconds = int(words["step"]), float(words["seconds"])

    def _set_rate(self) -> None:
        warm = min(1.0, (self.step + 1) / self.warm)
        rate = self.rate * warm * (0.02 + 0.98 * 0.5 * (1 + cos(pi * self.progress)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)

    def _log(self, metrics: dict[str, float], bar: Any) -> None:
        if self.loss is not None:
            metrics = {**metrics, "loss": float(self.loss)}
        line = {"step": self.step, "minutes": round(self.seconds / 60, 2), **metrics}
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        bar.set_postfix({k: f"{v:.4g}" for k, v in metrics.items()})
        self._logged = self.seconds


# --- what a run leaves -------------------------------------------------------------------------


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))


def write_picture(path: Path, picture: Image.Image) -> None:
    """Writes a PNG whole or not at all."""
    write_atomically(path, lambda part: picture.save(part, "PNG"))


def target_of(options: argparse.Namespace, name: str) -> Path:
    """The folder that a recipe writes its model to; asked for before it trains.

    Raises:
        ValueError: as `check_target`.
    """
    folder: Path = options.export or options.runs / (options.name or name) / "model"
    check_target(folder)
    return folder


def check_target(folder: Path) -> None:
    """Refuses to replace what no recipe wrote.

    Raises:
        ValueError: a file, a link, or a folder with something else in it.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ValueError(
            f"A model is written to a folder of its own, got {str(folder)!r}, which is a "
            f"{'link' if folder.is_symlink() else 'file'}; give another name."
        )
    of_a_run = folder.name == "model" and (folder.parent / "checkpoint.safetensors").is_file()
    if not of_a_run and folder.is_dir() and any(folder.iterdir()) and not _is_ours(folder):
        raise ValueError(
            f"{str(folder)!r} holds something that no recipe of ldmkit wrote, and would be "
            "replaced; give a new folder or an empty one."
        )


def _is_ours(folder: Path) -> bool:
    for name in ("ldmkit.json", "config.json"):
        try:
            found = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        # A small decoder's has no version: it names the autoencoder that it belongs to.
        if isinstance(found, dict) and found.keys() & {"critters_version", "autoencoder"}:
            return True
    return False


@contextmanager
def exported(folder: Path) -> Iterator[Path]:
    """Gives a new folder to write a model into, which takes its place when it is whole.

    An earlier model of ours is replaced as a whole; where it holds files that the new one lacks
    (notes, another variant's weights), it is kept beside.

    Args:
        folder: where the model shall be.

    Raises:
        ValueError: as `check_target`.
    """
    check_target(folder)
    mark = secrets.token_hex(4)
    aside = folder.with_name(f".{folder.name}.{mark}.part")
    aside.mkdir(parents=True)
    try:
        yield aside
        if not _is_ours(aside):
            write_text(aside / "ldmkit.json", json.dumps({"critters_version": VERSION}) + "\n")
        check_target(folder)  # again: much may have happened meanwhile
        _swap(aside, folder, folder.with_name(f"{folder.name}.before-{mark}"))
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _swap(new: Path, folder: Path, before: Path) -> None:
    if not folder.exists():
        new.replace(folder)
        return
    folder.replace(before)
    try:
        new.replace(folder)
    except BaseException:
        before.replace(folder)
        raise
    if left := _files(before) - _files(folder):
        print(f"{len(left)} files of the model that was there are in {before}: {min(left)}, ...")
    else:
        shutil.rmtree(before)


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# --- the command line --------------------------------------------------------------------------


def arguments(
    doc: str | None, minutes: float, batch: int, shipped: str | Path | None = None
) -> argparse.ArgumentParser:
    """The options that every recipe takes.

    Args:
        doc: the recipe's own.
        minutes: of a run, by default.
        batch: by default: what two cores are quickest with.
        shipped: the folder that ``--from shipped`` stands for; else the word itself is handed on.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=minutes, help="length of the run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--batch",
        type=int,
        default=batch,
        help="drawings per step; the shipped decoder had 1,024 on a GPU",
    )
    parser.add_argument(
        "--rate", type=float, default=0.01, help="peak learning rate; less to go on"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="an ignored folder")
    parser.add_argument("--name", default=None, help="this run's folder below --runs")
    parser.add_argument(
        "--from",
        dest="start",
        default=None,
        type=lambda start: str(shipped) if shipped and start == "shipped" else start,
        help="warm start: a folder of weights, or 'shipped'",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--drawings", type=int, default=48_000, help="training pictures")
    parser.add_argument(
        "--export",
        type=Path,
        default=None,
        help="write the folder here at the end; new, empty, or of an earlier export",
    )
    return parser


def device_of(model: torch.nn.Module) -> torch.device:
    """Where a model's weights are."""
    return next(model.parameters()).device


def half(device: str) -> torch.autocast:
    """bfloat16 arithmetic with float32 weights, on a GPU and on CPUs that have it."""
    return torch.autocast(device.split(":")[0], torch.bfloat16)
