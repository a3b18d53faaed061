"""The network in an ONNX file that `camlens export` wrote, which returns maps in addition to its logits."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from camlens.errors import ModelError, UsageError
from camlens.files import parse_json, read_bytes
from camlens.model.classifier import Classifier
from camlens.model.preprocess import Preprocess

FLOATS = "tensor(float)"  # what onnxruntime calls float32
KEY = "camlens"  # in the file's metadata: what a `Classifier` needs, and which outputs are maps, as JSON


class Exported(nn.Module):
    """Runs an ONNX file on the CPU: (B, 3, H, W) -> logits (B, K).

    Args:
        session: An `onnxruntime.InferenceSession`.
        outputs: For each layer, the name of the output with its HiResCAM maps, (B, K, h, w) in units of the logit.
        exact: The layer, if any, that is followed by a mean over all places and a linear layer.
        digest: A hash of the file.
    """

    def __init__(self, session: Any, outputs: dict[str, str], exact: str, digest: bytes) -> None:
        super().__init__()
        self.session, self.outputs, self.exact = session, outputs, exact
        self.digest = nn.Buffer(torch.tensor(list(digest), dtype=torch.uint8))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of normalised images (B, 3, H, W)."""
        return self.run(images, ())[0]

    def run(self, images: Tensor, layers: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
        """Logits (B, K), and the maps (B, K, h, w) of each of these layers."""
        from onnxruntime import RunOptions

        shape = self.session.get_inputs()[0].shape[1:]
        if list(images.shape[1:]) != shape:
            raise UsageError(
                f"images are {tuple(images.shape)}; this ONNX file takes (B, {', '.join(map(str, shape))})"
            )

        options = RunOptions()
        options.only_execute_path_to_fetches = True
        output_names = ["logits", *(self.outputs[layer] for layer in layers)]
        input_feed = {"images": images.detach().float().cpu().numpy()}
        try:
            results = self.session.run(output_names, input_feed, options)
        except Exception as error:  # onnxruntime has a class for each kind of trouble
            raise ModelError(f"onnxruntime cannot run this ONNX file on {tuple(images.shape)}: {error}") from error
        logits, *maps = (torch.from_numpy(np.asarray(result)).to(images.device) for result in results)
        for name, grids in zip(output_names[1:], maps, strict=True):
            if grids.ndim != 4 or grids.shape[:2] != logits.shape:
                raise ModelError(
                    f"the output {name} of this ONNX file is {tuple(grids.shape)}; expected maps (B, K, h, w)"
                )
        return logits, maps


def load(path: Path) -> Classifier:
    """The classifier in an ONNX file. Raises `ModelError` if `camlens export` did not write it."""
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ModelError(f"{path} needs {error.name}; install it with: pip install 'camlens[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        content = read_bytes(path)
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # onnxruntime has a class for each kind of damage
        raise ModelError(f"{path} is not an ONNX file that onnxruntime can run: {error}") from error
    try:
        facts = parse_json(session.get_modelmeta().custom_metadata_map[KEY])
        check_ends(session, list(facts["outputs"].values()))
        network = Exported(session, facts["outputs"], facts["exact"], hashlib.sha256(content).digest())
        arguments = {key: facts[key] for key in ("class_names", "name")}
        arguments |= {"temperature": facts.get("temperature"), "preprocess": Preprocess.from_facts(facts)}
        size, input_size = arguments["preprocess"].size, tuple(session.get_inputs()[0].shape[2:])
        if size != input_size:
            raise ValueError(f"its metadata say that images are {size}; its input takes {input_size}")
        return Classifier(network, **arguments, layers=list(facts["outputs"])).eval()
    except (KeyError, ValueError, TypeError, AttributeError, UsageError) as error:
        raise ModelError(f"{path} was not written by camlens export: {error!s:.300}") from error


def check_ends(session: Any, maps: Sequence[str]) -> None:
    """Raise `ValueError` unless the only input of a session is images, and its outputs are logits and these maps."""
    inputs = [(node.name, node.type, len(node.shape)) for node in session.get_inputs()]
    outputs = {node.name: (node.type, len(node.shape)) for node in session.get_outputs()}
    if inputs != [("images", FLOATS, 4)]:
        raise ValueError(f"its inputs are {inputs}; expected images (B, 3, H, W) alone, {FLOATS}")
    for name, rank in {"logits": 2, **dict.fromkeys(maps, 4)}.items():
        if outputs.get(name) != (FLOATS, rank):
            raise ValueError(f"its output {name!r} is {outputs.get(name)}; expected {FLOATS} of {rank} dimensions")
