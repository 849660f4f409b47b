"""What can be set of a pipeline's run: which settings it takes, whether they are sound, as code."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from PIL import Image, ImageOps

from ldmkit.loading.origin import origin_of
from ldmkit.loading.samplers import SAMPLERS, sampler_name, with_sampler
from ldmkit.loading.siblings import can_take_picture, from_picture, takes_picture, twin_of
from ldmkit.panels.upload import prepared
from ldmkit.recording import call as checks

__all__ = ["Settings"]

# As they stand in a panel; the first six are keywords of the pipelines.
NAMES = (
    "prompt",
    "negative_prompt",
    "seed",
    "num_inference_steps",
    "guidance_scale",
    "strength",
    "image",
    "scheduler",
)
SHOWN = ("ddim", "ddpm", "dpm++", "euler", "euler ancestral", "heun", "unipc")
LARGEST_SEED = 2**53 - 1  # a browser's numbers are exact up to here


class Settings:
    """The settings of one pipeline.

    Attributes:
        names: those that the pipeline takes.
        start: a value for each.
        samplers: names of schedulers to choose from, the pipeline's own first.

    Args:
        pipe: the pipeline.
        recording: keywords of ``ldmkit.record`` itself, the same for every run.
        extra: further keywords of the pipeline, the same for every run.

    Raises:
        TypeError: no pipeline, or a keyword that it does not take.
        ValueError: a value out of its range.
    """

    def __init__(self, pipe: Any, recording: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        self._pipe = pipe
        self._parameters = checks.parameters_of(pipe)
        self.samplers = _samplers(pipe)
        self.names = tuple(name for name in NAMES if self._takes(name))
        extra = {name: value for name, value in given.items() if name not in self.names}
        for name in extra:
            if name not in self._parameters:
                raise TypeError(self._unknown(name, [*self._parameters, *recording]))
        checks.check_call(pipe, self._parameters, extra)
        self._recording, self._extra = dict(recording), extra
        known = {name: value for name, value in given.items() if name in self.names}
        self.start = self._defaults() | self.checked(known)

    def release(self) -> None:
        """Lets go of the pipeline."""
        self._pipe = None

    def _takes(self, name: str) -> bool:
        if name == "seed":
            return "generator" in self._parameters
        if name == "scheduler":
            return bool(self.samplers)
        if name in ("strength", "image"):
            return can_take_picture(self._pipe)
        return name in self._parameters

    def _defaults(self) -> dict[str, Any]:
        usual = {"prompt": "", "negative_prompt": "", "seed": 0, "strength": 0.6, "image": None}
        usual["scheduler"] = self.samplers[0] if self.samplers else ""
        signature = {
            name: self._parameters[name].default
            for name in ("num_inference_steps", "guidance_scale")
            if name in self.names
        }
        whole = usual | signature | dict(origin_of(self._pipe).defaults)
        return {name: whole[name] for name in self.names}

    def checked(self, value: Any) -> dict[str, Any]:
        """The same settings in plain types, or one clear sentence.

        Raises:
            TypeError: not a dict, or a value of the wrong type.
            ValueError: an unknown name, or a value out of its range.
        """
        if not isinstance(value, Mapping):
            raise TypeError(
                f"value must be a dict of {', '.join(self.names)}, got {_short(value)}."
            )
        for name in value:
            if name not in self.names:
                raise ValueError(self._unknown(name))
        return {name: self._checked_one(name, entry) for name, entry in value.items()}

    def _checked_one(self, name: str, entry: Any) -> Any:
        if name in ("prompt", "negative_prompt"):
            if not isinstance(entry, str):
                raise TypeError(
                    f'{name} must be one string in a panel, got {_short(entry)}; write "a red cat".'
                )
            checks.check_prompt(name, entry)
            return entry
        if name == "seed":
            return _checked_seed(entry)
        if name == "scheduler":
            return self._checked_sampler(entry)
        if name == "image":
            return _checked_picture(entry)
        if name == "strength":
            return _checked_strength(entry)
        if entry is None:
            raise TypeError(f"{name} must be a number, got None; give one like {name}=4.")
        checks.check_call(self._pipe, self._parameters, {name: entry})
        return int(entry) if name == "num_inference_steps" else float(entry)

    def _checked_sampler(self, entry: Any) -> str:
        if isinstance(entry, str):
            by_class = {kind: name for name, kind in SAMPLERS.items()}
            wanted = by_class.get(entry, entry)
            if wanted in self.samplers:
                return wanted
        near = difflib.get_close_matches(str(entry).lower(), self.samplers, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(
            f"scheduler must be one of {', '.join(self.samplers)}, got {_short(entry)}{hint}"
        )

    def _unknown(self, name: object, others: Sequence[str] = ()) -> str:
        near = difflib.get_close_matches(str(name), [*self.names, *others], n=1)
        hint = f"did you mean {near[0]!r}?" if near else "use one of those."
        return f"This panel sets {', '.join(self.names)}, got {_short(name)}; {hint}"

    def prepare(self, settings: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """A pipeline and the keywords for ``record``; the reader's own pipeline stays as it is.

        Returns:
            A copy that shares the networks (its own progress bar is off: it would write from a
            thread into whatever cell runs), and the keywords.

        Raises:
            ValueError: the pipeline needs a start picture and there is none.
        """
        picture = settings.get("image")
        if picture is None and takes_picture(self._pipe):
            raise ValueError(
                f"{type(self._pipe).__name__} begins from a picture, got none; choose one with "
                "Start picture, or set panel.value = {'image': picture}."
            )
        pipe = self._pipe if picture is None else from_picture(self._pipe)
        if settings.get("scheduler", self._own()) == self._own():
            pipe = twin_of(pipe)
        else:
            pipe = with_sampler(pipe, settings["scheduler"])
        if hasattr(pipe, "set_progress_bar_config"):
            pipe.set_progress_bar_config(disable=True)
        call = self._extra | {name: settings[name] for name in self._call_names(settings)}
        if picture is not None:
            call["image"] = _fitted(picture, self._size(call))
        return pipe, call | self._recording

    def _own(self) -> str:
        """The name of the pipeline's own scheduler, which a reader may have changed."""
        own = getattr(self._pipe, "scheduler", None)
        return sampler_name(own) if own is not None else ""

    def _call_names(self, settings: Mapping[str, Any]) -> list[str]:
        left_out = {"scheduler", "image"}
        if not settings.get("negative_prompt"):
            left_out.add("negative_prompt")
        if settings.get("image") is None:
            left_out.add("strength")
        return [name for name in self.names if name not in left_out]

    def _size(self, call: Mapping[str, Any]) -> tuple[int, int]:
        """Width and height of the pictures that the pipeline makes."""
        network = getattr(self._pipe, "unet", None) or getattr(self._pipe, "transformer", None)
        side = getattr(getattr(network, "config", None), "sample_size", None) or 64
        sides = side if isinstance(side, (list, tuple)) else (side, side)
        factor = int(getattr(self._pipe, "vae_scale_factor", 8))
        height, width = (int(s) * factor for s in sides)
        return int(call.get("width") or width), int(call.get("height") or height)

    def code(self, settings: Mapping[str, Any]) -> str:
        """The lines of Python that make the same record, given ``pipe``."""
        lines, name, picture = [], "pipe", settings.get("image")
        if picture is not None and not takes_picture(self._pipe):
            name, kind = "sibling", type(from_picture(self._pipe)).__name__
            options = {"requires_safety_checker": False} if self._unchecked() else {}
            told = "".join(f", {key}={value!r}" for key, value in options.items())
            lines += [
                f"from diffusers import {kind}",
                f"{name} = {kind}(**pipe.components{told})",
            ]
        sampler = settings.get("scheduler")
        if sampler in SAMPLERS and sampler != self._own():
            kind = SAMPLERS[sampler]
            lines += [
                f"from diffusers import {kind}",
                f"{name}.scheduler = {kind}.from_config({name}.scheduler.config)",
            ]
        call = self._extra | {key: settings[key] for key in self._call_names(settings)}
        arguments = [name]
        if "prompt" in call:
            arguments.append(repr(call.pop("prompt")))
        if picture is not None:
            width, height = self._size(call)
            lines.append(
                f"picture = ImageOps.fit(panel.value['image'], ({width}, {height}))"
                "  # from PIL import ImageOps"
            )
            arguments.append("image=picture")
        usual = {"keep": ("latents", "denoised"), "preview": "auto", "unsafe_previews": False}
        call |= {key: value for key, value in self._recording.items() if value != usual[key]}
        arguments += [f"{key}={value!r}" for key, value in call.items()]
        body = "".join(f"    {argument},\n" for argument in arguments)
        return "\n".join([*lines, f"traj = ldmkit.record(\n{body})"])

    def _unchecked(self) -> bool:
        return not self._pipe.config.get("requires_safety_checker", True)


def _samplers(pipe: Any) -> tuple[str, ...]:
    """The pipeline's own scheduler, then those that can take over its noise schedule."""
    own = getattr(pipe, "scheduler", None)
    if own is None or not hasattr(own, "config"):
        return ()
    kinds = {kind.__name__ for kind in getattr(own, "compatibles", ())}
    others = [name for name in SHOWN if SAMPLERS[name] in kinds]
    return tuple(dict.fromkeys([sampler_name(own), *others]))


def _checked_seed(entry: Any) -> int:
    seed = checks.check_seed(entry, None, True)
    if not isinstance(seed, int):
        raise TypeError(f"seed must be one whole number in a panel, got {_short(entry)}.")
    if seed > LARGEST_SEED:
        raise ValueError(
            f"seed must be between 0 and {LARGEST_SEED} inclusive in a panel, got {seed}; "
            "ldmkit.record takes larger ones."
        )
    return seed


def _checked_strength(entry: Any) -> float:
    if not isinstance(entry, Real) or isinstance(entry, bool):
        raise TypeError(f"strength must be a number, got {_short(entry)}; give one like 0.6.")
    strength = float(entry)
    if not 0 < strength <= 1:  # NaN is neither
        raise ValueError(
            f"strength must be above 0 and at most 1, got {strength}; "
            "1 keeps nothing of the picture."
        )
    return strength


def _checked_picture(entry: Any) -> Image.Image | None:
    if entry is None:
        return None
    if not isinstance(entry, Image.Image):
        raise TypeError(
            f"image must be a PIL picture or None, got {_short(entry)}; open one with Image.open."
        )
    return prepared(entry)


def _fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Cropped in the middle to the shape, then resized."""
    return ImageOps.fit(picture, size)


def _short(value: object) -> str:
    """A value in a sentence, cut after sixty characters."""
    words = repr(value)
    return words if len(words) <= 60 else f"{words[:59]}…"
