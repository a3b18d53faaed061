"""Muon, against its formula and torch's own for matrices."""

import torch

import oracles
from camlens.train.muon import Muon, orthogonalise


def test_orthogonalise_is_the_formula_of_newton_and_schulz():
    torch.manual_seed(0)
    shapes = [(8, 5), (5, 8), (7, 7), (64, 27), (48, 600), (5, 5)]  # some of equal shorter sides
    matrices = [torch.randn(m, n) @ torch.diag(torch.logspace(0, -3, n)) for m, n in shapes]  # singular values differ
    for matrix, found in zip(matrices, orthogonalise(matrices), strict=True):
        expected = oracles.newton_schulz(matrix)
        assert (found - expected).norm() < 1e-3 * expected.norm()  # bfloat16 gives 1e-2


def test_singular_values_come_near_one():
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise([torch.randn(16, 40)])[0])
    assert values.min() > 0.6 and values.max() < 1.3


def test_steps_are_those_of_torch():
    """`torch.optim.Muon` on the same kernels as matrices; it computes in bfloat16, with three digits."""
    torch.manual_seed(0)
    kernels = [torch.randn(shape).requires_grad_() for shape in ((12, 4, 3, 3), (8, 2, 1, 1))]
    matrices = [kernel.detach().clone().flatten(1).requires_grad_() for kernel in kernels]
    ours = Muon(kernels, lr=0.1, momentum=0.9, weight_decay=0.2)
    theirs = torch.optim.Muon(matrices, lr=0.1, momentum=0.9, weight_decay=0.2)
    for _ in range(4):
        for kernel, matrix in zip(kernels, matrices, strict=True):
            kernel.grad = torch.randn_like(kernel)
            matrix.grad = kernel.grad.flatten(1)
        ours.step()
        theirs.step()
    for kernel, matrix in zip(kernels, matrices, strict=True):
        assert (kernel.flatten(1) - matrix).norm() < 0.02 * matrix.norm()


def test_a_kernel_without_a_gradient_stays():
    kernel = torch.ones(2, 2, 1, 1, requires_grad=True)
    Muon([kernel], lr=0.1).step()
    assert torch.equal(kernel, torch.ones(2, 2, 1, 1))
