"""The ladder's recipe: minutes shared out, a stopped run that goes on, students that open."""

from __future__ import annotations

import json
import zlib

import pytest
import torch
from diffusers import StableDiffusionPipeline

import ldmkit
from ldmkit.recipes import ladder


def test_the_last_rungs_get_more_of_the_minutes():
    found = ladder.minutes_of([16, 8, 4, 2, 1], 100)
    assert sum(found.values()) == pytest.approx(100)
    assert found == {16: 10, 8: 10, 4: 20, 2: 20, 1: 40}
    assert ladder.minutes_of([1], 7) == {1: 7}


def test_each_wants_a_number_for_every_rung(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["ladder", "--rungs", "2", "1", "--each", "5"])
    with pytest.raises(SystemExit):
        ladder.main()
    assert "as many numbers as --rungs, got 1" in capsys.readouterr().err


def test_packed_weights_are_nearly_the_same_and_smaller_in_a_zip():
    weights = {"w": torch.randn(100_000, generator=torch.Generator().manual_seed(0))}
    packed = ladder.packed(weights)["w"]
    assert packed.dtype == torch.float16
    gaps = (packed.float() - weights["w"]).abs()
    # Half a step of eight bits; below 2⁻¹⁴ float16's steps no longer shrink.
    assert bool((gaps <= weights["w"].abs() * (2**-9 + 2**-11) + 2**-22).all())
    sizes = [len(zlib.compress(x.numpy().tobytes())) for x in (packed, weights["w"].half())]
    assert sizes[0] < 0.93 * sizes[1]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("short")
def test_one_command_trains_goes_on_and_writes_students(tmp_path, monkeypatch):
    captions = ladder.evaluate.captions  # obedience must be a number here, and no more
    monkeypatch.setattr(ladder.evaluate, "captions", lambda count, *which: captions(4, *which))
    updates, update = [], ladder.Run.update
    counted = lambda run, *args: updates.append(run.name) or update(run, *args)  # noqa: E731
    monkeypatch.setattr(ladder.Run, "update", counted)
    told = ["ladder", "--runs", tmp_path, "--drawings", 100, "--batch", 4, "--rungs", 8, 4]

    def lines(steps):
        text = (tmp_path / "ladder" / f"steps{steps}" / "metrics.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    for minutes in (0.1, 0.2):  # the second goes on where the first one was
        monkeypatch.setattr("sys.argv", [str(x) for x in (*told, "--minutes", minutes)])
        ladder.main()
    for steps in (8, 4):
        first, second = (line["step"] for line in lines(steps))
        assert 0 < first < second
        assert updates.count(f"ladder/steps{steps}") == second  # none was made again
        assert 0 <= lines(steps)[-1]["obedience"] <= 1
    folder = tmp_path / "ladder" / "model"
    student = ldmkit.load(folder, variant="steps4", device="cpu")
    traj = ldmkit.record(student, "a red cat", seed=0)
    assert len(traj.timesteps) == 4
    plain = StableDiffusionPipeline.from_pretrained(folder, variant="steps8")
    assert plain("a red cat", num_inference_steps=8, guidance_scale=1.0).images[0].size == (64, 64)
    settings = json.loads((folder / "ldmkit.json").read_text())["variants"]
    assert settings[""]["guidance_scale"] == 3.5  # the teacher's stay
    assert settings["steps8"] == {"num_inference_steps": 8, "guidance_scale": 1.0}
