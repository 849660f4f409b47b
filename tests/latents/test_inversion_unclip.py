"""``ldmkit.invert`` of an unCLIP: the picture's own embedding is told to the decoder."""

import numpy as np
import pytest
import tiny
import tiny_unclip
import torch
from tiny import picture

import ldmkit
from ldmkit.records import Embedding
from ldmkit.space.unclip import unclip_of

STEPS = 8
# Few steps on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:The fixed point did not settle")


@pytest.fixture(scope="module")
def unclip():
    pipe = tiny_unclip.stable()
    with torch.no_grad():  # a random network's answers made small, so that few rounds settle
        pipe.unet.conv_out.weight.mul_(0.1)
        pipe.unet.conv_out.bias.zero_()
    return pipe


def point(seed):
    return Embedding(np.random.default_rng(seed).standard_normal(tiny_unclip.WIDTH), str(seed))


def invert(unclip, *args, **options):
    return ldmkit.invert(unclip, *args, num_inference_steps=STEPS, fixed_point=12, **options)


def decode(unclip, embedding, noise, **options):
    options = {"num_inference_steps": STEPS, "guidance_scale": 1.0, "seed": 3} | options
    return ldmkit.decode_embedding(unclip, embedding, latents=noise, **options).latents[-1]


@pytest.mark.parametrize("options", [{}, {"noise_level": 400}, {"prompt": "a red cat"}])
def test_decoding_brings_the_picture_back(unclip, options):
    start = ldmkit.encode_image(unclip, picture()).numpy()
    noise = invert(unclip, picture(), embedding=point(1), seed=3, **options)
    assert np.abs(decode(unclip, point(1), noise, **options) - start).max() <= 1e-4
    # another embedding, or other noise on it, is another picture
    assert np.abs(decode(unclip, point(2), noise, **options) - start).max() > 1e-3
    if options.get("noise_level"):
        assert np.abs(decode(unclip, point(1), noise, seed=4, **options) - start).max() > 1e-3


@pytest.mark.slow
def test_several_pictures(unclip):
    pictures, points = [picture(1), picture(2)], [point(1), point(2)]
    both = invert(unclip, pictures, embedding=points)
    alone = invert(unclip, pictures[1], embedding=points[1])
    assert (both[1:] - alone).abs().max() <= 5e-3  # the noise of level 0 is each row's own
    assert invert(unclip, pictures, embedding=points[0]).shape == both.shape


def test_a_decoder_told_by_its_own_keyword_is_a_pipeline_like_any_other(unclip):
    decoder = unclip_of(unclip).decoder()
    vectors = torch.tensor(point(1).vector)[None]
    alone = invert(decoder, picture(), image_embeds=vectors, noise_level=0)
    assert torch.equal(invert(unclip, picture(), embedding=point(1)), alone)


def test_who_hears_words_alone_takes_no_embedding():
    with pytest.raises(TypeError, match="hears no embedding, only words"):
        ldmkit.invert(tiny.pipeline(size="small"), picture(), embedding=point(1))


def test_refused_in_one_sentence(unclip):
    with pytest.raises(RuntimeError, match="only the text half of its CLIP"):
        ldmkit.invert(unclip, picture())
    with pytest.raises(ValueError, match="got 2 embeddings and 1 pictures"):
        ldmkit.invert(unclip, picture(), embedding=[point(1), point(2)])
    with pytest.raises(ValueError, match="16 dimensions"):
        ldmkit.invert(unclip, picture(), embedding=Embedding(np.ones(8)))
    with pytest.raises(TypeError, match="takes one text, got prompt="):
        ldmkit.invert(unclip, picture(), ["a", "b"], embedding=point(1))
