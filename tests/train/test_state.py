"""The state of training."""

from __future__ import annotations

import torch
from torch.optim import SGD
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from camlens.model.classifier import Classifier
from camlens.model.resnet import ResNet
from camlens.train.state import TrainState


def test_the_average_is_torchs() -> None:
    """Five steps of any weights: `AveragedModel.update_parameters` gives the same average, bit for bit."""
    network = ResNet(classes=2, width=4)
    classifier = Classifier(network, ("a", "b"), (0.5,) * 3, (0.5,) * 3, (16, 16))
    state = TrainState(network, AveragedModel(network, use_buffers=True), SGD(network.parameters()), classifier)
    theirs = AveragedModel(network, use_buffers=True)
    for step in range(5):
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.detach().add_(torch.randn(tensor.shape) if tensor.is_floating_point() else 1)
        theirs.multi_avg_fn = get_ema_multi_avg_fn(0.1 + step / 10)
        theirs.update_parameters(network)
        state.update_average(0.1 + step / 10)
    for name, tensor in theirs.state_dict().items():
        if tensor.is_floating_point():
            assert torch.equal(tensor, state.ema.state_dict()[name]), name
    assert state.ema.module.bn1.num_batches_tracked == 5
