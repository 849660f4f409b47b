"""unCLIP models that no single ``from_pretrained`` opens: their parts lie elsewhere or moved.

Stable unCLIP has its prior from Karlo and CLIP's words from OpenAI; Karlo's own repositories name
a class by a place that diffusers (0.42) has left. Here is which part comes from where.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from ldmkit.loading.folder import read_json
from ldmkit.loading.quiet import Switch, swift_imports

__all__ = ["CLIP_LARGE", "KARLO", "fetch_parts", "moved_classes", "parts_of"]

KARLO = "kakaobrain/karlo-v1-alpha"
CLIP_LARGE = "openai/clip-vit-large-patch14"

_MOVED = "UnCLIPTextProjModel"

# What of those repositories is needed, when they are fetched ahead of class.
_FILES = {
    KARLO: ["prior/*.json", "prior/*.safetensors", "prior_scheduler/*"],
    CLIP_LARGE: ["*.json", "*.txt", "model.safetensors"],
}


def parts_of(family: str | None, *, dtype: Any, local: bool) -> dict[str, Any]:
    """Components to give to ``from_pretrained`` beside a repository; mostly none.

    Args:
        family: class of the pipeline that is to be made, where a catalog row says so.
        dtype: of the weights.
        local: look on this machine only.

    Raises:
        OSError: a part is missing or can't be fetched.
        ValueError: it can't be opened.
    """
    return _karlos_prior(dtype, local) if family == "StableUnCLIPPipeline" else {}


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


def fetch_parts(family: str | None) -> None:
    """Downloads what ``parts_of`` takes from other repositories.

    Raises:
        OSError: the hub can't be reached or has it no more.
    """
    if family != "StableUnCLIPPipeline":
        return
    from huggingface_hub import snapshot_download

    for repository, patterns in _FILES.items():
        snapshot_download(repository, allow_patterns=patterns)
