"""The recorder: whatever denoises becomes a ``Trajectory``.

``recorder`` stands round a loop of any kind and writes down what passes ``scheduler.step``;
``record`` is this recorder round ``pipe(...)``, with the pipeline's own words and pictures. The way
of a run through this file, from top to bottom:

    record          checks the call, runs the pipeline inside the recorder
    recorder        puts the hooks in place and takes them away (hooks.py)
    Recording       what the block gets: steps come in, a trajectory comes out

What passed becomes arrays in arrays.py, with the levels, clean estimates and noise of noise_law.py
and the network's answers told apart by guidance.py.

What fails after a run has ended costs the record that part only, and is said.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from ldmkit import check
from ldmkit.check import heard_by, or_said, say, says_no, short
from ldmkit.loading.device import Released, in_use
from ldmkit.loading.families import (
    Layout,
    autoencoder_of,
    denoisers_of,
    layout_of,
    scheduler_of,
    stages_of,
    step_of,
)
from ldmkit.loading.memory import told_of_memory
from ldmkit.loading.siblings import origin_of, say_if_astray
from ldmkit.recording import call as checks
from ldmkit.recording.arrays import (
    SIDES,
    Told,
    arrays_of,
    check_drawable,
    is_film,
    is_picture,
    laid_out,
    nothing,
    of_one_shape,
    say_what_is_missing,
    stacked,
    told_number,
    told_tensor,
)
from ldmkit.recording.attention import MapRecorder, check_attention, loop_of
from ldmkit.recording.call import ARRAYS
from ldmkit.recording.concepts import check_concepts, map_recorder
from ldmkit.recording.guidance import changes
from ldmkit.recording.hooks import (
    Call,
    Stop,
    Tape,
    call_at_work,
    exclusive,
    guarded,
    hooked,
    telling,
)
from ldmkit.recording.intervene import interventions_of
from ldmkit.recording.noise_law import number, prediction_of
from ldmkit.recording.pictures import images_of, pictures_of, stage_of, step_pictures
from ldmkit.recording.safety import checked, hidden_of, say_what_is_black
from ldmkit.recording.settings import (
    kept,
    told_of_strength,
    versions,
    was_interrupted,
    with_true_steps,
)
from ldmkit.recording.truncation import Heard, heard
from ldmkit.recording.watching import watched
from ldmkit.records import Step, Trajectory

__all__ = ["Recording", "record", "recorder"]

Seed = int | Sequence[int]
OnStep = Callable[[Step], bool | None]


def record(
    pipe: Any,
    prompt: str | Sequence[str] | None = None,
    *,
    seed: Seed | None = None,
    keep: str | Sequence[str] = ("latents", "denoised"),
    preview: str = "auto",
    preview_every: int = 1,
    on_step: OnStep | None = None,
    unsafe_previews: bool = False,
    attention: str | Sequence[str] | None = None,
    concepts: Sequence[str] | None = None,
    attention_bytes: int = 256 * 2**20,
    **call: Any,
) -> Trajectory:
    """Runs a diffusers pipeline and records each step; the picture is the same to the bit.

    Runs of other threads that share the scheduler wait until the record is done; one that was under
    way already is refused at its next step, since two runs can't share a scheduler's state.

    Args:
        pipe: any diffusers pipeline with a scheduler, a modular one too.
        prompt: the words, or a list of them for a batch; optional where the pipeline's is.
        seed: ``torch.Generator("cpu").manual_seed(seed)``, a list for one per picture; or give
            the pipeline's own ``generator=``.
        keep: names of ``Trajectory``'s arrays, or ``"all"``: ``latents`` (what enters each step,
            at the scheduler's scale, then the last output), ``denoised`` (the clean estimate x0),
            ``noise_pred`` (ε after guidance), ``noise_pred_text`` and ``noise_pred_uncond``
            (ε before guidance; the latter only where guidance is on), ``model_output`` (as the
            network gave it, guided, as the scheduler got it).
        preview: step pictures: ``"vae"`` decodes them after the run, ``"linear"`` keeps the
            linear map from latents to colours, ``"none"`` neither. ``"auto"``: the model's small
            decoder where it has one (the embedded models: clean estimates about 28 dB from the
            autoencoder's, mere noise about 19), else vae where small. The final picture is the
            pipeline's own.
        preview_every: decodes the pictures of one step in so many, the first and the last always;
            the linear map draws those between, which runs no network.
        on_step: called after each step with the step by name; ``False`` stops the run and keeps
            the part, its last clean estimate as the picture.
        unsafe_previews: draws the steps also of what the pipeline's safety checker blacked out;
            by default they are hidden (``Trajectory.hidden``), while their latents stay.
        attention: words of the prompt whose attention maps are kept, ``("hat", "cat")``; those of
            every token with ``"attention"`` in ``keep`` (``"all"`` leaves them out).
        concepts: instead of words two or more concepts that need not be in the prompt,
            ``("cat", "grass")``, to see which of them each place is most like (ConceptAttention,
            arXiv 2502.04320); of FLUX and SD 3.
        attention_bytes: what all maps may take. Each head is kept where that takes an eighth of it
            at most, else the mean of a layer's heads; where that doesn't fit either the run is
            refused in its first step.
        **call: the pipeline's own keywords (``num_inference_steps``, ``guidance_scale``, ...).
            What a pipeline of ``ldmkit.load`` was made for is its default.

    Returns:
        The trajectory, numpy only.

    Raises:
        TypeError: no pipeline, an unknown keyword (the nearest name is told), or a wrong type.
        ValueError: a value out of its range; ``seed`` and ``generator`` together.
        RuntimeError: no step and no picture was made, the pipeline was released, or this thread
            is recording it already.
    """
    if isinstance(pipe, Released):
        pipe()  # says so
    parameters = checks.parameters_of(pipe)
    keep, looked, most = check_attention(keep, attention, attention_bytes)
    named = check_concepts(concepts, looked)
    names = checks.check_keep(keep)
    drawing = checks.check_preview(preview), check.whole("preview_every", preview_every, 1)
    check.flag("unsafe_previews", unsafe_previews)
    check.function("on_step", on_step)
    scheduler, networks = scheduler_of(pipe), denoisers_of(pipe)
    checks.check_parts(pipe, scheduler, networks)
    seeds = checks.check_seed(seed, call.get("generator"), "generator" in parameters)
    call = checks.complete(pipe, parameters, prompt, call)
    say_if_astray(pipe, scheduler, call)
    told = kept(pipe, call, parameters, scheduler)  # before: a generator is drawn from
    if changed := interventions_of(networks):
        told["intervene"] = changed
    if seeds is not None:
        call["generator"] = checks.generators(seeds, np.size(seeds))
    tape = Recording(scheduler, networks, autoencoder_of(pipe), names, *drawing)
    tape.on_step = on_step
    tape.pipe, tape.words, tape.unsafe = pipe, Heard(pipe, call), unsafe_previews
    tape.maps = map_recorder(pipe, networks, call, scheduler, looked, named, most, tape.words)
    others = {one: Tape() for one in stages_of(pipe) if one.scheduler is not scheduler}
    parts = (scheduler, *networks, *(p for one in others for p in (one.network, one.scheduler)))
    with in_use(pipe, tape.leave):  # release() waits for it
        with (
            _kept_without_memory(tape),
            exclusive(*parts),
            guarded(pipe, *parts),
            _listening(tape),
            heard(tape.words),
            told_of_strength(call, tape.tape.calls),
            ExitStack() as apart,
        ):
            for one, heard_of in others.items():
                apart.enter_context(hooked(one.scheduler, (), heard_of))
            tape.result = pipe(**call)
        if tape.stopped and callable(getattr(pipe, "maybe_free_model_hooks", None)):
            pipe.maybe_free_model_hooks()  # the loop was left from inside: its end falls to us
        tape.stopped = tape.stopped or was_interrupted(pipe, len(tape.tape.calls))
        tape.facts |= {
            "prompt": _frozen(call.get("prompt")) or "",
            "negative_prompt": _frozen(call.get("negative_prompt")),
            "seed": seeds,
            "call": with_true_steps(told, scheduler),
            "model": origin_of(pipe).name,
        }
        for one, heard_of in others.items():
            stage = functools.partial(stage_of, tape, one, heard_of, parameters, call)
            if heard_of.calls:
                tape.stages += or_said(f"The steps of {type(one.network).__name__}", stage, ())
        return tape.trajectory


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, tuple)) else value


# --- any loop ----------------------------------------------------------------------------------


@contextmanager
def recorder(
    scheduler: Any = None,
    network: Any = None,
    vae: Any = None,
    *,
    prompt: str | Sequence[str] = "",
    keep: str | Sequence[str] = ("latents", "denoised"),
    preview: str = "auto",
    preview_every: int = 1,
    on_step: OnStep | None = None,
    unsafe_previews: bool = False,
    attention: str | Sequence[str] | None = None,
    attention_bytes: int = 256 * 2**20,
    tokenizer: Any = None,
) -> Iterator[Recording]:
    """Records a loop of any kind: your own in a cell, a modular pipeline, another library's.

    What passes ``scheduler.step`` within the block is written down, and nothing of it is changed::

        with ldmkit.recorder(scheduler, unet, vae=vae, prompt="a red cat") as tape:
            for t in scheduler.timesteps:
                noise = unet(scheduler.scale_model_input(x, t), t, words).sample
                x = scheduler.step(noise, t, x).prev_sample
        traj = tape.trajectory

    A loop without a scheduler object tells its steps itself: ``with ldmkit.recorder() as tape:``
    and ``tape.step(latents=x, denoised=x0, alpha=a, sigma=s)``.

    After an error, or where the loop ends before the scheduler's last timestep, the trajectory
    holds the part, ``stopped`` is ``True`` and its picture is the last clean estimate.

    Args:
        scheduler: any object with ``step(model_output, timestep, sample)``, of tensors or arrays;
            under other names they are read in this order. The noise levels of one that diffusers
            doesn't know are read from its ``alphas_cumprod`` (ᾱ by timestep) or ``sigmas``, if it
            has them.
        network: the one that predicts noise (or several); needed for ``noise_pred_text`` and
            ``noise_pred_uncond`` only.
        vae: the autoencoder that makes pictures of latents.
        prompt: words to note in the record.
        keep: as for ``record``.
        preview: as for ``record``.
        preview_every: as for ``record``.
        on_step: as for ``record``; ``False`` leaves the block.
        unsafe_previews: as for ``record``, where the block calls a pipeline that has a checker.
        attention: as for ``record``, of a network that reads words by cross-attention and is
            asked once a step; with guidance both halves in one batch, the one without words first.
        attention_bytes: as for ``record``.
        tokenizer: that of ``prompt``, to tell its words from each other; for ``attention`` only.

    Yields:
        The tape: ``tape.trajectory`` afterwards, ``tape.step(...)``.

    Raises:
        TypeError: no scheduler, or a wrong type.
        ValueError: an unknown name in ``keep`` or ``preview``.
        RuntimeError: this thread is recording with the scheduler already.
    """
    if scheduler is not None and not callable(getattr(scheduler, step_of(scheduler), None)):
        raise TypeError(
            "recorder takes a scheduler, an object with step(model_output, timestep, sample), got "
            f"{short(scheduler)}; give pipe.scheduler, or record(pipe, ...) a whole pipeline."
        )
    checks.check_prompt("prompt", prompt)
    drawing = checks.check_preview(preview), check.whole("preview_every", preview_every, 1)
    keep, looked, most = check_attention(keep, attention, attention_bytes)
    names = checks.check_keep(keep)
    if scheduler is None:
        names = checks.tellable(names, keep)
    if vae is not None and not callable(getattr(vae, "decode", None)):
        raise TypeError(f"vae must be an autoencoder like pipe.vae, got {short(vae)}; or None.")
    networks = checks.check_network(network)
    tape = Recording(scheduler, networks, vae, names, *drawing)
    tape.on_step = check.function("on_step", on_step)
    tape.unsafe = check.flag("unsafe_previews", unsafe_previews)
    tape.facts["prompt"] = _frozen(prompt)
    if looked is not None:
        loop = loop_of(scheduler, networks, prompt, tokenizer)
        tape.maps = map_recorder(loop, networks, {"prompt": prompt}, scheduler, looked, (), most)
    with exclusive(scheduler, *networks), _listening(tape):
        yield tape


@contextmanager
def _listening(tape: Recording) -> Iterator[None]:
    """The hooks in place while the block runs; how the block ended is noted on the tape."""
    heard_of = tape.networks if set(SIDES) & set(tape.names) else ()
    with ExitStack() as stack:
        if tape.scheduler is not None:
            stack.enter_context(hooked(tape.scheduler, heard_of, tape.tape, tape.tell))
        if tape.maps is not None:
            for network in tape.networks:
                stack.enter_context(watched(network, tape.maps))
        try:
            yield
        except Stop:
            tape.stopped = True
        except BaseException:
            tape.stopped = True
            raise
        else:
            tape.stopped = tape.result is None and tape.ended_early


@contextmanager
def _kept_without_memory(tape: Recording) -> Iterator[None]:
    """Memory that ran out is told in one sentence; after the last step it costs the picture only.

    Raises:
        torch.OutOfMemoryError: it ran out before.
    """
    try:
        with told_of_memory(getattr(tape.pipe, "_execution_device", "this machine")):
            yield
    except torch.OutOfMemoryError as error:
        if not tape.tape.calls or tape.ended_early:
            raise
        tape.stopped = False
        say(f"All steps were made and are kept, but then: {error}")


@dataclass(eq=False)
class Recording:
    """A run that is being recorded: what ``with ldmkit.recorder(...) as tape`` gives.

    Attributes:
        stopped: the run ended early.
        trajectory: the record, as far as the run has come.
    """

    scheduler: Any
    networks: Sequence[torch.nn.Module]
    vae: Any
    names: tuple[str, ...]
    preview: str
    every: int = 1  # of how many steps one is decoded
    on_step: OnStep | None = None
    tape: Tape = field(default_factory=Tape)
    stopped: bool = False
    layout: Layout | None = None  # what latents look like, from the first step on
    pipe: Any = None  # where one is at work; its checker looks at the picture
    words: Heard | None = None
    maps: MapRecorder | None = None
    unsafe: bool = False  # steps are drawn though a checker hid their picture
    result: Any = None  # what a pipeline gave
    _leave: bool = False
    _shape: tuple[int, ...] = ()
    facts: dict[str, Any] = field(default_factory=lambda: {"call": {}, "versions": versions()})
    stages: tuple[Trajectory, ...] = ()
    _made: tuple[Any, Trajectory] | None = None

    def step(
        self,
        *,
        latents: Any,
        denoised: Any,
        alpha: float,
        sigma: float,
        timestep: float | None = None,
        output: Any = None,
    ) -> None:
        """Tells a step of a loop that has no scheduler object.

        Args:
            latents: (b, c, h, w) what entered the step: alpha · x0 + sigma · noise.
            denoised: (b, c, h, w) the clean estimate x0.
            alpha: share of the clean latents.
            sigma: share of the noise.
            timestep: what the network was told, if it was a number.
            output: what left the step. Of the last step it is the record's last row of
                ``latents``; without it the last clean estimate is.

        Raises:
            TypeError: the recorder listens to a scheduler already, or a wrong type.
            ValueError: shapes that differ, or a number that isn't finite.
        """
        if self.scheduler is not None:
            raise TypeError(
                f"This recorder listens to its {type(self.scheduler).__name__}; leave out "
                "tape.step, or begin with ldmkit.recorder() to tell the steps yourself."
            )
        told = {"latents": latents, "denoised": denoised, "output": output}
        if output is None:
            told["output"] = denoised
        tensors = {name: told_tensor(name, value) for name, value in told.items()}
        for name in ("denoised", "output"):
            if tensors[name].shape != tensors["latents"].shape:
                raise ValueError(
                    f"{name} must have the shape of latents, {tuple(tensors['latents'].shape)}, "
                    f"got {tuple(tensors[name].shape)}."
                )
        level = (told_number("alpha", alpha), told_number("sigma", sigma))
        t = math.nan if timestep is None else told_number("timestep", timestep)
        place = Told(t, *level)
        call = Call(place, tensors["latents"], tensors["denoised"], [], tensors["output"])
        self.tape.calls.append(call)
        self.tell(call)

    def leave(self) -> None:
        """Ends the run after its present step; called by another thread."""
        self._leave = True

    def tell(self, call: Call) -> None:
        """Hands the newest step to ``on_step``; its ``False`` ends the run."""
        if self.words is not None:
            self.words.tell()
        if self.maps is not None:
            self.maps.step(len(call.latents))
        if self.layout is None or call.latents.shape != self._shape:  # or a second stage began
            self._shape = call.latents.shape
            running = {} if self.scheduler is None else call_at_work(self.scheduler)
            at_work = running.get("self")
            self.layout = Layout() if at_work is None else layout_of(at_work, running)
            self.pipe = at_work if self.pipe is None else self.pipe
        if self._leave:
            raise Stop
        if self.on_step is None:
            return
        with telling():
            answer = self.on_step(self._step(call))
        if says_no(answer):
            raise Stop

    def _step(self, call: Call) -> Step:
        """One step by name; only what was asked for is worked out."""
        with heard_by(lambda words: None):  # what is missing is said once, at the end
            arrays = self._arrays(self._laid_out([call]))
        values = {name: None if arrays[name] is None else arrays[name][0] for name in ARRAYS}
        return Step(
            index=len(self.tape.calls) - 1,
            timestep=float(arrays["timesteps"][0]),
            alpha=float(arrays["alphas"][0]),
            sigma=float(arrays["sigmas"][0]),
            output=None if arrays["latents"] is None else arrays["latents"][1],
            **values,
        )

    @property
    def ended_early(self) -> bool:
        """Whether the scheduler's schedule goes on after the last step."""
        schedule = getattr(self.scheduler, "timesteps", None)
        if schedule is None or not 0 < len(self.tape.calls) < len(schedule):
            return False
        return number(self.tape.calls[-1].place.timestep) != number(schedule[-1])

    @property
    def trajectory(self) -> Trajectory:
        """The record.

        Raises:
            RuntimeError: there was no step and no picture.
        """
        now = (len(self.tape.calls), self.stopped)
        if self._made is None or self._made[0] != now:
            self._made = (now, self._trajectory())
        return self._made[1]

    def _trajectory(self) -> Trajectory:
        calls = self._laid_out(of_one_shape(self.tape.calls))
        arrays = or_said("The arrays of the steps", lambda: self._arrays(calls), nothing())
        images = or_said("The picture", lambda: self._images(calls), ())
        if not calls and not images:
            raise RuntimeError(
                "The run made no scheduler step, so there is nothing to record; "
                "ask for more num_inference_steps or, in img2img, more strength."
            )
        images, hidden = self._checked(images, calls)
        if self.tape.aside:
            say(
                f"The pipeline ran copies of its {type(self.scheduler).__name__} beside each "
                f"other: the record holds one run, and {self.tape.aside} steps of its copies are "
                "left out."
            )
        self.tape.say_how_many_runs(len(calls))
        channels = getattr(getattr(self.vae, "config", None), "latent_channels", None)
        instead = "" if self.layout is None else self.layout.instead
        say_what_is_missing(self.scheduler, calls, arrays, self.names, channels, instead)
        facts, scales = dict(self.facts), arrays.pop("guidance")
        if scales is not None and changes(scales):  # else the call says it
            told = [None if np.isnan(scale) else round(float(scale), 3) for scale in scales]
            facts["call"] = {**facts["call"], "guidance": told}
        pictures = or_said("The pictures of the steps", lambda: self._pictures(calls, arrays), {})
        attention = or_said("The attention maps", lambda: self._attention(calls, images), None)
        return Trajectory(
            **arrays,
            **pictures,
            attention=attention,
            **facts,
            images=images,
            hidden=() if self.unsafe else hidden,
            stopped=self.stopped,
            stages=self.stages,
        )

    def _laid_out(self, calls: Sequence[Call]) -> list[Call]:
        layout = self.layout or Layout()
        as_it_is = [laid_out(call, replace(layout, unpack=None)) for call in calls]
        made = lambda: [laid_out(call, layout) for call in calls]  # noqa: E731
        return or_said("Latents (c, h, w)", made, as_it_is)

    def _arrays(self, calls: Sequence[Call]) -> dict[str, Any]:
        layout = self.layout or Layout()
        return arrays_of(calls, self._prediction, self.names, layout) if calls else nothing()

    @property
    def _prediction(self) -> str:
        return "sample" if self.scheduler is None else prediction_of(self.scheduler)

    def _images(self, calls: Sequence[Call]) -> tuple[Image.Image, ...]:
        """A pipeline's own pictures, else the last latents decoded, or x0 of a run that stopped."""
        if self.result is not None:
            latent = self.facts["call"].get("output_type") == "latent"
            return () if latent else images_of(self.result)
        if not calls or (self.vae is None and calls[-1].latents.shape[1] != 3):
            return ()
        check_drawable(calls[-1].latents)
        if self.stopped or calls[-1].output is None:
            last = arrays_of(calls[-1:], self._prediction, ("denoised",))["denoised"]
        else:
            last = stacked([calls[-1].output])
        if last is None or not np.isfinite(last).all():
            return ()
        return pictures_of(self.vae, (self.layout or Layout()).at_vae(last[0]))

    def _attention(self, calls: Sequence[Call], images: Sequence[Image.Image]) -> Any:
        if self.maps is None or not calls:
            return None
        ratio = images[0].height / images[0].width if images else 1.0
        return self.maps.record(len(calls), self.tape.calls[-1].latents, ratio)  # as packed

    def _checked(
        self, images: tuple[Image.Image, ...], calls: Sequence[Call]
    ) -> tuple[tuple[Image.Image, ...], tuple[bool, ...]]:
        """The pictures, and which of them the pipeline's safety checker hid."""
        if self.pipe is None:
            return images, ()
        batch = len(calls[-1].latents) if calls else len(images)
        hidden: tuple[bool, ...]
        if self.result is None:
            images, hidden = checked(self.pipe, images, batch)
        else:
            hidden = hidden_of(self.pipe, self.result, batch)
        last = calls[-1].output if calls else None
        say_what_is_black(hidden, last, self.result, unsafe=self.unsafe, images=images)
        return images, hidden

    def _pictures(self, calls: Sequence[Call], arrays: Mapping[str, Any]) -> dict[str, Any]:
        if self.preview == "none" or not len(arrays["timesteps"]) or is_film(calls[-1].latents):
            return {}  # of a film it is said already
        if self.layout is not None and self.layout.instead:
            return {}
        latents = calls[-1].latents
        if self.vae is None and not (is_picture(latents) and latents.shape[1] == 3):
            if self.result is not None:
                say(f"{type(self.pipe).__name__} has no autoencoder: its steps have no pictures.")
            return {}
        check_drawable(calls[-1].latents)
        drawn = step_pictures(self.vae, arrays, self.preview, self.layout, self.every)
        if not drawn and self.vae is not None and {"latents", "denoised"} & set(self.names):
            raise ValueError("nobody described how its latents are decoded")
        return drawn
