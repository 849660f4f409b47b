"""``load`` on the unCLIP families: folders, and parts that lie in several repositories."""

import dataclasses
import json

import diffusers
import numpy as np
import pytest
import tiny_unclip
import torch

import ldmkit
from ldmkit.loading import assembled, catalog, opening
from ldmkit.loading.origin import origin_of

STEPS = {"num_inference_steps": 2}
FAMILIES = ("stable", "kandinsky", "karlo")


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
    monkeypatch.setattr(assembled, "KARLO", str(folders / "karlo"))
    monkeypatch.setattr(assembled, "CLIP_LARGE", str(tmp_path / "clip"))
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


def test_a_repository_that_left_the_hub():
    class RepositoryNotFoundError(Exception):
        pass

    row = catalog.CATALOG["stable-unclip"]
    error = opening._hub_error(row.hub_id, RepositoryNotFoundError())
    assert "a copy that you have" in str(error)
