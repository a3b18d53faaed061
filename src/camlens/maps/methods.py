"""The map methods: each is one object with its formula, the formula's inputs and the unit of the map.

Notation: y is the explained logit or logit difference, A (B, C, h, w) are the activations of a layer, and G = dy/dA
(B, C, h, w) their gradients. Maps (B, h, w) are raw: never stretched to 0..1.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, einsum, nn

from camlens.errors import unknown

NEAREST_CLASSES = 3  # that Finer-CAM compares with
STEPS = 50  # of Integrated Gradients
SAMPLES, NOISE = 25, 0.15  # of SmoothGrad; standard deviation of the noise, as a fraction of the image's range


def grad_cam(A: Tensor, G: Tensor) -> Tensor:
    """relu(sum_k a_k A_k) with a_k = mean_ij G_kij. Not negative, in units of y.

    Grad-CAM, Selvaraju et al. 2017, arXiv 1610.02391, Eq. 1 and 2.
    """
    return weighted_sum(A, G.mean(dim=(2, 3))).relu()


def grad_cam_plus_plus(A: Tensor, G: Tensor) -> Tensor:
    """relu(sum_k w_k A_k) with w_k = sum_ij a_kij relu(G_kij), a_kij = G_kij^2 / (2 G_kij^2 + sum_ab A_kab G_kij^3).

    Not negative; 0 / 0 is 0. The paper explains exp(y), whose derivatives are exp(y) times the powers of G; this
    factor, the same for the whole map, is left out. Where activations have both signs, a denominator may come close
    to 0 and the map is unreliable.

    Grad-CAM++, Chattopadhay et al. 2018, arXiv 1710.11063, Eq. 10 and 19.
    """
    denominator = 2 * G.square() + A.sum(dim=(2, 3), keepdim=True) * G.pow(3)
    alpha = G.square() / denominator.where(denominator != 0, torch.inf)
    return weighted_sum(A, (alpha * G.relu()).sum(dim=(2, 3))).relu()


def hirescam(A: Tensor, G: Tensor) -> Tensor:
    """sum_k G_k * A_k, cell by cell. Signed. In front of a pooled linear head its cells add up to y minus the bias.

    HiResCAM, Draelos and Carin 2020, arXiv 2011.08891, Eq. 4 and 5.
    """
    return (G * A).sum(dim=1)


def layercam(A: Tensor, G: Tensor) -> Tensor:
    """relu(sum_k relu(G_k) * A_k). Not negative, in units of y.

    LayerCAM, Jiang et al., IEEE TIP 2021, doi 10.1109/TIP.2021.3089943, Eq. 6 to 8.
    """
    return (G.relu() * A).sum(dim=1).relu()


def xgrad_cam(A: Tensor, G: Tensor) -> Tensor:
    """relu(sum_k w_k A_k) with w_k = sum_ij G_kij A_kij / sum_ij A_kij. Not negative, in units of y; 0 / 0 is 0.

    XGrad-CAM, Fu et al. 2020, arXiv 2008.02312, Eq. 8 and 9.
    """
    total = A.sum(dim=(2, 3))
    return weighted_sum(A, (G * A).sum(dim=(2, 3)) / total.where(total != 0, torch.inf)).relu()


def eigen_cam(A: Tensor) -> Tensor:
    """A, as a matrix of h w cells and C channels, projected on its first right singular vector.

    Signed, in units of the activations, the same for every class. The sign of a singular vector is arbitrary: it is
    chosen so that the map correlates positively with the mean activation.

    Eigen-CAM, Muhammad and Yeasin 2020, arXiv 2008.00299, Eq. 2.
    """
    cells = A.flatten(2).transpose(1, 2)  # (B, h w, C)
    U, S, _ = torch.linalg.svd(cells, full_matrices=False)
    projected, mean = U[:, :, 0] * S[:, :1], cells.mean(dim=2)
    covariance = ((projected - projected.mean(dim=1, keepdim=True)) * mean).sum(dim=1, keepdim=True)
    return torch.where(covariance >= 0, projected, -projected).view(len(A), *A.shape[2:])


def score_cam(A: Tensor, y_masked: Tensor) -> Tensor:
    """relu(sum_k a_k A_k) with a = softmax over k of y_masked. Not negative, in units of the activations.

    The paper uses the increase over a baseline image, a constant that the softmax cancels.

    Score-CAM, Wang et al. 2020, arXiv 1910.01279, Eq. 6 to 8 and Algorithm 1.

    Args:
        A: Activations, (B, C, h, w).
        y_masked: y of the image multiplied by A_k, upsampled and stretched to 0..1, (B, C). NaN where A_k is constant;
            such a channel is left out.
    """
    return weighted_sum(A, y_masked.nan_to_num(nan=-torch.inf).softmax(dim=1).nan_to_num()).relu()


def ablation_cam(A: Tensor, y: Tensor, y_ablated: Tensor) -> Tensor:
    """relu(sum_k w_k A_k) with w_k = (y - y_ablated_k) / y. Not negative, in units of the activations; 0 / 0 is 0.

    Unstable near y = 0, and its sign flips below.

    Ablation-CAM, Desai and Ramaswamy 2020, WACV, doi 10.1109/WACV45572.2020.9093360, Eq. 3 and 4.

    Args:
        A: Activations, (B, C, h, w).
        y: The explained logit, (B,).
        y_ablated: y with channel k of the layer set to 0, (B, C).
    """
    return weighted_sum(A, (y[:, None] - y_ablated) / y.where(y != 0, torch.inf)[:, None]).relu()


def weighted_sum(A: Tensor, weights: Tensor) -> Tensor:
    """Sum over the channels of A (B, C, h, w), weighted by (B, C): (B, h, w)."""
    return einsum("bchw,bc->bhw", A, weights)


def integrated_gradients(model: nn.Module, image: Tensor) -> Tensor:
    """Integrated Gradients from the mean colour: the pixels add up to the change of y from there. Signed.

    Sundararajan et al. 2017, arXiv 1703.01365, Eq. 1.

    Args:
        model: Computes y (B,) of images (B, 3, H, W).
        image: (1, 3, H, W), which requires a gradient.

    Returns:
        Attributions of each colour, (1, 3, H, W).
    """
    from captum.attr import IntegratedGradients

    return IntegratedGradients(model).attribute(image, n_steps=STEPS)  # type: ignore[no-any-return]


def smoothgrad(model: nn.Module, image: Tensor) -> Tensor:
    """SmoothGrad: mean gradient of y over noisy copies, with the same noise in every call. As `integrated_gradients`.

    Smilkov et al. 2017, arXiv 1706.03825.
    """
    from captum.attr import NoiseTunnel, Saliency

    low, high = image.detach().aminmax()
    options = {"nt_type": "smoothgrad", "nt_samples": SAMPLES, "stdevs": NOISE * float(high - low), "abs": False}
    return NoiseTunnel(Saliency(model)).attribute(image, **options)  # type: ignore[no-any-return]


def guided_backprop(model: nn.Module, image: Tensor) -> Tensor:
    """Guided Backpropagation: negative gradients are set to 0 at every ReLU. As `integrated_gradients`.

    Springenberg et al. 2014, arXiv 1412.6806.
    """
    from captum.attr import GuidedBackprop

    return GuidedBackprop(model).attribute(image)  # type: ignore[no-any-return]


def logit_coefficients(logits: Tensor, target: Tensor, against: Tensor | None) -> Tensor:
    """Coefficients (B, K) of the logits in y = logit of the target, minus the logit of `against` if given."""
    coefficients = F.one_hot(target, logits.shape[1]).to(logits.dtype)
    return coefficients if against is None else coefficients - F.one_hot(against, logits.shape[1])


def nearest_coefficients(logits: Tensor, target: Tensor, against: Tensor | None) -> Tensor:
    """Coefficients (B, K) of y = logit of the target minus the mean of the classes with the nearest logits.

    Those are the three nearest, or `against` if given; the strength of the comparison, gamma, is 1.

    Finer-CAM, Zhang et al. 2025, arXiv 2501.11309, Eq. 4 to 6.
    """
    coefficients = logit_coefficients(logits, target, against)
    nearest = min(NEAREST_CLASSES, logits.shape[1] - 1)
    if against is not None or not nearest:
        return coefficients
    distance = (logits - logits.gather(1, target[:, None])).abs().masked_fill(coefficients > 0, torch.inf)
    return coefficients.scatter(1, distance.topk(nearest, largest=False).indices, -1 / nearest)


@dataclass(frozen=True)
class Method:
    """A map method.

    Attributes:
        name: Its name in `METHODS`, lower case with hyphens.
        formula: Computes maps (B, h, w); of pixels, attributions (1, 3, H, W).
        needs: What `formula` takes. "gradients": (A, G); "activations": (A,); "masked logits": (A, y_masked);
            "ablated logits": (A, y, y_ablated); "pixels": (model, image), see `integrated_gradients`.
        unit: Unit of the map's cells.
        coefficients: From logits (B, K), target (B,) and against (B,) or None to the coefficients (B, K) of the logits
            in y.
        explains_class: Whether the map depends on the class.
    """

    name: str
    formula: Callable[..., Tensor]
    needs: Literal["gradients", "activations", "masked logits", "ablated logits", "pixels"] = "gradients"
    unit: Literal["logits", "activation", "gradient"] = "logits"
    coefficients: Callable[[Tensor, Tensor, Tensor | None], Tensor] = logit_coefficients
    explains_class: bool = True

    @property
    def level(self) -> Literal["layer", "pixels"]:
        """Whether it explains the cells of a layer or the pixels of the input."""
        return "pixels" if self.needs == "pixels" else "layer"

    @property
    def compares_classes(self) -> bool:
        """Whether it compares the target with other classes, of its own accord."""
        return self.coefficients is not logit_coefficients


METHODS = {
    method.name: method
    for method in (
        Method("grad-cam", grad_cam),
        Method("grad-cam++", grad_cam_plus_plus),
        Method("hirescam", hirescam),
        Method("layercam", layercam),
        Method("xgrad-cam", xgrad_cam),
        Method("eigen-cam", eigen_cam, "activations", "activation", explains_class=False),
        Method("score-cam", score_cam, "masked logits", "activation"),
        Method("ablation-cam", ablation_cam, "ablated logits", "activation"),
        Method("finer-cam", grad_cam, coefficients=nearest_coefficients),
        Method("integrated-gradients", integrated_gradients, "pixels"),
        Method("smoothgrad", smoothgrad, "pixels", "gradient"),
        Method("guided-backprop", guided_backprop, "pixels", "gradient"),
    )
}
CAMS = [name for name, method in METHODS.items() if method.level == "layer"]


def find_method(name: str) -> Method:
    """Find a method by its name; case, hyphens and spaces do not matter.

    Raises:
        UsageError: There is no such method; the message lists those that there are.
    """
    plain = re.sub("[-_ ]", "", str(name).lower()).replace("camplusplus", "cam++").replace("campp", "cam++")
    for known, method in METHODS.items():
        if known.replace("-", "") == plain:
            return method
    raise unknown("method", name, METHODS, "camlens")
