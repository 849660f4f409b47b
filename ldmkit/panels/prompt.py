"""``PromptPanel``: words, seed and settings to a picture, with every step of the way kept.

Handlers check and queue; the run itself is ``ldmkit.record`` on the worker thread (see ``job``),
so that the cell has long returned while the picture forms.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ipywidgets
from PIL import Image

from ldmkit.check import flag, heard_by, whole
from ldmkit.figures.html import asset, shorten, text
from ldmkit.figures.webp import SMALL, webp
from ldmkit.loading.families import autoencoder_of, scheduler_of
from ldmkit.panels.change import ChangeField
from ldmkit.panels.fields import (
    Form,
    WordsField,
    row,
    small_button,
    unknown_words,
    vocabulary_of,
)
from ldmkit.panels.history import History, Run
from ldmkit.panels.job import Job, Report
from ldmkit.panels.live import QUICK, Live, lightly
from ldmkit.panels.panel import RunningPanel, in_cell
from ldmkit.panels.settings import Ran, Settings, told_of
from ldmkit.panels.trajectory import TrajectoryPart
from ldmkit.panels.upload import take
from ldmkit.recording import record
from ldmkit.recording.call import check_keep, check_preview
from ldmkit.recording.intervene import Intervention, standing
from ldmkit.recording.preview import linear_picture
from ldmkit.recording.safety import WITHHELD, has_checker
from ldmkit.recording.settings import adapters_of
from ldmkit.records import RecordError, Step, Trajectory

__all__ = ["PromptPanel"]

LABELS = {"ddim": "DDIM", "ddpm": "DDPM", "dpm++": "DPM++", "unipc": "UniPC"}
LARGEST = 640  # pixels a side of the picture beside the settings


class PromptPanel(RunningPanel):
    """Makes pictures from words and shows how each came about.

    Its widget-free twin is ``ldmkit.record(pipe, prompt, seed=..., ...)``: *Copy as code* under
    the panel, or ``panel.code``, is the call that makes the shown record again.

    ``panel.value`` are the settings, by the pipeline's own names; a part of them may be set.
    ``panel.run()`` queues a run and returns its job, as the button does; ``panel.stop()`` ends it
    after the present step and keeps the part. ``panel.observe(handler, names="result")`` calls
    back with each new record (on the worker thread). ``panel.close()`` stops the panel's runs,
    and so does running its cell again.

    With ``live=True`` the picture follows each letter and each move of a slider. The newest request
    wins and none queue: a picture that takes a second at most is let to its end, a slower one shows
    its steps and is stopped at the next (but not when nothing was drawn for two seconds), and the
    last request is always drawn. Words that the model never learned are drawn as it takes them, and
    told. What fails leaves the last good picture. After a second without a change the usual run is
    made once, and its record kept; until then ``result`` and the history stay as they were, and
    ``panel.job.wait().image`` is the picture.

    In Colab, under nbclient and where the environment says ``LDMKIT_FOREGROUND=1`` a run ends
    before ``run()`` returns, and the kernel's interrupt is its Stop; a live panel makes its run
    there when nothing has changed for 0.3 s, and in a cell at once.

    Args:
        pipe: any diffusers pipeline; it stays as it is, also when another scheduler is chosen.
        prompt: the words.
        keep: names of arrays to keep, as in ``ldmkit.record``.
        preview: step pictures, as in ``ldmkit.record``.
        preview_every: as in ``ldmkit.record``.
        unsafe_previews: as in ``ldmkit.record``; without it no picture is shown before a safety
            checker's verdict, where the pipeline has one.
        live: draws anew while the settings change; for pipelines that are quick, such as
            ``ldmkit.load("critters", variant="steps4")``.
        **settings: start values of the other settings (``negative_prompt``, ``seed``,
            ``num_inference_steps``, ``guidance_scale``, ``scheduler``, ``strength``, ``image``,
            and ``intervene``, words and steps of ``ldmkit.intervene`` such as
            ``{"words": None, "steps": range(0, 10)}``),
            and further keywords of the pipeline, which hold for every run (``height``, ...).

    Raises:
        TypeError: no pipeline, an unknown keyword (the nearest is told), or a wrong type.
        ValueError: a value out of its range.
    """

    _last_code = ""

    def __init__(
        self,
        pipe: Any,
        prompt: str = "",
        *,
        keep: Any = ("latents", "denoised"),
        preview: str = "auto",
        preview_every: int = 1,
        unsafe_previews: bool = False,
        live: bool = False,
        **settings: Any,
    ) -> None:
        draws = flag("live", live)
        given = settings if prompt == "" else {"prompt": prompt, **settings}
        recording = {
            "keep": check_keep(keep),
            "preview": check_preview(preview),
            "preview_every": whole("preview_every", preview_every, 1),
            "unsafe_previews": flag("unsafe_previews", unsafe_previews),
        }
        self._settings = Settings(pipe, recording, given)
        self._pipe, self._checks = pipe, self._settings.checks
        self._vocabulary = vocabulary_of(pipe)
        self._count = 0
        self._form = _Form(
            self._edited,
            settings=self._settings,
            vocabulary=self._vocabulary,
            on_enter=self._run_clicked,
            live=draws,
        )
        self._live = Live(self._drawing_of, self.run, in_cell) if draws else None
        self._drawing: Job | None = None  # the last one, until the next run
        self._good = b""  # the last whole picture
        self._picture = ipywidgets.Image(format="webp")
        self._stage = row("ldm-stage", [self._picture])
        self._stage.add_class("ldm-empty")
        self._history = History(self._show_chosen)
        self._player: TrajectoryPart | None = None
        self._place = ipywidgets.VBox()
        self._place.add_class("ldm-result")
        self._code = ipywidgets.HTML()
        self._code.add_class("ldm-code")
        top = row("ldm-top", [self._form, self._stage])
        style = ipywidgets.HTML(f"<style>{asset('panel.css', 'ldmkit.panels')}</style>")
        style.add_class("ldm-style")
        self._stand(
            [style, top, self._history, self._place, self._code], start=self._settings.start
        )
        self.observe(lambda _: self._changed(), names=["value"])
        self._show_code()
        if self._settings.can_run(self.value):
            self._redraw()

    @property
    def job(self) -> Job | None:
        """The last job that was queued, a live drawing too: ``panel.job.wait()``."""
        return self._drawing or super().job

    @property
    def code(self) -> str:
        """The call of ``ldmkit.record`` that makes the shown record; before any, the next one.

        What no code can hold (arrays, functions, another start picture) a comment in it names.
        """
        if self._closed:
            return self._last_code
        shown = self._history.shown
        chosen, ran = (shown[-1].settings, shown[-1].ran) if shown else (self.value, Ran())
        return self._settings.code(chosen, ran, self.value)

    def __repr__(self) -> str:
        if self._closed:
            return "PromptPanel(closed)"
        return f"PromptPanel({shorten(self.value.get('prompt', ''), 60)!r}, {self.job})"

    def _release(self) -> None:
        self._last_code = self.code
        self._settings.release()
        self._history.clear()
        if self._player is not None:
            self._player.close()
            self._player = None

    # --- a run ---------------------------------------------------------------------------------

    def run(self) -> Job:
        """Queues a run with the present settings; see ``RunningPanel.run``."""
        if self._live is not None:
            self._live.drop(running=False)  # it would be the same picture
        self._drawing = None
        return super().run()

    def stop(self) -> None:
        """Ends what is made after its present step and keeps the part; drops what waits."""
        super().stop()
        if self._live is not None:
            self._live.stop()

    def close(self) -> None:
        """Stops all that is made and takes the panel out of the page; twice is harmless."""
        if not self._closed and self._live is not None:
            self._live.close()
        super().close()

    def _work(self, settings: dict[str, Any]) -> _Work:
        words = "" if self._form.marks_words else settings.get("prompt", "")
        note = unknown_words(self._vocabulary, words)
        return _Work(self._settings, settings, note, late=self._live is not None)

    def _show(self, job: Job) -> None:
        if job.preview:
            self._paint(job.preview)

    def _keep(self, job: Job, work: _Work) -> None:
        self._count += 1
        self._history.add(Run(self._count, job.result, work.settings, work.ran))
        self._show_last_picture()

    def _restore(self) -> None:
        self._paint(self._good)

    def _rest(self, job: Job) -> None:
        """The player, which takes some tenths of a second to fill and need not be waited for."""
        with self._lock:
            typing = self._live is not None and self._live.waits  # its run will come, too
            if not self._closed and not typing and job.state in ("done", "stopped"):
                self._show_chosen()

    # --- live ----------------------------------------------------------------------------------

    def _changed(self) -> None:
        if self._live is None:
            self._show_code()
        else:
            self._redraw()

    def _redraw(self) -> None:
        if self._live is not None:
            self._drawing = self._live.ask()

    def _drawing_of(self) -> Job:
        """The job that draws the present settings, without a record to keep."""
        work = self._work(dict(self.value))
        work.recording = {"keep": (), "preview": "none"}
        return self._job_of(lightly(work, self._pipe), self._draw)

    def _draw(self, job: Job) -> None:
        """Shows how far a drawing is, if it takes long, and what came of it."""
        if job.state in ("waiting", "cancelled"):
            return
        with self._lock:
            if self._closed or self._live is None:
                return
            if job.state == "running":
                if job.preview is not None:
                    self._form.follow(job, busy=True)
                    self._show(job)
                return
            self._form.follow(job, busy=any(not other.ended for other in self._jobs))
            if job.state == "failed":
                stays = " The last good picture stays." if self._good else ""
                self._form.say(job.error + stays, wrong=True, details=job.details)
            else:
                self._live.took(job.seconds)
                self._good = _encoded(job.result.images[0]) if job.result.images else b""
                self._form.say(" ".join(dict.fromkeys(job.notes)))
            self._paint(self._good)

    def _hush(self) -> None:
        # The drawing to come says what is to be said: words that went and came would jump.
        if self._live is None or self._form.warns:
            super()._hush()

    # --- what is seen --------------------------------------------------------------------------

    def _show_chosen(self) -> None:
        """The runs that are chosen among the thumbnails, in the player."""
        with self._lock:
            trajs = [run.traj for run in self._history.shown]
            try:
                if self._player is None:
                    self._player = TrajectoryPart(*trajs)
                    self._place.children = (self._player,)
                else:
                    self._player.show(*trajs)
            except RecordError as error:
                self._form.say(str(error))
            self._show_last_picture()
            self._show_code()

    def _show_last_picture(self) -> None:
        shown = self._history.shown
        images = shown[-1].traj.images if shown else ()
        self._good = _encoded(images[0]) if images else b""
        self._paint(self._good)

    def _paint(self, encoded: bytes) -> None:
        """The picture beside the settings."""
        self._picture.value = encoded
        if encoded:
            self._stage.remove_class("ldm-empty")
        else:
            self._stage.add_class("ldm-empty")

    def _show_code(self) -> None:
        self._code.value = (
            "<details><summary>Copy as code</summary>"
            f'<pre title="One click selects it all">{text(self.code)}</pre></details>'
        )


class _Work:
    """One run: what the worker does, and what it was made with.

    Attributes:
        recording: keywords of ``record`` in place of the panel's.
    """

    def __init__(self, known: Settings, settings: Mapping[str, Any], note: str, late: bool) -> None:
        self._known, self._note = known, note
        self._late = late  # a picture stands already: steps of a quick run would only flicker
        self.settings, self.ran = settings, Ran()
        self.recording: dict[str, Any] = {}

    def __call__(self, report: Report) -> Trajectory:
        if self._note:
            report.say(self._note)
        pipe, call = self._known.prepare(self.settings)
        scheduler = scheduler_of(pipe)
        if scheduler is not None:
            self.ran.scheduler = told_of(scheduler)
        self.ran.adapters = tuple(dict.fromkeys(n for of in adapters_of(pipe).values() for n in of))

        withheld = has_checker(pipe) and not call["unsafe_previews"]
        if withheld:
            report.say(WITHHELD)

        shown_from = time.monotonic() + (QUICK if self._late else 0.0)

        def on_step(step: Step) -> bool:
            picture = (lambda: b"") if withheld else (lambda: _live_preview(pipe, step))
            early = time.monotonic() < shown_from
            return report(step.index + 1, _total(pipe), None if early else picture)

        with heard_by(report.say), _changed(pipe, self.settings.get("intervene")):
            return record(pipe, on_step=on_step, **call | self.recording)


@contextmanager
def _changed(pipe: Any, change: Mapping[str, Any] | None) -> Iterator[None]:
    """Changes what this thread's runs read; others share the networks, and read their own."""
    if change is None:
        yield
        return
    plan = Intervention(pipe, change["words"], change["steps"], 1.0, None)
    plan.counted_from = 1  # as the fold and the player do
    with standing(plan):
        yield


def _total(pipe: Any) -> int | None:
    """Calls of the scheduler in this run; more than its steps for Heun, fewer from a picture."""
    told = getattr(pipe, "num_timesteps", None)  # set before the loop
    if isinstance(told, int):
        return told
    timesteps = getattr(scheduler_of(pipe), "timesteps", None)
    return None if timesteps is None else len(timesteps)


def _live_preview(pipe: Any, step: Step) -> bytes:
    """The clean estimate in a few kB, one pixel per latent, by the linear fit: no network runs."""
    array = step.denoised if step.denoised is not None else step.latents
    pixels = None if array is None else linear_picture(autoencoder_of(pipe), array[0])
    return b"" if pixels is None else webp(Image.fromarray(pixels), 128, 80)


def _encoded(picture: Image.Image) -> bytes:
    """The final picture; small ones without loss."""
    return webp(picture, LARGEST, 90, exact=SMALL, method=0)


class _Form(Form):
    """One field per setting that the pipeline takes."""

    _start: Any = None  # the picture that the run begins from

    def _make(self, **options: Any) -> list[ipywidgets.Widget]:
        settings, live = options.pop("settings"), options["live"]
        makers = _makers(settings, **options)
        fields = self._fields
        for name in settings.names:
            if name != "seed":
                fields[name] = makers[name]()
        seed = [self.seed_row()] if "seed" in settings.names else []
        if seed and live:
            fields["seed"].continuous_update = True
        own_place = ("prompt", "negative_prompt", "seed", "image", "strength", "intervene")
        small = [field for name, field in fields.items() if name not in own_place]
        rows = [fields[name] for name in ("prompt", "negative_prompt") if name in fields]
        rows.append(row("ldm-numbers", [*seed, *small]))
        if "image" in fields:
            rows.append(self._start_row())
        if "intervene" in fields:
            rows.append(fields["intervene"])
        return rows

    def _start_row(self) -> ipywidgets.Box:
        self._upload = ipywidgets.FileUpload(
            accept="image/*", multiple=False, description="Start picture"
        )
        self._upload.observe(lambda _: self._uploaded(), names=["value"])
        self._forget = small_button("", "Begin from noise, without a start picture", "×")
        self._forget.on_click(lambda _: self._begin_from(None))
        parts = [self._upload, self._fields["image"], self._forget, self._fields["strength"]]
        return row("ldm-start", parts)

    @property
    def marks_words(self) -> bool:
        """Whether the reader has seen which words the model does not know."""
        return "prompt" in self._fields and bool(self._fields["prompt"].awake)

    def entry(self, name: str) -> Any:
        return self._start if name == "image" else super().entry(name)

    def fill(self, settings: Mapping[str, Any]) -> None:
        if "image" in settings:
            self._show_start(settings["image"])
        super().fill({name: value for name, value in settings.items() if name != "image"})

    def _show_start(self, picture: Any) -> None:
        if picture is not self._start and picture is not None:
            self._filling = True
            self._fields["image"].value = webp(picture, 96, 80)
            self._filling = False
        self._start = picture
        for widget in (self._fields["image"], self._forget, self._fields["strength"]):
            widget.layout.display = "none" if picture is None else ""

    def _begin_from(self, picture: Any) -> None:
        self._start = picture
        self._on_edit("image")

    def _uploaded(self) -> None:
        take(
            self._upload,
            self._begin_from,
            refuse=lambda words: self.refused("image", words),
            tell=self.say,
        )


class _Grows:
    """A slider that goes as far as what it is filled with."""

    min: Any
    max: Any
    value: Any

    def fill(self, value: float) -> None:
        self.min, self.max = min(self.min, value), max(self.max, value)
        self.value = value


class _WholeSlider(_Grows, ipywidgets.IntSlider):
    pass


class _Slider(_Grows, ipywidgets.FloatSlider):
    pass


def _makers(
    settings: Settings, vocabulary: Iterable[str], on_enter: Callable[[], None], live: bool
) -> dict[str, Callable[[], ipywidgets.Widget]]:
    return {
        "prompt": lambda: WordsField(
            vocabulary, title="Prompt", placeholder="a red cat with a top hat",
            on_enter=on_enter, live=live,
        ),
        "negative_prompt": lambda: ipywidgets.Text(
            description="Negative prompt", placeholder="what to steer away from",
            continuous_update=live,
        ),
        "num_inference_steps": lambda: (
            _WholeSlider(description="Steps", min=1, max=16)
            if live else ipywidgets.IntText(description="Steps")
        ),
        "guidance_scale": lambda: (
            _Slider(description="Guidance", min=0, max=10, step=0.5)
            if live else ipywidgets.FloatText(description="Guidance", step=0.5)
        ),
        "scheduler": lambda: ipywidgets.Dropdown(
            options=[(LABELS.get(n, shorten(n, 30).capitalize()), n) for n in settings.samplers],
            description="Scheduler",
        ),
        "intervene": lambda: ChangeField(live=live),
        "strength": lambda: ipywidgets.FloatSlider(
            description="Strength", min=0.05, max=1, step=0.05, continuous_update=live
        ),
        "image": lambda: ipywidgets.Image(format="webp"),
    }  # fmt: skip
