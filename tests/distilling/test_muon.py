"""Muon: orthogonal updates in closed form, and a run that stops and goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ldmkit.distilling.muon import Muon, orthogonalise
from ldmkit.recipes.train import Run


@pytest.mark.parametrize("shape", [(8, 8), (16, 64), (64, 16), (3, 24, 40)])
def test_singular_values_come_near_one(shape: tuple[int, ...]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    before = torch.linalg.svd(matrix, full_matrices=False)
    after = torch.linalg.svd(orthogonalise(matrix, 10), full_matrices=False)
    assert float(after.S.min()) > 0.6  # the quintic iteration settles between 0.68 and 1.13
    assert float(after.S.max()) < 1.25
    # The singular vectors stay: U Vᵀ of the update is that of the matrix.
    agreement = ((before.U @ before.Vh) * (after.U @ after.Vh)).sum((-1, -2)) / min(shape[-2:])
    assert float(agreement.min()) > 0.98


def test_vectors_and_matrices_both_learn() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 3)
    x = torch.randn(64, 4)
    y = x @ torch.randn(4, 3) + 2
    optimizer = Muon(layer.named_parameters(), lr=0.05, vector_lr=1.0)
    first = last = 0.0
    for i in range(300):
        loss = (layer(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        last = float(loss.detach())
        first = last if i == 0 else first
    assert last < 0.02 * first


def _run(folder: Path) -> Run:
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 2))
    return Run("toy", model, Muon(model.named_parameters()), 1.0, 0.01, folder)


def _train(run: Run, steps: int) -> None:
    for _ in range(steps):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(run.step))
        run.update(run.model(x).square().mean())
        run.step += 1


def test_a_stopped_run_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    whole = _run(tmp_path / "whole")
    _train(whole, 6)
    part = _run(tmp_path / "part")
    _train(part, 3)
    part.save()
    again = _run(tmp_path / "part")
    assert again.step == 3
    _train(again, 3)
    for name, value in whole.average.items():
        assert float((value - again.average[name]).abs().max()) <= 1e-7
