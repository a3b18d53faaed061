"""Where the feature map lies in what a layer puts out."""

from __future__ import annotations

import math

from torch import Tensor

MOST_EXTRA = 8  # tokens before those of the image: class, distillation, registers
DISTORTED = 1.5  # times, by which a feature map's proportions may differ from the image's


def as_grid(output: object, image_size: tuple[int, int]) -> Tensor | None:
    """A layer's output as a view (B, C, h, w); None where it has no feature map.

    output: (B, C, h, w); (B, h, w, C), as in Swin; or tokens (B, extra + h w, C), as in ViT. Which, and how many extra
        ones, is told by the proportions of the image
    image_size: height and width
    """
    if not isinstance(output, Tensor):
        return None
    height, width = image_size

    def distorted(h: int, w: int) -> bool:
        return max(h * width, w * height) > DISTORTED * min(h * width, w * height)

    if output.ndim == 4 and output.numel():
        _, first, second, third = output.shape
        if distorted(second, third) and not distorted(first, second):
            return output.permute(0, 3, 1, 2)
        return output
    if output.ndim == 3:
        for extra in range(min(MOST_EXTRA + 1, output.shape[1])):
            tokens = output.shape[1] - extra
            h = max(1, round(math.sqrt(tokens * height / width)))
            w = tokens // h
            if h * w == tokens and h * width == w * height:
                return output[:, extra:].transpose(1, 2).view(len(output), output.shape[2], h, w)
    return None
