"""The network in an ONNX file that `camlens export` wrote, which gives maps besides its logits."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from camlens.errors import ModelError, UsageError
from camlens.model.classifier import Classifier
from camlens.model.preprocess import Preprocess

KEY = "camlens"  # of the file's metadata: what a classifier knows, and the outputs that are maps, as JSON


class Exported(nn.Module):
    """Runs an ONNX file on the CPU: (B, 3, H, W) -> logits (B, K).

    Args:
        session: An `onnxruntime.InferenceSession`.
        outputs: For each layer, the name of the output with its HiResCAM maps, (B, K, h, w) in units of the logit.
        exact: The layer, if any, that is followed by a mean over all places and a linear layer.
        digest: A hash of the file, which tells it from other files.
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
        wanted = ["logits", *(self.outputs[layer] for layer in layers)]
        given = {"images": images.detach().float().cpu().numpy()}
        logits, *maps = (torch.from_numpy(a).to(images.device) for a in self.session.run(wanted, given, options))
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
        content = path.read_bytes()
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # onnxruntime has a class for each kind of damage
        raise ModelError(f"{path} is no ONNX file that onnxruntime can run: {error}") from error
    try:
        facts = json.loads(session.get_modelmeta().custom_metadata_map[KEY])
        network = Exported(session, facts["outputs"], facts["exact"], hashlib.sha256(content).digest())
        about = {key: facts[key] for key in ("class_names", "name")}
        about |= {"temperature": facts.get("temperature"), "preprocess": Preprocess.from_facts(facts)}
        return Classifier(network, **about, layers=list(facts["outputs"])).eval()
    except (KeyError, ValueError, TypeError) as error:
        raise ModelError(f"{path} was not written by camlens export: it does not say what its outputs are") from error
