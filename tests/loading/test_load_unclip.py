"""``load`` on the unCLIP families: folders, and parts that lie in several repositories."""

import dataclasses
import json
from pathlib import Path

import diffusers
import numpy as np
import pytest
import tiny_unclip
import torch

import ldmkit
from ldmkit.loading import catalog
from ldmkit.loading import open as opening
from ldmkit.loading.siblings import origin_of
from ldmkit.threads import one_thread

STEPS = {"num_inference_steps": 2}
FAMILIES = ("stable", "kandinsky", "karlo")


@pytest.fixture(autouse=True)
def room(monkeypatch):
    """Small folders stand for models that a laptop's memory may not hold."""
    monkeypatch.setattr("ldmkit.loading.memory.check_room", lambda *args: None)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Each family as ``save_pretrained`` writes it."""
    root = tmp_path_factory.mktemp("unclip")
    for name in FAMILIES:
        getattr(tiny_unclip, name)().save_pretrained(root / name)
    return root


def picture(pipe):
    z = ldmkit.sample_prior(pipe, "a red cat", seed=1, **STEPS)
    small = {"height": 32, "width": 32} if "Kandinsky" in type(pipe).__name__ else {}
    return z.vector, np.asarray(ldmkit.decode_embedding(pipe, z, seed=2, **STEPS, **small).image)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_folder_of_each_family(folders, name, caplog):
    opened = ldmkit.load(folders / name, device="cpu")
    whole = getattr(tiny_unclip, name)()
    assert type(opened) is type(whole)
    assert origin_of(opened).name == name
    assert all(map(np.array_equal, picture(opened), picture(whole)))
    assert "will not receive bug fixes" not in caplog.text


def test_karlos_class_is_found_where_the_hubs_files_say(folders):
    index = folders / "karlo" / "model_index.json"
    content = json.loads(index.read_text())
    index.write_text(json.dumps(content | {"text_proj": ["unclip", "UnCLIPTextProjModel"]}))
    assert type(ldmkit.load(folders / "karlo", device="cpu")).__name__ == "UnCLIPPipeline"
    index.write_text(json.dumps(content))
    # and what was lent to diffusers was taken back
    assert not hasattr(diffusers.pipelines, "unclip")
    assert not hasattr(diffusers, "UnCLIPTextProjModel")


def named(monkeypatch, name, folder):
    row = dataclasses.replace(catalog.CATALOG[name], hub_id=str(folder))
    monkeypatch.setitem(catalog.CATALOG, name, row)


def test_karlo_by_name(folders, monkeypatch):
    named(monkeypatch, "karlo", folders / "karlo")
    opened = ldmkit.load("karlo", device="cpu")
    assert origin_of(opened).name == "karlo"
    assert np.array_equal(picture(opened)[0], picture(tiny_unclip.karlo())[0])


def test_stable_unclip_gets_karlos_prior(folders, tmp_path, monkeypatch):
    stable, karlo = tiny_unclip.stable(), tiny_unclip.karlo()
    parts = {k: v for k, v in stable.components.items() if not k.startswith("prior")}
    diffusers.StableUnCLIPImg2ImgPipeline(
        feature_extractor=tiny_unclip.processor(),
        image_encoder=tiny_unclip.vision_encoder(),
        **parts,
    ).save_pretrained(tmp_path / "decoder")
    karlo.text_encoder.save_pretrained(tmp_path / "clip")
    karlo.tokenizer.save_pretrained(tmp_path / "clip")
    named(monkeypatch, "stable-unclip", tmp_path / "decoder")
    monkeypatch.setattr(opening, "KARLO", str(folders / "karlo"))
    monkeypatch.setattr(opening, "CLIP_LARGE", str(tmp_path / "clip"))
    opened = ldmkit.load("stable-unclip", device="cpu")
    assert type(opened) is diffusers.StableUnCLIPPipeline
    assert origin_of(opened).name == "stable-unclip"
    assert type(opened.prior_scheduler) is diffusers.DDPMScheduler
    betas = opened.prior_scheduler.betas - karlo.prior_scheduler.betas
    assert betas.abs().max() <= 1e-6  # the cosine schedule, not DDPM's own
    assert torch.equal(opened.prior.proj_in.weight, karlo.prior.proj_in.weight)
    assert torch.equal(opened.unet.conv_in.weight, stable.unet.conv_in.weight)
    assert picture(opened)[1].shape == (32, 32, 3)


def test_kandinsky_brings_the_prior_that_it_names(tmp_path, monkeypatch):
    whole = tiny_unclip.kandinsky()
    whole.prior_pipe.save_pretrained(tmp_path / "prior")
    whole.decoder_pipe.save_pretrained(tmp_path / "decoder")
    (tmp_path / "decoder" / "README.md").write_text(f"---\nprior:\n- {tmp_path / 'prior'}\n---\n")
    named(monkeypatch, "kandinsky22", tmp_path / "decoder")
    opened = ldmkit.load("kandinsky22", device="cpu")
    assert type(opened) is diffusers.KandinskyV22CombinedPipeline
    assert all(map(np.array_equal, picture(opened), picture(whole)))


@pytest.mark.parametrize("name", ["stable-unclip", "kandinsky22", "karlo"])
def test_names_without_network(name):
    with pytest.raises(ConnectionError, match="hub can't be reached"):
        ldmkit.load(name)
    with pytest.raises(ConnectionError, match="hub can't be reached"):
        ldmkit.loading.fetch(name)
    assert catalog.CATALOG[name].checked == "random weights only"


EMBEDDED = Path(ldmkit.__file__).parent / "critters" / "weights" / "critters-unclip"


def test_the_embedded_one_is_a_plain_folder():
    pipe = ldmkit.load("critters-unclip", device="cpu")
    plain = diffusers.StableUnCLIPPipeline.from_pretrained(EMBEDDED)
    plain.set_progress_bar_config(disable=True)
    calls = {"num_inference_steps": 2, "prior_num_inference_steps": 2}
    with one_thread():  # as ldmkit computes it; two threads add in another order
        pictures = [
            one("a red cat", generator=torch.Generator().manual_seed(1), **calls).images[0]
            for one in (pipe, plain)
        ]
    assert np.array_equal(*map(np.asarray, pictures))
    networks = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    parameters = sum(weight.numel() for part in networks for weight in part.parameters())
    assert abs(parameters / catalog.CATALOG["critters-unclip"].parameters - 1) < 0.05
    assert {"num_inference_steps", "prior_guidance_scale"} <= set(origin_of(pipe).defaults)


@pytest.mark.slow
def test_what_the_embedded_one_was_made_for_is_the_default():
    pipe = ldmkit.load("critters-unclip", device="cpu")
    made_for = origin_of(pipe).defaults
    z = ldmkit.sample_prior(pipe, "a red cat", seed=0)
    traj = ldmkit.decode_embedding(pipe, z, seed=0, preview="none", keep=())
    assert z.model == "critters-clip"
    assert len(traj.timesteps) == made_for["num_inference_steps"]
    assert traj.call["guidance_scale"] == made_for["guidance_scale"]
    assert len(traj.stages[0].timesteps) == made_for["prior_num_inference_steps"]
    assert traj.stages[0].call["guidance_scale"] == made_for["prior_guidance_scale"]
    assert traj.model == "critters-unclip"


def test_the_embedded_one_is_listed_where_it_is():
    assert ("critters-unclip" in ldmkit.models()["name"]) == (
        EMBEDDED / "model_index.json"
    ).exists()


def test_embedded_weights_that_are_not_here(tmp_path, monkeypatch):
    from importlib import resources

    monkeypatch.setattr(resources, "files", lambda package: tmp_path)
    with pytest.raises(FileNotFoundError, match=r"ldmkit\.recipes\.unclip"):
        ldmkit.load("critters-unclip")
    assert not {"critters", "critters-unclip"} & set(ldmkit.models()["name"])


def test_a_repository_that_left_the_hub():
    class RepositoryNotFoundError(Exception):
        pass

    row = catalog.CATALOG["stable-unclip"]
    error = opening._hub_error(row.name, row.hub_id, RepositoryNotFoundError())
    assert "a copy that you have" in str(error)
