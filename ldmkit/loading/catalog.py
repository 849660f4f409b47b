"""The models that ldmkit knows by name: one row each, and nothing that nobody checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ldmkit.loading.memory import HEADROOM, how_it_fits
from ldmkit.loading.siblings import origin_of
from ldmkit.records.stats import Table

__all__ = ["CATALOG", "GPUS", "Row", "embedded_folder", "is_embedded", "models"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model.

    Attributes:
        name: what ``load`` takes.
        family: the diffusers pipeline class.
        parameters: of all networks together, with the tables that are stored beside them.
        download_gb: size of the files that are fetched; 0 for what travels in the package.
        licence: of the weights.
        gated: whether the hub asks for an account that accepted the licence.
        embedded: whether it travels in the package.
        checked: ``"real weights"``, or ``"random weights only"`` where the code was tried with
            the same classes and small random weights.
        largest: parameters of the largest part, where the whole is too large for small GPUs.
        dtype: precision on a GPU; bfloat16 where float16 is known to overflow.
        hub_id: repository on the hugging face hub, or ``None``.
        hub_variant: the hub's variant of smaller files, such as ``"fp16"``.
        if_gone: what to do when the hub no longer has the repository.
        defaults: keywords of the call that the weights were made for.
    """

    name: str
    family: str
    parameters: int
    download_gb: float
    licence: str
    gated: bool = False
    embedded: bool = False
    checked: str = "random weights only"
    largest: int = 0
    dtype: str = "float16"
    hub_id: str | None = None
    hub_variant: str | None = None
    if_gone: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def weights(self, bytes_each: int = 2) -> int:
        """Bytes of all weights; two each on a GPU, four in float32 on the CPU."""
        return self.parameters * bytes_each

    def on(self, memory: int) -> str:
        """How it fits a GPU of so many bytes: ``how_it_fits``."""
        return how_it_fits(self.weights(), 2 * (self.largest or self.parameters), memory)

    @property
    def memory(self) -> str:
        """What a run needs, in words; the rule is that of ``how_it_fits``."""
        if self.embedded:
            return "CPU 0.5 GB"
        needs = [f"GPU {_gigabytes(self.weights())}"]
        if self.largest:
            needs.append(f"by parts {_gigabytes(2 * self.largest)}")
        return ", ".join([*needs, f"CPU {_gigabytes(self.weights(4))}"])


def _gigabytes(weights: int) -> str:
    return f"{weights * HEADROOM / 1e9:.0f} GB"


_RAIL = "CreativeML Open RAIL-M"
_RAIL_PLUS = "CreativeML Open RAIL++-M"
# Parameters of what was not here before November 2026 were counted on torch's meta device, from the
# configurations in diffusers' conversion scripts and class defaults, and agree with the sizes of
# the files that the hub lists (tests/loading/test_catalog.py counts again). Sizes of downloads are
# those file sizes added up; licences and gates stand on the models' pages. FLUX and Z-Image are
# known to give NaN in float16 (diffusers#9096, Z-Image#14), Qwen-Image at times: hence bfloat16.
_ROWS = (
    Row(
        name="critters",
        family="StableDiffusionPipeline",
        parameters=7_200_000,
        download_gb=0.0,
        licence="Apache-2.0",
        embedded=True,
        checked="real weights",
    ),
    Row(
        name="critters-unclip",
        family="StableUnCLIPPipeline",
        parameters=11_900_000,
        download_gb=0.0,
        licence="Apache-2.0",
        embedded=True,
        checked="real weights",
    ),
    Row(
        name="sd15",
        family="StableDiffusionPipeline",
        parameters=1_370_216_895,  # its safety checker among them
        download_gb=2.7,
        licence=_RAIL,
        hub_id="stable-diffusion-v1-5/stable-diffusion-v1-5",
        hub_variant="fp16",
    ),
    Row(
        name="sd-turbo",
        family="StableDiffusionPipeline",
        parameters=1_290_000_000,
        download_gb=2.6,
        licence="Stability AI Community",
        hub_id="stabilityai/sd-turbo",
        hub_variant="fp16",
        defaults={"num_inference_steps": 1, "guidance_scale": 0.0},
    ),
    Row(
        name="lcm-dreamshaper",
        family="LatentConsistencyModelPipeline",
        parameters=1_370_298_815,  # its safety checker among them
        download_gb=5.5,
        licence="MIT",
        hub_id="SimianLuo/LCM_Dreamshaper_v7",
        defaults={"num_inference_steps": 4, "guidance_scale": 8.0},
    ),
    Row(
        name="sdxl",
        family="StableDiffusionXLPipeline",
        parameters=3_468_837_867,
        largest=2_567_463_684,
        download_gb=6.9,
        licence=_RAIL_PLUS,
        hub_id="stabilityai/stable-diffusion-xl-base-1.0",
        hub_variant="fp16",
    ),
    Row(
        name="sdxl-turbo",
        family="StableDiffusionXLPipeline",
        parameters=3_468_837_867,
        largest=2_567_463_684,
        download_gb=6.9,
        licence="Stability AI Non-Commercial (sai-nc-community)",
        hub_id="stabilityai/sdxl-turbo",
        hub_variant="fp16",
        defaults={"num_inference_steps": 1, "guidance_scale": 0.0},
    ),
    Row(
        name="lcm-sdxl",
        family="StableDiffusionXLPipeline",
        parameters=3_468_919_787,
        largest=2_567_545_604,
        download_gb=6.9,
        licence=_RAIL_PLUS,
        # The U-Net is latent-consistency/lcm-sdxl's: see open.py.
        hub_id="stabilityai/stable-diffusion-xl-base-1.0",
        hub_variant="fp16",
        defaults={"num_inference_steps": 4, "guidance_scale": 8.0},
    ),
    Row(
        name="sd35-medium",
        family="StableDiffusion3Pipeline",
        parameters=8_134_104_419,
        largest=4_762_310_656,
        download_gb=16.3,
        licence="Stability AI Community",
        gated=True,
        hub_id="stabilityai/stable-diffusion-3.5-medium",
    ),
    Row(
        name="sd35-large",
        family="StableDiffusion3Pipeline",
        parameters=13_810_721_251,
        largest=8_146_280_768,
        download_gb=27.6,
        licence="Stability AI Community",
        gated=True,
        hub_id="stabilityai/stable-diffusion-3.5-large",
    ),
    Row(
        name="flux-schnell",
        family="FluxPipeline",
        parameters=16_860_369_379,
        largest=11_891_178_560,
        download_gb=33.7,
        licence="Apache-2.0",
        gated=True,  # since April 2025, whatever the licence (black-forest-labs/flux#434)
        dtype="bfloat16",
        hub_id="black-forest-labs/FLUX.1-schnell",
        defaults={"num_inference_steps": 4, "guidance_scale": 0.0, "max_sequence_length": 256},
    ),
    Row(
        name="flux-dev",
        family="FluxPipeline",
        parameters=16_870_599_139,
        largest=11_901_408_320,
        download_gb=33.7,
        licence="FLUX.1 [dev] Non-Commercial",
        gated=True,
        dtype="bfloat16",
        hub_id="black-forest-labs/FLUX.1-dev",
        defaults={"num_inference_steps": 50, "guidance_scale": 3.5},
    ),
    Row(
        name="flux2-klein",
        family="Flux2KleinPipeline",
        parameters=7_982_058_787,
        largest=4_022_468_096,
        download_gb=16.0,
        licence="Apache-2.0",
        dtype="bfloat16",
        hub_id="black-forest-labs/FLUX.2-klein-4B",
        defaults={"num_inference_steps": 4, "guidance_scale": 1.0},
    ),
    Row(
        name="z-image-turbo",
        family="ZImagePipeline",
        parameters=10_261_196_515,
        largest=6_154_908_736,
        download_gb=32.8,  # its transformer is stored in float32
        licence="Apache-2.0",
        dtype="bfloat16",
        hub_id="Tongyi-MAI/Z-Image-Turbo",
        defaults={"num_inference_steps": 8, "guidance_scale": 0.0},
    ),
    Row(
        name="qwen-image",
        family="QwenImagePipeline",
        parameters=28_849_460_275,
        largest=20_430_401_088,
        download_gb=57.7,
        licence="Apache-2.0",
        dtype="bfloat16",
        hub_id="Qwen/Qwen-Image",
        defaults={"num_inference_steps": 50},
    ),
    Row(
        name="sana",
        family="SanaPipeline",
        parameters=4_531_054_915,
        largest=2_614_341_888,
        download_gb=9.7,
        licence="NVIDIA (NSCL v2-custom), its words Gemma's terms",
        dtype="bfloat16",  # in float16 its words and autoencoder fail (diffusers' page on Sana)
        hub_id="Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers",
        hub_variant="bf16",
    ),
    Row(
        name="pixart-sigma",
        family="PixArtSigmaPipeline",
        parameters=5_456_820_615,
        largest=4_762_310_656,
        download_gb=21.8,  # stored in float32
        licence=_RAIL_PLUS,
        hub_id="PixArt-alpha/PixArt-Sigma-XL-2-1024-MS",
    ),
    Row(
        name="stable-unclip",
        family="StableUnCLIPPipeline",
        parameters=2_440_000_000,
        download_gb=11.0,
        licence=f"{_RAIL_PLUS}, its prior RAIL-M",
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
        licence="Apache-2.0",
        hub_id="kandinsky-community/kandinsky-2-2-decoder",  # it names the prior's repository
    ),
    Row(
        name="karlo",
        family="UnCLIPPipeline",
        parameters=3_420_000_000,
        download_gb=13.7,
        licence=_RAIL,
        hub_id="kakaobrain/karlo-v1-alpha",
    ),
)

# Memory of common GPUs in bytes: Colab's T4, a large one for games, one of a data centre.
GPUS: Mapping[str, int] = {"T4": 15 * 10**9, "24 GB": 24 * 10**9, "80 GB": 80 * 10**9}
CATALOG: Mapping[str, Row] = {row.name: row for row in _ROWS}
_SHOWN = (
    "name",
    "family",
    "parameters",
    "download_gb",
    "memory",
    *GPUS,
    "licence",
    "gated",
    "embedded",
    "checked",
)


def models() -> Table:
    """The models that ``load`` knows by name, as a table.

    ``load`` also takes a folder, a hub id and a pipeline of your own; nothing is fetched here.
    Embedded ones whose weights this installation lacks are left out. How a model fits a GPU follows
    from its parameters alone (weights of two bytes each, and three tenths more for the work, have
    to fit): ``"whole"``; ``"by parts"``, where the largest part does; else ``"by layers"``. All
    weights pass through the machine's own memory, and what isn't at work waits there.
    """
    rows = [row for row in _ROWS if not row.embedded or _is_here(row.name)]
    fits = [{name: row.on(memory) for name, memory in GPUS.items()} for row in rows]
    return Table(
        columns=_SHOWN,
        rows=tuple(
            {name: fit[name] if name in fit else getattr(row, name) for name in _SHOWN}
            for row, fit in zip(rows, fits, strict=True)
        ),
        digits={"download_gb": 1},
        caption=(
            "checked: tried with the real weights, or with small random ones of the same classes; "
            "whole, by parts, by layers: how it fits such a GPU, worked out from the parameters"
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


def is_embedded(pipe: Any) -> bool:
    """Whether a pipeline was opened as a model that travels in the package, or is its student."""
    row = CATALOG.get(origin_of(pipe).name.split(":")[0])
    return row is not None and row.embedded


def _weights() -> Path:
    from importlib import resources

    return Path(str(resources.files("ldmkit"))) / "critters" / "weights"


def _is_here(name: str) -> bool:
    return (_weights() / name / "model_index.json").is_file()
