"""Small networks of many kinds: what their layers put out differs, and so does what lies behind."""

import torch
from torch import nn

SIZE = (32, 48)
CLASSES = 5


def convolution(inputs, outputs, kernel=3, stride=1, groups=1):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class VGG(nn.Module):
    """BatchNorm, in-place ReLUs, an adaptive pooling, and a head that flattens what it leaves."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            *convolution(3, 8), nn.MaxPool2d(2), *convolution(8, 12), nn.MaxPool2d(2), *convolution(12, 16)
        )
        self.avgpool = nn.AdaptiveAvgPool2d((3, 3))
        self.classifier = nn.Sequential(nn.Linear(16 * 9, 20), nn.ReLU(True), nn.Dropout(), nn.Linear(20, CLASSES))

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class DenseLayer(nn.Module):
    def __init__(self, inputs, growth):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, growth, 3, padding=1, bias=False)

    def forward(self, parts):
        return self.conv(torch.relu(self.norm(torch.cat(parts, dim=1))))


class DenseBlock(nn.Module):
    def __init__(self, inputs, growth, depth):
        super().__init__()
        self.layers = nn.ModuleList(DenseLayer(inputs + k * growth, growth) for k in range(depth))

    def forward(self, x):
        parts = [x]
        for layer in self.layers:
            parts.append(layer(parts))
        return torch.cat(parts, dim=1)


class DenseNet(nn.Module):
    """Every layer sees all before it; behind the last norm is a ReLU that is no module."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential()
        self.features.add_module("conv0", nn.Conv2d(3, 8, 3, 2, 1))
        self.features.add_module("block1", DenseBlock(8, 4, 3))
        self.features.add_module("transition", nn.Sequential(nn.Conv2d(20, 10, 1), nn.AvgPool2d(2)))
        self.features.add_module("block2", DenseBlock(10, 4, 3))
        self.features.add_module("norm5", nn.BatchNorm2d(22))
        self.classifier = nn.Linear(22, CLASSES)

    def forward(self, x):
        return self.classifier(nn.functional.adaptive_avg_pool2d(torch.relu(self.features(x)), 1).flatten(1))


class SqueezeExcite(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze, self.excite = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x):
        return x * self.excite(self.squeeze(self.pool(x)).relu()).sigmoid()


class Inverted(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.expand, self.depthwise = convolution(channels, 24, 1), convolution(24, 24, groups=24)
        self.se, self.project = SqueezeExcite(24), nn.Conv2d(24, channels, 1)

    def forward(self, x):
        return x + self.project(self.se(self.depthwise(self.expand(x))))


class MobileNet(nn.Module):
    """Inverted residuals with squeeze and excitation."""

    def __init__(self):
        super().__init__()
        self.stem = convolution(3, 8, stride=2)
        self.blocks = nn.Sequential(Inverted(8), nn.Conv2d(8, 12, 3, 2, 1), Inverted(12))
        self.head = convolution(12, 20, 1)
        self.pool, self.drop, self.fc = nn.AdaptiveAvgPool2d(1), nn.Dropout(0.2), nn.Linear(20, CLASSES)

    def forward(self, x):
        return self.fc(self.drop(self.pool(self.head(self.blocks(self.stem(x)))).flatten(1)))


class ConvNeXtBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.dwconv, self.norm = nn.Conv2d(channels, channels, 7, padding=3, groups=channels), nn.LayerNorm(channels)
        self.fc1, self.act, self.fc2 = nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels)

    def forward(self, x):
        inside = self.fc2(self.act(self.fc1(self.norm(self.dwconv(x).permute(0, 2, 3, 1)))))
        return x + inside.permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """Channels last inside the blocks; a norm between pooling and linear layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 4, 4)
        self.stages = nn.Sequential(
            nn.Sequential(ConvNeXtBlock(12)), nn.Sequential(nn.Conv2d(12, 24, 2, 2), ConvNeXtBlock(24))
        )
        self.norm_pre = nn.Identity()
        self.norm, self.fc = nn.LayerNorm(24), nn.Linear(24, CLASSES)

    def forward(self, x):
        return self.fc(self.norm(self.norm_pre(self.stages(self.stem(x))).mean(dim=(2, 3))))


class Attention(nn.Module):
    def __init__(self, channels, heads):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.q_norm, self.weights_drop = nn.LayerNorm(channels // heads), nn.Dropout(0.1)

    def forward(self, x):
        B, N, C = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        weights = self.weights_drop((self.q_norm(q) @ k.transpose(2, 3) / 4).softmax(dim=3))
        return self.proj((weights @ v).transpose(1, 2).reshape(B, N, C))


class TransformerBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(channels), Attention(channels, 2), nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 24), nn.GELU(), nn.Linear(24, channels))

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Tokens of patches, behind `extra` others; the logits come from the first of these, or from the mean of all."""

    def __init__(self, extra=1, pooled=False, patch=8):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 16, patch, patch)
        self.extra = nn.Parameter(torch.randn(1, extra, 16))
        self.position = nn.Parameter(torch.randn(1, extra + SIZE[0] // patch * (SIZE[1] // patch), 16))
        self.blocks = nn.ModuleList(TransformerBlock(16) for _ in range(3))
        self.norm, self.head, self.pooled = nn.LayerNorm(16), nn.Linear(16, CLASSES), pooled

    def forward(self, x):
        tokens = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.extra.expand(len(x), -1, -1), tokens], dim=1) + self.position
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x[:, self.extra.shape[1] :].mean(dim=1) if self.pooled else x[:, 0])


class Swin(nn.Module):
    """Channels last from block to block, and inside tokens of windows."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 48, 4, 4)
        self.stage1, self.merge, self.stage2 = nn.Linear(48, 48), nn.Linear(192, 24), nn.Linear(24, 24)
        self.norm, self.head, self.window = nn.LayerNorm(24), nn.Linear(24, CLASSES), nn.Linear(48, 48)

    def forward(self, x):
        x = self.stage1(self.embed(x).permute(0, 2, 3, 1)).tanh()
        windows = x.unflatten(1, (4, 2)).unflatten(3, (4, 3)).transpose(2, 3).flatten(2, 4).flatten(0, 1)
        x = x + self.window(windows).reshape(len(x), -1).mean(dim=1)[:, None, None, None]
        x = self.merge(torch.cat([x[:, a::2, b::2] for a in (0, 1) for b in (0, 1)], dim=3))
        return self.head(self.norm(self.stage2(x.tanh())).mean(dim=(1, 2)))


def sequential():
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Dropout(0.3), nn.Flatten(), nn.Linear(12 * 4 * 6, CLASSES)),
    )
