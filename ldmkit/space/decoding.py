"""``decode_embedding`` and ``variations``: embeddings to pictures, no word heard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image

from ldmkit.check import function, short, whole
from ldmkit.loading.origin import origin_of
from ldmkit.recording import call as checks
from ldmkit.recording import record
from ldmkit.records import Embedding, Step, Trajectory
from ldmkit.space.adaptors import UNCLIPS, Family, family_of
from ldmkit.space.encoders import embeddings_of, space_name, stacked
from ldmkit.space.given import check_generator, generators, noise_of
from ldmkit.space.prior import check_least
from ldmkit.space.sampling import run_behind

__all__ = ["check_decoding", "decode_embedding", "variations"]

_MOST_IMAGES = 64
_HANDLED = ("noise_level", "prompt", "latents", "keep", "preview", "on_step")
_OWN = ("embedding", "seed", *_HANDLED)


def decode_embedding(
    unclip: Any,
    embedding: Any,
    *,
    seed: int | Sequence[int] | None = None,
    noise_level: int = 0,
    prompt: str = "",
    latents: Any = None,
    keep: str | Sequence[str] = ("latents", "denoised"),
    preview: str = "auto",
    on_step: Callable[[Step], bool | None] | None = None,
    **call: Any,
) -> Trajectory:
    """Makes a picture of an embedding, and records each step; no word is heard.

    Args:
        unclip: a pipeline that decodes image embeddings.
        embedding: an ``Embedding``, a vector (d,), a batch (b, d), or a list of them.
        seed: as in ``record``; a list gives one for each embedding.
        noise_level: how much noise is put on the embedding first, 0…999: the more, the less of
            it the picture follows. Stable unCLIP's decoder does so itself and is told how much;
            for Kandinsky's and Karlo's it is done here, and they take the result at its word.
        prompt: words for the decoder beside the embedding, where it reads any.
        latents: first noise (b, c, h, w) instead of the generator's; that of one serves a batch.
        keep: as in ``record``.
        preview: as in ``record``.
        on_step: as in ``record``.
        **call: the decoder's own keywords; ``num_inference_steps`` and ``guidance_scale`` by
            these names in every family.

    Returns:
        The decoder's trajectory: its prompt empty, ``call["embedding"]`` the label, or labels.
        The prior's runs that drew the embeddings, where it did, are its ``stages``.

    Raises:
        TypeError: a pipeline that decodes no embeddings, an unknown keyword, or a wrong type.
        ValueError: an embedding of another model, or a value out of its range.
    """
    family = _decoding(unclip, "decode_embedding")
    decoder = family.decoder()
    given = embeddings_of(embedding, family.width(), space_name(unclip))
    seeds = checks.check_seed(seed, call.get("generator"), takes_generator=True)
    own = {"noise_level": noise_level, "prompt": prompt, "latents": latents}
    own |= {"keep": keep, "preview": preview, "on_step": on_step}
    check_decoding(family, {**call, **own})
    count = len(given) * int(call.get("num_images_per_prompt") or 1)
    drawing = generators(seeds, count) if seeds is not None else call.get("generator")
    vectors = family.noised(torch.tensor(stacked(given)), noise_level, drawing)
    arguments = family.arguments(vectors, noise_level, prompt) | call | {"generator": drawing}
    if latents is not None:
        noise = noise_of(latents, (count, 0, 0, 0))
        arguments["latents"] = noise.to(family.device(), family.dtype())
    if isinstance(arguments.get("negative_prompt"), str) and len(given) > 1:
        arguments["negative_prompt"] = [arguments["negative_prompt"]] * len(given)
    arguments = {family.names.get(name, name): value for name, value in arguments.items()}
    words = arguments.pop("prompt", None)
    traj = record(decoder, words, keep=keep, preview=preview, on_step=on_step, **arguments)
    own = {name: ours for ours, name in family.names.items()}
    labels = [one.label for one in given]
    runs = [run_behind(one) for one in given]
    told = {"embedding": labels[0] if len(given) == 1 else labels, "noise_level": noise_level}
    # What the decoder was given is made of the embedding and the seed: these are to be given again.
    theirs = {own.get(name, name) for name in traj.call.get("left_out", ())}
    theirs &= {*call, *(() if latents is None else ("latents",))}
    told["left_out"] = sorted({"embedding", *theirs} | ({"generator"} & set(call)))
    kept = {name: value for name, value in traj.call.items() if name != "generator_seed"}
    return replace(
        traj,
        prompt=prompt,
        seed=seeds,
        model=origin_of(unclip).name,
        call={own.get(name, name): value for name, value in kept.items()} | told,
        stages=tuple(run for run in runs if run is not None),
    )


def _decoding(unclip: Any, caller: str) -> Family:
    family = family_of(unclip)
    if family is None:
        raise TypeError(
            f"{caller} takes an unCLIP pipeline, which decodes embeddings of pictures, got "
            f"{short(unclip)}; open one with ldmkit.load({UNCLIPS})."
        )
    return family


def check_decoding(
    family: Family,
    call: Mapping[str, Any],
    caller: str = "decode_embedding",
    own: Iterable[str] = _OWN,
) -> None:
    """Refuses what no decoding can mean, before anything is encoded or drawn.

    Args:
        family: of the pipeline.
        call: ``decode_embedding``'s keywords, as far as they were given.
        caller: who was called, in words.
        own: the caller's own keywords.

    Raises:
        TypeError: an unknown keyword, or of a wrong kind.
        ValueError: out of its range.
    """
    decoder, prompt, latents = family.decoder(), call.get("prompt", ""), call.get("latents")
    checks.check_keep(call.get("keep", ()))
    checks.check_preview(call.get("preview", "none"))
    function("on_step", call.get("on_step"))
    theirs = {name: value for name, value in call.items() if name not in _HANDLED}
    check_generator(theirs.get("generator"))
    checks.check_call(decoder, family.keywords(), theirs, caller, own)
    scheduler = getattr(decoder, "decoder_scheduler", None) or decoder.scheduler
    check_least(scheduler, theirs)
    checks.check_prompt("prompt", prompt)
    if not isinstance(prompt, str) or (prompt and not family.takes_prompt):
        raise TypeError(
            f"The decoder of {type(family.pipe).__name__} takes "
            f"{'one string as prompt' if family.takes_prompt else 'no words'}, "
            f"got {short(prompt)}; leave it out."
        )
    check_noise_level(family, call.get("noise_level", 0))
    if latents is not None:
        noise_of(latents, (1, 0, 0, 0), many=True)
    missing = set(family.needs) - set(theirs)
    if missing:
        raise TypeError(
            f"{type(family.pipe).__name__} alone needs {', '.join(sorted(missing))}=, which its "
            'prior makes; open both with ldmkit.load("kandinsky22").'
        )


def check_noise_level(family: Family, level: Any) -> None:
    most = family.most_noise()
    if not most and whole("noise_level", level, 0):
        raise ValueError(
            f"noise_level must be 0, got {short(level)}; nothing here says what noise is to these "
            "embeddings."
        )
    whole("noise_level", level, 0, most)


def variations(
    unclip: Any,
    picture: Image.Image | Embedding,
    *,
    num_images: int = 4,
    noise_level: int = 0,
    seed: int = 0,
    **options: Any,
) -> Trajectory:
    """Makes other pictures of what CLIP sees in one (arXiv 2204.06125, section 3.1).

    What all of them share is what the embedding holds; what differs is what it leaves open.

    Args:
        unclip: a pipeline that decodes image embeddings.
        picture: a PIL picture of any mode and size, or its embedding.
        num_images: how many, 1 to 64; each from a seed of its own.
        noise_level: how far they may go, 0…999; see ``decode_embedding``.
        seed: picture i is what ``decode_embedding`` makes with seed ``seed + i``.
        **options: as ``decode_embedding``'s.

    Returns:
        A trajectory with a batch of pictures: ``traj.images``.

    Raises:
        TypeError: no picture, or a pipeline that decodes no embeddings.
        ValueError: a value out of its range, or a picture that can't be read.
        RuntimeError: neither the pipeline nor the package has its CLIP's eye for pictures.
    """
    from ldmkit.space.clip import clip_space

    family = _decoding(unclip, "variations")
    num_images = whole("num_images", num_images, 1, _MOST_IMAGES)
    first = whole("seed", seed, 0, 2**63 - 1 - _MOST_IMAGES)
    check_decoding(family, {**options, "noise_level": noise_level})
    if not isinstance(picture, (Embedding, Image.Image)):
        raise TypeError(
            f"picture must be a PIL picture or its Embedding, got {short(picture)}; open a file "
            "with PIL.Image.open(path)."
        )
    if not isinstance(picture, Embedding):
        picture = clip_space(unclip).encode_image(picture)
    seeds = first if num_images == 1 else [first + i for i in range(num_images)]
    return decode_embedding(
        unclip, [picture] * num_images, seed=seeds, noise_level=noise_level, **options
    )
