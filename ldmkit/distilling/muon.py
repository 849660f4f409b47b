"""Muon (Jordan et al. 2024): momentum, then each matrix of the update made orthogonal.

Newton-Schulz iterations replace the singular values of a layer's momentum by values near one, so
that every direction of a layer learns at the same pace. Small networks that are short of *steps*
gain most. Vectors (biases, norms) go through AdamW in the same optimiser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # quintic iteration, tuned by Muon's authors


def orthogonalise(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Replace the singular values of (batched) matrices by values near one.

    Args:
        matrix: (..., rows, columns).
        steps: Newton-Schulz iterations.
    """
    a, b, c = _COEFFICIENTS
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = (matrix.mT if tall else matrix).bfloat16()  # its singular values need no more digits
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Muon for matrices and convolutions; AdamW for vectors and embeddings.

    Args:
        named: a model's ``named_parameters()``; what has "embedding" in its name counts as vectors.
        lr: step size of the orthogonal updates, scaled by sqrt(max(1, rows / columns)).
        momentum: Nesterov momentum of the matrices.
        vector_lr: AdamW's learning rate for vectors, relative to ``lr``.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, torch.nn.Parameter]],
        lr: float = 0.02,
        momentum: float = 0.95,
        vector_lr: float = 0.1,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            [(n, p) for n, p in named if p.requires_grad],
            {"lr": lr, "momentum": momentum, "vector_lr": vector_lr, "weight_decay": weight_decay},
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            matrices: dict[tuple[int, int], list[torch.nn.Parameter]] = {}
            for name, p in zip(group["param_names"], group["params"], strict=True):
                if p.grad is None:
                    continue
                if p.ndim < 2 or "embedding" in name:
                    self._vector(p, group)
                else:
                    matrices.setdefault((p.shape[0], p[0].numel()), []).append(p)
            for shape, ps in matrices.items():
                self._matrices(shape, ps, group)

    def _matrices(
        self, shape: tuple[int, int], ps: list[torch.nn.Parameter], group: dict[str, float]
    ) -> None:
        # Layers of one shape go through the iteration together: fewer, larger products.
        updates = []
        for p in ps:
            assert p.grad is not None
            state = self.state[p]
            if not state:
                state["momentum"] = torch.zeros_like(p)
            state["momentum"].lerp_(p.grad, 1 - group["momentum"])
            updates.append(p.grad.lerp(state["momentum"], group["momentum"]).reshape(shape))
        stacked = orthogonalise(torch.stack(updates))
        scale = max(1.0, shape[0] / shape[1]) ** 0.5
        for p, update in zip(ps, stacked, strict=True):
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.add_(update.reshape(p.shape), alpha=-group["lr"] * scale)

    def _vector(self, p: torch.nn.Parameter, group: dict[str, float]) -> None:
        assert p.grad is not None
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros(())
            state["mean"] = torch.zeros_like(p)
            state["square"] = torch.zeros_like(p)
        state["step"] += 1
        state["mean"].lerp_(p.grad, 0.1)
        state["square"].lerp_(p.grad.square(), 0.01)
        mean = state["mean"] / (1 - 0.9 ** state["step"])
        square = state["square"] / (1 - 0.99 ** state["step"])
        p.add_(mean / (square.sqrt() + 1e-8), alpha=-group["lr"] * group["vector_lr"])
