"""ResNet-18, 34, 50, 101 and 152 (He et al. 2015, arXiv 1512.03385), as rows of one table.

Parameters are named as in torchvision, so its state dicts load. The head is a global mean, so any input size works.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from camlens.errors import UsageError, unknown

Stem = Literal["small", "imagenet"]


class Conv2d(nn.Conv2d):
    """A convolution that is computed as one matrix product where the kernels of a CPU are slow or wrong.

    Slow, in training on small grids: the kernels pad each row to 16 or 32 cells, so most of their work is on zeros.

    Wrong, for 1x1 with a stride and fewer inputs than a kernel takes at once (8 with AVX2, 16 with AVX-512): computing
    the gradient of the weights, oneDNN writes past its workspace if images are channels last (docs/experiments.md).
    """

    SMALL_GRID = 4  # cells per side
    INPUTS_AT_ONCE = 16  # channels, at most

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of x (B, C, H, W)."""
        (down, across), (high, wide) = self.stride, self.kernel_size
        h, w = -(-x.shape[2] // down), -(-x.shape[3] // across)
        slow = self.training and max(h, w) <= self.SMALL_GRID
        strided_1x1 = max(self.kernel_size) == 1 < max(self.stride)
        wrong = strided_1x1 and self.in_channels < self.INPUTS_AT_ONCE and torch.is_grad_enabled()
        if not (x.device.type == "cpu" and (slow or wrong)):
            return super().forward(x)
        cells = F.pad(x.permute(0, 2, 3, 1), (0, 0, wide // 2, wide // 2, high // 2, high // 2))
        shifted = [
            cells[:, i : i + down * h : down, j : j + across * w : across] for i in range(high) for j in range(wide)
        ]
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)  # (outputs, kernel cells x inputs)
        return F.linear(torch.cat(shifted, dim=-1), weight).permute(0, 3, 1, 2)


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> Conv2d:
    """A convolution that keeps the size (divided by `stride`) and has no bias: a BatchNorm follows."""
    return Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """The layers of the skip branch if the shape changes, a 1x1 convolution and a BatchNorm; else None."""
    changes = stride > 1 or inputs != outputs
    return nn.Sequential(convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)) if changes else None


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a skip: (B, inputs, H, W) -> (B, planes, H / stride, W / stride)."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = convolution(inputs, planes, 3, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = convolution(planes, planes, 3)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = shortcut(inputs, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 and a skip: (B, inputs, H, W) -> (B, 4 planes, H / stride, W / stride).

    The stride sits on the 3x3 convolution, as in torchvision ("v1.5").
    """

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = convolution(inputs, planes, 1)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = convolution(planes, planes, 3, stride)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = convolution(planes, 4 * planes, 1)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.downsample = shortcut(inputs, 4 * planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


Block = type[BasicBlock] | type[Bottleneck]

RESNETS: dict[str, tuple[Block, tuple[int, int, int, int]]] = {  # the blocks, and their number in each stage
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
    "resnet152": (Bottleneck, (3, 8, 36, 3)),
}


def stage(block: Block, inputs: int, planes: int, depth: int, stride: int) -> nn.Sequential:
    """`depth` blocks, of which the first divides the size by `stride`."""
    first = block(inputs, planes, stride)
    return nn.Sequential(first, *(block(planes * block.expansion, planes, 1) for _ in range(depth - 1)))


class ResNet(nn.Module):
    """A residual network: (B, 3, H, W) -> logits (B, classes).

    Args:
        name: A row of `RESNETS`.
        classes: Number of classes K.
        width: Channels of the first stage; each further stage has twice as many.
        stem: "small" is one 3x3 convolution, for images like CIFAR's; "imagenet" divides the size by four first.

    Raises:
        UsageError: `name` or `stem` is unknown, or the width or number of classes is below 1.
    """

    def __init__(self, name: str = "resnet18", classes: int = 10, width: int = 64, stem: Stem = "small") -> None:
        super().__init__()
        if name not in RESNETS:
            raise unknown("network", name, RESNETS, "camlens")
        if stem not in ("small", "imagenet"):
            raise unknown("stem", stem, ("small", "imagenet"), "a ResNet")
        if width < 1 or classes < 1:
            raise UsageError(f"a ResNet of width {width} for {classes} classes; both must be 1 or more")
        block, depths = RESNETS[name]
        channels = width * block.expansion  # of the first stage's output
        self.architecture: dict[str, str | int] = {"name": name, "classes": classes, "width": width, "stem": stem}
        self.small = stem == "small"
        self.conv1 = convolution(3, width, 3) if self.small else convolution(3, width, 7, 2)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = stage(block, width, width, depths[0], 1)
        self.layer2 = stage(block, channels, 2 * width, depths[1], 2)
        self.layer3 = stage(block, 2 * channels, 4 * width, depths[2], 2)
        self.layer4 = stage(block, 4 * channels, 8 * width, depths[3], 2)
        self.fc = nn.Linear(8 * channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of normalised images (B, 3, H, W)."""
        x = F.relu(self.bn1(self.conv1(x)))
        if not self.small:
            x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits
