import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import oracles
from camlens.errors import UsageError
from camlens.maps.methods import (
    CAMS,
    METHODS,
    eigen_cam,
    find_method,
    grad_cam,
    hirescam,
    layercam,
    score_cam,
    xgrad_cam,
)

BY_GRADIENT = [name for name, method in METHODS.items() if method.needs == "gradients" and not method.compares_classes]

shapes = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))
seeds = st.integers(0, 2**32 - 1)


def numbers(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def test_every_method_has_a_reference_implementation():
    assert list(oracles.METHODS) == CAMS
    assert list(oracles.BY_GRADIENT) == BY_GRADIENT


@pytest.mark.parametrize("name", BY_GRADIENT)
@settings(max_examples=25)
@given(shape=shapes, seed=seeds)
def test_a_method_is_its_papers_formula(name, shape, seed):
    A, G = numbers(seed, *shape), numbers(seed + 1, *shape)
    expected = torch.tensor(
        np.stack([oracles.BY_GRADIENT[name](a.numpy(), g.numpy()) for a, g in zip(A, G, strict=True)])
    )
    found = METHODS[name].formula(A, G)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(1 + expected.abs().max()))


@settings(max_examples=25)
@given(shape=shapes, seed=seeds)
def test_eigen_cam_is_the_largest_eigenvectors_projection(shape, seed):
    A = numbers(seed, *shape) + 1  # so that no two singular values are alike
    values = torch.linalg.svdvals(A.flatten(2))
    assume(values.shape[1] == 1 or bool((values[:, 1] < 0.9 * values[:, 0]).all()))
    expected = np.stack([oracles.eigen_cam(a.numpy()) for a in A])
    means = A.mean(dim=1).flatten(1).numpy()
    covariance = [
        ((t - t.mean()) * (m - m.mean())).sum() for t, m in zip(expected.reshape(means.shape), means, strict=True)
    ]
    assume(np.abs(covariance).min() > 1e-6)  # otherwise the sign is anybody's
    torch.testing.assert_close(eigen_cam(A), torch.from_numpy(expected), rtol=1e-7, atol=1e-7)


def test_score_cam_leaves_out_what_has_no_shape():
    A = numbers(0, 2, 3, 4, 5)
    y = torch.tensor([[1.0, torch.nan, 2.0], [torch.nan] * 3], dtype=torch.float64)
    found = score_cam(A, y)
    share = 1 / (1 + np.e)
    torch.testing.assert_close(found[0], (share * A[0, 0] + (1 - share) * A[0, 2]).relu())
    assert not found[1].any()


@settings(max_examples=25)
@given(shape=shapes, seed=seeds)
def test_behind_a_pooled_linear_head_the_methods_are_one(shape, seed):
    """There y_c = b_c + sum_k w_ck mean(A_k), so that every cell of channel k has the gradient w_ck / Z."""
    _, channels, height, width = shape
    A, w, Z = numbers(seed, *shape), numbers(seed + 1, channels), height * width
    G = (w / Z)[None, :, None, None].expand_as(A)
    cam = torch.einsum("bchw,c->bhw", A, w)  # Zhou et al. 2016, arXiv 1512.04150, Eq. 2
    torch.testing.assert_close(hirescam(A, G), cam / Z)
    torch.testing.assert_close(grad_cam(A, G), hirescam(A, G).relu())
    torch.testing.assert_close(hirescam(A, G).sum(dim=(1, 2)), A.mean(dim=(2, 3)) @ w)
    torch.testing.assert_close(layercam(A.relu(), G), torch.einsum("bchw,c->bhw", A.relu(), w.relu()) / Z)
    assume(bool((A.sum(dim=(2, 3)).abs() > 1e-6).all()))
    torch.testing.assert_close(xgrad_cam(A, G), grad_cam(A, G), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", BY_GRADIENT)
def test_without_gradient_there_is_no_evidence(name):
    A = numbers(0, 2, 3, 4, 5)
    assert torch.equal(METHODS[name].formula(A, torch.zeros_like(A)), torch.zeros(2, 4, 5, dtype=A.dtype))


@pytest.mark.parametrize("name", BY_GRADIENT)
def test_without_activation_there_is_none_either(name):
    G = numbers(0, 2, 3, 4, 5)
    assert torch.equal(METHODS[name].formula(torch.zeros_like(G), G), torch.zeros(2, 4, 5, dtype=G.dtype))


@pytest.mark.parametrize("name", BY_GRADIENT)
def test_which_methods_are_signed(name):
    found = METHODS[name].formula(numbers(0, 2, 3, 4, 5), numbers(1, 2, 3, 4, 5))
    assert bool((found < 0).any()) is (name == "hirescam")
    assert bool((found > 0).any())


@pytest.mark.parametrize(
    ("written", "name"),
    [("grad-cam", "grad-cam"), ("GradCAM", "grad-cam"), ("GRAD_CAM", "grad-cam"), ("HiResCAM", "hirescam"),
     ("hires-cam", "hirescam"), ("LayerCAM", "layercam"), ("layer cam", "layercam"), ("GradCAM++", "grad-cam++"),
     ("gradcamplusplus", "grad-cam++"), ("GradCAMpp", "grad-cam++"), ("XGradCAM", "xgrad-cam"),
     ("EigenCAM", "eigen-cam"), ("score cam", "score-cam"), ("AblationCAM", "ablation-cam"), ("finercam", "finer-cam")],
)  # fmt: skip
def test_a_method_is_found_in_any_spelling(written, name):
    assert find_method(written) is METHODS[name]


@pytest.mark.parametrize("written", ["grad-cam+", "fullgrad", "cam", ""])
def test_an_unknown_method_is_told_with_the_known_ones(written):
    with pytest.raises(UsageError) as caught:
        find_method(written)
    assert str(caught.value) == f"unknown method {written!r}; camlens has: {', '.join(METHODS)}"
