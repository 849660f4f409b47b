"""Prompts between prompts, in a family whose ``encode_prompt`` returns more than one thing."""

import numpy as np
import pytest
import tiny
import tiny_unclip
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from ldmkit.recording import record
from ldmkit.space.interpolate import interpolate
from ldmkit.space.paths import slerp
from ldmkit.space.prompts import Between, mixing

CALL = {"num_inference_steps": 2, "guidance_scale": 3.0}
WIDTH = tiny_unclip.WIDTH


@pytest.fixture(autouse=True)
def as_in_a_pipelines_call():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def xl():
    """A small Stable Diffusion XL: two text encoders, pooled words, sizes as conditions."""
    base = tiny.pipeline(size="small")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        words = CLIPTextConfig(
            vocab_size=len(base.tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=32,
            projection_dim=WIDTH,
            bos_token_id=base.tokenizer.bos_token_id,
            eos_token_id=base.tokenizer.eos_token_id,
        )
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16),
            down_block_types=("CrossAttnDownBlock2D",) * 2,
            up_block_types=("CrossAttnUpBlock2D",) * 2,
            layers_per_block=1,
            cross_attention_dim=2 * WIDTH,
            attention_head_dim=[1, 2],
            norm_num_groups=4,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=WIDTH + 6 * 4,
        )
        pipe = StableDiffusionXLPipeline(
            vae=base.vae,
            text_encoder=CLIPTextModel(words),
            text_encoder_2=tiny_unclip.text_encoder(base.tokenizer),
            tokenizer=base.tokenizer,
            tokenizer_2=base.tokenizer,
            unet=unet,
            scheduler=base.scheduler,
            add_watermarker=False,
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_pooled_words_are_mixed_too(xl):
    ends = ("a red cat", "a white owl in the snow")
    walk = interpolate(xl, *ends, space="prompt", num_frames=4, negative_prompt="fox", **CALL)
    for i, words in ((0, ends[0]), (3, ends[1])):
        alone = record(xl, words, seed=0, negative_prompt="fox", **CALL)
        assert np.array_equal(np.asarray(walk.images[i]), np.asarray(alone.image))
    told = [xl.encode_prompt(words, negative_prompt="fox") for words in ends]
    with mixing(xl) as read:
        mixed = xl.encode_prompt([Between(ends, t, "slerp") for t in (0.25, 0.5)])
    assert len(read) == 2
    for part in (0, 2):  # the words, then the pooled words; 1 and 3 are the negative ones
        a, b = (one[part][0].double().numpy() for one in told)
        for row, t in enumerate((0.25, 0.5)):
            assert np.abs(mixed[part][row].numpy() - slerp(a, b, t)).max() <= 1e-5
    plain = xl.encode_prompt("a red cat")
    assert torch.equal(mixed[1][0], plain[1][0])
    assert "encode_prompt" not in vars(xl)


def test_other_prompts_pass_untouched(xl):
    want = xl.encode_prompt("a red cat")
    with mixing(xl) as read:
        got = xl.encode_prompt("a red cat")
    assert torch.equal(want[0], got[0])
    assert read == []


def test_a_wrapper_of_the_users_own_comes_back():
    pipe = tiny.pipeline(size="small")
    own = pipe.encode_prompt

    def mine(*args, **kwargs):
        return own(*args, **kwargs)

    pipe.encode_prompt = mine
    with mixing(pipe):
        pass
    assert pipe.encode_prompt is mine


def test_between_is_the_nearest_prompts_words():
    assert Between(("a", "b", "c"), 0.6, "slerp") == "b"
    assert Between(("a", "b"), 0.9, "lerp") == "b"
