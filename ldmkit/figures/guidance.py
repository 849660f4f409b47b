"""Guidance taken apart: the estimates of one step as pictures, and the plane that they lie in.

Classifier-free guidance (arXiv 2207.12598, eq. 6, with the scale as diffusers counts it):

    guided = uncond + scale · (text - uncond)

holds for the predicted noise and, since within one step the clean estimate is linear in it, for
the clean estimates too: the three lie on one line in latent space. Together with the point where
the run stands they span a plane, and a plane can be drawn true to scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ldmkit.figures.canvas import NOISE, PICTURE, shown_figure
from ldmkit.figures.captions import prompt_of
from ldmkit.figures.html import shorten
from ldmkit.records import RecordError, Trajectory
from ldmkit.records.noise_law import at_unit_variance
from ldmkit.records.pictures import drawable, is_crisp, lane_array, lane_latents
from ldmkit.records.record import index_of, place_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["GuidancePlane", "guidance_figure", "guidance_plane"]

Float64 = NDArray[np.float64]

# lane -> (point of the plane, colour)
POINTS = {
    "latents": ("latents", NOISE),
    "denoised_uncond": ("uncond", "#5b6b7a"),
    "denoised_text": ("text", "#b8660a"),
    "denoised": ("guided", PICTURE),
}

SHAPE = 1.9  # width of the plane's drawing over its height


@dataclass(frozen=True)
class GuidancePlane:
    """Four points of latent space in the plane that they span; distances are latent distances.

    Attributes:
        latents: (2,) where the run stands, at unit variance; never below the line.
        uncond: (2,) the clean estimate without the words, the origin.
        text: (2,) the clean estimate with the words, on the first axis to the right.
        guided: (2,) the clean estimate after guidance.
        scale: guided = uncond + scale · (text - uncond), as measured; NaN where the words
            change nothing.
        off: distance of the guided estimate from the plane: 0 but for rounding, unless the
            pipeline bends guidance (``guidance_rescale``).
    """

    latents: Float64
    uncond: Float64
    text: Float64
    guided: Float64
    scale: float
    off: float


def guidance_plane(traj: Trajectory, step: int, batch: int = 0) -> GuidancePlane:
    """Lays an orthonormal basis into the plane of one step's estimates and latents.

    Raises:
        RecordError: as ``guidance_figure``.
    """
    step = _checked(traj, step, batch)
    now, *estimates = (_vector(traj, lane, step, batch) for lane in POINTS)
    uncond, text, guided = estimates
    if not np.isfinite([now, *estimates]).all():
        raise RecordError(
            f"Step {step} holds latents that are not finite (NaN or infinite); look at an earlier "
            "one, or record again with a smaller guidance_scale."
        )
    basis = _basis(text - uncond, now - uncond)  # (2, c·h·w)
    words, steered = basis @ (text - uncond), basis @ (guided - uncond)
    length = float(words @ words)
    # Below rounding the direction means nothing.
    known = math.sqrt(length) > 1e-6 * (1 + float(np.linalg.norm(text)))
    return GuidancePlane(
        latents=basis @ (now - uncond),
        uncond=np.zeros(2),
        text=words,
        guided=steered,
        scale=float(steered @ words) / length if known else math.nan,
        off=float(np.linalg.norm(guided - uncond - steered @ basis)),
    )


def _checked(traj: Trajectory, step: int, batch: int) -> int:
    n = len(traj.timesteps)
    try:
        number = place_of("step", step, n)
    except (TypeError, IndexError) as error:
        raise RecordError(str(error)) from None
    index_of("batch", batch, traj.batch_size)
    _check_sides(traj, number)
    return number


def _check_sides(traj: Trajectory, step: int) -> None:
    missing = [lane for lane in POINTS if lane_latents(traj, lane) is None]
    if missing:
        lacks = f"This record doesn't hold both sides of guidance (missing: {', '.join(missing)})"
        whole = traj.noise_pred is not None and traj.model_output is not None  # keep="all"
        if whole and traj.noise_pred_text is None:
            raise RecordError(
                f"{lacks}: nothing told which of the network's answers had the words."
            )
        scale = traj.call.get("guidance_scale")
        guided = isinstance(scale, (int, float)) and scale > 1 and not whole
        also = "" if guided else " and a guidance_scale above 1"
        raise RecordError(f'{lacks}; record again with keep="all"{also}.')
    if traj.noise_pred_uncond is None:
        return
    off = np.array([np.isnan(noise).all() for noise in traj.noise_pred_uncond])
    if off[step] and not off.all():
        on = np.flatnonzero(~off)
        raise RecordError(
            f"Guidance was off at step {step}, so it has one side only; "
            f"it was on at steps {on[0]} to {on[-1]}."
        )


def _vector(traj: Trajectory, lane: str, step: int, batch: int) -> Float64:
    """A lane's latents as one vector; the noisy ones at unit variance, as they are drawn."""
    latents = lane_latents(traj, lane)
    assert latents is not None  # _checked has seen it
    vector = latents[step, batch].astype(np.float64).ravel()  # (c·h·w,)
    if lane != "latents":
        return vector
    return np.asarray(at_unit_variance(vector, traj.alphas[step], traj.sigmas[step]))


def _basis(first: Float64, second: Float64) -> Float64:
    """Two orthonormal rows that span both: the first along ``first``, ``second`` not below it.

    QR keeps its promise when one of them is zero, too: the spare row is then any direction.
    """
    q, r = np.linalg.qr(np.stack([first, second], axis=1))
    return np.asarray((q * np.where(np.diag(r) < 0, -1.0, 1.0)).T)


def guidance_figure(traj: Trajectory, step: int, *, batch: int = 0) -> Figure:
    """The plane of one step with its arrows, true to scale, above the four points as pictures.

    Raises:
        RecordError: the record lacks a side of guidance, or has no such step or picture.
    """
    plane = guidance_plane(traj, step, batch)
    step = range(len(traj.timesteps))[step]
    fig = shown_figure((7.2, 6.4))
    grid = fig.add_gridspec(2, 4, height_ratios=[2, 1])
    prompt = shorten(prompt_of(traj, batch), 80).replace("$", r"\$")  # a prompt is no formula
    mix = f"{traj.alphas[step]:.2f} × picture + {traj.sigmas[step]:.2f} × noise"
    fig.suptitle(f"{prompt}\nstep {step + 1} of {len(traj.timesteps)}: {mix}", fontsize=10)
    titles = _titles(traj, batch)
    axes = fig.add_subplot(grid[0, :])
    _draw_plane(axes, plane, titles)
    _draw_measure(fig, axes, plane)
    for column, lane in enumerate(POINTS):
        _draw_picture(fig.add_subplot(grid[1, column]), traj, lane, step, batch, titles[lane])
    return fig


def _titles(traj: Trajectory, batch: int) -> dict[str, str]:
    negative = traj.negative_prompt
    if isinstance(negative, tuple):
        negative = negative[min(batch, len(negative) - 1)]
    without = f"negative prompt\n“{shorten(negative, 24)}”" if negative else "without\nthe words"
    return {
        "latents": "the run\nstands here",
        "denoised_uncond": without.replace("$", r"\$"),
        "denoised_text": "with\nthe words",
        "denoised": "guided",
    }


def _draw_picture(
    axes: Axes, traj: Trajectory, lane: str, step: int, batch: int, title: str
) -> None:
    colour = POINTS[lane][1]
    axes.set_title(title, fontsize=8, color=colour)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(colour)
        spine.set_linewidth(2)
    if drawable(traj, lane):
        how = "nearest" if is_crisp(traj, lane) else "bicubic"
        axes.imshow(lane_array(traj, lane, batch)[step], interpolation=how)


def _draw_plane(axes: Axes, plane: GuidancePlane, titles: dict[str, str]) -> None:
    axes.set_aspect("equal")  # an angle or a length drawn is a true one
    x = [float(getattr(plane, name)[0]) for name, _ in POINTS.values()]
    middle, wide = (max(x) + min(x)) / 2, max(x) - min(x)
    # The line stands at a quarter of the height, with room at its ends and below for words.
    high = max(1.7 * wide / SHAPE, float(plane.latents[1]) / 0.6) or 1.0
    axes.set_xlim(middle - SHAPE * high / 2, middle + SHAPE * high / 2)
    axes.set_ylim(-0.25 * high, 0.75 * high)
    places = {"latents": (0, 8, "center", "bottom"), "uncond": (-9, 0, "right", "center")}
    places |= {"text": (0, -9, "center", "top"), "guided": (9, 0, "left", "center")}
    for lane, (name, colour) in POINTS.items():
        at = getattr(plane, name)
        dx, dy, across, along = places[name]
        axes.plot(*np.transpose([plane.latents, at]), ":", color=colour, linewidth=1)
        axes.plot(*at, "o", color=colour, markersize=6, zorder=4)
        axes.annotate(
            titles[lane],
            tuple(at),
            (dx, dy),
            textcoords="offset points",
            ha=across,
            va=along,
            fontsize=8,
            color=colour,
        )
    _arrow(axes, plane.text, plane.guided, POINTS["denoised"][1])
    _arrow(axes, plane.uncond, plane.text, POINTS["denoised_text"][1])
    axes.set_xlabel(_sentence(plane), fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _arrow(axes: Axes, start: Float64, end: Float64, colour: str) -> None:
    style: dict[str, Any] = {"arrowstyle": "-|>", "color": colour, "shrinkA": 0, "shrinkB": 2}
    axes.annotate("", tuple(end), tuple(start), arrowprops=style | {"linewidth": 2})


def _draw_measure(fig: Figure, axes: Axes, plane: GuidancePlane) -> None:
    """The guidance scale, as a draughtsman's measure under the arrows."""
    if not math.isfinite(plane.scale):
        return
    from matplotlib.transforms import offset_copy

    (x0, y0), (x1, y1) = plane.uncond, plane.guided
    below = offset_copy(axes.transData, fig=fig, y=-40, units="points")
    axes.plot([x0, x1], [y0, y1], "|-", color=PICTURE, linewidth=0.8, transform=below)
    text = f"× {plane.scale:.3g}"
    below = offset_copy(below, fig=fig, y=-3, units="points")
    axes.text(
        (x0 + x1) / 2, (y0 + y1) / 2, text, transform=below, ha="center", va="top", color=PICTURE
    )


def _sentence(plane: GuidancePlane) -> str:
    words, steered = (float(np.linalg.norm(at)) for at in (plane.text, plane.guided))
    if not math.isfinite(plane.scale):
        return "latent units · here the words change nothing"
    sentence = (
        f"latent units · the words move the estimate by {words:.3g}, guidance by {steered:.3g}"
    )
    if plane.off > 1e-3 * (1 + steered):
        sentence += f"\nthe guided estimate lies {plane.off:.3g} off this plane; its foot is drawn"
    return sentence
