"""Guidance as a plane: what is drawn has the distances of latent space, to rounding."""

import itertools

import numpy as np
import pytest
from records.make import make

from ldmkit.figures.guidance import POINTS, guidance_plane
from ldmkit.records import RecordError
from ldmkit.records.pictures import lane_latents

SCALE = 4.0
NAMES = [name for name, _ in POINTS.values()]


def guided(scale=SCALE, *, bend=0.0, words=1.0, **fields):
    """A record whose guided noise is uncond + scale · (text - uncond), plus ``bend`` off it."""
    traj = make(5, previews=(), **fields)
    rng = np.random.default_rng(1)
    uncond = traj.noise_pred + 0.1 * rng.standard_normal(traj.noise_pred.shape)
    text = uncond + words * 0.1 * rng.standard_normal(uncond.shape)
    noise = uncond + scale * (text - uncond) + bend * rng.standard_normal(uncond.shape)
    alphas, sigmas = (a[:, None, None, None, None] for a in (traj.alphas, traj.sigmas))
    values = {name: getattr(traj, name) for name in traj.__dataclass_fields__} | {
        "noise_pred_uncond": uncond,
        "noise_pred_text": text,
        "noise_pred": noise,
        "denoised": (traj.latents[:-1] - sigmas * noise) / alphas,
    }
    return type(traj)(**values)


def points(traj, step, batch=0):
    """The four points in latent space itself, by name."""
    found = {}
    for lane, (name, _) in POINTS.items():
        found[name] = lane_latents(traj, lane)[step, batch].astype(np.float64).ravel()
    found["latents"] /= np.hypot(traj.alphas[step], traj.sigmas[step])
    return found


def test_the_law_of_guidance_holds_for_the_clean_estimates():
    traj = guided(batch=2)
    for step, batch in itertools.product(range(5), range(2)):
        at = points(traj, step, batch)
        law = at["uncond"] + SCALE * (at["text"] - at["uncond"])
        # x0 = (x - sigma · noise) / alpha: the noise's float32 rounding grows with sigma / alpha.
        growth = max(1.0, traj.sigmas[step] / traj.alphas[step])
        assert np.abs(at["guided"] - law).max() <= 2e-6 * growth


@pytest.mark.parametrize("euler", [False, True])
def test_the_plane_keeps_every_distance(euler):
    traj = guided(batch=2, euler=euler)
    for step, batch in itertools.product(range(5), range(2)):
        plane, at = guidance_plane(traj, step, batch), points(traj, step, batch)
        for one, other in itertools.combinations(NAMES, 2):
            drawn = np.linalg.norm(getattr(plane, one) - getattr(plane, other))
            true = np.linalg.norm(at[one] - at[other])
            assert abs(drawn - true) <= 1e-5 * (1 + true), (step, one, other)
        assert plane.scale == pytest.approx(SCALE, abs=1e-5)
        assert plane.off <= 1e-4


def test_how_the_plane_lies():
    plane = guidance_plane(guided(), 2)
    assert np.array_equal(plane.uncond, [0, 0])
    assert plane.text[0] > 0
    assert abs(plane.text[1]) <= 1e-9
    assert plane.guided[0] == pytest.approx(SCALE * plane.text[0], rel=1e-5)
    assert plane.latents[1] >= 0


def test_a_scale_below_one_points_the_other_way():
    plane = guidance_plane(guided(-0.5), 2)
    assert plane.scale == pytest.approx(-0.5, abs=1e-5)
    assert plane.guided[0] < 0


def test_bent_guidance_is_told():
    traj = guided(bend=0.2)
    plane, at = guidance_plane(traj, 2), points(traj, 2)
    sides = np.stack([at["text"] - at["uncond"], at["latents"] - at["uncond"]], axis=1)
    foot, *_ = np.linalg.lstsq(sides, at["guided"] - at["uncond"], rcond=None)
    true = np.linalg.norm(at["guided"] - at["uncond"] - sides @ foot)
    assert plane.off == pytest.approx(true, rel=1e-6)
    assert "off this plane" in words_of(traj.guidance_figure(2))


def words_of(fig):
    return " ".join(text.get_text() for text in fig.findobj(lambda a: hasattr(a, "get_text")))


def test_words_that_change_nothing_leave_no_direction():
    traj = guided(words=0.0)
    plane = guidance_plane(traj, 2)
    assert np.isnan(plane.scale)
    true = np.linalg.norm(points(traj, 2)["latents"] - points(traj, 2)["uncond"])
    assert np.linalg.norm(plane.latents) == pytest.approx(true)
    assert "the words change nothing" in words_of(traj.guidance_figure(2))


def test_figure_shows_four_pictures_and_a_true_plane():
    fig = guided().guidance_figure(-1)
    shown = [axes for axes in fig.axes if axes.images]
    assert len(shown) == 4
    (plane,) = [axes for axes in fig.axes if not axes.images]
    assert plane.get_aspect() == 1
    assert "× 4" in words_of(fig)
    assert "step 5 of 5" in words_of(fig)
    assert fig._repr_png_().startswith(b"\x89PNG")


def test_negative_prompts_take_the_place_of_no_words():
    fig = guided(batch=2, negative_prompt=("", "a $sad$ cat")).guidance_figure(1, batch=1)
    assert "negative prompt\n“a \\$sad\\$ cat”" in words_of(fig)
    assert fig._repr_png_().startswith(b"\x89PNG")
    fig = guided(batch=2, negative_prompt=("", "a sad cat")).guidance_figure(1, batch=0)
    assert "without\nthe words" in words_of(fig)


@pytest.mark.parametrize(
    ("step", "batch", "message"),
    [
        (5, 0, "step must be between 0 and 4 inclusive, got 5"),
        (-6, 0, "step must be between 0 and 4 inclusive, got -6"),
        (1.5, 0, "step must be a whole number, got 1.5"),
        (0, 1, "batch must be between 0 and 0 inclusive, got 1"),
    ],
)
def test_refusals(step, batch, message):
    with pytest.raises(RecordError, match=message):
        guided().guidance_figure(step, batch=batch)


def test_records_without_both_sides_say_what_to_do():
    with pytest.raises(RecordError, match=r"denoised_uncond.*again with keep=\"all\"\.$"):
        make(3).guidance_figure(0)


def test_nan_latents_are_told():
    with pytest.raises(RecordError, match="not finite"):
        guided(latents=np.full((6, 1, 4, 16, 16), np.nan)).guidance_figure(0)
