"""``interpolate``: its ends, what lies between, and what it refuses."""

import numpy as np
import pytest
import tiny
import tiny_unclip
import torch
from tiny import picture

import ldmkit
from ldmkit.critters import Scene
from ldmkit.recording import record
from ldmkit.records import Embedding, RecordError
from ldmkit.space.interpolate import interpolate
from ldmkit.space.paths import slerp

STEPS = {"num_inference_steps": 2, "guidance_scale": 4.0}
A, B = Scene.sample(400001), Scene.sample(400003)


@pytest.fixture(scope="module")
def pipe():
    return tiny.pipeline(size="small")


@pytest.fixture(scope="module")
def unclip():
    return tiny_unclip.stable()


def points(*seeds, width=tiny_unclip.WIDTH, model=""):
    rows = [np.random.default_rng(seed).standard_normal(width) for seed in seeds]
    return [Embedding(row, f"e{seed}", "image", model) for seed, row in zip(seeds, rows)]  # noqa: B905


def worst(a, b):
    return int(np.abs(np.int16(np.asarray(a)) - np.int16(np.asarray(b))).max())


def mean(a, b):
    return float(np.abs(np.int16(np.asarray(a)) - np.int16(np.asarray(b))).mean())


def test_prompts_come_back_at_their_ends(pipe):
    ends = ("a red cat", "a blue dog", "a white owl in the snow")
    walk = interpolate(pipe, *ends, space="prompt", num_frames=5, seed=3, **STEPS)
    for i, words in ((0, ends[0]), (2, ends[1]), (4, ends[2])):
        alone = record(pipe, words, seed=3, **STEPS)
        assert worst(walk.images[i], alone.image) == 0
        assert walk.labels[i] == words
    assert walk.labels[1] == "50 % a red cat, 50 % a blue dog"
    assert np.array_equal(walk.t, [0, 0.25, 0.5, 0.75, 1])
    assert (walk.space, walk.method, walk.seed) == ("prompt", "slerp", 3)
    assert walk.call["num_inference_steps"] == 2


@pytest.mark.parametrize("method", ["slerp", "lerp"])
def test_between_prompts_their_embeddings_are_mixed(pipe, method):
    walk = interpolate(
        pipe, "a red cat", "a dog", space="prompt", num_frames=4, method=method, **STEPS
    )
    ends = [pipe.encode_prompt(w, "cpu", 1, False)[0] for w in ("a red cat", "a dog")]
    a, b = (end[0].double().numpy() for end in ends)
    want = slerp(a, b, 1 / 3) if method == "slerp" else a * 2 / 3 + b / 3
    assert np.abs(walk.points[1] - want).max() <= 1e-5
    embeds = torch.tensor(walk.points[1:2])
    negative = pipe.encode_prompt("", "cpu", 1, False)[0]
    alone = record(pipe, seed=0, prompt_embeds=embeds, negative_prompt_embeds=negative, **STEPS)
    assert worst(walk.images[1], alone.image) <= 1
    assert "encode_prompt" not in vars(pipe)


def test_a_negative_prompt_stays_itself(pipe):
    walk = interpolate(
        pipe, "a red cat", "a dog", space="prompt", num_frames=4, negative_prompt="snow", **STEPS
    )
    alone = record(pipe, "a dog", seed=0, negative_prompt="snow", **STEPS)
    assert worst(walk.images[-1], alone.image) == 0
    assert worst(alone.image, record(pipe, "a dog", seed=0, **STEPS).image) > 0


@pytest.mark.parametrize("space", ["prompt", "noise"])
def test_batches_give_what_single_runs_give(pipe, space):
    ends = ("a red cat", "a dog") if space == "prompt" else (3, 7)
    more = STEPS if space == "prompt" else {**STEPS, "prompt": "a red cat"}
    whole = interpolate(pipe, *ends, space=space, num_frames=6, **more)
    alone = interpolate(pipe, *ends, space=space, num_frames=6, batch_size=1, **more)
    assert max(worst(a, b) for a, b in zip(whole.images, alone.images, strict=True)) <= 1


@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler"])
def test_seeds_come_back_at_their_ends(name):
    pipe = tiny.pipeline(size="small", scheduler_name=name)
    walk = interpolate(pipe, 3, 7, space="noise", prompt="a cat", num_frames=3, **STEPS)
    for i, seed in ((0, 3), (2, 7)):
        run = record(pipe, "a cat", seed=seed, **STEPS)
        assert worst(walk.images[i], run.image) == 0
    again = interpolate(pipe, run, 3, space="noise", prompt="a cat", num_frames=2, **STEPS)
    assert worst(again.images[0], run.image) <= 1
    noises = [torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(s)) for s in (3, 7)]
    middle = slerp(*(noise[0].numpy() for noise in noises), 0.5)
    assert np.abs(walk.points[1] - middle).max() <= 1e-6
    assert (walk.labels[0], walk.call["prompt"]) == ("seed 3", "a cat")


def test_latents_are_walked_and_decoded(pipe):
    a, b = picture(0), picture(1, (48, 40))
    walk = interpolate(pipe, a, b, space="latent", num_frames=3, method="lerp")
    latents = [ldmkit.encode_image(pipe, p)[0].numpy() for p in (a, b.resize((32, 32)))]
    assert np.abs(walk.points[0] - latents[0]).max() == 0
    assert np.abs(walk.points[1] - (walk.points[0] + walk.points[2]) / 2).max() <= 1e-6
    assert worst(walk.images[0], ldmkit.decode_latents(pipe, latents[0])) == 0
    assert (walk.seed, walk.images[2].size) == (None, (32, 32))
    twice = interpolate(pipe, walk.points[0], walk.points[2], space="latent", num_frames=2)
    assert worst(twice.images[1], walk.images[2]) == 0


def test_pixels_fade():
    a, b = picture(0), picture(1)
    walk = interpolate(None, a, b, space="pixel", num_frames=3)
    assert worst(walk.images[0], a) == worst(walk.images[2], b) == 0
    want = (np.asarray(a, float) + np.asarray(b, float)) / 2
    assert np.abs(np.asarray(walk.images[1], float) - want).max() <= 0.5
    assert (walk.method, walk.points, walk.embeddings) == ("lerp", None, ())
    drawn = interpolate(None, A, B, space="pixel", num_frames=2)
    assert worst(drawn.images[1], B.draw(64)) == 0


def test_embeddings_come_back_at_their_ends(unclip):
    a, b = points(0, 1)
    walk = interpolate(unclip, a, b, num_frames=5, seed=5, **STEPS)
    for i, end in ((0, a), (-1, b)):
        alone = ldmkit.decode_embedding(unclip, end, seed=5, **STEPS)
        assert worst(walk.images[i], alone.image) == 0
    assert walk.embeddings[0] is a
    want = slerp(a.vector.astype(float), b.vector.astype(float), 0.5)
    assert np.abs(walk.embeddings[2].vector - want).max() <= 1e-6
    alone = ldmkit.decode_embedding(unclip, walk.embeddings[2], seed=5, **STEPS)
    assert worst(walk.images[2], alone.image) <= 1


def test_words_go_through_the_prior(unclip):
    walk = interpolate(unclip, "a red cat", points(1)[0], num_frames=2, seed=2, **STEPS)
    drawn = ldmkit.sample_prior(unclip, "a red cat", seed=2)
    assert np.array_equal(walk.embeddings[0].vector, drawn.vector)
    assert walk.labels == ("a red cat", "e1")


def test_own_places(pipe):
    walk = interpolate(None, picture(0), picture(1), space="pixel", t=[0.25, 1])
    assert np.array_equal(walk.t, [0.25, 1])
    assert len(interpolate(None, picture(0), picture(1), space="pixel", t=np.array([0.5]))) == 1


def test_stopping_keeps_what_is_done(pipe):
    ends, seen = ("a red cat", "a dog"), []

    def second(i, image):
        seen.append(image.size)
        return i < 1

    walk = interpolate(
        pipe, *ends, space="prompt", num_frames=4, batch_size=1, on_frame=second, **STEPS
    )
    assert (len(walk), len(walk.points), seen) == (2, 2, [(32, 32)] * 2)
    steps = []
    walk = interpolate(
        pipe,
        *ends,
        space="prompt",
        batch_size=1,
        on_step=lambda step: steps.append(step.index) or len(steps) < 3,
        **STEPS,
    )
    assert (len(walk), steps) == (1, [0, 1, 0])
    with pytest.raises(RuntimeError, match="before its first picture"):
        interpolate(pipe, *ends, space="prompt", on_step=lambda step: False, **STEPS)
    assert "encode_prompt" not in vars(pipe)
    assert worst(walk.images[0], record(pipe, ends[0], seed=0, **STEPS).image) == 0


@pytest.mark.parametrize(
    ("ends", "options", "error", "words"),
    [
        (("a", "b"), {"space": "promt"}, ValueError, "got 'promt'; did you mean 'prompt'"),
        (("a", "b"), {"method": "slurp"}, ValueError, "did you mean 'slerp'"),
        (("a", "b"), {"num_frames": 1}, ValueError, "num_frames must be between 2"),
        (("a", "b"), {"num_frames": 2.5}, TypeError, "num_frames must be a whole number"),
        (("a", "b"), {"t": [0, float("nan")]}, ValueError, "t must be rising numbers"),
        (("a", "b"), {"t": [1, 0]}, ValueError, "t must be rising numbers"),
        (("a", "b"), {"t": []}, ValueError, "t must be rising numbers"),
        (("a", "b"), {"seed": [1, 2]}, TypeError, "one whole number for the whole walk"),
        (("a", "b"), {"seed": -1}, ValueError, "seed must be between"),
        (("a", "b"), {"metod": "lerp"}, TypeError, "did you mean 'method'"),
        (("a", "b"), {"keep": "all"}, TypeError, "takes no 'keep'"),
        (("a", "b"), {"prompt": "c"}, TypeError, "leave prompt= out"),
        (("a", "b"), {"guidance_scale": float("nan")}, ValueError, "finite number, got nan"),
        (("a", 3), {}, TypeError, "space='prompt' walks between words.*got int 3 as end 2"),
        (("a", "b"), {"space": "clip_image"}, TypeError, "needs an unCLIP pipeline"),
        ((1, 2), {"space": "noise"}, TypeError, "needs the words that stay the same"),
        ((1, "b"), {"space": "noise", "prompt": "a"}, TypeError, "walks between seeds"),
        ((1, True), {"space": "noise", "prompt": "a"}, TypeError, "walks between seeds"),
        (
            (1, np.zeros((4, 9, 8))),
            {"space": "noise", "prompt": "a"},
            ValueError,
            r"shape \(4, 8, 8\), got \(4, 9, 8\) as end 2",
        ),
        (
            (1, np.full((4, 8, 8), np.nan)),
            {"space": "noise", "prompt": "a"},
            ValueError,
            "must be finite numbers",
        ),
        (("a", "b"), {"space": "latent"}, TypeError, "walks between pictures"),
        ((A, B), {"space": "latent", "eta": 0.5}, TypeError, "runs no network"),
        (("a", "b"), {"space": "pixel"}, TypeError, "walks between pictures"),
    ],
)
def test_refuses_in_one_sentence(pipe, ends, options, error, words):
    with pytest.raises(error, match=words) as caught:
        interpolate(pipe, *ends, **{"space": "prompt", **options})
    assert "\n" not in str(caught.value)
    assert "encode_prompt" not in vars(pipe)


def test_embeddings_of_other_models_are_refused(unclip):
    ours, theirs = points(0)[0], points(1, width=5)[0]
    with pytest.raises(RecordError, match="embeddings of one model"):
        interpolate(unclip, ours, theirs)
    with pytest.raises(RecordError, match="embeddings of one model"):
        interpolate(unclip, points(0, model="a")[0], points(0, model="b")[0])
    with pytest.raises(ValueError, match="16 dimensions"):
        interpolate(unclip, theirs, theirs)
    with pytest.raises(TypeError, match="as end 1"):
        interpolate(unclip, 3, ours)


@pytest.fixture
def seeing(monkeypatch):
    """A CLIP that sees each picture as numbers of its own: the small pipelines have no tower."""

    class Seeing:
        def encode_image(self, one, label):
            rng = np.random.default_rng(np.asarray(one, np.uint32).sum())
            return Embedding(rng.standard_normal(tiny_unclip.WIDTH), label)

    monkeypatch.setattr("ldmkit.space.interpolate.clip_space", lambda pipe: Seeing())


@pytest.mark.slow
def test_inverted_ends_are_the_pictures_themselves(unclip, seeing):
    a, b = picture(0), picture(1, (48, 40))
    walk = interpolate(unclip, a, b, num_frames=3, num_inference_steps=32, invert=True)
    assert walk.points.shape == (3, 4, 8, 8)
    assert np.abs(walk.points[1] - slerp(walk.points[0], walk.points[2], 0.5)).max() <= 1e-5
    best = ldmkit.decode_latents(unclip, ldmkit.encode_image(unclip, a))  # without any noise
    plain = interpolate(unclip, a, b, t=[0], num_inference_steps=32, guidance_scale=1.0)
    assert mean(walk.images[0], best) < 0.4 * mean(plain.images[0], best)
    assert walk.call["guidance_scale"] == 1.0
    assert walk.labels == ("picture 1", "50 % picture 1, 50 % picture 2", "picture 2")


@pytest.mark.parametrize(
    ("ends", "options", "words"),
    [
        ((picture(0), picture(1)), {"space": "pixel"}, 'goes with space="clip_image"'),
        ((picture(0), picture(1)), {"latents": 3}, "leave latents= out"),
        ((picture(0), "a cat"), {}, "to invert, got str 'a cat' as end 2"),
    ],
)
def test_inverting_needs_pictures(unclip, seeing, ends, options, words):
    with pytest.raises(TypeError, match=words):
        interpolate(unclip, *ends, invert=True, num_inference_steps=2, **options)


EXACT = [
    *(
        (s, rounds, ends)
        for s in ("pixel", "latent")
        for rounds in (1, 2, 3)
        for ends in (2, 4, 6, 7)
    ),
    *((s, *way) for s in ("clip_image", "prompt", "noise") for way in ((1, 6), (2, 4))),
]


@pytest.mark.parametrize(("space", "rounds", "ends"), EXACT)
def test_ends_are_exact_whatever_their_number(pipe, unclip, space, rounds, ends):
    """Labels and pictures: that of a walk between two ends alone; ``t`` as near as numbers come."""
    given = {
        "pixel": [picture(i) for i in range(ends)],
        "latent": [picture(i) for i in range(ends)],
        "clip_image": points(*range(ends)),
        "prompt": [f"a {c} cat" for c in ("red", "blue", "black", "white", "green", "grey")],
        "noise": list(range(ends)),
    }[space][:ends]
    frames = rounds * (ends - 1) + 1
    which = unclip if space == "clip_image" else pipe
    call = {"space": space, "seed": 3}
    call |= {} if space in ("pixel", "latent") else {"num_inference_steps": 1}
    call |= {"prompt": "a cat"} if space == "noise" else {}
    walk = interpolate(which, *given, num_frames=frames, **call)
    assert walk.t.tolist() == [i / (frames - 1) for i in range(frames)]
    for number, end in enumerate(given):
        i = number * rounds
        assert "%" not in walk.labels[i], walk.labels[i]
        other = given[number - 1] if number else given[1]
        alone = interpolate(which, end, other, num_frames=2, **call)
        if space not in (
            "pixel",
            "latent",
        ):  # whose ends may differ in what an unnamed one is called
            assert walk.labels[i] == alone.labels[0]
        assert worst(walk.images[i], alone.images[0]) == 0
    between = [i for i in range(frames) if i % rounds]
    assert all("%" in walk.labels[i] for i in between)
