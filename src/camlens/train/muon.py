"""Muon: SGD whose steps are orthogonalised (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = 3.4445, -4.7750, 2.0315  # of Newton-Schulz, by Jordan: they raise small singular values fast
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Muon for the kernels of convolutions, each as a matrix (outputs, inputs * height * width).

    `torch.optim.Muon` takes only matrices and multiplies them in bfloat16, which takes minutes per step on a processor
    without instructions for it. Here everything is in float32, on a GPU in TF32, and with fewer products: see
    `orthogonalise`.

    Args:
        kernels: Parameters of two or more dimensions; the first one is the outputs.
        lr: The learning rate.
        momentum: Nesterov momentum, 0 to below 1.
        weight_decay: Each step multiplies the weights by 1 - `lr` * `weight_decay` (decoupled).
    """

    def __init__(self, kernels: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.1) -> None:
        super().__init__(kernels, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.orthogonal_steps: Callable[[list[Tensor]], list[Tensor]] = orthogonal_steps

    def compile(self) -> None:
        """Run the products of a step as one CUDA graph: hundreds of small kernels, for which a GPU would wait."""
        self.orthogonal_steps = torch.compile(orthogonal_steps, backend="cudagraphs", dynamic=False)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update each kernel that has a gradient."""
        assert closure is None, "the loss is computed outside"
        for group in self.param_groups:
            kernels = [kernel for kernel in group["params"] if kernel.grad is not None]
            if not kernels:
                continue
            for kernel in kernels:
                if "momentum_buffer" not in self.state[kernel]:
                    self.state[kernel]["momentum_buffer"] = torch.zeros_like(kernel)
            gradients = [kernel.grad for kernel in kernels]
            averages = [self.state[kernel]["momentum_buffer"] for kernel in kernels]
            torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
            with tensor_cores(kernels[0].device):
                steps = self.orthogonal_steps(list(torch._foreach_lerp(gradients, averages, group["momentum"])))
            torch._foreach_mul_(kernels, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_sub_(kernels, steps, alpha=group["lr"])


@contextmanager
def tensor_cores(device: torch.device) -> Iterator[None]:
    """Multiply matrices in TF32 on a GPU: its 10 bits are enough for singular values of 0.7 to 1.2."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if device.type == "cuda" else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def orthogonal_steps(directions: list[Tensor]) -> list[Tensor]:
    """The steps of kernels at a learning rate of 1.

    Each direction (outputs, inputs, height, width) is orthogonalised as a matrix, and then multiplied by
    sqrt(max(1, rows / columns)), as Jordan does.
    """
    matrices = [direction.flatten(1) for direction in directions]
    return [
        math.sqrt(max(1.0, len(matrix) / matrix.shape[1])) * orthogonal.view(direction.shape)
        for direction, matrix, orthogonal in zip(directions, matrices, orthogonalise(matrices), strict=True)
    ]


def orthogonalise(matrices: list[Tensor]) -> list[Tensor]:
    """The nearest matrices with orthonormal rows or columns, roughly: U V^T of singular value decompositions U S V^T.

    Newton-Schulz iteration X <- (a + b A + c A^2) X with A = X X^T, as in Muon. The factors are polynomials of the
    first A alone, so they are multiplied with each other, on the shorter side of X, and then once with X. All A of one
    size are iterated together.

    Args:
        matrices: Each (M, N), of any M and N.

    Returns:
        For each of them (M, N) float32 with singular values of about 0.7 to 1.2.
    """
    tall = [matrix.shape[0] > matrix.shape[1] for matrix in matrices]
    wide = [matrix.T if turned else matrix for matrix, turned in zip(matrices, tall, strict=True)]
    firsts = [matrix.float() / matrix.norm().clamp(min=1e-7) for matrix in wide]
    orthogonal: dict[int, Tensor] = {}
    for side in sorted({len(first) for first in firsts}):
        members = [index for index, first in enumerate(firsts) if len(first) == side]
        products = _product_of_factors(torch.stack([firsts[index] @ firsts[index].T for index in members]))
        orthogonal |= {index: product @ firsts[index] for index, product in zip(members, products, strict=True)}
    return [orthogonal[index].T if turned else orthogonal[index] for index, turned in enumerate(tall)]


def _product_of_factors(gram: Tensor) -> Tensor:
    """The product of the factors a + b A + c A^2 of all iterations, for each first A: (n, M, M)."""
    product = torch.eye(gram.shape[1], device=gram.device).expand_as(gram)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        product = factor @ product
        gram = factor @ gram @ factor
    return product
