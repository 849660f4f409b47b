"""The models that ldmkit knows by name: one row each, and nothing that nobody checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ldmkit.records.stats import Table

__all__ = ["CATALOG", "Row", "embedded_folder", "models"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model.

    Attributes:
        name: what ``load`` takes.
        family: the diffusers pipeline class.
        parameters: of all networks together.
        download_gb: size of the files that are fetched; 0 for what travels in the package.
        memory: what a run needs, in words.
        licence: of the weights.
        gated: whether the hub asks for an account that accepted the licence.
        embedded: whether it travels in the package.
        checked: ``"real weights"``, or ``"random weights only"`` where the code was tried with
            the same classes and small random weights.
        hub_id: repository on the hugging face hub, or ``None``.
        hub_variant: the hub's variant of smaller files, such as ``"fp16"``.
        if_gone: what to do when the hub no longer has the repository.
        defaults: keywords of the call that the weights were made for.
    """

    name: str
    family: str
    parameters: int
    download_gb: float
    memory: str
    licence: str
    gated: bool
    embedded: bool
    checked: str
    hub_id: str | None = None
    hub_variant: str | None = None
    if_gone: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)


_ROWS = (
    Row(
        name="critters",
        family="StableDiffusionPipeline",
        parameters=7_200_000,
        download_gb=0.0,
        memory="0.5 GB, any CPU",
        licence="Apache-2.0",
        gated=False,
        embedded=True,
        checked="real weights",
    ),
    Row(
        name="critters-unclip",
        family="StableUnCLIPPipeline",
        parameters=11_900_000,
        download_gb=0.0,
        memory="0.5 GB, any CPU",
        licence="Apache-2.0",
        gated=False,
        embedded=True,
        checked="real weights",
    ),
    Row(
        name="sd15",
        family="StableDiffusionPipeline",
        parameters=1_066_000_000,
        download_gb=2.7,
        memory="4 GB of GPU, or 8 GB and minutes on a CPU",
        licence="CreativeML Open RAIL-M",
        gated=False,
        embedded=False,
        checked="random weights only",
        hub_id="stable-diffusion-v1-5/stable-diffusion-v1-5",
        hub_variant="fp16",
    ),
    Row(
        name="sd-turbo",
        family="StableDiffusionPipeline",
        parameters=1_290_000_000,
        download_gb=2.6,
        memory="4 GB of GPU, or 8 GB and a minute on a CPU",
        licence="Stability AI Community",
        gated=False,
        embedded=False,
        checked="random weights only",
        hub_id="stabilityai/sd-turbo",
        hub_variant="fp16",
        defaults={"num_inference_steps": 1, "guidance_scale": 0.0},
    ),
    Row(
        name="lcm-dreamshaper",
        family="LatentConsistencyModelPipeline",
        parameters=1_066_000_000,
        download_gb=5.5,
        memory="4 GB of GPU, or 8 GB and a minute on a CPU",
        licence="MIT",
        gated=False,
        embedded=False,
        checked="random weights only",
        hub_id="SimianLuo/LCM_Dreamshaper_v7",
        defaults={"num_inference_steps": 4, "guidance_scale": 8.0},
    ),
    Row(
        name="stable-unclip",
        family="StableUnCLIPPipeline",
        parameters=2_440_000_000,
        download_gb=11.0,
        memory="6 GB of GPU, or 12 GB and many minutes on a CPU",
        licence="CreativeML Open RAIL++-M, the prior CreativeML Open RAIL-M",
        gated=False,
        embedded=False,
        checked="random weights only",
        # Stability AI took Stable Diffusion 2 off the hub in November 2025; this mirror is kept by
        # others, and nobody promises that it stays. Karlo's prior and CLIP come on top.
        hub_id="sd2-community/stable-diffusion-2-1-unclip-small",
        if_gone="load the folder of a copy that you have, or take 'karlo' or 'kandinsky22'.",
    ),
    Row(
        name="kandinsky22",
        family="KandinskyV22CombinedPipeline",
        parameters=4_890_000_000,
        download_gb=19.6,
        memory="12 GB of GPU, or 24 GB and many minutes on a CPU",
        licence="Apache-2.0",
        gated=False,
        embedded=False,
        checked="random weights only",
        hub_id="kandinsky-community/kandinsky-2-2-decoder",  # it names the prior's repository
    ),
    Row(
        name="karlo",
        family="UnCLIPPipeline",
        parameters=3_420_000_000,
        download_gb=13.7,
        memory="9 GB of GPU, or 16 GB and many minutes on a CPU",
        licence="CreativeML Open RAIL-M",
        gated=False,
        embedded=False,
        checked="random weights only",
        hub_id="kakaobrain/karlo-v1-alpha",
    ),
)

CATALOG: Mapping[str, Row] = {row.name: row for row in _ROWS}
_SHOWN = (
    "name",
    "family",
    "parameters",
    "download_gb",
    "memory",
    "licence",
    "gated",
    "embedded",
    "checked",
)


def models() -> Table:
    """The models that ``load`` knows by name, as a table.

    ``load`` also takes a folder, a hub id and a pipeline of your own; nothing is fetched here.
    Embedded ones whose weights this installation lacks are left out.
    """
    return Table(
        columns=_SHOWN,
        rows=tuple(asdict(row) for row in _ROWS if not row.embedded or _is_here(row.name)),
        caption=(
            "checked: tried with the real weights, or with small random ones of the same classes"
        ),
    )


def embedded_folder(name: str) -> Path:
    """The folder of a model that travels in the package.

    Raises:
        FileNotFoundError: this installation has no weights.
    """
    if not _is_here(name):
        recipe = "unclip" if name.endswith("unclip") else "unet"
        raise FileNotFoundError(
            f"The weights of {name!r} are not in this installation of ldmkit; install the wheel "
            "with `pip install --force-reinstall ldmkit`, or train them with "
            f"`python -m ldmkit.recipes.{recipe}`."
        )
    return _weights() / name


def _weights() -> Path:
    from importlib import resources

    return Path(str(resources.files("ldmkit"))) / "critters" / "weights"


def _is_here(name: str) -> bool:
    return (_weights() / name / "model_index.json").is_file()
