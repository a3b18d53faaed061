import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from camlens.errors import UsageError
from camlens.maps.methods import METHODS, find_method, grad_cam, hirescam, layercam

shapes = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))
seeds = st.integers(0, 2**32 - 1)


def numbers(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def test_every_method_has_a_twin():
    assert METHODS.keys() == oracles.METHODS.keys()


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=25, deadline=None)
@given(shape=shapes, seed=seeds)
def test_a_method_is_its_papers_formula(name, shape, seed):
    A, G = numbers(seed, *shape), numbers(seed + 1, *shape)
    twin = np.stack([oracles.METHODS[name](a.numpy(), g.numpy()) for a, g in zip(A, G, strict=True)])
    torch.testing.assert_close(METHODS[name](A, G), torch.from_numpy(twin), rtol=1e-12, atol=1e-12)


@settings(max_examples=25, deadline=None)
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


@pytest.mark.parametrize("name", METHODS)
def test_without_gradient_there_is_no_evidence(name):
    A = numbers(0, 2, 3, 4, 5)
    assert torch.equal(METHODS[name](A, torch.zeros_like(A)), torch.zeros(2, 4, 5, dtype=A.dtype))


@pytest.mark.parametrize(("name", "signed"), [("grad-cam", False), ("hirescam", True), ("layercam", False)])
def test_which_methods_are_signed(name, signed):
    found = METHODS[name](numbers(0, 2, 3, 4, 5), numbers(1, 2, 3, 4, 5))
    assert bool((found < 0).any()) is signed
    assert bool((found > 0).any())


@pytest.mark.parametrize(
    ("written", "name"),
    [("grad-cam", "grad-cam"), ("GradCAM", "grad-cam"), ("GRAD_CAM", "grad-cam"), ("HiResCAM", "hirescam"),
     ("hires-cam", "hirescam"), ("LayerCAM", "layercam"), ("layer cam", "layercam")],
)  # fmt: skip
def test_a_method_is_found_in_any_spelling(written, name):
    assert find_method(written) == (name, METHODS[name])


@pytest.mark.parametrize("written", ["grad-cam++", "gradcamplusplus", "cam", ""])
def test_an_unknown_method_is_told_with_the_known_ones(written):
    with pytest.raises(UsageError) as caught:
        find_method(written)
    assert str(caught.value) == f"unknown method {written!r}; camlens has: grad-cam, hirescam, layercam"
