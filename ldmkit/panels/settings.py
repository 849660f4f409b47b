"""What can be set: checks that panels share, and ``Settings`` of a pipeline's run, as code too."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from ldmkit.check import choice, did_you_mean, function, number, short, whole
from ldmkit.loading.families import denoisers_of
from ldmkit.loading.samplers import SAMPLERS, sampler_name, with_sampler
from ldmkit.loading.siblings import (
    can_take_picture,
    from_picture,
    origin_of,
    takes_picture,
    twin_of,
)
from ldmkit.panels.change import change_code, checked_change
from ldmkit.panels.upload import KEPT_SIDE
from ldmkit.recording import call as checks
from ldmkit.recording import record
from ldmkit.recording.intervene import encodes
from ldmkit.recording.watching import is_visible
from ldmkit.records.rgb import to_rgb

__all__ = [
    "LARGEST_SEED",
    "Ran",
    "Settings",
    "check_extra",
    "checked_seed",
    "checked_words",
    "told_of",
]

LARGEST_SEED = 2**53 - 1  # a browser's numbers are exact up to here

SHOWN = ("ddim", "ddpm", "dpm++", "euler", "euler ancestral", "heun", "unipc")
PICTURE_CHANGED = (
    "# The start picture of this run is no longer the panel's: open it as `picture` yourself."
)


def checked_seed(name: str, entry: Any) -> int:
    """One seed that a browser's numbers hold."""
    if isinstance(entry, int) and entry > LARGEST_SEED:
        raise ValueError(
            f"{name} must be between 0 and {LARGEST_SEED} inclusive in a panel, "
            f"got {short(entry)}; ldmkit.record takes larger ones."
        )
    return whole(name, entry, 0, LARGEST_SEED)


def check_extra(pipe: Any, call: Mapping[str, Any], known: Any, own: Any, who: str) -> None:
    """Refuses keywords that neither the panel nor the pipeline takes, before anything runs.

    Args:
        pipe: the pipeline.
        call: the keywords.
        known: names that the pipeline takes.
        own: names of the panel's settings.
        who: the panel.

    Raises:
        TypeError: an unknown keyword (the nearest is told), or a callback that is none.
    """
    for name, value in call.items():
        if name not in known:
            names = [*own, *sorted(known)]
            advice = did_you_mean(name, names, f"it takes {', '.join(own)}.")
            raise TypeError(f"{who} and {type(pipe).__name__} take no {short(name)}; {advice}")
        if name in ("callback", "callback_on_step_end"):
            function(name, value)
        if isinstance(value, int) and not isinstance(value, bool):
            number(name, value)  # 10**400 is no number that a pipeline can take


@dataclass
class Ran:
    """What a run was made with, beside its settings.

    Attributes:
        scheduler: the class's name and its settings.
        adapters: names of adapters that the networks carried.
    """

    scheduler: tuple[str, dict[str, Any]] | None = None
    adapters: tuple[str, ...] = ()


class _Setting(NamedTuple):
    """One setting: whether this pipeline takes it, its start value, and its check."""

    taken: bool
    default: Any
    check: Callable[[str, Any], Any]


class Settings:
    """The settings of one pipeline.

    Attributes:
        names: those that the pipeline takes.
        checks: a check for each, (name, value) -> as it is kept.
        start: a value for each.
        samplers: names of schedulers to choose from, the pipeline's own first.

    Args:
        pipe: the pipeline.
        recording: keywords of ``ldmkit.record`` itself, the same for every run.
        given: start values, and further keywords of the pipeline, the same for every run.

    Raises:
        TypeError: no pipeline, or a keyword that it does not take.
        ValueError: a value out of its range.
    """

    def __init__(self, pipe: Any, recording: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        self._pipe = pipe
        self._parameters = checks.parameters_of(pipe, "PromptPanel")
        self.samplers = _samplers(pipe)
        rows = {name: row for name, row in self._rows().items() if row.taken}
        self.names = tuple(rows)
        if not self.names:
            raise TypeError(
                f"PromptPanel takes a diffusers pipeline first, got {short(pipe)}, which takes "
                "neither words nor steps; open one with ldmkit.load(name)."
            )
        self._begins_from_picture = "image" in self.names and takes_picture(pipe)
        self.checks = {name: row.check for name, row in rows.items()}
        extra = {name: value for name, value in given.items() if name not in self.names}
        for name in extra:
            if name not in self._parameters or (name == "generator" and "seed" in self.names):
                raise TypeError(self._unknown(name, [*self._parameters, *recording]))
        check_extra(pipe, extra, self._parameters, self.names, "PromptPanel")
        checks.check_call(pipe, self._parameters, extra)
        self._recording, self._extra = dict(recording), extra
        self._side = _side(pipe)
        self._sibling: list[str] = []  # lines that make it, once they were wanted
        known = {name: self.checks[name](name, given[name]) for name in self.names if name in given}
        origin = origin_of(pipe).defaults
        usual = {name: origin.get(name, row.default) for name, row in rows.items()}
        self.start = usual | known

    def release(self) -> None:
        """Lets go of the pipeline."""
        self._pipe = None

    def _rows(self) -> dict[str, _Setting]:
        """All settings that a PromptPanel may have, as they stand in it."""
        parameters, pictured = self._parameters, can_take_picture(self._pipe)
        most = checks.train_steps(self._pipe)

        def keyword(name: str, check: Callable[[str, Any], Any], default: Any = None) -> _Setting:
            own = parameters[name].default if name in parameters else None
            return _Setting(name in parameters, own if default is None else default, check)

        return {
            "prompt": keyword("prompt", checked_words, ""),
            "negative_prompt": keyword("negative_prompt", checked_words, ""),
            "seed": _Setting("generator" in parameters, 0, checked_seed),
            "num_inference_steps": keyword(
                "num_inference_steps", lambda name, entry: whole(name, entry, 1, most)
            ),
            "guidance_scale": keyword(
                "guidance_scale", lambda name, entry: number(name, entry, like="4.0")
            ),
            "strength": _Setting(pictured, 0.6, _checked_strength),
            "image": _Setting(pictured, None, _checked_picture),
            "scheduler": _Setting(
                bool(self.samplers), next(iter(self.samplers), ""), self._checked_sampler
            ),
            "intervene": _Setting(
                "prompt" in parameters
                and encodes(self._pipe)
                and is_visible(self._pipe, denoisers_of(self._pipe)),
                None,
                checked_change,
            ),
        }

    def _unknown(self, name: object, others: list[str]) -> str:
        advice = did_you_mean(name, [*self.names, *others], "use one of those.")
        return f"This panel sets {', '.join(self.names)}, got {short(name)}; {advice}"

    def _checked_sampler(self, name: str, entry: Any) -> str:
        by_class = {kind: known for known, kind in SAMPLERS.items()}
        wanted = by_class.get(entry, entry) if isinstance(entry, str) else entry
        return choice(name, wanted, self.samplers)

    # --- a run ---------------------------------------------------------------------------------

    def can_run(self, settings: Mapping[str, Any]) -> bool:
        """Whether a picture is there where the pipeline begins from one."""
        return settings.get("image") is not None or not self._begins_from_picture

    def prepare(self, settings: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """A pipeline and the keywords for ``record``; the reader's own pipeline stays as it is.

        Returns:
            A twin that shares the networks, with a scheduler of its own, and the keywords.

        Raises:
            ValueError: the pipeline needs a start picture and there is none.
        """
        picture = settings.get("image")
        if not self.can_run(settings):
            raise ValueError(
                f"{type(self._pipe).__name__} begins from a picture, got none; choose one with "
                "Start picture, or set panel.value = {'image': picture}."
            )
        pipe = twin_of(self._pipe if picture is None else from_picture(self._pipe))
        if settings.get("scheduler", self._own()) != self._own():
            pipe = with_sampler(pipe, settings["scheduler"])
        if hasattr(pipe, "set_progress_bar_config"):  # it would write into whatever cell runs
            pipe.set_progress_bar_config(disable=True)
        call = self._extra | {name: settings[name] for name in self._call_names(settings)}
        if picture is not None:
            call["image"] = ImageOps.fit(picture, self._size(call))
        return pipe, call | self._recording

    def _own(self) -> str:
        """The name of the pipeline's own scheduler, which a reader may have changed."""
        own = self._scheduler()
        return sampler_name(own) if own is not None else ""

    def _scheduler(self) -> Any:
        try:
            return getattr(self._pipe, "scheduler", None)
        except RuntimeError:  # released
            return None

    def _call_names(self, settings: Mapping[str, Any]) -> list[str]:
        left_out = {"scheduler", "image", "intervene"}
        if not settings.get("negative_prompt"):
            left_out.add("negative_prompt")
        if settings.get("image") is None:
            left_out.add("strength")
        return [name for name in self.names if name not in left_out]

    def _size(self, call: Mapping[str, Any]) -> tuple[int, int]:
        """Width and height of the pictures that the pipeline makes."""
        height, width = self._side
        return int(call.get("width") or width), int(call.get("height") or height)

    # --- as code -------------------------------------------------------------------------------

    def code(self, settings: Mapping[str, Any], ran: Ran, now: Mapping[str, Any]) -> str:
        """The lines of Python that make the same record, given ``pipe`` and ``panel``.

        What they can't hold (arrays, functions, another start picture) a comment names.

        Args:
            settings: of the run.
            ran: what it was made with; empty before it.
            now: the panel's present settings.
        """
        picture = settings.get("image")
        lines, name = self._sibling_lines() if picture is not None else ([], "pipe")
        more, name = self._scheduler_lines(name, settings.get("scheduler", ""), ran)
        lines += more
        if ran.adapters:
            named = ", ".join(" ".join(name.split()) for name in ran.adapters)  # in one line
            lines.append(f"# with the adapters that pipe carried: {named}")
        call = self._extra | {key: settings[key] for key in self._call_names(settings)}
        arguments = [name]
        if "prompt" in call:
            arguments.append(repr(call.pop("prompt")))
        if picture is not None:
            here = picture is now.get("image")
            lines += ["from PIL import ImageOps"]
            lines += ["picture = panel.value['image']"] if here else [PICTURE_CHANGED]
            arguments.append(f"image=ImageOps.fit(picture, {self._size(call)})")
        usual = inspect.signature(record).parameters
        call |= {
            key: value for key, value in self._recording.items() if value != usual[key].default
        }
        for key, value in call.items():
            if (words := _literal(value)) is not None:
                arguments.append(f"{key}={words}")
            else:
                told = f"{key}={type(value).__name__}"
                lines.append(f"# These lines can't hold {told}: add what the panel was given.")
        change, indent = settings.get("intervene"), ""
        if change is not None:
            lines.append(change_code(name, change))
            indent = "    "
        body = "".join(f"{indent}    {argument},\n" for argument in arguments)
        return "\n".join([*lines, f"{indent}traj = ldmkit.record(\n{body}{indent})"])

    def _sibling_lines(self) -> tuple[list[str], str]:
        if self._begins_from_picture:
            return [], "pipe"
        if not self._sibling:
            self._sibling = self._sibling_of_the_pipeline()
        return list(self._sibling), "sibling"

    def _sibling_of_the_pipeline(self) -> list[str]:
        kind = type(from_picture(self._pipe))
        wanted = inspect.signature(kind.__init__).parameters
        config, parts = self._pipe.config, self._pipe.components
        options = {
            key: config[key]
            for key, parameter in wanted.items()
            if key in config and key not in parts and config[key] != parameter.default
        }
        given = ["**pipe.components"] if set(parts) <= set(wanted) else []
        given = given or [f"{key}=pipe.{key}" for key in parts if key in wanted]
        given += [f"{key}={value!r}" for key, value in options.items()]
        return [
            f"from diffusers import {kind.__name__}",
            f"sibling = {kind.__name__}({', '.join(given)})",
        ]

    def _scheduler_lines(self, name: str, chosen: str, ran: Ran) -> tuple[list[str], str]:
        """Lines that give the run's scheduler to a copy, where ``pipe`` has another now."""
        own = self._scheduler()
        used = ran.scheduler
        if used is None and (chosen == self._own() or chosen not in SAMPLERS):
            return [], name
        if used is not None and own is not None and used == told_of(own):
            return [], name
        kind = SAMPLERS[chosen] if used is None else used[0]
        import diffusers

        if not hasattr(diffusers, kind):
            return [f"# These lines can't make the run's scheduler: a {short(kind)}."], name
        taken = None
        if own is not None and hasattr(own, "config"):
            taken = told_of(getattr(diffusers, kind).from_config(own.config))
        if used is None or used == taken:
            config = "pipe.scheduler.config"
        else:  # pipe has another scheduler now than it had then
            config = _literal(used[1]) or "{}"
        lines = [f"from diffusers import {kind}"]
        if name == "pipe":
            name = "other"
            lines += ["import copy", "other = copy.copy(pipe)"]
        return [*lines, f"{name}.scheduler = {kind}.from_config({config})"], name


def told_of(scheduler: Any) -> tuple[str, dict[str, Any]]:
    """A scheduler's class and settings."""
    config = dict(getattr(scheduler, "config", {}))
    told = {key: value for key, value in config.items() if not key.startswith("_")}
    return type(scheduler).__name__, told


def _literal(value: Any) -> str | None:
    """A value as code, or ``None`` where Python has no words for it."""
    value = value.item() if isinstance(value, np.generic) else value
    words = repr(value)
    try:
        return words if ast.literal_eval(words) == value else None
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _side(pipe: Any) -> tuple[int, int]:
    """Height and width of the pictures that a pipeline makes by itself."""
    network = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    side = getattr(getattr(network, "config", None), "sample_size", None) or 64
    height, width = side if isinstance(side, (list, tuple)) else (side, side)
    factor = int(getattr(pipe, "vae_scale_factor", 8))
    return int(height) * factor, int(width) * factor


def _samplers(pipe: Any) -> tuple[str, ...]:
    """The pipeline's own scheduler, then those that can take over its noise schedule."""
    own = getattr(pipe, "scheduler", None)
    if own is None or not hasattr(own, "config"):
        return ()
    kinds = {kind.__name__ for kind in getattr(own, "compatibles", ())}
    others = [name for name in SHOWN if SAMPLERS[name] in kinds]
    return tuple(dict.fromkeys([sampler_name(own), *others]))


def checked_words(name: str, entry: Any) -> str:
    """One string that a tokenizer takes."""
    if not isinstance(entry, str):
        raise TypeError(
            f'{name} must be one string in a panel, got {short(entry)}; write "a red cat".'
        )
    checks.check_prompt(name, entry)
    return entry


def _checked_strength(name: str, entry: Any) -> float:
    strength = number(name, entry, like="0.6")
    if not 0 < strength <= 1:
        raise ValueError(
            f"{name} must be above 0 and at most 1, got {strength:g}; "
            "1 keeps nothing of the picture."
        )
    return strength


def _checked_picture(name: str, entry: Any) -> Image.Image | None:
    if entry is None:
        return None
    try:
        return to_rgb(entry, f"{name}, a start picture,", side=KEPT_SIDE)
    except OSError as error:  # of a path; a panel says what is wrong with a value
        raise ValueError(str(error)) from None
