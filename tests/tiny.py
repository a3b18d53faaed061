"""A small network, its classes and images for tests: quick, and wrong now and then."""

import torch
from torch import nn

import camlens
from camlens.data.dataset import InMemoryDataset
from camlens.model.resnet import ResNet
from camlens.train.run_folder import RunFolder, resolve_settings
from camlens.train.trainer import create_trainer

NAMES = ("cat", "<img src=x onerror=alert(1)>", 'a "quoted", name')


class Net(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        torch.manual_seed(1)
        self.early = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2))
        self.late = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2))
        self.fc = nn.Linear(8, classes)

    def forward(self, images):
        return self.fc(self.late(self.early(images)).mean(dim=(2, 3))) * 1


class Pooled(Net):
    def forward(self, images):
        return self.fc(self.late(self.early(images)).mean(dim=(2, 3)))


def classifier(network=None, names=NAMES, side=16):
    network = network or Pooled(len(names))
    how = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "input_size": (side, side), "layers": ("early", "late")}
    model = camlens.Classifier(network, names, name="tiny", **how)
    with torch.no_grad():  # so that it says each class now and then
        network.fc.weight *= 30
        network.fc.bias -= model(model.prepare(pixels_of(images(100, "some", names, side)))).mean(dim=0)
    return model


def images(count, split="test", names=NAMES, side=16):
    numbers = torch.Generator().manual_seed(len(split))
    pixels = torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=numbers)
    labels = torch.randint(len(names), (count,), generator=numbers)
    files = tuple(f"{split}/</script>{n}, x.png" for n in range(count))
    return InMemoryDataset("noise", split, names, labels, files, f"{side}x{side}", pixels)


def pixels_of(data):
    """All images of a data set, (N, 3, H, W) uint8."""
    return data.images(torch.arange(len(data)))


def trained_resnet(**options):
    """One of our networks as a classifier, with numbers that no fresh one has."""
    torch.manual_seed(1)
    network = ResNet(**{"classes": 3, "width": 2, **options})
    for buffer in network.buffers():
        buffer.add_(torch.rand(buffer.shape).to(buffer.dtype) + 1)
    mean, std = (1 / 3, 0.4822, 0.4465), (0.2471, 2 / 7, 0.2616)
    return camlens.Classifier(network, ("cat", "dog", "frog"), mean, std, (24, 32), name="mine")


def run_training(recipe, data, out, seed=0, **settings):
    """Train a network into the folder `out`; `settings` are more arguments of `resolve_settings`."""
    return create_trainer(resolve_settings(RunFolder(out), recipe, seed=seed, **settings), data).fit()


def assert_equal_states(first, second):
    """Assert that two networks have the same tensors, bit for bit."""
    first, second = first.state_dict(), second.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) and first[key].dtype == second[key].dtype for key in first)
