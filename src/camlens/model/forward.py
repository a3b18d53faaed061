"""Running a network without changing it, and the size of the batches in which to run it."""

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call

from camlens.errors import ModelError

MAX_MICRO_BATCH = 32  # images per micro-batch on a CPU
PIXELS_PER_MICRO_BATCH = 300_000  # about as many pixels fit the caches of a CPU
PARAMETERS_PER_IMAGE = 6_000_000  # a network with n times as many parameters gets n images at least

_NORMS = nn.modules.batchnorm._BatchNorm
CHECKPOINTED = (
    "the network uses gradient checkpointing: parts of it run again later, without what camlens has set up; switch "
    "this off: set_grad_checkpointing(False) in timm, gradient_checkpointing_disable() in Hugging Face's networks"
)

_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_locks_lock, _compiled_lock = threading.Lock(), threading.RLock()


def network_lock(network: nn.Module) -> threading.RLock:
    """The lock of a network, to hold as a context while its modes, hooks or parameters are changed for a while.

    Compiled networks share one: how compiled code runs is set for the whole process.

    Args:
        network: The network, without wrappers (`camlens.model.classifier.bare`).
    """
    with _locks_lock:
        return _compiled_lock if is_compiled(network) else _locks.setdefault(network, threading.RLock())


def micro_batch_size(network: nn.Module, images: Tensor) -> int:
    """How many images to run through the network at once, for the least time per image.

    A GPU takes all of them. A CPU takes few enough that the activations stay in the caches, and enough that reading
    the weights pays off.

    Args:
        network: The network.
        images: The batch that will be run, (N, C, H, W); only its shape and device are used.

    Returns:
        A number of images, at least 1.
    """
    if images.device.type != "cpu":
        return len(images)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    by_pixels = math.ceil(PIXELS_PER_MICRO_BATCH / math.prod(images.shape[2:]))
    return max(parameters // PARAMETERS_PER_IMAGE, min(MAX_MICRO_BATCH, by_pixels))


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Put every module into evaluation mode, and afterwards back into the mode it was in."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def uncompiled(network: nn.Module) -> AbstractContextManager[None]:
    """Run modules compiled by `torch.compile` eagerly: compiled code does not call hooks."""
    return torch.compiler.set_stance("force_eager") if is_compiled(network) else nullcontext()


def is_compiled(network: nn.Module) -> bool:
    """Whether some module of a network was compiled by `torch.compile`."""
    return any(hasattr(m, "_orig_mod") or getattr(m, "_compiled_call_impl", None) for m in network.modules())


@contextmanager
def hooked(network: nn.Module, hooks: Mapping[str, Callable[[Any], Any]]) -> Iterator[None]:
    """Call a function with the output of each named module; a result other than None replaces the output."""
    with ExitStack() as stack:
        for name, function in hooks.items():
            module = network.get_submodule(name)
            hook = module.register_forward_hook(lambda *call, function=function: function(call[-1]))
            stack.enter_context(hook)
        yield


def constant(tensor: Tensor) -> Tensor:
    """The values of a tensor without their gradient history; an inference tensor becomes an ordinary one."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def at_least_float32(tensor: Tensor) -> Tensor:
    """A tensor of floats in float32, or in double if it is: half precision would lose what is computed from it."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def isolated_forward(network: nn.Module, images: Tensor) -> Any:
    """The network's output for `images`, in evaluation mode; the network is left as it was.

    Hooks are called. Gradients are recorded if they are enabled, but not for the network's own parameters. Changes that
    the network makes to its buffers are discarded.

    Raises:
        ModelError: The network uses gradient checkpointing.
    """
    state = {key: constant(parameter) for key, parameter in network.named_parameters()}
    state |= {key: buffer.clone() for key, buffer in network.named_buffers()}
    norms = [name for name, module in network.named_modules() if isinstance(module, _NORMS)]
    hooks = dict.fromkeys(norms if len(images) == 1 else [], match_gradient_layout)
    with evaluation_mode(network), uncompiled(network), no_checkpoints(), hooked(network, hooks):
        return functional_call(network, state, (images,))


def match_gradient_layout(output: Any) -> None:
    """Give the gradient of a batch normalisation the memory layout of its output.

    torch 2.13 differentiates it wrongly on a CPU for one image if one of them is a view of tokens and the other is
    contiguous (docs/experiments.md). Calls of `F.batch_norm` outside of a module are not seen.
    """
    if isinstance(output, Tensor) and output.requires_grad and output.ndim == 4:
        is_last = output.is_contiguous(memory_format=torch.channels_last)
        order = torch.channels_last if is_last and not output.is_contiguous() else torch.contiguous_format
        output.register_hook(lambda gradient: gradient.contiguous(memory_format=order))


@contextmanager
def no_checkpoints() -> Iterator[None]:
    """Raise `ModelError` where gradient checkpointing (`torch.utils.checkpoint`) is met, forward or backward."""
    try:
        with torch.autograd.graph.disable_saved_tensors_hooks(CHECKPOINTED):
            yield
    except RuntimeError as error:
        if CHECKPOINTED in str(error) or "use_reentrant=True" in str(error):
            raise ModelError(CHECKPOINTED) from error
        raise


def refuse_unobservable(network: object) -> None:
    """Raise `ModelError` for TorchScript, torch.export and quantised modules: no layer in them can be observed."""
    modules = list(network.modules()) if isinstance(network, nn.Module) else [network]
    for module in modules:
        origins = [base.__module__ for base in type(module).__mro__]
        if isinstance(module, torch.jit.ScriptModule):
            kind = "TorchScript"
        elif any(origin.startswith("torch.export.") for origin in origins):
            kind = "made by torch.export"
        elif any(origin.startswith("torch.") and ".quantized" in origin for origin in origins):
            kind = "quantised"
        else:
            continue
        raise ModelError(
            f"{type(module).__name__} is {kind}: its layers cannot be observed or differentiated, so it has no maps; "
            "give the Python network in floats that it was made from, or the ONNX file that camlens export makes of it "
            "(--int8 for a quantised one)"
        )
