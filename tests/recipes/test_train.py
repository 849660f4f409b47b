"""What every recipe shares: runs that go on, and exports that replace nothing but their own."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch

from ldmkit.recipes import train
from ldmkit.recipes.train import WEIGHTS, Run


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


RECIPES = ("autoencoder", "clip", "decoder", "judge", "prior", "unclip", "unet")


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
    for name in ("critters", "critters-unclip", "critters-clip", "judge"):
        train.check_target(WEIGHTS / name)
    (tmp_path / "empty").mkdir()
    train.check_target(tmp_path / "empty")
