"""What every recipe shares: drawings on disk, a run that can stop and go on, averaged weights.

A run lives in an ignored folder: ``checkpoint.safetensors`` (weights, their average and the
optimiser's state), ``state.json`` and ``metrics.jsonl`` with one line a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from math import cos, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from ldmkit.critters.scene import Scene
from ldmkit.critters.world import EVALUATION_SEED, VERSION

TUNING_SEED = 400_000  # up to `EVALUATION_SEED`: what runs watch themselves by, and are tuned on
_CHUNK = 500  # drawings per task of the pool
_LONGEST = 20.0  # seconds that a step may count


# --- drawings ----------------------------------------------------------------------------------


def scene(index: int) -> Scene:
    """The scene of a training (below `EVALUATION_SEED`) or evaluation index; never held out."""
    return Scene.sample(index, held_out=False)


def _draw_chunk(start: int) -> NDArray[np.uint8]:
    return np.stack([np.asarray(scene(i).draw(64, i)) for i in range(start, start + _CHUNK)])


def _keep_apart(count: int, start: int) -> None:
    for border, what in ((TUNING_SEED, "tuning"), (EVALUATION_SEED, "evaluation")):
        if start < border < start + count:
            raise ValueError(
                f"drawings {start}…{start + count} cross {border}: {what} is kept apart, ask for "
                "fewer"
            )


def drawn(count: int, start: int) -> Iterator[NDArray[np.uint8]]:
    """Draw scenes ``start … start + count``, 500 at a time, on all cores; nothing is kept.

    Args:
        count: how many, a multiple of 500.
        start: first index.

    Yields:
        (500, 64, 64, 3) uint8.

    Raises:
        ValueError: as `drawings`.
    """
    _keep_apart(count, start)
    starts = range(start, start + count, _CHUNK)
    few = 4 * (os.cpu_count() or 1)  # a pool runs ahead of who asks: no further than this
    with ProcessPoolExecutor() as pool, tqdm(total=len(starts), desc="drawing") as bar:
        for i in range(0, len(starts), few):
            for chunk in pool.map(_draw_chunk, starts[i : i + few]):
                bar.update()
                yield chunk


def drawings(count: int, start: int, cache: Path) -> NDArray[np.uint8]:
    """Draw scenes ``start … start + count`` once and keep them beside the runs.

    Args:
        count: how many, a multiple of 500.
        start: first index; training indices end before `TUNING_SEED`.
        cache: folder for the uncompressed ``.npy``.

    Returns:
        (count, 64, 64, 3) uint8, memory-mapped.

    Raises:
        ValueError: when the range touches two of training, tuning and evaluation indices.
    """
    _keep_apart(count, start)
    path = cache / f"drawings-v{VERSION}-{start}-{count}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part.npy")
        np.save(partial, np.concatenate(list(drawn(count, start))))
        partial.replace(path)
    pictures: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return pictures


def to_tensor(pictures: NDArray[np.uint8]) -> torch.Tensor:
    """(b, h, w, 3) uint8 -> (b, 3, h, w) float32 in -1…1."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


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
    average: dict[str, torch.Tensor] = field(default_factory=dict)
    loss: torch.Tensor | None = None  # of the last fifty steps or so
    _saved: float = 0.0
    _logged: float = 0.0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.average = {k: v.detach().clone().float() for k, v in self.model.state_dict().items()}
        self._resume()

    @property
    def folder(self) -> Path:
        """Where checkpoint, state and metrics lie."""
        return self.runs / self.name

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
        rate = 1 - min(self.decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.values()),
                [v.float() for v in self.model.state_dict().values()],
                rate,
            )

    def averaged(self) -> AveragedWeights:
        """Context: the model holds its averaged weights inside."""
        return AveragedWeights(self)

    def save(self) -> None:
        """Write the checkpoint so that a stop at any moment leaves an old or a new one."""
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{k}": torch.as_tensor(v) for k, v in state.items()}
        partial = self.folder / "checkpoint.part"
        save_file(
            {k: v.contiguous().clone() for k, v in tensors.items()},
            partial,
            {"step": str(self.step), "seconds": str(self.seconds)},
        )
        partial.replace(self.folder / "checkpoint.safetensors")
        state_file = self.folder / "state.json"
        state_file.write_text(json.dumps({"step": self.step, "seconds": self.seconds}))
        self._saved = self.seconds

    def _resume(self) -> None:
        path = self.folder / "checkpoint.safetensors"
        if not path.exists():
            return
        tensors = load_file(path)

        def pick(prefix: str) -> dict[str, torch.Tensor]:
            return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}

        self.model.load_state_dict(pick("model."))
        average = pick("average.")  # a safetensors file sorts its names; `update` pairs by position
        self.average = {n: average[n].to(w.device) for n, w in self.model.state_dict().items()}
        states: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in pick("optimizer.").items():
            index, name = key.split(".", 1)
            states.setdefault(int(index), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": states, "param_groups": groups})
        state = json.loads((self.folder / "state.json").read_text())
        self.step, self.seconds = state["step"], state["seconds"]

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


class AveragedWeights:
    """Swap a run's averaged weights in, and out again."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._kept: dict[str, torch.Tensor] = {}

    def __enter__(self) -> None:
        model = self._run.model
        self._kept = {k: v.detach().clone() for k, v in model.state_dict().items()}
        model.load_state_dict(self._run.average)
        model.eval()

    def __exit__(self, *error: object) -> None:
        self._run.model.load_state_dict(self._kept)
        self._run.model.train()


# --- the command line --------------------------------------------------------------------------


def arguments(doc: str | None, minutes: float, batch: int) -> argparse.ArgumentParser:
    """The options that every recipe takes.

    Args:
        doc: the recipe's own.
        minutes: of a run, by default.
        batch: by default: what two cores are quickest with.
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
        "--from", dest="start", default=None, help="warm start: a folder of weights, or 'shipped'"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--drawings", type=int, default=48_000, help="training pictures")
    parser.add_argument("--unseen", type=int, default=1000, help="evaluation pictures")
    parser.add_argument(
        "--export", type=Path, default=None, help="write the folder here at the end"
    )
    return parser


def device_of(model: torch.nn.Module) -> torch.device:
    """Where a model's weights are."""
    return next(model.parameters()).device


def half(device: str) -> torch.autocast:
    """bfloat16 arithmetic with float32 weights, on a GPU and on CPUs that have it."""
    return torch.autocast(device.split(":")[0], torch.bfloat16)
