"""The methods: each turns what is known of a layer into a map, in a few lines.

Throughout, y is the explained logit, or difference of two logits; A (B, C, h, w) are the layer's activations and
G = dy/dA (B, C, h, w) its gradients. A map (B, h, w) is raw, never stretched to 0..1.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, einsum

from camlens.errors import unknown


def grad_cam(A: Tensor, G: Tensor) -> Tensor:
    """relu(sum_k a_k A_k), a_k = mean_ij G_kij. Not negative, in units of y.

    Grad-CAM, Selvaraju et al. 2017, arXiv 1610.02391, Eq. 1 and 2.
    """
    return weighted(A, G.mean(dim=(2, 3))).relu()


def grad_cam_plus_plus(A: Tensor, G: Tensor) -> Tensor:
    """relu(sum_k w_k A_k), w_k = sum_ij a_kij relu(G_kij), a_kij = G_kij^2 / (2 G_kij^2 + sum_ab A_kab G_kij^3).

    Not negative. 0 / 0 is 0. The paper explains exp(y), whose derivatives are exp(y) times the powers of G; that
    factor, the same for the whole map, is left out. With activations of both signs a denominator may come close to 0,
    and the map be anything.

    Grad-CAM++, Chattopadhay et al. 2018, arXiv 1710.11063, Eq. 10 and 19.
    """
    powers = 2 * G.square() + A.sum(dim=(2, 3), keepdim=True) * G.pow(3)
    alpha = G.square() / powers.where(powers != 0, torch.inf)
    return weighted(A, (alpha * G.relu()).sum(dim=(2, 3))).relu()


def hirescam(A: Tensor, G: Tensor) -> Tensor:
    """sum_k G_k * A_k, cell by cell. Signed: behind it lies a linear head, its cells add up to the logit less the bias.

    HiResCAM, Draelos and Carin 2020, arXiv 2011.08891, Eq. 4 and 5.
    """
    return (G * A).sum(dim=1)


def layercam(A: Tensor, G: Tensor) -> Tensor:
    """relu(sum_k relu(G_k) * A_k). Not negative, in units of y.

    LayerCAM, Jiang et al., IEEE TIP 2021, doi 10.1109/TIP.2021.3089943, Eq. 6 to 8.
    """
    return (G.relu() * A).sum(dim=1).relu()


def xgrad_cam(A: Tensor, G: Tensor) -> Tensor:
    """relu(sum_k w_k A_k), w_k = sum_ij G_kij A_kij / sum_ij A_kij. Not negative, in units of y. 0 / 0 is 0.

    XGrad-CAM, Fu et al. 2020, arXiv 2008.02312, Eq. 8 and 9.
    """
    total = A.sum(dim=(2, 3))
    return weighted(A, (G * A).sum(dim=(2, 3)) / total.where(total != 0, torch.inf)).relu()


def eigen_cam(A: Tensor) -> Tensor:
    """A projected on its first right singular vector, as a matrix of h w places and C channels.

    Signed, in units of the activations, and the same for every class. The sign of a singular vector is arbitrary: here
    the map correlates with the mean activation.

    Eigen-CAM, Muhammad and Yeasin 2020, arXiv 2008.00299, Eq. 2.
    """
    places = A.flatten(2).transpose(1, 2)
    U, S, _ = torch.linalg.svd(places, full_matrices=False)
    projected, mean = U[:, :, 0] * S[:, :1], places.mean(dim=2)
    same = ((projected - projected.mean(dim=1, keepdim=True)) * mean).sum(dim=1, keepdim=True) >= 0
    return torch.where(same, projected, -projected).view(len(A), *A.shape[2:])


def score_cam(A: Tensor, y_through: Tensor) -> Tensor:
    """relu(sum_k a_k A_k), a = softmax over k of y_through. Not negative, in units of the activations.

    y_through: (B, C), y of the image times A_k, enlarged to its size and stretched to 0..1; not a number where A_k is
        the same everywhere, which is left out. The paper takes the increase over a baseline image, a constant that
        the softmax drops

    Score-CAM, Wang et al. 2020, arXiv 1910.01279, Eq. 6 to 8 and Algorithm 1.
    """
    return weighted(A, y_through.nan_to_num(nan=-torch.inf).softmax(dim=1).nan_to_num()).relu()


def ablation_cam(A: Tensor, y: Tensor, y_without: Tensor) -> Tensor:
    """relu(sum_k w_k A_k), w_k = (y - y_without_k) / y. Not negative, in units of the activations; unstable near
    y = 0, and its sign flips below.

    y: (B,); y_without: (B, C), y with channel k of the layer set to 0. 0 / 0 is 0.

    Ablation-CAM, Desai and Ramaswamy 2020, WACV, doi 10.1109/WACV45572.2020.9093360, Eq. 3 and 4.
    """
    return weighted(A, (y[:, None] - y_without) / y.where(y != 0, torch.inf)[:, None]).relu()


def finer_cam(A: Tensor, G: Tensor) -> Tensor:
    """relu(sum_k a_k A_k), a_k = mean_ij G_kij, where y is a logit less the mean of those of the classes like it.

    Not negative, in units of y. Which classes these are is told by the logits: the three nearest, or the one that the
    class is explained against. The strength of the comparison, gamma, is 1.

    Finer-CAM, Zhang et al. 2025, arXiv 2501.11309, Eq. 4 to 6.
    """
    return grad_cam(A, G)


def over_colours(attributions: Tensor) -> Tensor:
    """What each pixel does to y, (B, H, W): the sum of what its colours do, (B, 3, H, W), by captum. Signed."""
    return attributions.sum(dim=1)


def weighted(A: Tensor, weights: Tensor) -> Tensor:
    """The sum over the channels of A (B, C, h, w) times their weights (B, C)."""
    return einsum("bchw,bc->bhw", A, weights)


@dataclass(frozen=True)
class Method:
    """A method, and what it must be told besides the activations.

    needs: "gradients" G; "ablation" y and y_without; "masking" y_through; "" nothing, so that no class is explained;
        "pixels" no layer, but what each input does to y, (B, 3, H, W)
    rivals: how many of the classes with the nearest logits y is compared with, where none is given
    unit: of what the cells of the map are
    """

    combine: Callable[..., Tensor]
    needs: Literal["", "gradients", "ablation", "masking", "pixels"] = "gradients"
    rivals: int = 0
    unit: Literal["logits", "activation", "gradient"] = "logits"


METHODS: dict[str, Method] = {
    "grad-cam": Method(grad_cam),
    "grad-cam++": Method(grad_cam_plus_plus),
    "hirescam": Method(hirescam),
    "layercam": Method(layercam),
    "xgrad-cam": Method(xgrad_cam),
    "eigen-cam": Method(eigen_cam, "", unit="activation"),
    "score-cam": Method(score_cam, "masking", unit="activation"),
    "ablation-cam": Method(ablation_cam, "ablation", unit="activation"),
    "finer-cam": Method(finer_cam, rivals=3),
    "integrated-gradients": Method(over_colours, "pixels"),
    "smoothgrad": Method(over_colours, "pixels", unit="gradient"),
    "guided-backprop": Method(over_colours, "pixels", unit="gradient"),
}
CAMS = [name for name, method in METHODS.items() if method.needs != "pixels"]


def find_method(name: str) -> tuple[str, Method]:
    """The method of this name, in any spelling of case and hyphens. Raises `UsageError` where there is none."""
    plain = re.sub("[-_ ]", "", name.lower()).replace("camplusplus", "cam++").replace("campp", "cam++")
    for known, method in METHODS.items():
        if known.replace("-", "") == plain:
            return known, method
    raise unknown("method", name, METHODS, "camlens")
