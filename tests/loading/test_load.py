"""``load``: what it takes, in which order, and what it says when it can't."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import diffusers
import httpx
import numpy as np
import pytest
import tiny
import tiny_families
import torch
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled
from safetensors.torch import load_file, save_file

import ldmkit
from ldmkit.loading import catalog
from ldmkit.loading import open as opening
from ldmkit.loading.siblings import origin_of
from ldmkit.recording import record
from ldmkit.threads import one_thread

QUICK = {"num_inference_steps": 2, "guidance_scale": 4.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as the embedded model's: weights in float16, a student beside the U-Net."""
    path = tmp_path_factory.mktemp("models") / "tinies"
    pipe = tiny.pipeline(size="small")
    pipe.save_pretrained(path)
    for part in ("unet", "vae", "text_encoder"):
        for file in (path / part).glob("*.safetensors"):
            save_file({k: v.half() for k, v in load_file(file).items()}, file, {"format": "pt"})
    weights = path / "unet" / "diffusion_pytorch_model.safetensors"
    student = {name: value * 1.1 for name, value in load_file(weights).items()}
    save_file(student, weights.with_suffix(".steps4.safetensors"), {"format": "pt"})
    defaults = {
        "": {"num_inference_steps": 3, "guidance_scale": 4.0},
        "steps4": {"num_inference_steps": 4, "guidance_scale": 1.0},
    }
    (path / "ldmkit.json").write_text(json.dumps({"variants": defaults}))
    return path


def picture(pipe, **call):
    generator = torch.Generator("cpu").manual_seed(7)
    return np.asarray(pipe("a red cat", generator=generator, **(QUICK | call)).images[0])


def test_a_pipeline_is_given_back_as_it_is():
    pipe = tiny.pipeline(size="small")
    assert ldmkit.load(pipe) is pipe


def test_a_folder_is_a_plain_pipeline_and_the_picture_the_same_to_the_bit(folder):
    from diffusers import StableDiffusionPipeline

    ours = ldmkit.load(folder, device="cpu")
    plain = StableDiffusionPipeline.from_pretrained(folder)
    plain.set_progress_bar_config(disable=True)
    assert type(ours) is StableDiffusionPipeline
    assert {part.dtype for part in (ours.unet, ours.vae, ours.text_encoder)} == {torch.float32}
    assert np.array_equal(picture(ours), picture(plain))
    assert np.array_equal(picture(ldmkit.load(str(folder), device="cpu")), picture(plain))


def test_a_variant_opens_the_students_unet_and_the_usual_rest(folder):
    teacher = ldmkit.load(folder, device="cpu")
    student = ldmkit.load(folder, device="cpu", variant="steps4")
    ratio = student.unet.conv_out.weight.detach() / teacher.unet.conv_out.weight.detach()
    assert abs(float(ratio.median()) - 1.1) <= 2e-3  # float16
    assert torch.equal(student.vae.decoder.conv_in.weight, teacher.vae.decoder.conv_in.weight)
    assert not np.array_equal(picture(student), picture(teacher))


def test_what_the_weights_were_made_for_is_the_default_of_a_record(folder):
    teacher = ldmkit.load(folder, device="cpu")
    traj = record(teacher, "a cat", seed=7, preview="none")
    assert traj.call["num_inference_steps"] == len(traj.timesteps) == 3
    assert traj.call["guidance_scale"] == 4.0
    assert traj.model == "tinies"
    student = ldmkit.load(folder, device="cpu", variant="steps4")
    traj = record(student, "a cat", seed=7, preview="none")
    assert len(traj.timesteps) == 4
    assert traj.call["guidance_scale"] == 1.0
    assert traj.model == "tinies:steps4"
    assert len(record(student, "a cat", num_inference_steps=1, preview="none").timesteps) == 1


def test_a_sibling_keeps_the_origin(folder):
    from diffusers import StableDiffusionImg2ImgPipeline

    sibling = StableDiffusionImg2ImgPipeline.from_pipe(ldmkit.load(folder, device="cpu"))
    assert origin_of(sibling).name == "tinies"


def test_an_unknown_variant(folder):
    with pytest.raises(ValueError, match="variant must be one of steps4, got 'steps5'"):
        ldmkit.load(folder, variant="steps5")
    with pytest.raises(ValueError, match="variant must be left out for a pipeline that is open"):
        ldmkit.load(tiny.pipeline(size="small"), variant="steps4")


def test_a_folder_without_a_pipeline(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must hold model_index\.json") as error:
        ldmkit.load(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_folder_comes_before_a_name(folder, tmp_path, monkeypatch):
    (tmp_path / "critters").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    assert origin_of(ldmkit.load("critters", device="cpu")).name == "tinies"


def test_a_folder_that_only_has_a_models_name_is_no_pipeline(tmp_path, monkeypatch):
    (tmp_path / "critters").mkdir()  # such as the package's own sources
    monkeypatch.chdir(tmp_path)
    embedded = tmp_path / "weights"
    monkeypatch.setattr(catalog, "embedded_folder", lambda name: embedded / name)
    found, row = opening._local("critters")
    assert found == embedded / "critters"
    assert row is catalog.CATALOG["critters"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("criters", "did you mean 'critters'?"),
        ("Critters", "did you mean 'critters'?"),
        ("xyzzy", "ldmkit.models() lists the names"),
        ("", "neither a folder"),
        ("../../etc/passwd", "neither a folder"),
        ("a" * 10_000, "..."),
        ("https://example.org/a/b", "neither a folder"),
    ],
    ids=lambda value: value[:20],
)
def test_unknown_names(name, words):
    with pytest.raises(ValueError, match="neither a folder, nor a model's name") as error:
        ldmkit.load(name)
    assert words in str(error.value)
    assert len(str(error.value)) < 300


def test_what_is_none_of_it():
    for stranger in (7, None, print, object()):
        with pytest.raises(TypeError, match="load takes a name, folder, hub id"):
            ldmkit.load(stranger)


def test_a_hub_id_without_network():
    with pytest.raises(ConnectionError, match="hub can't be reached") as error:
        ldmkit.load("nobody/nothing")
    assert "critters" in str(error.value)
    with pytest.raises(ConnectionError, match="hub can't be reached"):
        ldmkit.loading.fetch("sd15")


def refused(status, error):
    response = httpx.Response(status, request=httpx.Request("GET", "https://hub"))
    return error("no", response=response)


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        (
            "flux-schnell",
            refused(401, GatedRepoError),
            "'black-forest-labs/FLUX.1-schnell' is gated: accept its licence on the hub's page, "
            "then run `hf auth login`.",
        ),
        (
            "flux-schnell",
            OfflineModeIsEnabled("no"),
            "'black-forest-labs/FLUX.1-schnell' is not on this machine and the hub can't be "
            "reached; go online (it is gated, too: accept its licence on the hub's page, then run "
            '`hf auth login`) and run `ldmkit fetch flux-schnell`, or load "critters", which '
            "needs no network.",
        ),
        (
            "lcm-sdxl",
            OfflineModeIsEnabled("no"),
            "'stabilityai/stable-diffusion-xl-base-1.0' is not on this machine and the hub can't "
            'be reached; go online and run `ldmkit fetch lcm-sdxl`, or load "critters", which '
            "needs no network.",
        ),
        (
            "sdxl",
            refused(429, HfHubHTTPError),
            "The hub refused 'stabilityai/stable-diffusion-xl-base-1.0' with status 429; try again "
            "later, or run `hf auth whoami` to see whether it knows you.",
        ),
    ],
)
def test_what_keeps_a_model_away_is_one_sentence(monkeypatch, name, error, said):
    def fail(*args, **kwargs):
        raise OSError("a wrapper of diffusers'") from error

    monkeypatch.setattr("ldmkit.loading.memory.check_room", lambda *args: None)
    monkeypatch.setattr(opening, "parts_of", fail)
    monkeypatch.setattr(opening, "fetch_parts", fail)
    for way in (lambda: ldmkit.load(name, device="cpu"), lambda: ldmkit.loading.fetch(name)):
        with pytest.raises(ConnectionError) as raised:
            way()
        assert str(raised.value) == said


def test_a_hub_that_is_away_is_said_once(capfd):
    with pytest.raises(ConnectionError, match="hub can't be reached"):
        ldmkit.load("stabilityai/sd-turbo", device="cpu")
    assert "connect to the Hub" not in capfd.readouterr().err


@pytest.mark.filterwarnings("ignore:The `local_dir_use_symlinks`:UserWarning")
def test_the_consistency_model_of_xl_is_put_together(tmp_path, monkeypatch):
    parts = tiny_families.modular_sdxl().components
    names = ("vae", "unet", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    base = diffusers.StableDiffusionXLPipeline(
        **{name: parts[name] for name in names}, scheduler=parts["scheduler"]
    )
    base.save_pretrained(tmp_path / "base", variant="fp16")
    base.unet.conv_in.weight.data += 1
    base.unet.save_pretrained(tmp_path / "lcm", variant="fp16")
    row = dataclasses.replace(catalog.CATALOG["lcm-sdxl"], hub_id=str(tmp_path / "base"))
    monkeypatch.setitem(catalog.CATALOG, "lcm-sdxl", row)
    monkeypatch.setattr("ldmkit.loading.memory.check_room", lambda *args: None)
    monkeypatch.setattr(opening, "XL", str(tmp_path / "base"))
    monkeypatch.setattr(opening, "LCM_XL", str(tmp_path / "lcm"))
    pipe = ldmkit.load("lcm-sdxl", device="cpu")
    assert type(pipe) is diffusers.StableDiffusionXLPipeline
    assert type(pipe.scheduler) is diffusers.LCMScheduler
    assert torch.equal(pipe.unet.conv_in.weight, base.unet.conv_in.weight)
    assert origin_of(pipe).defaults == {"num_inference_steps": 4, "guidance_scale": 8.0}


def test_missing_embedded_weights(tmp_path, monkeypatch):
    from importlib import resources

    monkeypatch.setattr(resources, "files", lambda package: tmp_path)
    with pytest.raises(FileNotFoundError, match="weights of 'critters' are not in this"):
        ldmkit.load("critters")


def test_code_that_comes_with_weights_is_not_run(folder, tmp_path):
    evil = tmp_path / "evil"
    evil.mkdir()
    index = json.loads((folder / "model_index.json").read_text())
    index["unet"] = ["my_unet", "Unet"]
    (evil / "model_index.json").write_text(json.dumps(index))
    (evil / "my_unet.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ValueError, match="runs no code that comes with weights"):
        ldmkit.load(evil)


@pytest.mark.parametrize("content", ["", "[1]", "\xff", '{"a": ' + " " * 2_000_000 + "1}"])
def test_a_broken_index(content, tmp_path):
    (tmp_path / "model_index.json").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=r"model_index\.json must"):
        ldmkit.load(tmp_path)


def test_pickled_weights_are_not_read(folder, tmp_path):
    copy = tmp_path / "pickled"
    pipe = ldmkit.load(folder, device="cpu")
    pipe.save_pretrained(copy)
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(ValueError, match="only safetensors are read"):
        ldmkit.load(copy)


@pytest.mark.parametrize(
    "content", ['{"variants": [1]}', '{"variants": {"": {"guidance_scale": "x"}}}']
)
def test_broken_defaults(content, folder, tmp_path):
    copy = tmp_path / "copy"
    ldmkit.load(folder, device="cpu").save_pretrained(copy)
    (copy / "ldmkit.json").write_text(content)
    with pytest.raises(ValueError, match=r"ldmkit\.json must give numbers per variant"):
        ldmkit.load(copy)


def test_bad_devices_and_types(folder):
    with pytest.raises(ValueError, match="device must be a name that torch knows"):
        ldmkit.load(folder, device="abacus")
    with pytest.raises(ValueError, match='dtype must be "float32"'):
        ldmkit.load(folder, dtype="int8")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match='use "cpu"'):
            ldmkit.load(folder, device="cuda")


def test_progress_bars_and_the_collector_are_as_before(folder):
    import gc

    from diffusers.utils import logging as of_diffusers

    assert of_diffusers.is_progress_bar_enabled()
    ldmkit.load(folder, device="cpu")
    assert of_diffusers.is_progress_bar_enabled()
    assert gc.isenabled()


def test_importing_loading_imports_no_torch():
    code = (
        "import sys, ldmkit.loading; ldmkit.loading.models(); "
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    root = str(Path(ldmkit.__file__).parents[1])
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


embedded = Path(ldmkit.__file__).parent / "critters" / "weights" / "critters"


def test_the_embedded_model():
    from diffusers import StableDiffusionPipeline

    pipe = ldmkit.load("critters", device="cpu")
    plain = StableDiffusionPipeline.from_pretrained(embedded)
    plain.set_progress_bar_config(disable=True)
    with one_thread():  # as ldmkit computes it; two threads add in another order
        assert np.array_equal(picture(pipe), picture(plain))
    networks = (pipe.unet, pipe.vae, pipe.text_encoder)
    parameters = sum(weight.numel() for part in networks for weight in part.parameters())
    assert abs(parameters / catalog.CATALOG["critters"].parameters - 1) < 0.05
    assert {"num_inference_steps", "guidance_scale"} <= set(origin_of(pipe).defaults)
