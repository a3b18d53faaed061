"""The methods: each turns a layer's activations and gradients into a map, in a few lines.

Throughout, A (B, C, h, w) are the activations, G = dy/dA (B, C, h, w) the gradients of the explained logit (or
difference of two logits), and a map (B, h, w) is in units of that logit: raw, never stretched to 0..1.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import Tensor, einsum

from camlens.errors import unknown

Method = Callable[[Tensor, Tensor], Tensor]


def grad_cam(A: Tensor, G: Tensor) -> Tensor:
    """relu(sum_k a_k A_k), a_k = mean_ij G_kij. Not negative.

    Grad-CAM, Selvaraju et al. 2017, arXiv 1610.02391, Eq. 1 and 2.
    """
    return einsum("bchw,bc->bhw", A, G.mean(dim=(2, 3))).relu()


def hirescam(A: Tensor, G: Tensor) -> Tensor:
    """sum_k G_k * A_k, cell by cell. Signed: behind it lies a linear head, its cells add up to the logit less the bias.

    HiResCAM, Draelos and Carin 2020, arXiv 2011.08891, Eq. 4 and 5.
    """
    return (G * A).sum(dim=1)


def layercam(A: Tensor, G: Tensor) -> Tensor:
    """relu(sum_k relu(G_k) * A_k). Not negative.

    LayerCAM, Jiang et al., IEEE TIP 2021, doi 10.1109/TIP.2021.3089943, Eq. 6 to 8.
    """
    return (G.relu() * A).sum(dim=1).relu()


METHODS: dict[str, Method] = {"grad-cam": grad_cam, "hirescam": hirescam, "layercam": layercam}


def find_method(name: str) -> tuple[str, Method]:
    """The method of this name, in any spelling of case and hyphens. Raises `UsageError` where there is none."""
    plain = re.sub("[-_ ]", "", name.lower())
    for known, method in METHODS.items():
        if known.replace("-", "") == plain:
            return known, method
    raise unknown("method", name, METHODS, "camlens")
