"""Models that no single ``from_pretrained`` opens: their parts lie elsewhere or moved.

Stable unCLIP has its prior from Karlo and CLIP's words from OpenAI; the latent consistency model of
Stable Diffusion XL is another U-Net for that model; Karlo's own repositories name a class by a
place that diffusers (0.42) has left. Here is which part comes from where.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from ldmkit.loading.folder import read_json
from ldmkit.loading.quiet import Switch, swift_imports

__all__ = ["CLIP_LARGE", "KARLO", "LCM_XL", "XL", "fetch_parts", "moved_classes", "parts_of"]

KARLO = "kakaobrain/karlo-v1-alpha"
CLIP_LARGE = "openai/clip-vit-large-patch14"
LCM_XL = "latent-consistency/lcm-sdxl"
XL = "stabilityai/stable-diffusion-xl-base-1.0"

_MOVED = "UnCLIPTextProjModel"

# What of those repositories is needed, when they are fetched ahead of class.
_FILES = {
    "stable-unclip": {
        KARLO: ["prior/*.json", "prior/*.safetensors", "prior_scheduler/*"],
        CLIP_LARGE: ["*.json", "*.txt", "model.safetensors"],
    },
    "lcm-sdxl": {LCM_XL: ["*.json", "*.fp16.safetensors"]},
}
# ... and which of the main repository is not, since another part takes its place.
_INSTEAD: dict[str, tuple[str, ...]] = {"lcm-sdxl": ("unet",)}


def parts_of(name: str, *, dtype: Any, local: bool) -> dict[str, Any]:
    """Components to give to ``from_pretrained`` beside a repository; mostly none.

    Args:
        name: of a catalog row.
        dtype: of the weights.
        local: look on this machine only.

    Raises:
        OSError: a part is missing or can't be fetched.
        ValueError: it can't be opened.
    """
    makers = {"stable-unclip": _karlos_prior, "lcm-sdxl": _consistent_xl}
    return makers[name](dtype, local) if name in makers else {}


def _consistent_xl(dtype: Any, local: bool) -> dict[str, Any]:
    """As diffusers' page on latent consistency models puts it together."""
    with swift_imports():
        from diffusers import LCMScheduler, UNet2DConditionModel

    where = {"local_files_only": local}
    weights = where | {"dtype": dtype, "variant": "fp16", "use_safetensors": True}
    return {
        "unet": UNet2DConditionModel.from_pretrained(LCM_XL, **weights),
        "scheduler": LCMScheduler.from_pretrained(XL, subfolder="scheduler", **where),
    }


def moved_classes(source: str | Path) -> AbstractContextManager[None]:
    """Lets ``from_pretrained`` find Karlo's class where its files say it is, while a block runs.

    The hub's say ``unclip.UnCLIPTextProjModel``, those that diffusers 0.42 saves itself say
    ``diffusers.UnCLIPTextProjModel``; it has moved to ``pipelines.deprecated`` and is found by
    neither. Does nothing for others' folders, and where diffusers finds it.
    """
    return _moved() if _is_karlo(source) else nullcontext()


def _name_moved() -> Callable[[], None]:
    import diffusers
    from diffusers import pipelines
    from diffusers.pipelines.deprecated import unclip

    places = ((pipelines, "unclip", unclip), (diffusers, _MOVED, getattr(unclip, _MOVED)))
    missing = [place for place in places if not hasattr(*place[:2])]
    for where, name, thing in missing:
        setattr(where, name, thing)

    def forget() -> None:
        for where, name, _ in missing:
            delattr(where, name)

    return forget


_moved = Switch(_name_moved)


def _is_karlo(source: str | Path) -> bool:
    index = Path(source) / "model_index.json"
    if index.is_file():
        return any(isinstance(e, list) and _MOVED in e for e in read_json(index).values())
    return str(source).startswith(KARLO)


def _karlos_prior(dtype: Any, local: bool) -> dict[str, Any]:
    with swift_imports():
        from diffusers import DDPMScheduler, PriorTransformer, UnCLIPScheduler
        from transformers import CLIPTextModelWithProjection, CLIPTokenizer

    where = {"local_files_only": local}
    weights = where | {"dtype": dtype, "use_safetensors": True}
    scheduler = UnCLIPScheduler.from_pretrained(KARLO, subfolder="prior_scheduler", **where)
    return {
        "prior": PriorTransformer.from_pretrained(KARLO, subfolder="prior", **weights),
        # The pipeline passes no prev_timestep, which UnCLIP's own scheduler would misread.
        "prior_scheduler": DDPMScheduler.from_config(scheduler.config),
        "prior_tokenizer": CLIPTokenizer.from_pretrained(CLIP_LARGE, **where),
        "prior_text_encoder": CLIPTextModelWithProjection.from_pretrained(CLIP_LARGE, **weights),
    }


def fetch_parts(name: str) -> Sequence[str]:
    """Downloads what ``parts_of`` takes from other repositories.

    Args:
        name: of a catalog row.

    Returns:
        The parts of its main repository that needn't be fetched.

    Raises:
        OSError: the hub can't be reached or has it no more.
    """
    from huggingface_hub import snapshot_download

    for repository, patterns in _FILES.get(name, {}).items():
        snapshot_download(repository, allow_patterns=patterns)
    return _INSTEAD.get(name, ())
