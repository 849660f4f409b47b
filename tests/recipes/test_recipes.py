"""Every recipe runs with one command and writes a folder that plain classes open."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors.torch import load_file
from transformers import CLIPModel, CLIPTokenizer

from ldmkit.recipes import judge, preview
from ldmkit.recording.preview import SmallDecoder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.usefixtures("short")]


def _run(monkeypatch: pytest.MonkeyPatch, name: str, runs: Path, *options: str) -> Path:
    arguments = [
        name,
        "--runs",
        runs,
        "--minutes",
        0.05,
        "--drawings",
        100,
        "--batch",
        16,
        *options,
    ]
    monkeypatch.setattr("sys.argv", [str(a) for a in arguments])
    importlib.import_module(f"ldmkit.recipes.{name}").main()
    lines = (runs / name / "metrics.jsonl").read_text().splitlines()
    logged = json.loads(lines[-1])
    assert logged["loss"] > 0
    assert all(np.isfinite(v) for v in logged.values())
    return runs / name / "model"


def test_from_drawings_to_a_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _run(monkeypatch, "autoencoder", tmp_path)
    stored = load_file(folder / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert 0 < AutoencoderKL.from_pretrained(folder).config.scaling_factor < 100

    clip = _run(monkeypatch, "clip", tmp_path)
    model = CLIPModel.from_pretrained(clip)
    assert model.dtype == torch.float32  # as its configuration says
    assert CLIPTokenizer.from_pretrained(clip).model_max_length == 32

    monkeypatch.setattr(judge, "RECODED", 20)
    _run(monkeypatch, "judge", tmp_path, "--autoencoder", str(folder))

    options = ("--autoencoder", str(folder), "--clip", str(clip))
    pipe = StableDiffusionPipeline.from_pretrained(_run(monkeypatch, "unet", tmp_path, *options))
    picture = pipe("a red cat", num_inference_steps=2).images[0]
    assert np.asarray(picture).shape == (64, 64, 3)
    with torch.no_grad():
        ids = pipe.tokenizer("a red cat", return_tensors="pt").input_ids
        ours = pipe.text_encoder(ids).last_hidden_state
        theirs = model.text_model(ids).last_hidden_state
    assert float((ours - theirs).abs().max()) <= 1e-6


def test_a_small_decoder_for_the_pictures_of_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _run(monkeypatch, "preview", tmp_path, "--lessons", "10")
    fresh, shipped = SmallDecoder.open(folder), preview.WEIGHTS / "critters" / "preview"
    assert fresh.autoencoder == SmallDecoder.open(shipped).autoencoder
    again = ("--lessons", "10", "--from", "shipped", "--rate", "0")
    same = _run(monkeypatch, "preview", tmp_path / "again", *again)
    before, after = (load_file(f / "model.safetensors") for f in (shipped, same))
    assert {tensor.dtype for tensor in after.values()} == {torch.float16}
    assert max(float((after[n].float() - w.float()).abs().max()) for n, w in before.items()) <= 1e-3


def test_a_warm_start_begins_where_the_weights_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _run(monkeypatch, "autoencoder", tmp_path)
    before = AutoencoderKL.from_pretrained(folder, dtype=torch.float32).state_dict()
    again = ("--from", str(folder), "--rate", "0", "--decoder-only", "--seed", "1")
    after = AutoencoderKL.from_pretrained(
        _run(monkeypatch, "autoencoder", tmp_path / "again", *again), dtype=torch.float32
    ).state_dict()
    gaps = {name: float((after[name] - before[name]).abs().max()) for name in before}
    assert max(gaps.values()) <= 1e-3, max(gaps, key=gaps.__getitem__)
