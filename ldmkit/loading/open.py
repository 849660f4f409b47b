"""``load``: a name, folder, hub id or your own pipeline to a plain diffusers pipeline."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from ldmkit.check import did_you_mean, short
from ldmkit.loading import catalog, memory
from ldmkit.loading import device as devices
from ldmkit.loading.folder import check_folder, check_variant, defaults_of, read_json
from ldmkit.loading.quiet import (
    Switch,
    no_progress_bars,
    no_retirement_notice,
    one_load,
    parts_on_demand,
    swift_imports,
    unsaid,
)
from ldmkit.loading.siblings import Origin, remember
from ldmkit.threads import on_one_thread

__all__ = ["fetch", "is_folder", "is_hub_id", "load", "moved_classes", "unknown"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def load(
    what: Any,
    *,
    device: Any = None,
    dtype: Any = None,
    variant: str | None = None,
) -> Any:
    """Opens a model as a plain diffusers pipeline.

    Args:
        what: a pipeline (given back as it is), the folder of one, a name of ``models()``, or a
            hub id such as ``"owner/name"``; looked up in this order.
        device: ``"cpu"``, ``"cuda"``, ...; by default the best there is.
        dtype: ``"float32"``, ``"float16"``, ``"bfloat16"``; by default float32 on the CPU and
            for the embedded models, float16 for large ones on a GPU.
        variant: other weights beside the usual ones, such as the embedded students' ``"steps4"``.

    Returns:
        An ordinary ``diffusers`` pipeline, weights read from safetensors only.

    Raises:
        FileNotFoundError: a folder without a pipeline; embedded weights that aren't installed.
        ValueError: an unknown name, variant, device or dtype.
        ConnectionError: a hub id that can't be reached, or whose licence nobody accepted.
        MemoryError: a model whose weights this machine can't hold; nothing was fetched.
        TypeError: something else.
    """
    if variant is not None and not isinstance(variant, str):
        raise TypeError(
            f'variant must be a name such as "steps4" or None, got {short(variant)}; leave it out.'
        )
    if not isinstance(what, (str, os.PathLike)):
        return _as_it_is(what, device, dtype, variant)
    folder, row = _local(what)
    with swift_imports():
        import diffusers

        parts_on_demand()
        chosen = devices.choose_device(device)
        precision = devices.choose_dtype(
            dtype,
            chosen,
            embedded=bool(row and row.embedded),
            made_in=row.dtype if row else "float16",
        )
    if folder is not None:
        name = row.name if row else folder.resolve().name
        pipe = _open_folder(folder, variant, precision)
        defaults = defaults_of(folder, variant)
    else:
        name = row.name if row else str(what)
        hub_id = row.hub_id if row and row.hub_id else str(what)
        if row:
            memory.check_room(name, row.weights(precision.itemsize), chosen, precision)
        variant = variant or (row.hub_variant if row else None)
        family = row.family if row else "DiffusionPipeline"
        pipe = _open_hub(name, getattr(diffusers, family), hub_id, variant, precision)
        defaults = dict(row.defaults) if row else {}
    if row and row.embedded:
        pipe.set_progress_bar_config(disable=True)  # a bar would take longer to draw than a step
    if folder is not None and (folder / "ldmkit.json").is_file():  # critters, trained here or there
        for part in pipe.components.values():
            on_one_thread(part)
    label = f"{name}:{variant}" if variant and folder is not None else name
    remember(pipe, Origin(label, defaults))
    return devices.own(memory.place(pipe, chosen))


def fetch(name: str) -> Path:
    """Downloads a model ahead of class; returns its folder.

    Raises:
        TypeError: not a name.
        ValueError: an unknown name.
        ConnectionError: the hub can't be reached.
    """
    if not isinstance(name, (str, os.PathLike)):
        raise TypeError(
            f"fetch takes a model's name or hub id, got {short(name)}; "
            "ldmkit.models() lists the names."
        )
    folder, row = _local(name)
    if folder is not None:
        return folder
    hub_id = row.hub_id if row and row.hub_id else name
    with swift_imports():
        import diffusers

        pipeline = getattr(diffusers, row.family if row else "DiffusionPipeline")
    try:
        with _hub_unsaid():
            others = fetch_parts(row.name) if row else ()
            path = pipeline.download(
                hub_id,
                variant=row.hub_variant if row else None,
                use_safetensors=True,
                **dict.fromkeys(others),  # a part that is given is not fetched
            )
    except (OSError, ValueError) as error:
        raise _hub_error(row.name if row else hub_id, hub_id, error) from error
    return Path(path)


def _as_it_is(what: Any, device: Any, dtype: Any, variant: str | None) -> Any:
    if not devices.is_pipeline(what):
        raise TypeError(
            f"load takes a name, folder, hub id or diffusers pipeline, got {short(what)}; "
            "ldmkit.models() lists the names."
        )
    if variant is not None:
        raise ValueError(
            f"variant must be left out for a pipeline that is open already, got {variant!r}; "
            "load its folder with that variant."
        )
    if device is None and dtype is None:
        return what
    chosen = devices.choose_device(device) if device is not None else what.device
    kept = what.dtype if dtype is None else dtype
    return memory.move(what, chosen, devices.choose_dtype(kept, chosen, embedded=False))


def _local(what: str | os.PathLike[str]) -> tuple[Path | None, catalog.Row | None]:
    """The folder to open and its row, either may be missing: then it is for the hub.

    Raises:
        FileNotFoundError: a folder that holds no pipeline.
        ValueError: neither folder nor name nor hub id.
    """
    name, path = os.fspath(what), Path(what)
    row = catalog.CATALOG.get(name)
    # A folder that merely has a model's name, such as a checkout of its sources, is no pipeline.
    if is_folder(name) and (row is None or (path / "model_index.json").is_file()):
        return path, None
    if row is not None:
        return (catalog.embedded_folder(name) if row.embedded else None), row
    if isinstance(what, os.PathLike) or not is_hub_id(name):
        raise ValueError(unknown(name))
    return None, None


def is_folder(name: str) -> bool:
    """Whether a folder has this name; whatever the name is."""
    try:
        return bool(name) and Path(name).is_dir()
    except (OSError, ValueError):  # too long for any file, or with a zero byte
        return False


def is_hub_id(name: str) -> bool:
    """Whether it has the form ``owner/name``; anything else is no reason to ask the network."""
    return bool(_HUB_ID.fullmatch(name))


def unknown(name: str, also: Iterable[str] = ()) -> str:
    """The sentence on a name that is nothing; the nearest of the catalog's, and more, is told."""
    advice = did_you_mean(
        name.lower(), [*catalog.CATALOG, *also], "ldmkit.models() lists the names."
    )
    return (
        f"{short(name, 80)} is neither a folder, nor a model's name, nor a hub id (owner/name); "
        f"{advice}"
    )


def _open_folder(folder: Path, variant: str | None, dtype: Any) -> Any:
    check_folder(folder)
    check_variant(folder, variant)
    from diffusers import DiffusionPipeline

    with (
        one_load,
        no_progress_bars(),
        swift_imports(),
        no_retirement_notice(),
        moved_classes(folder),
    ):
        try:
            return DiffusionPipeline.from_pretrained(
                folder,
                variant=variant,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
            )
        except (OSError, ValueError) as error:
            reason = str(error).strip().split("\n")[0][:200]
            raise ValueError(
                f"{str(folder)!r} can't be opened as a pipeline: {reason} "
                "(fetch or save the folder again; only safetensors are read)."
            ) from error


def _open_hub(name: str, pipeline: Any, hub_id: str, variant: str | None, dtype: Any) -> Any:
    options = {"variant": variant, "dtype": dtype, "use_safetensors": True}

    def opened(local: bool) -> Any:
        parts = parts_of(name, dtype=dtype, local=local)
        return pipeline.from_pretrained(hub_id, local_files_only=local, **options, **parts)

    with one_load, swift_imports(), no_retirement_notice(), moved_classes(hub_id), _hub_unsaid():
        try:
            # What was fetched once opens without asking the hub, which may be slow or away.
            return opened(local=True)
        except (OSError, ValueError):
            pass
        try:
            return opened(local=False)
        except (OSError, ValueError) as error:
            raise _hub_error(name, hub_id, error) from error


def _hub_unsaid() -> AbstractContextManager[None]:
    """Drops what diffusers says of a hub that it can't reach: our sentence says it once."""
    return unsaid("diffusers.pipelines.pipeline_utils", words="connect to the Hub")


def _hub_error(name: str, hub_id: str, error: BaseException) -> Exception:
    names: set[str] = set()
    cause: BaseException | None = error
    status = None
    while cause is not None:
        names.update(kind.__name__ for kind in type(cause).__mro__)
        status = status or getattr(getattr(cause, "response", None), "status_code", None)
        cause = cause.__cause__ or cause.__context__
    rows = [row for row in catalog.CATALOG.values() if row.hub_id == hub_id]
    row = catalog.CATALOG.get(name, rows[0] if rows else None)
    accept = "accept its licence on the hub's page, then run `hf auth login`"
    if "GatedRepoError" in names:
        return ConnectionError(f"{hub_id!r} is gated: {accept}.")
    if "RepositoryNotFoundError" in names:
        last = hub_id.rpartition("/")[2].lower()
        gone = row.if_gone if row else ""
        advice = gone or did_you_mean(last, catalog.CATALOG, "check its spelling.")
        return ValueError(f"The hub has no model {hub_id!r}; {advice}")
    if "HfHubHTTPError" in names and status is not None:  # it was reached
        return ConnectionError(
            f"The hub refused {hub_id!r} with status {status}; try again later, or run "
            "`hf auth whoami` to see whether it knows you."
        )
    if names & {"ConnectionError", "OfflineModeIsEnabled", "LocalEntryNotFoundError", "HTTPError"}:
        gate = f" (it is gated, too: {accept})" if row and row.gated else ""
        return ConnectionError(
            f"{hub_id!r} is not on this machine and the hub can't be reached; go online{gate} and "
            f'run `ldmkit fetch {row.name if row else hub_id}`, or load "critters", which needs '
            "no network."
        )
    reason = str(error).strip().split("\n")[0][:200]
    return ValueError(f"{hub_id!r} can't be opened as a pipeline: {reason}")


# --- models that no single from_pretrained opens --------------------------------------------------
#
# Stable unCLIP has its prior from Karlo and CLIP's words from OpenAI; the latent consistency model
# of Stable Diffusion XL is another U-Net for that model; Karlo's own repositories name a class by a
# place that diffusers (0.42) has left. Here is which part comes from where.

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
