"""Text diffs against the paper's formula, sums of embeddings, what is refused."""

import numpy as np
import pytest
import tiny
import tiny_unclip
import torch
from tiny import picture

import ldmkit
from ldmkit.records import Embedding, RecordError
from ldmkit.space.arithmetic import difference, weighted_sum
from ldmkit.space.clip import ClipSpace
from ldmkit.space.encoders import ImageHalf, TextHalf

STEPS = {"num_inference_steps": 8}
pytestmark = pytest.mark.filterwarnings("ignore:The fixed point did not settle")


@pytest.fixture(scope="module")
def unclip():
    pipe = tiny_unclip.stable()
    with torch.no_grad():  # a random network's answers made small, so that few rounds settle
        pipe.unet.conv_out.weight.mul_(0.1)
        pipe.unet.conv_out.bias.zero_()
    return pipe


@pytest.fixture(scope="module")
def clip(unclip):
    """A whole random CLIP: the pipeline's text half and an eye of the same width."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        eye = tiny_unclip.vision_encoder().eval()
    words, processor = unclip.prior_text_encoder, tiny_unclip.processor()
    return ClipSpace(
        "StableUnCLIPPipeline",
        TextHalf(lambda **x: words(**x).text_embeds, words, unclip.prior_tokenizer),
        ImageHalf(lambda **x: eye(**x).image_embeds, eye, processor),
    )


def unit(vector):
    return vector / np.linalg.norm(vector)


def papers_point(clip, picture, source, target, theta):
    """slerp(z_i, norm(z_t − z_t0), θ), written down anew, at the picture's own length."""
    image = clip.encode_image(picture).vector.astype(np.float64)
    t0, t = (unit(clip.encode_text(text).vector.astype(np.float64)) for text in (source, target))
    a, b = unit(image), unit(t - t0)
    omega = np.arccos(a @ b)
    point = (np.sin((1 - theta) * omega) * a + np.sin(theta * omega) * b) / np.sin(omega)
    return np.linalg.norm(image) * point


def test_embeddings_are_the_papers(unclip, clip):
    walk = ldmkit.text_diff(
        unclip, picture(), "a cat", "a cat with a crown", clip=clip, fixed_point=1, **STEPS
    )
    assert np.abs(walk.t - [0, 0.1, 0.2, 0.3, 0.4]).max() <= 1e-9
    for theta, embedding in zip(walk.t, walk.embeddings, strict=True):
        want = papers_point(clip, picture(), "a cat", "a cat with a crown", theta)
        assert np.abs(embedding.vector - want).max() <= 1e-5
    assert walk.title == "a cat → a cat with a crown"
    assert (walk.axis, walk.space, walk.method) == ("θ", "clip_image", "slerp")
    assert walk.labels[1] == "θ = 0.1"
    assert walk.call["source"] == "a cat"
    assert walk.verdicts == ()  # nobody can judge what is no critter


def test_it_begins_at_the_picture_itself(unclip, clip):
    alone = ldmkit.decode_latents(unclip, ldmkit.encode_image(unclip, picture()))
    walk = ldmkit.text_diff(
        unclip, picture(), "a cat", "a dog", clip=clip, num_frames=2, fixed_point=12, **STEPS
    )
    first, last = (np.asarray(image, np.int16) for image in walk.images)
    assert np.abs(first - np.asarray(alone, np.int16)).max() <= 1
    assert np.abs(first - last).max() > 1


def test_each_frame_is_its_embedding_decoded_from_the_inverted_noise(unclip, clip):
    walk = ldmkit.text_diff(
        unclip,
        picture(),
        "a cat",
        "a dog",
        clip=clip,
        theta=(0.3, 0.3),
        num_frames=1,
        noise_level=100,
        seed=4,
        **STEPS,
    )
    here = clip.encode_image(picture())
    noise = ldmkit.invert(unclip, picture(), embedding=here, seed=4, noise_level=100, **STEPS)
    want = ldmkit.decode_embedding(
        unclip,
        walk.embeddings[0],
        latents=noise,
        seed=4,
        noise_level=100,
        guidance_scale=1.0,
        **STEPS,
    )
    assert np.array_equal(np.asarray(walk.images[0]), np.asarray(want.image))


def test_without_inversion_and_from_an_embedding(unclip, clip):
    here = clip.encode_image(picture())
    options = {"clip": clip, "num_frames": 3, "seed": 2, **STEPS}
    one = ldmkit.text_diff(unclip, picture(), "a cat", "a dog", invert=False, **options)
    two = ldmkit.text_diff(unclip, here, "a cat", "a dog", **options)
    start = ldmkit.decode_embedding(unclip, here, seed=2, **STEPS)
    for a, b in zip(one.images, two.images, strict=True):
        assert np.array_equal(np.asarray(a), np.asarray(b))
    assert np.abs(np.asarray(one.images[0], int) - np.asarray(start.image, int)).max() <= 1
    assert (one.call["inverted"], two.call["inverted"]) == (False, False)
    noise = torch.zeros(1, *start.latents.shape[2:])
    given = ldmkit.text_diff(unclip, here, "a cat", "a dog", latents=noise, **options)
    assert given.call["inverted"] is False, "what the caller began from was not found"


def test_a_large_picture_is_fitted(unclip, clip):
    walk = ldmkit.text_diff(
        unclip, picture(1, (90, 60)), "", "a dog", clip=clip, num_frames=2, fixed_point=0, **STEPS
    )
    assert walk.images[0].size == (32, 32)
    assert walk.title == "no words → a dog"


def test_a_walk_may_be_stopped(unclip, clip):
    walk = ldmkit.text_diff(
        unclip,
        picture(),
        "a cat",
        "a dog",
        clip=clip,
        invert=False,
        batch_size=1,
        on_frame=lambda number, image: number < 1,
        **STEPS,
    )
    assert len(walk) == 2
    assert walk.t[1] == 0.1


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"theta": (0.0, 1.2)}, ValueError, "between 0 and 1 inclusive, got"),
        ({"theta": (-0.1, 0.4)}, ValueError, "between 0 and 1 inclusive, got"),
        ({"theta": (0.4, 0.1)}, ValueError, "rising"),
        ({"theta": (0.0, float("nan"))}, ValueError, "theta must be a finite number"),
        ({"theta": 0.4}, TypeError, "two numbers, the first and the last, got 0.4"),
        ({"num_frames": 0}, ValueError, "num_frames"),
        ({"num_frames": 2.5}, TypeError, "num_frames"),
        ({"source": None}, TypeError, "source must be a text, got None"),
        ({"target": ["a", "b"]}, TypeError, "target must be a text"),
        ({"target": "a cat"}, ValueError, "must say different things, got 'a cat' and 'a cat'"),
        ({"picture": "cat.png"}, TypeError, "must be a picture, a scene, an earlier run"),
        ({"picture": Embedding(np.ones(4))}, ValueError, "16 dimensions|4 dimensions"),
        ({"latents": torch.zeros(1, 4, 8, 8)}, TypeError, "invert=True finds the latents itself"),
        ({"hight": 3}, TypeError, "height"),
    ],
)
def test_refused_in_one_sentence(unclip, clip, arguments, kind, words):
    call = {"picture": picture(), "source": "a cat", "target": "a dog", "clip": clip}
    call |= {"fixed_point": 0, **STEPS}
    with pytest.raises(kind, match=words):
        ldmkit.text_diff(unclip, **call | arguments)


def test_a_pipeline_that_decodes_no_embeddings():
    with pytest.raises(TypeError, match=r"takes an unCLIP pipeline.*got StableDiffusionPipeline"):
        ldmkit.text_diff(tiny.pipeline(size="small"), picture(), "a cat", "a dog")


def test_half_a_clip_says_what_to_give(unclip):
    with pytest.raises(RuntimeError, match="only the text half"):
        ldmkit.text_diff(unclip, picture(), "a cat", "a dog")


def test_difference_is_a_direction(clip):
    found = difference(clip, "a cat", "a cat with a crown")
    assert abs(found.norm - 1) <= 1e-6
    assert (found.label, found.kind) == ("norm(a cat with a crown − a cat)", "difference")
    back = difference(clip, "a cat with a crown", "a cat")
    assert np.abs(found.vector + back.vector).max() <= 1e-6


def point(numbers, label, kind="text"):
    return Embedding(np.asarray(numbers, np.float32), label, kind, "m")


PHOTO = point([3, 0, 0], "photo.png", "image")
CROWN, NOTHING = point([0, 1, 0], "a crown"), point([0, 0, 1], "nothing")


def test_weighted_sum_keeps_a_length_that_decoders_know():
    total = weighted_sum([(1, PHOTO), (0.5, CROWN), (-0.5, NOTHING)])
    assert total.label == "photo.png + 0.5 × a crown − 0.5 × nothing"
    assert (total.kind, total.model) == ("difference", "m")
    assert abs(total.norm - (3 + 1) / 2) <= 1e-6
    direction = np.array([3, 0.5, -0.5])
    assert np.abs(unit(total.vector) - unit(direction)).max() <= 1e-6
    assert weighted_sum([(1, PHOTO)]).label == "photo.png"
    assert weighted_sum([(-1, CROWN), (2, PHOTO)]).label == "−a crown + 2 × photo.png"


@pytest.mark.parametrize(
    ("terms", "kind", "words"),
    [
        ([], RecordError, "positive weight, got 0 terms"),
        ([(-1, PHOTO)], RecordError, "positive weight, got 1 terms"),
        ([(0, PHOTO), (0, CROWN)], RecordError, "positive weight"),
        ([(1, PHOTO), (-1, PHOTO)], RecordError, "its terms cancel"),
        ([(float("nan"), PHOTO)], ValueError, "finite number, got nan"),
        ([(True, PHOTO)], TypeError, "weight must be a number, got True"),
        ([PHOTO], TypeError, "pair of a weight"),
        ([(1, "a cat")], TypeError, "pair of a weight"),
        ([(1, PHOTO), (1, Embedding(np.ones(3), "x", "text", "n"))], RecordError, "of 'n'"),
    ],
)
def test_bad_sums(terms, kind, words):
    with pytest.raises(kind, match=words):
        weighted_sum(terms)
