"""Backends run a network on one micro-batch, for its logits and for maps: torch networks, ONNX files and captum."""

from torch import nn

from camlens.data.geometry import Size
from camlens.errors import UsageError
from camlens.maps.backends.captum import CaptumBackend, PixelPass
from camlens.maps.backends.onnx_file import OnnxBackend, OnnxPass
from camlens.maps.backends.torch_network import TorchBackend, TorchPass
from camlens.maps.methods import Method
from camlens.model.exported import Exported
from camlens.model.outputs import LogitReader

Backend = TorchBackend | OnnxBackend
ForwardPass = TorchPass | OnnxPass | PixelPass


def create_backend(
    network: nn.Module,
    method: Method,
    read_logits: LogitReader | None = None,
    grid: Size | None = None,
    is_function: bool = False,
) -> Backend:
    """The backend that suits a network and a method.

    Args:
        network: The network itself, not a `Classifier`.
        method: The method.
        read_logits: Finds the logits, or the value of a function as target, in the network's output.
        grid: Height and width of the grid of tokens, where no convolution shows it.
        is_function: Whether a function is explained and not a class.

    Raises:
        UsageError: The network is an ONNX file, and maps of pixels or of a function were asked for.
    """
    if not isinstance(network, Exported):
        backend = CaptumBackend if method.level == "pixels" else TorchBackend
        return backend(network, method, read_logits, grid)
    if is_function:
        raise UsageError("an ONNX file gives maps of classes; a function as target takes the network itself")
    if method.level == "pixels":
        raise UsageError(f"{method.name} differentiates the network, which an ONNX file does not allow")
    return OnnxBackend(network, method)
