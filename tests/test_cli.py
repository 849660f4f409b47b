import shutil
import subprocess
import sys
import tempfile
from importlib import metadata

import numpy as np
import pytest
import tiny
from PIL import Image

from ldmkit import cli, doctor, lab
from ldmkit.records import Trajectory


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved pipeline of random weights that draws in three steps."""
    path = tmp_path_factory.mktemp("model") / "tiny"
    tiny.pipeline(size="small").save_pretrained(path)
    (path / "ldmkit.json").write_text('{"variants": {"": {"num_inference_steps": 3}}}')
    return path


@pytest.fixture
def opened(monkeypatch):
    """Pages that a browser was asked to open."""
    pages = []
    monkeypatch.setattr(cli.webbrowser, "open", lambda uri: pages.append(uri) or True)
    return pages


def test_demo_writes_a_picture_a_page_and_a_sheet(folder, tmp_path, capsys, opened):
    out = tmp_path / "new" / "out"
    assert cli.main(["demo", "--no-open", "--out", str(out), "--model", str(folder)]) == 0
    assert opened == []
    told = capsys.readouterr().out
    for name in ("picture.png", "trajectory.html", "sheet.png"):
        assert str(out / name) in told
    with Image.open(out / "picture.png") as picture:
        assert np.asarray(picture).std() > 0
    again = Trajectory.from_png(out / "picture.png")
    assert (again.prompt, again.keywords["seed"], again.model) == (cli.PROMPT, 7, str(folder.name))
    assert cli.PROMPT in (out / "trajectory.html").read_text(encoding="utf-8")


def test_demo_opens_the_page(folder, tmp_path, monkeypatch, opened):
    monkeypatch.setenv("DISPLAY", ":0")
    assert cli.main(["demo", "--out", str(tmp_path), "--model", str(folder)]) == 0
    assert opened == [(tmp_path / "trajectory.html").resolve().as_uri()]


def test_demo_without_a_display_asks_no_text_browser(folder, tmp_path, monkeypatch, capsys, opened):
    monkeypatch.setattr(cli.sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "WSL_DISTRO_NAME", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    assert cli.main(["demo", "--out", str(tmp_path), "--model", str(folder)]) == 0
    assert opened == []
    assert "open the page yourself" in capsys.readouterr().out


@pytest.mark.slow
def test_same_seed_same_picture(folder, tmp_path):
    pictures = []
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        words = ["demo", "--no-open", "--out", str(tmp_path / name), "--seed", seed]
        assert cli.main([*words, "--model", str(folder)]) == 0
        with Image.open(tmp_path / name / "picture.png") as picture:
            pictures.append(np.asarray(picture))
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["demo", "--no-open", "--model", "criters"], "did you mean 'critters'?"),
        (["fetch", "no/such-model"], "the hub can't be reached"),
        (["fetch", "sd-turbo"], "the hub can't be reached"),
        (["fetch", "../x"], "neither a folder"),
    ],
)
def test_errors_are_one_sentence_without_traceback(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("ldmkit: ")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_demo_warns_in_one_sentence(folder, tmp_path, capsys):
    words = ["demo", "--no-open", "--out", str(tmp_path), "--model", str(folder)]
    assert cli.main([*words, "--prompt", "a red cat in the snow " * 30]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "tokens" in line]
    assert told[0].startswith("ldmkit: The prompt has")


@pytest.mark.parametrize("prompt", ["", "😺", "</style><script>alert(1)</script>"])
def test_demo_takes_any_prompt(prompt, folder, tmp_path):
    words = ["demo", "--no-open", "--out", str(tmp_path), "--model", str(folder)]
    assert cli.main([*words, "--prompt", prompt]) == 0
    assert "<script>alert" not in (tmp_path / "trajectory.html").read_text(encoding="utf-8")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "picture.png",
        "sheet.png",
        "trajectory.html",
    ]


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Folders that can't take a demo, by what is wrong with them."""
    (tmp_path / "taken").write_text("mine")
    (tmp_path / "occupied" / "picture.png").mkdir(parents=True)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    usage = shutil.disk_usage
    monkeypatch.setattr(
        lab.shutil,
        "disk_usage",
        lambda path: usage(path)._replace(free=10**6) if "full" in str(path) else usage(path),
    )
    (tmp_path / "full").mkdir()
    real = tempfile.TemporaryFile

    def readonly(*args, dir, **kwargs):
        if dir.name == "locked":  # as root no mode keeps anybody out
            raise PermissionError(13, "Permission denied")
        return real(*args, dir=dir, **kwargs)

    (tmp_path / "locked").mkdir()
    monkeypatch.setattr(lab.tempfile, "TemporaryFile", readonly)
    return tmp_path


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("taken", "taken is a file"),
        ("taken/below", "taken is a file"),
        ("occupied", "'picture.png' is a folder there"),
        ("loop", "give another folder"),
        ("full", "1 MB are free there and 20 needed"),
        ("locked/new", "Permission denied"),
        ("x" * 300, "File name too long"),
        ("zero\0byte", "null byte"),
    ],
)
def test_demo_looks_at_its_folder_before_it_draws(out, said, places, monkeypatch, capsys):
    monkeypatch.setattr(cli.ldmkit, "load", lambda name: pytest.fail("it opened the model"))
    before = sorted(places.rglob("*"))
    assert cli.main(["demo", "--no-open", "--out", str(places / out)]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("ldmkit: Files can't be written to")
    assert error.endswith("give another folder.\n")
    assert sorted(places.rglob("*")) == before
    assert (places / "taken").read_text() == "mine"


def test_demo_draws_with_seeds_that_are_some(folder, tmp_path, capsys):
    words = ["demo", "--no-open", "--out", str(tmp_path / "new"), "--model", str(folder)]
    assert cli.main([*words, "--seed", "-1"]) == 1
    assert "--seed must be between 0 and" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("words", [[], ["paint"], ["demo", "--seed", "x"], ["fetch"]])
def test_misuse_is_status_2(words, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    assert "usage: ldmkit" in capsys.readouterr().err


def test_fetch_of_the_embedded_model_has_nothing_to_do(capsys):
    assert cli.main(["fetch", "critters"]) == 0
    assert "nothing to fetch" in capsys.readouterr().out


def test_models_lists_names(capsys):
    assert cli.main(["models"]) == 0
    told = capsys.readouterr().out
    for words in ("critters", "flux-dev", "by layers", "random weights only"):
        assert words in told
    rows = told.splitlines()[:-1]  # a note on the words stands below
    assert max(map(len, rows)) <= 160


def test_version_and_entry_point():
    (script,) = metadata.entry_points(group="console_scripts", name="ldmkit")
    assert script.load() is cli.main
    done = subprocess.run(
        [sys.executable, "-m", "ldmkit.cli", "--version"], capture_output=True, text=True
    )
    assert done.stdout.strip() == f"ldmkit {metadata.version('ldmkit')}"


def test_lab_copies_notebooks_and_keeps_what_the_user_changed(tmp_path, capsys):
    target = tmp_path / "class"
    assert cli.main(["lab", str(target), "--no-open"]) == 0
    copied = target / "01-first-picture.ipynb"
    shipped = (lab.notebooks_folder() / copied.name).read_bytes()
    assert copied.read_bytes() == shipped
    copied.write_text("mine")
    assert lab.copy_notebooks(target)[copied.name] == "kept yours"
    assert lab.copy_notebooks(target)[copied.name] == "kept yours"
    assert copied.read_text() == "mine"
    copied.unlink()
    assert lab.copy_notebooks(target)[copied.name] == "copied"
    assert copied.read_bytes() == shipped


def test_lab_updates_what_lies_as_it_was_copied(tmp_path, monkeypatch):
    shelf, target = tmp_path / "shelf", tmp_path / "class"
    shelf.mkdir()
    monkeypatch.setattr(lab, "notebooks_folder", lambda: shelf)
    (shelf / "01-a.ipynb").write_text("old")
    assert lab.copy_notebooks(target) == {"01-a.ipynb": "copied"}
    (shelf / "01-a.ipynb").write_text("new")
    assert lab.copy_notebooks(target) == {"01-a.ipynb": "updated"}
    assert (target / "01-a.ipynb").read_text() == "new"
    (target / lab.COPIED).write_text("{broken")
    (shelf / "01-a.ipynb").write_text("newer")
    assert lab.copy_notebooks(target) == {"01-a.ipynb": "kept yours"}
    assert (target / "01-a.ipynb").read_text() == "new"


def test_lab_into_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "taken").write_text("mine")
    assert cli.main(["lab", str(tmp_path / "taken"), "--no-open"]) == 1
    assert "is a file" in capsys.readouterr().err


def test_lab_without_jupyterlab_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["lab", str(tmp_path)]) == 1
    assert 'pip install "ldmkit[lab]"' in capsys.readouterr().err


def test_lab_starts_jupyterlab_in_the_folder(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(cli.subprocess, "call", lambda words: calls.append(words) or 0)
    assert cli.main(["lab", str(tmp_path)]) == 0
    assert calls == [[sys.executable, "-m", "jupyterlab", str(tmp_path.resolve())]]


def test_doctor_reports_versions_and_device(capsys):
    assert cli.main(["doctor"]) in (0, 1)
    told = capsys.readouterr().out
    for name in ("torch", "diffusers", "jupyterlab", "anywidget"):
        assert metadata.version(name) in told
    assert "device" in told


@pytest.mark.parametrize(
    ("versions", "requires", "said"),
    [
        ({"ipykernel": "7.0.1"}, {}, "ipykernel 7.0.1 loses updates"),
        (
            {"torchvision": "0.20.0", "torch": "2.13.0+cpu"},
            {"torchvision": ["numpy", "torch==2.5.0"]},
            "torchvision 0.20.0 was built for torch==2.5.0",
        ),
    ],
)
def test_doctor_knows_what_bites(versions, requires, said, monkeypatch):
    real_version, real_requires = metadata.version, metadata.requires
    monkeypatch.setattr(metadata, "version", lambda n: versions.get(n) or real_version(n))
    monkeypatch.setattr(metadata, "requires", lambda n: requires.get(n) or real_requires(n))
    assert any(said in line for line in doctor.examine().bites)


def test_doctor_is_quiet_about_a_torchvision_that_fits(monkeypatch):
    versions = {"torchvision": "0.99", "torch": "2.13.0+cpu"}
    monkeypatch.setattr(doctor, "_version", versions.get)
    monkeypatch.setattr(metadata, "requires", lambda n: ["torch==2.13.0"])
    assert list(doctor._torch_siblings()) == []


def test_doctor_calls_an_old_requirement_broken(monkeypatch):
    monkeypatch.setattr(metadata, "requires", lambda n: ["numpy>=99", 'foo; extra == "lab"'])
    assert [line.split(",")[0] for line in doctor.examine().broken if "numpy" in line] == [
        "ldmkit needs numpy>=99"
    ]


def test_doctor_survives_a_torch_that_does_not_load(monkeypatch, capsys):
    def refuse():
        raise OSError("libtorch.so:\ncannot open")

    monkeypatch.setattr("ldmkit.loading.device.found_device", refuse)
    assert cli.main(["doctor"]) == 1
    told = capsys.readouterr().out
    assert "BROKEN  torch can't be imported" in told
    assert "unknown (libtorch.so: cannot open)" in told


def test_doctor_sees_the_environment(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("JUPYTERHUB_USER", "ada")
    bites = " ".join(doctor.examine().bites)
    assert "HF_HUB_OFFLINE" in bites
    assert "JupyterHub" in bites
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert "HF_HUB_OFFLINE" not in " ".join(doctor.examine().bites)
