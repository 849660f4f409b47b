"""Every notebook as a class gets it: stored clean, in short cells, and it runs to its end."""

import copy
import os
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SOLUTIONS = {  # what a student has to find, by notebook
    "01-first-picture": [
        ("return step.denoised", "return step.alpha * step.denoised + step.sigma * step.noise_pred")
    ],
    "02-denoising": [
        (
            "return step.model_output",
            "return step.sigma * step.latents + step.alpha * step.model_output",
        )
    ],
    "03-samplers": [
        ("return step.latents", "return alpha * step.denoised + sigma * step.noise_pred")
    ],
    "04-guidance-and-prompts": [
        (
            "return np.linalg.norm(step.noise_pred)",
            "arrow = step.noise_pred_text - step.noise_pred_uncond\n"
            "    way = step.noise_pred - step.noise_pred_uncond\n"
            "    return np.linalg.norm(way) / np.linalg.norm(arrow)",
        )
    ],
    "05-clip-space": [
        (
            "return len(variances)",
            "return int(np.searchsorted(np.cumsum(variances) / variances.sum(), keep)) + 1",
        )
    ],
    "06-dalle2": [
        (
            "return (1 - t) * a + t * b",
            "angle = np.arccos(a @ b)\n"
            "    return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)",
        )
    ],
    "07-text-diffs": [
        (
            'return "an orange fox in a meadow", "an orange fox in a meadow"',
            'return "an orange fox in a meadow", "an orange fox with a crown in a meadow"',
        )
    ],
    "08-fewer-steps": [
        (
            "return z_end",
            "ratio = sigma_end / sigma\n"
            "    return (z_end - ratio * z) / (alpha_end - ratio * alpha)",
        )
    ],
    "09-attention": [
        (
            "return q @ k.T",
            "a = np.exp(q @ k.T / np.sqrt(q.shape[-1]))\n    return a / a.sum(-1, keepdims=True)",
        )
    ],
    "10-other-models": [
        ("return step.latents", "return step.latents - step.sigma * step.model_output")
    ],
}


def read(path):
    return nbformat.read(path, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tagged(notebook, tag):
    return [cell for cell in code(notebook) if tag in cell.metadata.get("tags", [])]


def printed(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def shown(notebook, kind):
    """How many outputs of the notebook have data of this kind."""
    return sum(kind in out.get("data", {}) for cell in code(notebook) for out in cell.outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_clean_and_in_short_cells(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.cells[0].source.startswith(f"# {path.stem[:2]} · ")
    assert "minutes" in notebook.cells[0].source
    assert any("Note for the teacher" in cell.source for cell in notebook.cells)
    assert tagged(notebook, "exercise")
    assert tagged(notebook, "check")
    for cell in code(notebook):
        assert cell.outputs == []
        assert cell.execution_count is None
        assert len(cell.source.splitlines()) <= 12, cell.source
    assert str(Path.home()) + os.sep not in path.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_and_its_exercise_can_be_missed(path, executed):
    for cell in tagged(executed, "check"):
        assert printed(cell).startswith("not yet")
    assert shown(executed, "image/png") >= 3
    assert shown(executed, "text/html") >= 2
    errors = [out.text for c in code(executed) for out in c.outputs if out.get("name") == "stderr"]
    assert errors == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_exercise_can_be_solved(path, executed):
    assert [printed(cell).strip() for cell in tagged(executed, "solved")] == ["", "right!"]


def prepared(path):
    """A notebook as it is stored, and then as a student goes back to its exercise and solves it."""
    notebook = read(path)
    (exercise,) = tagged(notebook, "exercise")
    again = copy.deepcopy([exercise, *tagged(notebook, "check")])
    for wrong, right in SOLUTIONS[path.stem]:
        assert wrong in exercise.source
        again[0].source = again[0].source.replace(wrong, right)
    for cell in again:
        cell.id = f"solved-{cell.id}"[:64]
        cell.metadata["tags"] = ["solved"]
    notebook.cells += again
    return notebook
