"""What every recipe shares: runs that go on, and exports that replace nothing but their own."""

from __future__ import annotations

import argparse
import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ldmkit.recipes import train
from ldmkit.recipes.train import WEIGHTS, Run

RECIPES = ("autoencoder", "clip", "decoder", "judge", "preview", "prior", "unclip", "unet")


def toy(folder: Path) -> Run:
    torch.manual_seed(1)
    model = torch.nn.Linear(3, 2)
    return Run("toy", model, torch.optim.SGD(model.parameters(), 0.1, 0.9), 1.0, 0.1, folder)


@pytest.mark.parametrize("torn", ["", "{", '{"step": 7', "[]", None])
def test_a_torn_state_file_ends_no_run(torn: str | None, tmp_path: Path) -> None:
    run = toy(tmp_path)
    run.update(run.model(torch.ones(4, 3)).square().mean())
    run.step, run.seconds = 7, 3.25
    run.save()
    state = tmp_path / "toy" / "state.json"
    assert json.loads(state.read_text()) == {"step": 7, "seconds": 3.25}
    state.unlink() if torn is None else state.write_text(torn)
    again = toy(tmp_path)
    assert (again.step, again.seconds) == (7, 3.25)


def test_a_stop_while_saving_leaves_the_earlier_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = toy(tmp_path)
    run.step = 1
    run.save()
    before = {path.name: path.read_bytes() for path in (tmp_path / "toy").iterdir()}

    def stop(tensors: object, path: Path, words: object = None) -> None:
        path.write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "save_file", stop)
    run.step = 2
    with pytest.raises(KeyboardInterrupt):
        run.save()
    assert {path.name: path.read_bytes() for path in (tmp_path / "toy").iterdir()} == before


def test_averages_follow_the_weights_at_a_pace_that_slows_down(tmp_path: Path) -> None:
    """Closed form: kept is min(decay, (1 + n) / (10 + n)) at step n, nothing of fresh weights."""
    run = toy(tmp_path)
    expected = run.model.weight.detach().clone()
    for n in range(30):
        run.update(run.model(torch.full((4, 3), float(n % 3))).square().mean())
        run.step += 1
        kept = min(0.999, (1 + n) / (10 + n)) if n else 0.0
        expected = kept * expected + (1 - kept) * run.model.weight.detach()
    assert float((run.average["weight"] - expected).abs().max()) <= 1e-6
    weights = run.model.weight.detach().clone()
    assert float((run.average["weight"] - weights).abs().max()) > 1e-4
    with run.averaged():
        assert not run.model.training
        assert torch.equal(run.model.weight, run.average["weight"])
    assert run.model.training
    assert torch.equal(run.model.weight, weights)


def test_averaged_weights_go_out_again_when_an_evaluation_fails(tmp_path: Path) -> None:
    run = toy(tmp_path)
    run.update(run.model(torch.ones(4, 3)).square().mean())
    run.step += 1
    run.update(run.model(torch.ones(4, 3)).square().mean())
    weights = run.model.weight.detach().clone()
    with pytest.raises(OSError, match="no room"), run.averaged():
        raise OSError("no room")
    assert torch.equal(run.model.weight, weights)


def test_a_checkpoint_keeps_the_names_that_earlier_runs_wrote(tmp_path: Path) -> None:
    run = toy(tmp_path)
    run.update(run.model(torch.ones(4, 3)).square().mean())
    run.save()
    names = load_file(tmp_path / "toy" / "checkpoint.safetensors").keys()
    parts = [f"{part}.{name}" for part in ("model", "average") for name in ("bias", "weight")]
    assert sorted(names) == sorted([*parts, *(f"optimizer.{i}.momentum_buffer" for i in (0, 1))])


def options_of(runs: Path, *more: str) -> argparse.Namespace:
    told = ["--runs", str(runs), "--minutes", "0.01", "--device", "cpu", *more]
    return train.arguments(None, 1, 8).parse_args(told)


def test_the_loop_trains_logs_and_goes_on_with_its_own_numbers(tmp_path: Path) -> None:
    seen: list[tuple[int, float]] = []
    looked: list[bool] = []

    def teach(minutes: str) -> torch.nn.Module:
        torch.manual_seed(1)
        model = torch.nn.Linear(3, 2)

        def loss(run: Run, rng: np.random.Generator) -> torch.Tensor:
            seen.append((run.step, rng.random()))
            return model(torch.ones(4, 3)).square().mean()

        def evaluate() -> dict[str, float]:
            looked.append(torch.is_grad_enabled() or model.training)
            return {"size": float(model.weight.abs().mean())}

        options = options_of(tmp_path, "--seed", "5", "--minutes", minutes)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        return train.train_model(model, "toy", options, loss, evaluate, optimizer)

    teach("0.005")
    first = len(seen)
    model = teach("0.01")
    assert 0 < first < len(seen)
    steps = range(len(seen))
    assert seen == [(n, np.random.default_rng((5, n)).random()) for n in steps]
    assert looked
    assert not any(looked)  # with averaged weights, in use
    stored = load_file(tmp_path / "toy" / "checkpoint.safetensors")
    assert torch.equal(model.weight, stored["average.weight"])
    assert not model.training
    lines = (tmp_path / "toy" / "metrics.jsonl").read_text().splitlines()
    assert [set(json.loads(line)) for line in lines] == [{"step", "minutes", "size", "loss"}] * 2


def test_a_stopped_process_counts_no_more_than_a_long_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 3000.0, 3000.0, 3050.0, 3050.0, 3051.0])
    monkeypatch.setattr(train.time, "perf_counter", lambda: next(clock, 9999.0))
    run = toy(tmp_path)
    steps = run.steps(dict)
    for _ in range(3):
        next(steps)
    assert run.seconds == 2 * 20


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name != "unclip"])
def test_from_shipped_is_a_folder_of_weights(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = heard(recipe, monkeypatch, "--runs", str(tmp_path), "--from", "shipped")
    assert list(Path(options.start).glob("*.safetensors"))


def heard(recipe: str, monkeypatch: pytest.MonkeyPatch, *told: str) -> argparse.Namespace:
    """The options with which a recipe would train."""
    module, found = importlib.import_module(f"ldmkit.recipes.{recipe}"), []

    def hear(*given: argparse.Namespace) -> None:
        found.append(given[-1])
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "train", hear)
    monkeypatch.setattr("sys.argv", [recipe, *told])
    with pytest.raises(KeyboardInterrupt):
        module.main()
    return found[0]


def commands() -> list[str]:
    """The commands of the model card's runs; "…" stands for folders, or for "as above"."""
    card = (WEIGHTS / "MODEL_CARD.md").read_text().split("<!-- runs -->")[1]
    quoted = re.findall("`([^`]*)`", card.split("<!-- /runs -->")[0])
    return [text for text in quoted if " --" in text and text.split()[0] in RECIPES]


@pytest.mark.parametrize("command", commands())
def test_the_commands_that_made_the_shipped_weights_still_say_the_same(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, *words = command.split()
    told = [w for w, before in zip(words, [recipe, *words], strict=False) if told_by(w, before)]
    options = heard(recipe, monkeypatch, *told, "--runs", str(tmp_path))
    names = {"from": "start"}
    for flag, value in zip(told, [*told[1:], "--"], strict=True):
        if flag.startswith("--"):
            name = flag[2:].replace("-", "_")
            given = getattr(options, names.get(name, name))
            assert given is True if value.startswith("--") else given == type(given)(value)


def told_by(word: str, before: str) -> bool:
    return word != "…" or before.startswith("--")


def test_every_run_of_the_card_is_tried() -> None:
    assert len(commands()) >= 24


def foreign(folder: Path) -> Path:
    """Folders that no recipe wrote, by name."""
    (folder / "notes").mkdir()
    (folder / "notes" / "thesis.txt").write_text("all of it")
    (folder / "file").write_text("mine")
    (folder / "link").symlink_to(folder / "notes")
    (folder / "dangling").symlink_to(folder / "nowhere")
    (folder / "sd").mkdir()
    (folder / "sd" / "model_index.json").write_text("{}")
    return folder


@pytest.mark.parametrize("where", ["notes", "file", "link", "dangling", "sd"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_no_recipe_replaces_what_no_recipe_wrote(
    recipe: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked before it trains, not an hour later."""
    target = foreign(tmp_path) / where
    before = sorted(tmp_path.rglob("*"))
    module = importlib.import_module(f"ldmkit.recipes.{recipe}")
    if recipe != "unclip":
        monkeypatch.setattr(module, "train", lambda options: pytest.fail("it trained"))
    monkeypatch.setattr("sys.argv", [recipe, "--export", str(target), "--runs", str(tmp_path)])
    with pytest.raises(ValueError, match=r"give a new|give another name"):
        module.main()
    assert sorted(tmp_path.rglob("*")) == before


def test_an_earlier_export_is_replaced_whole_and_loses_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "model"
    for words in ("first", "second"):
        with train.exported(target) as folder:
            (folder / "weights").write_text(words)
            assert not target.exists() or (target / "weights").read_text() == "first"
        assert (target / "weights").read_text() == words
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    (target / "weights.steps4").write_text("a student")
    with train.exported(target) as folder:
        (folder / "weights").write_text("third")
    (kept,) = tmp_path.glob("model.before-*")
    assert (kept / "weights.steps4").read_text() == "a student"
    assert (target / "weights").read_text() == "third"


def test_an_export_that_fails_leaves_the_earlier_one(tmp_path: Path) -> None:
    with train.exported(tmp_path / "model") as folder:
        (folder / "weights").write_text("first")

    def fail() -> None:
        with train.exported(tmp_path / "model") as folder:
            (folder / "weights").write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert (tmp_path / "model" / "weights").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_shipped_folders_of_whole_models_count_as_ours(tmp_path: Path) -> None:
    for name in ("critters", "critters/preview", "critters-unclip", "critters-clip", "judge"):
        train.check_target(WEIGHTS / name)
    (tmp_path / "empty").mkdir()
    train.check_target(tmp_path / "empty")
