"""On an NVIDIA GPU: recipes train there and go on from their checkpoint."""

import importlib
import json

import pytest
import torch

from ldmkit.recipes import train

pytestmark = pytest.mark.cuda


@pytest.mark.parametrize("name", ["unet", "decoder", "prior", "autoencoder", "clip", "judge"])
def test_a_recipe_trains_and_goes_on(name, tmp_path, monkeypatch):
    recipe = importlib.import_module(f"ldmkit.recipes.{name}")
    told = ["--runs", tmp_path, "--drawings", 500, "--rate", 1e-4]
    told += ["--device", "cuda"]
    if name == "unet":
        told += ["--autoencoder", train.VAE, "--clip", train.CLIP]
        told += ["--from", train.UNET]
    if name == "decoder":
        told += ["--from", str(train.WEIGHTS / "critters-unclip" / "unet")]
        told += ["--reading-steps", 0]
    for minutes in (0.05, 0.1):
        command = [name, *map(str, told), "--minutes", str(minutes)]
        monkeypatch.setattr("sys.argv", command)
        recipe.main()
    state = json.loads((tmp_path / name / "state.json").read_text())
    lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
    assert 5 < state["seconds"] < 30
    assert state["step"] > json.loads(lines[0])["step"]
    if name in ("unet", "decoder"):  # warm, at a low rate: about as good as the shipped weights
        assert json.loads(lines[-1])["v_mse"] < 0.3
    assert torch.cuda.max_memory_allocated() > 0
