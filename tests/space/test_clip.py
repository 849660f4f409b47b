"""``clip_space`` against plain transformers calls, on the embedded CLIP and on random ones."""

import contextlib
import shutil
import warnings

import numpy as np
import pytest
import tiny
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

import ldmkit
from ldmkit import critters
from ldmkit.records import Embedding, RecordError
from ldmkit.space.clip import ClipSpace
from ldmkit.space.encoders import embedded_folder, space_name

SEEDS = range(400_000, 400_012)
SCENES = [critters.Scene.sample(seed) for seed in SEEDS]
TEXTS = [scene.caption(seed) for seed, scene in zip(SEEDS, SCENES, strict=True)]
DRAWINGS = [scene.draw() for scene in SCENES]


@pytest.fixture(scope="module")
def clip():
    return ldmkit.clip_space("critters")


@pytest.fixture(scope="module")
def plain():
    """The embedded CLIP as transformers opens it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = embedded_folder()
        return CLIPModel.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def small():
    """A small random CLIPModel whose text positions and dimensions are not the embedded one's."""
    words = tiny.tokenizer()
    sizes = {
        "projection_dim": 12,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
    }
    sizes["num_attention_heads"] = 2
    ids = {name: getattr(words, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = sizes | ids | {"vocab_size": len(words), "max_position_embeddings": 20}
    vision = sizes | {"image_size": 32, "patch_size": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32)
    return model.eval(), CLIPProcessor(image_processor=images, tokenizer=words)


class Parts:
    """A pipeline of some other family: its parts by name are all that is looked at."""

    def __init__(self, **parts):
        self.components = parts
        vars(self).update(parts)


def halves(model, folder):
    """The two halves as a pipeline carries them, opened from the whole model's folder."""
    model.save_pretrained(folder)
    return (
        CLIPTextModelWithProjection.from_pretrained(folder),
        CLIPVisionModelWithProjection.from_pretrained(folder),
    )


def vectors(embeddings):
    return np.stack([one.vector for one in embeddings])


def test_texts_are_what_transformers_says(clip, plain):
    model, processor = plain
    words = processor.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        want = model.get_text_features(**words).pooler_output.numpy()
    assert np.abs(vectors(clip.encode_text(TEXTS)) - want).max() <= 1e-6
    assert np.abs(clip.encode_text(TEXTS[3]).vector - want[3]).max() <= 2e-6  # another padding


def test_pictures_are_what_transformers_says(clip, plain):
    model, processor = plain
    others = [Image.effect_mandelbrot((90, 50), (-2, -1, 1, 1), 20).convert("RGB")]
    pictures = DRAWINGS + others
    pixels = processor.image_processor(pictures, return_tensors="pt").pixel_values
    with torch.no_grad():
        want = model.get_image_features(pixel_values=pixels).pooler_output.numpy()
    assert np.abs(vectors(clip.encode_image(pictures)) - want).max() <= 1e-6


def test_logits_are_clips_own(clip, plain):
    model, processor = plain
    inputs = processor(text=TEXTS, images=DRAWINGS, padding=True, return_tensors="pt")
    with torch.no_grad():
        want = model(**inputs).logits_per_image
    cosines = clip.similarity(DRAWINGS, TEXTS)
    assert np.abs(clip.scale * cosines - want.numpy()).max() <= 1e-4
    shares = [row["probabilities"] for row in clip.zero_shot(DRAWINGS, TEXTS)]
    assert np.abs(np.stack(shares) - want.softmax(dim=1).numpy()).max() <= 1e-6


def test_many_are_encoded_in_parts(clip):
    many = [TEXTS[i % len(TEXTS)] for i in range(40)]
    assert (
        np.abs(vectors(clip.encode_text(many))[36] - vectors(clip.encode_text(TEXTS))[0]).max()
        <= 2e-6
    )
    pictures = [DRAWINGS[i % len(DRAWINGS)] for i in range(40)]
    assert len(clip.encode_image(pictures)) == 40


def test_labels_kinds_and_origin(clip, tmp_path):
    text = clip.encode_text("a red cat")
    assert (text.label, text.kind, text.model, len(text)) == (
        "a red cat",
        "text",
        "critters-clip",
        128,
    )
    assert clip.encode_text("").label == "no words"
    DRAWINGS[0].save(tmp_path / "my cat.png")
    opened = clip.encode_image(Image.open(tmp_path / "my cat.png"))
    assert (opened.label, opened.kind) == ("my cat.png", "image")
    assert clip.encode_image(DRAWINGS[0]).label == "a picture"
    assert clip.encode_image(DRAWINGS[:2], label=["one", "two"])[1].label == "two"
    assert clip.encode_image(DRAWINGS[0], label="mine").label == "mine"
    with pytest.raises(ValueError, match="got 2 pictures and 1 labels"):
        clip.encode_image(DRAWINGS[:2], label="mine")


def test_a_caption_finds_its_picture(clip):
    cosines = clip.similarity(TEXTS, DRAWINGS)
    assert cosines.shape == (12, 12)
    assert (cosines.argmax(axis=1) == np.arange(12)).mean() >= 0.9
    own = clip.similarity(TEXTS)
    assert np.abs(own - own.T).max() <= 1e-9
    assert np.abs(own.diagonal() - 1).max() <= 1e-6


def test_nearest(clip):
    cosines = clip.similarity([TEXTS[5]], DRAWINGS)[0]
    table = clip.nearest(TEXTS[5], clip.encode_image(DRAWINGS), 3)
    assert table["index"] == list(np.argsort(-cosines)[:3])
    assert abs(table[0]["similarity"] - cosines.max()) <= 1e-9
    assert isinstance(table[0]["embedding"], Embedding)
    assert clip.nearest(DRAWINGS[5], TEXTS)["label"][0] == TEXTS[5]


def test_zero_shot_of_one_picture_and_of_several(clip):
    one = clip.zero_shot(DRAWINGS[5], TEXTS)
    assert one.columns == ("text", "similarity", "probability")
    assert one[0]["text"] == TEXTS[5]
    assert abs(sum(one["probability"]) - 1) <= 1e-9
    assert one["probability"] == sorted(one["probability"], reverse=True)
    several = clip.zero_shot([DRAWINGS[5], clip.encode_image(DRAWINGS[6])], TEXTS)
    assert several["text"] == TEXTS[5:7]


LONG = "a happy red cat wearing a top hat and " * 3 + "a big dog in the snow"


def test_long_texts_are_cut_aloud(clip, plain):
    with pytest.warns(UserWarning, match=r"reads 30 tokens .* no effect: 'in the snow'") as said:
        cut = clip.encode_text(LONG)
    fell = str(said[0].message).partition("no effect: '")[2].partition("'")[0]
    kept = LONG[: -len(fell)].rstrip()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = clip.encode_text(kept)
    assert np.abs(cut.vector - whole.vector).max() <= 2e-6  # what was named is what had no effect
    assert cut.label == LONG
    with pytest.warns(UserWarning, match="the ends of 1 more texts"):
        clip.encode_text([LONG, "a cat", LONG])


def test_a_word_is_cut_within(small):
    space = ldmkit.clip_space(small[0], processor=small[1])
    with pytest.warns(UserWarning, match="reads 18 tokens .* 'overlookedoverlooked'"):
        space.encode_text("cat " + "overlookedoverlooked")


@pytest.mark.parametrize(
    "picture",
    [
        Image.new("RGB", (1, 1), "red"),
        Image.new("RGB", (1, 3), "red"),
        Image.new("RGB", (1, 30_000), "red"),
        Image.new("RGB", (4000, 2), "red"),
        Image.new("CMYK", (8, 90)),
        Image.new("RGBA", (64, 64), (255, 0, 0, 0)),
        Image.new("I;16", (70, 70), 65_535),
        Image.new("1", (63, 65), 1),
    ],
    ids=lambda picture: f"{picture.mode} {picture.width}×{picture.height}",
)
def test_every_picture_becomes_a_point(clip, picture):
    told = picture.mode == "I;16"
    with pytest.warns(UserWarning, match="eight bits") if told else contextlib.nullcontext():
        embedding = clip.encode_image(picture)
    colour = picture.convert("RGB").getpixel((0, 0)) if picture.mode == "RGB" else None
    if colour is not None:
        assert (
            embedding.similarity(clip.encode_image(Image.new("RGB", (64, 64), colour))) > 1 - 1e-6
        )
    elif picture.mode in ("RGBA", "I;16", "1"):  # transparent, deep and one-bit white
        assert (
            embedding.similarity(clip.encode_image(Image.new("RGB", (64, 64), "white"))) > 1 - 1e-6
        )


def test_whatever_holds_the_picture_gives_the_same_point(clip, tmp_path):
    one = DRAWINGS[0]
    want = clip.encode_image(one)
    one.save(tmp_path / "cat.png")
    pixels = np.asarray(one)
    for same in (tmp_path / "cat.png", str(tmp_path / "cat.png"), pixels, pixels / 255):
        found = clip.encode_image(same)
        assert np.array_equal(found.vector, want.vector)
        assert found.label == ("a picture" if isinstance(same, np.ndarray) else "cat.png")
    assert len(clip.encode([tmp_path / "cat.png", "a red cat", pixels, want])) == 4
    assert clip.similarity(tmp_path / "cat.png", one) == pytest.approx(1)
    assert len(clip.encode_image(np.stack([pixels] * 3))) == 3


@pytest.mark.parametrize(
    ("pictures", "kind", "words"),
    [
        ("cat.png", TypeError, "PIL"),
        (b"\x89PNG", TypeError, "PIL"),
        (None, TypeError, "PIL"),
        (np.full((64, 64, 3), 2.0), ValueError, "floats from 0 to 1"),
        ([DRAWINGS[0], "cat.png"], TypeError, "PIL"),
        ([], ValueError, r"one picture or more, got \[\]"),
        (Image.new("1", (40_000, 1001)), ValueError, "40,000,000 pixels, this one has 40000 ×"),
    ],
)
def test_what_is_no_picture(clip, pictures, kind, words):
    with pytest.raises(kind, match=words):
        clip.encode_image(pictures)


@pytest.mark.parametrize(
    ("texts", "kind", "words"),
    [
        (None, TypeError, "got None"),
        (7, TypeError, "string or a list"),
        ([], ValueError, "at least one"),
        (["a cat", None], TypeError, "string or a list"),
        ("x" * 200_000, ValueError, "100,000 characters"),
        ("a \ud800 cat", ValueError, "half a letter"),
    ],
)
def test_what_is_no_text(clip, texts, kind, words):
    with pytest.raises(kind, match=words):
        clip.encode_text(texts)


def test_strangers_and_nothing(clip, small):
    other = ldmkit.clip_space(small[0], processor=small[1])
    with pytest.raises(RecordError, match="12 dimensions of 'CLIPModel'"):
        clip.similarity(["a cat"], [other.encode_text("a cat")])
    with pytest.raises(ValueError, match="got none"):
        clip.nearest("a cat", [])
    with pytest.raises(ValueError, match="got none"):
        clip.zero_shot([], ["a cat"])
    a = clip.encode_text("a cat")
    with pytest.raises(RecordError, match="zero vector"):
        clip.nearest(a - a, TEXTS)


def test_a_model_and_its_folder(small, tmp_path):
    model, processor = small
    model.save_pretrained(tmp_path / "my-clip")
    processor.save_pretrained(tmp_path / "my-clip")
    of_object = ldmkit.clip_space(model, processor=processor)
    of_folder = ldmkit.clip_space(tmp_path / "my-clip")
    assert of_folder.name == "my-clip"
    for space in (of_object, of_folder):
        words = processor.tokenizer(["a red cat"], return_tensors="pt")
        pixels = processor.image_processor([DRAWINGS[0]], return_tensors="pt").pixel_values
        with torch.no_grad():
            text = model.get_text_features(**words).pooler_output[0].numpy()
            picture = model.get_image_features(pixel_values=pixels).pooler_output[0].numpy()
        assert np.abs(space.encode_text("a red cat").vector - text).max() <= 1e-6
        assert np.abs(space.encode_image(DRAWINGS[0]).vector - picture).max() <= 1e-6
    assert ldmkit.clip_space(of_folder) is of_folder


@pytest.mark.parametrize(
    "names",
    [
        ("prior_text_encoder", "prior_tokenizer", "image_encoder", "feature_extractor"),
        ("text_encoder", "tokenizer", "image_encoder", "image_processor"),
        ("prior_text_encoder", "prior_tokenizer", "prior_image_encoder", "prior_image_processor"),
    ],
    ids=["stable unclip", "kandinsky prior, karlo", "kandinsky combined"],
)
def test_the_clip_inside_a_pipeline(small, tmp_path, names):
    model, processor = small
    text, image = halves(model, tmp_path)
    parts = (text, processor.tokenizer, image, processor.image_processor)
    space = ldmkit.clip_space(Parts(**dict(zip(names, parts, strict=True))))
    whole = ldmkit.clip_space(model, processor=processor)
    for ours, theirs in (
        (space.encode_text("a red cat"), whole.encode_text("a red cat")),
        (space.encode_image(DRAWINGS[0]), whole.encode_image(DRAWINGS[0])),
    ):
        assert np.abs(ours.vector - theirs.vector).max() <= 1e-6
    assert space.name == "Parts"


def test_half_a_clip_says_so(small, tmp_path):
    model, processor = small
    text, image = halves(model, tmp_path)
    words = ldmkit.clip_space(Parts(prior_text_encoder=text, prior_tokenizer=processor.tokenizer))
    assert repr(words) == "ClipSpace('Parts', encodes text)"
    assert words.encode_text("a cat").kind == "text"
    with pytest.raises(RuntimeError, match=r"only the text half of its CLIP.*clip-vit-large"):
        words.encode_image(DRAWINGS[0])
    eyes = ldmkit.clip_space(
        Parts(image_encoder=image, feature_extractor=processor.image_processor)
    )
    with pytest.raises(RuntimeError, match="only the image half"):
        eyes.encode_text("a cat")


def test_a_pipeline_with_half_of_the_embedded_clip_has_all_of_it(clip, plain, tmp_path):
    text, _ = halves(plain[0], tmp_path)
    unclip = Parts(prior_text_encoder=text, prior_tokenizer=plain[1].tokenizer)
    space = ldmkit.clip_space(unclip)
    assert space.name == space_name(unclip) == "critters-clip"
    assert space.encode_image(DRAWINGS[0]).similarity(clip.encode_image(DRAWINGS[0])) == 1
    assert space.scale == clip.scale


def test_the_embedded_pipeline_leads_to_the_embedded_clip(clip):
    folder = embedded_folder().parent / "critters"
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    assert ldmkit.clip_space(pipe).name == "critters-clip"
    assert ldmkit.clip_space(folder).name == "critters-clip"


def test_a_pipeline_without_projection_is_refused():
    with pytest.raises(
        TypeError, match=r"StableDiffusionPipeline has no CLIP .* lacks the projection"
    ):
        ldmkit.clip_space(tiny.pipeline(size="small"))


@pytest.mark.parametrize(
    ("what", "kind", "words"),
    [
        (7, TypeError, "takes a name, a folder, a CLIPModel or a pipeline, got 7"),
        (None, TypeError, "clip_space"),
        ("nobody/nothing-here", ConnectionError, "go online"),
    ],
)
def test_what_has_no_space(what, kind, words):
    with pytest.raises(kind, match=words):
        ldmkit.clip_space(what)


def test_bad_folders(small, tmp_path):
    with pytest.raises(ValueError, match="has none"):
        ldmkit.clip_space(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "siglip"}')
    with pytest.raises(ValueError, match="says 'siglip'"):
        ldmkit.clip_space(tmp_path)
    shutil.copytree(embedded_folder(), tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"no pickle is opened")
    with pytest.raises(ValueError, match="'pickled' can't be opened as a CLIPModel"):
        ldmkit.clip_space(tmp_path / "pickled")
    with pytest.raises(TypeError, match="needs its processor beside it"):
        ldmkit.clip_space(small[0])


def test_another_precision(clip):
    half = ldmkit.clip_space("critters", dtype="bfloat16")
    assert half.encode_text("a red cat").similarity(clip.encode_text("a red cat")) > 0.99
    assert isinstance(half, ClipSpace)
    assert CLIPTokenizer.from_pretrained(embedded_folder()).model_max_length == 32


def test_gap(clip):
    found = clip.gap(TEXTS, DRAWINGS)
    assert found.paired
    cosines = clip.similarity(TEXTS, DRAWINGS)
    assert np.abs(found.cosines - cosines).max() <= 1e-6
    assert abs(found.own.value - cosines.diagonal().mean()) <= 1e-6
    assert found.own.low > found.between.high
    moved = clip.encode_text("a cat") + found.mean
    assert moved.label == "a cat + the mean gap"
    with pytest.raises(RecordError, match="of 'critters-clip' and 128 dimensions of 'x'"):
        clip.gap([Embedding(np.ones(128), "a", "text", "x")] * 3, DRAWINGS)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("critterz", "did you mean 'critters'?"),
        ("criters-clip", "did you mean 'critters-clip'?"),
        ("", "neither a folder"),
        ("a b c", "ldmkit.models() lists the names"),
        ("x\0y", "neither a folder"),
        ("x" * 5000, "neither a folder"),
    ],
)
def test_an_unknown_name_asks_no_network(name, said, monkeypatch):
    monkeypatch.setattr("ldmkit.space.clip.open_folder", lambda *a, **k: pytest.fail("it asked"))
    with pytest.raises(ValueError, match="neither a folder") as raised:
        ldmkit.clip_space(name)
    assert said in str(raised.value)
    assert len(str(raised.value)) < 300


def test_an_open_model_is_where_it_is():
    for option in ({"device": "cpu"}, {"dtype": "float32"}):
        with pytest.raises(TypeError, match="must be left out for what is open already"):
            ldmkit.clip_space(ldmkit.clip_space("critters"), **option)
