"""The two encoders of a CLIP, wherever they are: a model of its own, or parts of a pipeline.

CLIP is two encoders that end in one space (arXiv 2103.00020, section 2.3). unCLIP pipelines carry
them apart: the prior reads captions with the text half, variations start from the image half.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ldmkit.check import short
from ldmkit.loading.device import RELEASED, ReleasedError, works_on
from ldmkit.loading.quiet import no_progress_bars, one_load, swift_imports
from ldmkit.loading.siblings import origin_of
from ldmkit.records import Embedding
from ldmkit.threads import on_one_thread

__all__ = [
    "EMBEDDED",
    "ImageHalf",
    "TextHalf",
    "embedded_clip",
    "embedded_folder",
    "embeddings_of",
    "halves_of",
    "of_model",
    "open_folder",
    "space_name",
    "stacked",
]

EMBEDDED = "critters-clip"
_TEXT_PARTS = (("prior_text_encoder", "prior_tokenizer"), ("text_encoder", "tokenizer"))
_IMAGE_PARTS = (
    ("prior_image_encoder", "prior_image_processor"),
    ("image_encoder", "feature_extractor"),
    ("image_encoder", "image_processor"),
)
_BATCH = 32  # texts or pictures at once
# One CLIP has many names: that of the model which carries it, that of its own repository.
_LARGE, _GIANT = "clip-vit-large-patch14", "CLIP-ViT-bigG-14-laion2B-39B-b160k"
_SPACES = {
    **dict.fromkeys(("karlo", "karlo-v1-alpha", "karlo-v1-alpha-image-variations"), _LARGE),
    **dict.fromkeys(("stable-unclip", "stable-diffusion-2-1-unclip-small"), _LARGE),
    **dict.fromkeys(("kandinsky22", "kandinsky-2-2-prior", "kandinsky-2-2-decoder"), _GIANT),
}
_MOST = 256  # embeddings in a batch

Features = Callable[..., torch.Tensor]


@dataclass(frozen=True, eq=False)
class TextHalf:
    """Words to vectors."""

    features: Features
    network: Any  # a torch module with its config
    tokenizer: Any

    @property
    def most_tokens(self) -> int:
        """How many tokens it reads, those that mark begin and end included."""
        config = self.network.config
        positions = getattr(config, "text_config", config).max_position_embeddings
        return int(min(positions, self.tokenizer.model_max_length))

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Texts to (n, d) projected vectors, not normalised; what is too long is cut."""
        device, rows = _weight(self.network).device, []
        for start in range(0, len(texts), _BATCH):
            words = self.tokenizer(
                [*texts[start : start + _BATCH]],
                padding=True,
                truncation=True,
                max_length=self.most_tokens,
                return_tensors="pt",
            )
            got = self.features(
                input_ids=words.input_ids.to(device), attention_mask=words.attention_mask.to(device)
            )
            rows.append(got.float().cpu().numpy())
        return np.concatenate(rows)


@dataclass(frozen=True, eq=False)
class ImageHalf:
    """Pictures to vectors."""

    features: Features
    network: Any  # a torch module with its config
    processor: Any

    @torch.no_grad()
    def encode(self, pictures: Sequence[Image.Image]) -> NDArray[np.float32]:
        """RGB pictures to (n, d) projected vectors, not normalised."""
        weight, rows = _weight(self.network), []
        for start in range(0, len(pictures), _BATCH):
            batch = [_no_sliver(one) for one in pictures[start : start + _BATCH]]
            pixels = self.processor(batch, return_tensors="pt").pixel_values
            rows.append(self.features(pixel_values=pixels.to(weight.device, weight.dtype)))
        return np.concatenate([row.float().cpu().numpy() for row in rows])


def _weight(network: Any) -> torch.Tensor:
    weight: torch.Tensor = next(network.parameters())
    if weight.is_meta and works_on(network).type == "meta":  # offloaded ones come when called
        raise ReleasedError(RELEASED)
    return weight


def _no_sliver(picture: Image.Image) -> Image.Image:
    """Tiny pictures enlarged and slivers cut, of which the processor would make gigabytes.

    CLIP looks at the middle square anyway.
    """
    width, height = picture.size
    if max(width, height) > 16 * min(width, height):
        width, height = min(width, 16 * height), min(height, 16 * width)
        left, top = (picture.width - width) // 2, (picture.height - height) // 2
        picture = picture.crop((left, top, left + width, top + height))
    if min(width, height) < 4:  # it would take one or three rows of pixels for colour channels
        return picture.resize((width * 4, height * 4), Image.Resampling.NEAREST)
    return picture


def of_model(model: Any, tokenizer: Any, processor: Any) -> tuple[TextHalf, ImageHalf]:
    """Both halves of a ``CLIPModel``."""
    return (
        TextHalf(lambda **words: model.get_text_features(**words).pooler_output, model, tokenizer),
        ImageHalf(lambda **x: model.get_image_features(**x).pooler_output, model, processor),
    )


def image_processor_class() -> Any:
    """The processor that needs no torchvision, so that numbers don't depend on what is installed.

    Its plain name is a warning and this very class where torchvision is missing.
    """
    import transformers

    found = getattr(transformers, "CLIPImageProcessorPil", None)
    return found or transformers.CLIPImageProcessor


def open_folder(source: str | Path, dtype: Any, **where: Any) -> tuple[TextHalf, ImageHalf]:
    """Both halves of the ``CLIPModel`` in a folder or repository, safetensors only.

    Raises:
        OSError: files are missing.
        ValueError: files are damaged or of another model.
    """
    with one_load, no_progress_bars(), swift_imports():
        from transformers import CLIPModel, CLIPTokenizer

        model = CLIPModel.from_pretrained(source, dtype=dtype, use_safetensors=True, **where)
        tokenizer = CLIPTokenizer.from_pretrained(source, **where)
        processor = image_processor_class().from_pretrained(source, **where)
    if Path(source).name == EMBEDDED:
        for part in model.children():
            on_one_thread(part)
    return of_model(model.eval().requires_grad_(False), tokenizer, processor)


def embedded_folder() -> Path:
    """The folder of the CLIP that travels in the package.

    Raises:
        FileNotFoundError: this installation has no weights.
    """
    folder = Path(str(resources.files("ldmkit"))) / "critters" / "weights" / EMBEDDED
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"The weights of {EMBEDDED!r} are not in this installation of ldmkit; install the "
            "wheel with `pip install --force-reinstall ldmkit`."
        )
    return folder


@lru_cache(maxsize=1)
def embedded_clip() -> tuple[TextHalf, ImageHalf]:
    """The CLIP that travels in the package, on the CPU in float32, opened once."""
    with torch.inference_mode(False):  # it is kept: a later gradient may go through it
        return open_folder(embedded_folder(), torch.float32, local_files_only=True)


def halves_of(pipe: Any) -> tuple[TextHalf | None, ImageHalf | None]:
    """The halves of the CLIP inside a pipeline; a half that it lacks is ``None``.

    Where one half is the embedded CLIP's, the other one comes from the package too.
    """
    text, image = _text_half(pipe), _image_half(pipe)
    if _is_embedded(pipe):
        whole = embedded_clip()
        return text or whole[0], image or whole[1]
    return text, image


def space_name(pipe: Any) -> str:
    """The name of the CLIP space that a pipeline's embeddings live in.

    ``"critters-clip"`` wherever the weights are those of the embedded CLIP; else where the
    pipeline came from.
    """
    if _is_embedded(pipe):
        return EMBEDDED
    name = origin_of(pipe).name.partition(":")[0]
    source = getattr(getattr(pipe, "config", None), "_name_or_path", "")
    # A pipeline that load didn't open: the folder's or repository's name, no path of this machine.
    return Path(source).name if name == type(pipe).__name__ and source else name


def _text_half(pipe: Any) -> TextHalf | None:
    for part, words in _TEXT_PARTS:
        encoder, tokenizer = getattr(pipe, part, None), getattr(pipe, words, None)
        # Without its projection an encoder's vectors are not in the shared space.
        if tokenizer is not None and hasattr(encoder, "text_projection"):
            return TextHalf(_projected(encoder, "text_embeds"), encoder, tokenizer)
    return None


def _image_half(pipe: Any) -> ImageHalf | None:
    for part, name in _IMAGE_PARTS:
        encoder, processor = getattr(pipe, part, None), getattr(pipe, name, None)
        if hasattr(encoder, "visual_projection") and hasattr(processor, "image_mean"):
            return ImageHalf(_projected(encoder, "image_embeds"), encoder, processor)
    return None


def _projected(encoder: Any, output: str) -> Features:
    return lambda **inputs: getattr(encoder(**inputs), output)


def _is_embedded(pipe: Any) -> bool:
    text, image = embedded_clip()[0].network.text_model, embedded_clip()[1].network.vision_model
    for part, _ in _TEXT_PARTS:
        if _same_weights(getattr(pipe, part, None), "text_model", text):
            return True
    return any(
        _same_weights(getattr(pipe, part, None), "vision_model", image) for part, _ in _IMAGE_PARTS
    )


def _same_weights(encoder: Any, inner: str, own: torch.nn.Module) -> bool:
    """Whether an encoder is the embedded one, in whatever precision it was opened."""
    network = getattr(encoder, inner, encoder)  # plain CLIPTextModel is its own text_model
    if not isinstance(network, torch.nn.Module):
        return False
    theirs, ours = network.state_dict(), own.state_dict()
    return theirs.keys() == ours.keys() and all(
        tensor.shape == ours[name].shape
        and not tensor.is_meta
        and torch.equal(tensor.cpu(), ours[name].to(tensor.dtype))
        for name, tensor in theirs.items()
    )


def embeddings_of(given: Any, width: int, space: str) -> list[Embedding]:
    """Embeddings of an ``Embedding``, a vector (d,), rows (b, d), or a list of any of these.

    Args:
        given: what the user gave.
        width: d of the model that shall decode them.
        space: name of its CLIP space.

    Raises:
        TypeError: something else.
        ValueError: none, too many, another model's, or numbers that aren't finite.
    """
    found = _listed(given, space)
    if not 0 < len(found) <= _MOST:
        raise ValueError(f"Between 1 and {_MOST} embeddings are needed, got {len(found)}.")
    for one in found:
        if len(one) != width or not _same(one.model, space):
            raise ValueError(
                f"This model decodes embeddings of {width} dimensions of {space!r}, got "
                f"{len(one)} dimensions of {one.model or 'an unnamed model'!r}; encode with "
                "ldmkit.clip_space(pipe) of the model that shall decode"
                + (" (if both are one CLIP, give the .vector)." if len(one) == width else ".")
            )
    return found


def _listed(given: Any, space: str) -> list[Embedding]:
    if isinstance(given, Embedding):
        return [given]
    if isinstance(given, (list, tuple)) and any(
        isinstance(one, (Embedding, np.ndarray)) or torch.is_tensor(one) for one in given
    ):
        return [embedding for one in given for embedding in _listed(one, space)]
    if isinstance(given, (list, tuple)) and not given:
        return []
    array = _array(given)
    if array is None:
        raise TypeError(
            "An embedding, a vector (d,) or a batch (b, d) is needed, got "
            f"{short(given)}; make one with "
            "sample_prior or clip.encode_image."
        )
    return [Embedding(row, model=space) for row in array]


def _array(given: Any) -> NDArray[np.float32] | None:
    """(b, d), or ``None`` for what is no vector of numbers."""
    whole = given.detach().float().cpu().numpy() if torch.is_tensor(given) else given
    try:
        array = np.asarray(whole, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        return None
    return np.atleast_2d(array) if array.ndim in (1, 2) else None


def _same(one: str, other: str) -> bool:
    # A pipeline that was made by hand is called by its class, which says nothing.
    if any(not name or name.endswith("Pipeline") for name in (one, other)):
        return True
    first, second = (name.rpartition("/")[2].partition(":")[0] for name in (one, other))
    return _SPACES.get(first, first) == _SPACES.get(second, second)


def stacked(embeddings: Sequence[Embedding]) -> NDArray[np.float32]:
    """(b, d)."""
    return np.stack([embedding.vector for embedding in embeddings])
