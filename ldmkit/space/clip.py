"""``clip_space``: the CLIP of a name, folder, hub id, model or pipeline.

    clip = ldmkit.clip_space("critters")
    clip.encode_text("a red cat").similarity(clip.encode_image(picture))

CLIP was trained so that a caption's vector points where its picture's does (arXiv 2103.00020).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ldmkit.check import short
from ldmkit.loading import catalog, load
from ldmkit.loading import device as devices
from ldmkit.loading.folder import read_json
from ldmkit.loading.opening import is_folder, is_hub_id, unknown
from ldmkit.space.encoding import LOGIT_SCALE, ClipSpace
from ldmkit.space.halves import (
    EMBEDDED,
    ImageHalf,
    TextHalf,
    embedded_clip,
    embedded_folder,
    halves_of,
    of_model,
    open_folder,
    space_name,
)

__all__ = ["ClipSpace", "clip_space"]

_EMBEDDED_NAMES = ("critters", "critters-clip", "critters-unclip")


def clip_space(
    what: Any, *, device: Any = None, dtype: Any = None, processor: Any = None
) -> ClipSpace:
    """Opens the CLIP space of a model.

    Args:
        what: ``"critters"``; the folder or hub id of a ``CLIPModel``; a ``CLIPModel``; a pipeline
            (or the name of one) with a CLIP inside, such as an unCLIP's prior.
        device: ``"cpu"``, ``"cuda"``, ...; by default the CPU, and where a pipeline is.
        dtype: by default float32, and as a pipeline is.
        processor: of a ``CLIPModel`` that is given as an object: its ``CLIPProcessor``.

    Returns:
        The space; its embeddings mix with those of the same space only.

    Raises:
        FileNotFoundError: embedded weights that aren't installed.
        ValueError: an unknown name, or a model that is no CLIP.
        ConnectionError: a hub id that can't be reached.
        TypeError: something else, or a pipeline without a CLIP whose vectors can be compared.
    """
    if isinstance(what, (str, os.PathLike)):
        if processor is not None:
            raise TypeError(
                f"processor goes with a CLIPModel that is given as an object, got "
                f"{short(processor)} beside {short(what)}; leave it out."
            )
        return _named(what, device, dtype)
    space = _of_object(what, processor)
    for name, value in (("device", device), ("dtype", dtype)):
        if value is not None:
            raise TypeError(
                f"{name} must be left out for what is open already, got {short(value)}; give a "
                "name."
            )
    return space


def _of_object(what: Any, processor: Any) -> ClipSpace:
    if isinstance(what, ClipSpace):
        return what
    if isinstance(what, type):
        pass
    elif hasattr(what, "get_text_features") and hasattr(what, "get_image_features"):
        return _of_model(what, processor)
    elif hasattr(what, "components"):
        return _of_pipeline(what)
    raise TypeError(
        f"clip_space takes a name, a folder, a CLIPModel or a pipeline, got {short(what)}; "
        'begin with ldmkit.clip_space("critters").'
    )


def _named(what: str | os.PathLike[str], device: Any, dtype: Any) -> ClipSpace:
    name, path = os.fspath(what), Path(what)
    here = is_folder(name)
    # A folder that merely has a model's name, such as a checkout of its sources, is no model.
    is_pipeline, is_model = (
        here and (path / file).is_file() for file in ("model_index.json", "config.json")
    )
    if name in _EMBEDDED_NAMES and not is_pipeline and not is_model:
        return _embedded(device, dtype)
    if is_pipeline or (name in catalog.CATALOG and not is_model):
        return _of_pipeline(load(what, device=device, dtype=dtype))
    if here:
        return _opened(path, path.resolve().name, device, dtype)
    if isinstance(what, os.PathLike) or not is_hub_id(name):
        raise ValueError(unknown(name, also=_EMBEDDED_NAMES))
    return _opened(name, name, device, dtype)


def _embedded(device: Any, dtype: Any) -> ClipSpace:
    if device is not None or dtype is not None:
        return _opened(embedded_folder(), EMBEDDED, device, dtype)
    text, image = embedded_clip()
    return ClipSpace(EMBEDDED, text, image, _scale(text.network))


def _opened(source: str | Path, name: str, device: Any, dtype: Any) -> ClipSpace:
    chosen = devices.choose_device("cpu" if device is None else device)
    text, image = _open(source, devices.choose_dtype(dtype, chosen, embedded=True))
    return ClipSpace(name, text, image, _scale(text.network.to(chosen)))


def _open(source: str | Path, dtype: Any) -> tuple[TextHalf, ImageHalf]:
    if isinstance(source, Path):
        _check_folder(source)
    try:
        # What was fetched once opens without asking the hub, which may be slow or away.
        return open_folder(source, dtype, local_files_only=True)
    except (OSError, ValueError) as error:
        if isinstance(source, Path):
            raise ValueError(
                f"{source.name!r} can't be opened as a CLIPModel: {_first(error)}"
            ) from None
    try:
        return open_folder(source, dtype)
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"{source!r} is neither on this machine nor can it be fetched as a CLIPModel "
            f'({_first(error)}); go online, or use "critters", which needs no network.'
        ) from error


def _check_folder(folder: Path) -> None:
    config = folder / "config.json"
    kind = read_json(config).get("model_type") if config.is_file() else None
    if kind != "clip":
        raise ValueError(
            f"A CLIPModel's folder must hold config.json with model_type clip, {folder.name!r} "
            f"{'says ' + repr(str(kind)[:40]) if kind else 'has none'}; give the folder that "
            "save_pretrained wrote."
        )


def _of_model(model: Any, processor: Any) -> ClipSpace:
    tokenizer = getattr(processor, "tokenizer", None)
    images = getattr(processor, "image_processor", None)
    if tokenizer is None or images is None:
        raise TypeError(
            "A CLIPModel needs its processor beside it: clip_space(model, "
            f"processor=CLIPProcessor.from_pretrained(...)), got {short(processor)}."
        )
    text, image = of_model(model, tokenizer, images)
    name = Path(str(getattr(model, "name_or_path", "") or type(model).__name__))
    return ClipSpace(name.name if name.is_dir() else str(name), text, image, _scale(model))


def _of_pipeline(pipe: Any) -> ClipSpace:
    text, image = halves_of(pipe)
    if text is None and image is None:
        raise TypeError(
            f"{type(pipe).__name__} has no CLIP whose texts and pictures can be compared (its text "
            "encoder lacks the projection into the shared space); give clip_space a CLIPModel, "
            'such as "openai/clip-vit-large-patch14", or "critters".'
        )
    name = space_name(pipe)
    scale = _scale(embedded_clip()[0].network) if name == EMBEDDED else LOGIT_SCALE
    return ClipSpace(name, text, image, scale)


def _scale(model: Any) -> float:
    return float(model.logit_scale.detach().float().exp())


def _first(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:200]
