"""What is installed here, and what of it will bite: the report of ``ldmkit doctor``.

Versions are read from the installed packages' metadata; only torch is imported, to ask which
device it finds.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import ldmkit

__all__ = ["Report", "examine"]

SHOWN = (
    "torch", "diffusers", "transformers", "accelerate", "huggingface-hub", "numpy", "pillow",
    "ipywidgets", "anywidget", "ipykernel", "jupyterlab",
)  # fmt: skip
# Packages built for one exact torch: their own metadata says for which.
BUILT_FOR_TORCH = ("torchvision", "torchaudio", "xformers")


@dataclass(frozen=True)
class Report:
    """What ``examine`` found.

    Attributes:
        facts: what is what, such as ("torch", "2.13.0").
        broken: what ldmkit can't work without; one sentence each, with the next action.
        bites: what works but will surprise; one sentence each.
    """

    facts: tuple[tuple[str, str], ...]
    broken: tuple[str, ...]
    bites: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{name:<16} {value}" for name, value in self.facts]
        lines += ["", *(f"BROKEN  {sentence}" for sentence in self.broken)] if self.broken else []
        lines += ["", *(f"note    {sentence}" for sentence in self.bites)] if self.bites else []
        if not self.broken and not self.bites:
            lines += ["", "Nothing here will bite."]
        return "\n".join(lines)


def examine() -> Report:
    """Looks at this environment; asks no network."""
    broken = [*_unmet_requirements()]
    device = _device()
    if device.startswith("unknown"):
        broken.append("torch can't be imported; install it again (pytorch.org says how).")
    embedded = _embedded()
    if not embedded:
        broken.append(
            "The embedded model's weights are missing; "
            "install ldmkit again with `pip install --force-reinstall ldmkit`."
        )
    facts = (
        ("ldmkit", ldmkit.__version__),
        ("python", f"{platform.python_version()} ({sys.executable})"),
        ("system", f"{platform.system()} {platform.machine()}"),
        ("device", device),
        ("memory", _memory()),
        ("models", _models(device) or "unknown"),
        ("threads", _threads()),
        ("embedded model", embedded or "missing"),
        *((name, _version(name) or "not installed") for name in SHOWN),
    )
    checks = (_torch_siblings, _notebook_side, _hub)
    bites = [*_gpu_left_out(device), *(line for check in checks for line in check())]
    return Report(facts, tuple(broken), tuple(bites))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _unmet_requirements() -> Iterator[str]:
    """The requirements of ldmkit itself, compared with what is installed."""
    from packaging.requirements import Requirement

    for line in metadata.requires("ldmkit") or ():
        wanted = Requirement(line)
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        found = _version(wanted.name)
        if found is None or not wanted.specifier.contains(found, prereleases=True):
            yield (
                f"ldmkit needs {wanted.name}{wanted.specifier}, found {found or 'none'}; "
                f'run `pip install "{wanted.name}{wanted.specifier}"`.'
            )


def _device() -> str:
    if _version("torch") is None:
        return "unknown (no torch)"
    from ldmkit.loading.device import found_device

    try:
        device, why = found_device()
        return f"{device} ({why})"
    except (ImportError, OSError) as error:  # a broken installation of torch
        return f"unknown ({' '.join(str(error).split())})"


def _threads() -> str:
    from ldmkit.threads import in_words

    try:
        return in_words()
    except (ImportError, OSError):  # no torch, or a broken one: said above
        return "unknown"


def _memory() -> str:
    import psutil

    memory = psutil.virtual_memory()
    return f"{memory.total / 2**30:.0f} GiB, {memory.available / 2**30:.0f} free" + _gpu_memory()


def _models(device: str) -> str:
    """What of the catalog fits this machine's GPU, or its memory, as it is now."""
    from ldmkit.loading.catalog import CATALOG
    from ldmkit.loading.device import choose_device
    from ldmkit.loading.memory import free_memory, how_it_fits

    if device.startswith("unknown"):
        return ""
    try:
        chosen = choose_device(device.split()[0])
        free = free_memory(chosen)
    except (RuntimeError, ValueError):  # a driver that doesn't answer
        return ""
    each = 4 if chosen.type == "cpu" else 2  # bytes a weight
    plans: dict[str, list[str]] = {}
    for row in CATALOG.values():
        largest = each * (row.largest or row.parameters)
        plan = how_it_fits(row.weights(each), largest, free)
        if plan != "whole" and chosen.type != "cuda":
            plan = "too large"  # nothing comes and goes
        plans.setdefault(plan, []).append(row.name)
    return f"with {free / 1e9:.0f} GB free, " + "; ".join(
        f"{plan}: {', '.join(names)}" for plan, names in plans.items()
    )


def _gpu_memory() -> str:
    rows = _nvidia_smi("--query-gpu=name,memory.total,memory.free")
    return f"; {'; '.join(rows)}" if rows else ""


def _nvidia_smi(query: str) -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", query, "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return answer.stdout.strip().splitlines()


def _embedded() -> str:
    from ldmkit.loading.catalog import embedded_folder

    try:
        folder = embedded_folder("critters")
    except FileNotFoundError:
        return ""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return f"critters, {size / 1e6:.1f} MB"


def _gpu_left_out(device: str) -> Iterator[str]:
    if device.startswith("cpu") and _nvidia_smi("--query-gpu=name"):
        yield (
            f"An NVIDIA GPU is here but torch {_version('torch')} doesn't use it; "
            "install a CUDA build of torch that fits the driver (pytorch.org says which)."
        )
    if device.startswith("mps"):
        yield "On MPS leave enable_attention_slicing off: it gives black pictures."


def _torch_siblings() -> Iterator[str]:
    """A torchvision of another torch breaks the import of diffusers, far from its cause."""
    from packaging.requirements import Requirement

    torch = _version("torch")
    for name in BUILT_FOR_TORCH:
        if torch is None or _version(name) is None:
            continue
        for wanted in map(Requirement, metadata.requires(name) or ()):
            if wanted.name == "torch" and not wanted.specifier.contains(torch, prereleases=True):
                yield (
                    f"{name} {_version(name)} was built for torch{wanted.specifier}, but torch "
                    f"{torch} is here, and imports will fail; run `pip uninstall {name}` "
                    "(ldmkit doesn't need it) or install its matching version."
                )


def _notebook_side() -> Iterator[str]:
    kernel = _version("ipykernel") or ""
    if kernel.startswith("7.0."):
        yield (
            f"ipykernel {kernel} loses updates from a worker thread, so panels stand still; "
            'run `pip install -U "ipykernel!=7.0.*"`.'
        )
    if _version("jupyterlab") is None and _version("notebook") is None:
        yield 'Jupyter isn\'t in this environment; `pip install "ldmkit[lab]"` brings JupyterLab.'
    if (_version("ipywidgets") or "").startswith("7."):
        yield "ipywidgets 7 works, as in Colab; 8 has better keyboard control."
    if any(name.startswith("JUPYTERHUB_") for name in os.environ):
        yield (
            "On a JupyterHub the live player needs anywidget in the server's environment too; "
            "without it panels show a plain slider, and records play all the same."
        )
    if "COLAB_RELEASE_TAG" in os.environ:
        yield "Colab shows no updates from threads: panels run in the foreground here."


def _hub() -> Iterator[str]:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        yield "HF_HUB_OFFLINE is set: only models that were fetched before can be loaded."
    home = Path(os.environ.get("HF_HOME") or Path.home())
    free = shutil.disk_usage(home).free / 1e9 if home.is_dir() else float("inf")
    if free < 5:
        yield f"Only {free:.1f} GB of disk are free for models of the hub; critters needs none."
