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


class TupleBlock(TransformerBlock):
    """Puts out a tuple, as blocks of Hugging Face did."""

    def forward(self, x):
        return (super().forward(x), None)


class HuggingFaceViT(ViT):
    """The blocks lie in an encoder; its last output, and the blocks', matter by their class token alone."""

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.ModuleList(TupleBlock(16) for _ in range(3))

        def forward(self, x):
            for block in self.layer:
                x = block(x)[0]
            return x

    def __init__(self):
        super().__init__()
        self.encoder = self.Encoder()
        del self.blocks

    def forward(self, x):
        tokens = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.extra.expand(len(x), -1, -1), tokens], dim=1) + self.position
        return {"logits": self.head(self.norm(self.encoder(x))[:, 0]), "hidden_states": None}


class OddPatches(nn.Module):
    """Patches of 16x8 pixels: the proportions of the image do not tell their grid. A mean of the tokens at the end."""

    def __init__(self, conv=True, patch=(16, 8)):
        super().__init__()
        self.patch, inputs = patch, 3 * patch[0] * patch[1]
        self.embed = nn.Conv2d(3, 16, patch, patch) if conv else nn.Linear(inputs, 16)
        self.block, self.norm, self.head = TransformerBlock(16), nn.LayerNorm(16), nn.Linear(16, CLASSES)

    def forward(self, x):
        if isinstance(self.embed, nn.Linear):
            x = self.embed(nn.functional.unfold(x, self.patch, stride=self.patch).transpose(1, 2))
        else:
            x = self.embed(nn.functional.pad(x, (0, -x.shape[3] % self.patch[1], 0, -x.shape[2] % self.patch[0])))
            x = x.flatten(2).transpose(1, 2)
        return self.head(self.norm(self.block(x)).mean(dim=1))


class PositionTables(Swin):
    """A table of positions and one for each image, none of which depends on the image, as in Swin V2 and EdgeNeXt."""

    def __init__(self):
        super().__init__()
        self.table, self.register = nn.Linear(2, 24), nn.Conv2d(2, 24, 1)
        self.places = nn.Buffer(torch.rand(4, 6, 2))

    def forward(self, x):
        each = self.register(self.places.permute(2, 0, 1).expand(len(x), -1, -1, -1)).detach()
        table = self.table(self.places[None]).mean(dim=(1, 2))
        return super().forward(x) + self.head(table) + each.mean()


class SpatialReduction(nn.Module):
    """Tokens of two stages; keys of few cells in each, as in PVT."""

    def __init__(self):
        super().__init__()
        self.embed1, self.reduce1, self.proj1 = nn.Conv2d(3, 16, 4, 4), nn.Conv2d(16, 16, 4, 4), nn.Linear(16, 16)
        self.embed2, self.norm, self.head = nn.Conv2d(16, 16, 2, 2), nn.LayerNorm(16), nn.Linear(16, CLASSES)
        self.block1 = self.Block(16)

    class Block(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.reduce, self.proj = nn.Conv2d(channels, channels, 4, 4), nn.Linear(channels, channels)

        def forward(self, x, size):
            few = self.reduce(x.transpose(1, 2).unflatten(2, size)).flatten(2).transpose(1, 2)
            return x + self.proj((x @ few.transpose(1, 2)).softmax(dim=2) @ few)

    def forward(self, x):
        x = self.embed1(x)
        tokens = self.block1(x.flatten(2).transpose(1, 2), x.shape[2:])
        x = self.embed2(tokens.transpose(1, 2).view_as(x)).flatten(2).transpose(1, 2)
        return self.head(self.norm(x).mean(dim=1))


class Unrolled(nn.Module):
    """Tokens in another order between patches and pooling, as in Hiera."""

    def __init__(self):
        super().__init__()
        self.embed, self.block = nn.Conv2d(3, 16, 2, 2), TransformerBlock(16)
        self.last, self.norm, self.head = TransformerBlock(16), nn.LayerNorm(16), nn.Linear(16, CLASSES)

    def forward(self, x):
        x = self.embed(x)  # (B, C, 16, 24)
        x = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(0, 3, 5, 2, 4, 1).flatten(1, 4)
        x = self.block(x).unflatten(1, (4, -1)).amax(dim=1)
        return self.head(self.norm(self.last(x)).mean(dim=1))


class Unfolded(nn.Module):
    """Inside a block, the tokens of a quarter of the cells, as in MobileViT."""

    def __init__(self, flat):
        super().__init__()
        self.stem, self.inside = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 16) if flat else nn.Conv2d(16, 16, 1)
        self.out, self.head = nn.Conv2d(16, 16, 1), nn.Linear(16, CLASSES)
        self.flat = flat

    def forward(self, x):
        x = self.stem(x)  # (B, C, 8, 12)
        cells = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(0, 1, 3, 5, 2, 4).flatten(4, 5).flatten(2, 3)
        if self.flat:  # (B, C, 4, 24) to (4 B, 24, C)
            inside = self.inside(cells.permute(0, 2, 3, 1).flatten(0, 1)).unflatten(0, (-1, 4)).permute(0, 3, 1, 2)
        else:
            inside = self.inside(cells)
        cells = cells + inside.tanh()
        x = cells.unflatten(3, (4, 6)).unflatten(2, (2, 2)).permute(0, 1, 4, 2, 5, 3).reshape(x.shape)
        return self.head(self.out(x).relu().mean(dim=(2, 3)))


class AuxiliaryHead(ViT):
    """Logits of the class token, and the largest of a head on every token, which dropout precedes: as in VOLO."""

    def __init__(self):
        super().__init__()
        self.aux_head, self.head_drop = nn.Linear(16, CLASSES), nn.Dropout(0.1)

    def forward(self, x):
        tokens = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.extra.expand(len(x), -1, -1), tokens], dim=1) + self.position
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        logits, x = self.head(self.head_drop(x[:, 0])), self.head_drop(x)
        return logits + 0.5 * self.aux_head(x[:, 1:]).amax(dim=1)


class FrozenBackbone(nn.Module):
    """The backbone runs without gradients, or in inference mode, in the network's own forward."""

    def __init__(self, without=torch.no_grad):
        super().__init__()
        self.backbone = nn.Sequential(convolution(3, 8), nn.MaxPool2d(4), convolution(8, 12))
        self.neck, self.head, self.without = nn.Conv2d(12, 12, 1), nn.Linear(12, CLASSES), without

    def forward(self, x):
        with self.without():
            x = self.backbone(x)
        return self.head(self.neck(x.clone()).tanh().mean(dim=(2, 3)))


def one_axis():
    """Strides along the width alone: 32 channels of 32x4 cells look as if channels were last."""
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 3, 1, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, (1, 12), 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES)),
    )
