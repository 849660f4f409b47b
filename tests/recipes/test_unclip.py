"""Prior, decoder and the pipeline folder: against diffusers' own, and one short run of each."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    StableUnCLIPImg2ImgPipeline,
    StableUnCLIPPipeline,
    UNet2DConditionModel,
)
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
    StableUnCLIPImageNormalizer,
)
from safetensors.torch import load_file
from transformers import CLIPModel, CLIPVisionModelWithProjection

from ldmkit.critters.judging import HEADS
from ldmkit.critters.world import EVALUATION_SEED
from ldmkit.distilling.muon import Muon
from ldmkit.recipes import data, decoder, prior, train, unclip

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CAPTIONS = ["a red cat", "a big blue dog with a top hat on the beach"]


@torch.no_grad()
def _gap(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


@pytest.fixture(scope="module")
def normalizer() -> StableUnCLIPImageNormalizer:
    torch.manual_seed(0)
    return prior.fit(3 * torch.randn(200, prior.WIDTH) + torch.randn(prior.WIDTH))


@pytest.fixture(scope="module")
def pipe(normalizer: StableUnCLIPImageNormalizer) -> StableUnCLIPPipeline:
    torch.manual_seed(1)
    unet = decoder.warm_start(train.UNET)
    return unclip.assemble(prior.build(normalizer).eval(), unet, normalizer)


@torch.no_grad()
def test_the_decoder_starts_as_the_unet_that_it_came_from(tmp_path: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(train.UNET, dtype=torch.float32)
    fresh = decoder.warm_start(train.UNET)
    x, t, words = torch.randn(2, 4, 16, 16), torch.tensor([3, 900]), torch.randn(2, 32, 128)
    for vector in (torch.zeros(2, 256), torch.randn(2, 256)):
        assert (
            _gap(fresh(x, t, words, class_labels=vector).sample, unet(x, t, words).sample) <= 1e-5
        )
    torch.nn.init.normal_(fresh.class_embedding.linear_2.weight)
    fresh.save_pretrained(tmp_path)
    again = decoder.warm_start(str(tmp_path))  # a decoder goes on as it is
    assert _gap(again.class_embedding.linear_2.weight, fresh.class_embedding.linear_2.weight) == 0


@torch.no_grad()
def test_a_wider_decoder_starts_as_nearly_the_same_function() -> None:
    """Also where the old class embedding speaks; and the reader's answers stand in the new part."""
    torch.manual_seed(0)
    unet = decoder.warm_start(train.UNET)
    torch.nn.init.normal_(unet.class_embedding.linear_2.weight, std=0.1)
    reader = decoder.fresh_reader(unet, 400)
    vectors = torch.randn(3000, 256)
    wide = decoder.widen(unet, reader, vectors)
    x, t, words = torch.randn(8, 4, 16, 16), torch.arange(8) * 120, torch.randn(8, 32, 128)
    ours, theirs, deaf = (
        u(x, t, words, class_labels=v).sample
        for u, v in ((wide, vectors[:8]), (unet, vectors[:8]), (unet, vectors[8:16]))
    )
    assert (ours - theirs).square().mean() < 0.35 * (deaf - theirs).square().mean()
    told = wide.class_embedding(vectors)[:, decoder.time_width(unet) :]
    silu = torch.nn.functional.silu
    assert _gap(told, reader.linear_2(silu(reader.linear_1(vectors)))) <= 1e-5
    new = wide.time_embedding.linear_1.weight[decoder.time_width(unet) :]
    assert new.abs().amax(1).min() > 0  # hidden units that can learn


def test_nothing_is_learned_from_tuning_and_evaluation_drawings(tmp_path: Path) -> None:
    seeds = data.training_seeds(401_000)
    assert len(set(seeds)) == 401_000
    assert seeds.max() < data.TUNING_SEED
    assert (np.diff(seeds[data.TUNING_SEED :]) == 1).all()  # so that they are drawn in rows
    assert data.training_seeds(10_000_000)[-1] == -1
    with pytest.raises(ValueError, match="10000000 training drawings, got 10000500"):
        prior.Pictures().training(10_000_500, tmp_path)
    with pytest.raises(ValueError, match="evaluation is kept apart"):
        next(data.drawn(1000, EVALUATION_SEED - 500))
    with pytest.raises(ValueError, match="tuning is kept apart"):
        data.drawings(1000, data.TUNING_SEED - 500, tmp_path)
    with pytest.raises(ValueError, match="evaluation is kept apart"):
        data.drawings(1000, EVALUATION_SEED - 500, tmp_path)
    assert not list(tmp_path.iterdir())


@torch.no_grad()
def test_a_reader_is_taken_out_and_put_back() -> None:
    torch.manual_seed(0)
    unet = decoder.warm_start(train.UNET)
    torch.nn.init.normal_(unet.class_embedding.linear_2.weight, std=0.1)
    reader, vectors = decoder.fresh_reader(unet, 400), torch.randn(3000, 256)
    wide = decoder.widen(unet, reader, vectors)
    found = decoder.reader_of(wide)
    for name, parameter in reader.named_parameters():
        if name.startswith("linear"):
            assert _gap(found.get_parameter(name), parameter) == 0
    before, width = wide.class_embedding(vectors), decoder.time_width(wide)
    for parameter in found.parameters():
        parameter.mul_(0.5)
    decoder.put_back(wide, found, vectors)
    after = wide.class_embedding(vectors)
    old, new = before[:, :width], after[:, :width]
    assert (new - old).square().mean() < 0.1 * old.var(0).mean()  # it says nearly what it said
    silu = torch.nn.functional.silu
    told = found.linear_2(silu(found.linear_1(vectors)))
    assert _gap(after[:, width:], told) <= 1e-5
    assert _gap(after[:, width:], before[:, width:]) > 0.01


def test_a_held_reader_says_the_same_after_training() -> None:
    start = decoder.warm_start(train.UNET)
    unet = decoder.widen(start, decoder.fresh_reader(start, 232), torch.randn(500, 256))
    decoder.hold(unet)
    vectors, old = torch.randn(4, 256), decoder.time_width(unet)
    before = unet.class_embedding(vectors).detach()
    optimizer = Muon(decoder.for_muon(unet), lr=0.01)
    for step in range(3):
        optimizer.zero_grad()
        x, words = torch.randn(4, 4, 16, 16), torch.randn(4, 32, 128)
        unet(x, torch.tensor(step), words, class_labels=vectors).sample.square().mean().backward()
        optimizer.step()
    after = unet.class_embedding(vectors).detach()
    assert _gap(after[:, old:], before[:, old:]) == 0
    assert _gap(after[:, :old], before[:, :old]) > 0.01


def _score(reader: decoder.Reader, vectors: torch.Tensor, table: torch.Tensor) -> dict[str, float]:
    """Share of right answers of each attribute, where the drawing shows it."""
    with torch.no_grad():
        answers = reader(vectors)
    shares = {}
    for column, (name, logits) in enumerate(answers.items()):
        shown = table[:, column] != -1
        right = (logits.argmax(1) == table[:, column])[shown]
        shares[name] = float(right.float().mean())
    return shares


def test_a_reader_learns_what_vectors_hold() -> None:
    """Two attributes in the signs of two numbers; the third head has no answers and learns none."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    x = torch.randn(4000, 16)
    table = torch.full((4000, len(HEADS)), -1)
    table[:, 1], table[:, 3] = (x[:, 0] > 0).long(), (x[:, 1] * x[:, 2] > 0).long()
    fresh = decoder.Reader(16, 32, 32)
    reader = decoder.teach(lambda i: x[torch.from_numpy(i)], table[:3000], fresh, 200, rng)
    shares = _score(reader, x[3000:], table[3000:])
    names = list(HEADS)
    assert shares[names[1]] > 0.95
    assert shares[names[3]] > 0.9  # not linear
    assert np.isnan(shares[names[0]])


def test_a_unet_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    config = dict(UNet2DConditionModel.load_config(train.UNET))
    config |= {
        "class_embed_type": "simple_projection",
        "projection_class_embeddings_input_dim": 64,
    }
    UNet2DConditionModel.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"without a place \['class_embedding"):
        decoder.warm_start(str(tmp_path))


def test_class_vectors_are_the_pipelines(
    pipe: StableUnCLIPPipeline, normalizer: StableUnCLIPImageNormalizer
) -> None:
    vectors, e = decoder.Vectors(normalizer), torch.randn(3, 128)
    for level in (0, 300, 999):
        noise = torch.randn(e.shape, generator=torch.manual_seed(7))
        torch.manual_seed(7)
        ours = vectors(e, torch.full((3,), level))
        theirs = pipe.noise_image_embeddings(e, level, noise=noise)
        assert _gap(ours, theirs) <= 1e-6


def test_whole_vectors_are_dropped_and_low_levels_dominate(
    normalizer: StableUnCLIPImageNormalizer,
) -> None:
    vectors = decoder.Vectors(normalizer).training(
        torch.randn(4000, 128) + 5, np.random.default_rng(0)
    )
    empty = (vectors == 0).all(1)
    assert 0.08 < float(empty.float().mean()) < 0.12
    assert not (vectors[~empty][:, 128:] == 0).all(1).any()  # the level's half goes with it
    clean = vectors[~empty][:, 128:]
    at_zero = get_timestep_embedding(
        torch.zeros(1), 128, flip_sin_to_cos=True, downscale_freq_shift=0
    )
    assert 0.65 < float((clean == at_zero).all(1).float().mean()) < 0.75


@torch.no_grad()
def test_padding_left_out_changes_nothing(pipe: StableUnCLIPPipeline) -> None:
    embeds, states, mask = pipe._encode_prior_prompt(CAPTIONS, "cpu", 1, False)
    x, t = torch.randn(2, 128), torch.tensor([5, 900])
    theirs = pipe.prior(x, t, embeds, states, mask).predicted_image_embedding
    length = int(mask.sum(1).max())
    short = {
        "proj_embedding": embeds,
        "encoder_hidden_states": states[:, :length],
        "attention_mask": mask[:, :length],
    }
    assert length < 32
    assert _gap(prior.predict(pipe.prior, x, t, short), theirs) <= 1e-5
    heard = prior.Words(train.CLIP, "cpu")(CAPTIONS)  # bfloat16 arithmetic where there is
    assert _gap(heard["proj_embedding"], embeds) <= 0.05 * float(embeds.abs().max())


def test_each_dimension_is_scaled_to_mean_0_and_deviation_1() -> None:
    e = torch.randn(500, 128) * torch.linspace(0.5, 4, 128) + 3
    x = prior.fit(e).scale(e)
    assert _gap(x.mean(0), torch.zeros(128)) <= 1e-5
    assert _gap(x.std(0), torch.ones(128)) <= 1e-5


def _run(monkeypatch: pytest.MonkeyPatch, name: str, runs: Path, *options: str) -> Path:
    few = ["--minutes", "0.05", "--drawings", "100", "--batch", "16"]
    arguments = ["--runs", str(runs), *few, *options]
    monkeypatch.setattr("sys.argv", [name, *arguments])
    importlib.import_module(f"ldmkit.recipes.{name}").main()
    lines = (runs / name / "metrics.jsonl").read_text().splitlines()
    assert all(np.isfinite(v) for v in json.loads(lines[-1]).values())
    return runs / name / "model"


@pytest.mark.usefixtures("short")
def test_from_drawings_to_an_unclip_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = {
        "prior": str(_run(monkeypatch, "prior", tmp_path)),
        "decoder": str(_run(monkeypatch, "decoder", tmp_path, "--reading-steps", "30")),
    }
    options = ["--prior", trained["prior"], "--decoder", trained["decoder"]]
    monkeypatch.setattr("sys.argv", ["unclip", *options, "--runs", str(tmp_path)])
    unclip.main()
    folder = tmp_path / "unclip"

    for path in folder.rglob("*.safetensors"):
        assert {t.dtype for t in load_file(path).values() if t.is_floating_point()} == {
            torch.float16
        }
    assert not [p for p in folder.rglob("*.json") if str(tmp_path) in p.read_text()]
    pipe = StableUnCLIPPipeline.from_pretrained(folder)  # float32, as its configurations say
    settings = json.loads((folder / "ldmkit.json").read_text())["variants"][""]
    few = settings | {"num_inference_steps": 2, "prior_num_inference_steps": 2}
    picture = pipe("a red cat", **few, generator=torch.manual_seed(400_000)).images[0]
    assert np.asarray(picture).shape == (64, 64, 3)
    assert _gap(pipe.prior.clip_mean, pipe.image_normalizer.mean) == 0


@pytest.mark.usefixtures("short")
def test_a_decoder_goes_on_with_its_reader_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = str(train.WEIGHTS / "critters-unclip" / "unet")
    held = ("--reading-steps", "0", "--hold", "--batch", "8")
    folder = _run(monkeypatch, "decoder", tmp_path, *held, "--from", shipped)
    before, after = (
        UNet2DConditionModel.from_pretrained(f, dtype=torch.float32).class_embedding
        for f in (shipped, folder / "unet")
    )
    told = slice(192, None)  # the reader's rows; those before are denoising's
    assert _gap(before.linear_1.weight, after.linear_1.weight) == 0
    assert _gap(before.linear_2.weight[told], after.linear_2.weight[told]) == 0
    assert _gap(before.linear_2.weight, after.linear_2.weight) > 0
    with pytest.raises(ValueError, match=r"--hold keeps a reader as it is, and .* has none"):
        _run(monkeypatch, "decoder", tmp_path / "none", *held)


@torch.no_grad()
def test_embeddings_are_what_the_image_encoder_of_a_plain_pipeline_gives(
    pipe: StableUnCLIPPipeline,
) -> None:
    whole = CLIPModel.from_pretrained(train.CLIP, dtype=torch.float32)
    encoder = CLIPVisionModelWithProjection(whole.config.vision_config).eval()
    names = encoder.state_dict().keys()
    encoder.load_state_dict({k: v for k, v in whole.state_dict().items() if k in names})
    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    embedded = prior.Pictures().embed(pictures)
    assert _gap(encoder(data.to_tensor(pictures)).image_embeds, embedded) <= 1e-5

    parts = {n: getattr(pipe, n) for n in ("tokenizer", "text_encoder", "unet", "scheduler", "vae")}
    parts |= {n: getattr(pipe, n) for n in ("image_normalizer", "image_noising_scheduler")}
    other = StableUnCLIPImg2ImgPipeline(feature_extractor=None, image_encoder=encoder, **parts)
    picture = other(prompt="", image_embeds=embedded[:1], num_inference_steps=2).images[0]
    assert np.asarray(picture).shape == (64, 64, 3)
