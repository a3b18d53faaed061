"""Whether `--model LIBRARY:NAME` gives what the library does by itself: PYTHONPATH=PEERS python benchmarks/libraries.py

Logits of two photos, by `camlens.load` and by the loading and transforms of timm, torchvision and transformers, and the
class names. Nothing is downloaded: random weights lie in the libraries' caches, as if downloaded.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

CACHE = Path(tempfile.mkdtemp())
os.environ |= {"HF_HOME": str(CACHE), "TORCH_HOME": str(CACHE), "HF_HUB_OFFLINE": "1"}  # read when they are imported

import shim  # noqa: E402, F401  (before what imports torchvision)  # isort: skip
import torch  # noqa: E402
from common import arguments, commit, machine, write  # noqa: E402
from PIL import Image  # noqa: E402
from preprocessing import photo  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from torch import nn  # noqa: E402

import camlens  # noqa: E402
from camlens.errors import CamlensError  # noqa: E402

TIMM = (
    "resnet18", "resnet50d", "resnetblur50", "resnext50_32x4d", "seresnext26d_32x4d", "efficientnet_b0", "mixnet_s",
    "mobilenetv3_small_100", "mobilenetv3_large_100.miil_in21k", "lcnet_050", "tinynet_e", "ghostnet_100", "rexnet_100",
    "hardcorenas_a", "regnety_002", "densenet121", "vgg11", "convnext_atto", "convnextv2_atto", "edgenext_xx_small",
    "mobilevit_xxs", "poolformer_s12", "vit_tiny_patch16_224", "vit_tiny_patch16_224.augreg_in21k",
    "deit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "eva02_tiny_patch14_336", "levit_128s", "pvt_v2_b0",
    "xcit_nano_12_p16_224", "inception_v3", "test_resnet", "test_vit",
)  # fmt: skip
TORCHVISION = (
    "alexnet", "vgg11", "resnet18", "resnet50", "ResNet50_Weights.IMAGENET1K_V1", "wide_resnet50_2", "densenet121",
    "googlenet", "inception_v3", "mobilenet_v2", "mobilenet_v3_small", "mnasnet0_5", "shufflenet_v2_x0_5",
    "squeezenet1_1", "efficientnet_b0", "efficientnet_v2_s", "regnet_y_400mf", "convnext_tiny", "swin_t", "swin_v2_t",
    "vit_b_16", "maxvit_t",
)  # fmt: skip
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
TRANSFORMERS = {  # the configuration and the processor of a small network of each family
    "ViT": ("ViT", SMALL),
    "DeiT": ("DeiT", SMALL),
    "BeiT": ("Beit", SMALL),
    "DINOv2": ("Dinov2", SMALL),
    "SigLIP": ("Siglip", {"vision_config": SMALL}),
    "CLIP": ("CLIP", {"vision_config": SMALL}),
    "Swin": ("Swin", {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2]}),
    "Swin V2": ("Swinv2", {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "image_size": 256}),
    "ConvNeXt": ("ConvNext", {"hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 1, 1]}),
    "ResNet": ("ResNet", {"hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 1, 1], "embedding_size": 8}),
    "RegNet": ("RegNet", {"hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 1, 1], "groups_width": 8}),
    "BiT": ("Bit", {"hidden_sizes": [128, 256, 384, 512], "depths": [1, 1, 1, 1]}),
    "MobileNet V2": ("MobileNetV2", {}),
    "MobileViT": ("MobileViT", {}),
    "PVT": ("Pvt", {}),
    "PoolFormer": ("PoolFormer", {}),
    "LeViT": ("Levit", {}),
}
PROCESSORS = {  # of families whose own has another name
    "DINOv2": "Bit", "Swin": "ViT", "Swin V2": "ViT", "ResNet": "ConvNext", "RegNet": "ConvNext",
}  # fmt: skip
AGREE = 0.02  # of the logits' standard deviation: pictures are the same to a grey level
Logits = Callable[[Image.Image], torch.Tensor]
Case = tuple[str, Callable[[], tuple[nn.Module, Logits, list[str]]]]


def in_hub(repository: str, state: dict[str, torch.Tensor]) -> None:
    """Put weights where huggingface_hub looks for those that it has downloaded."""
    place = CACHE / "hub" / f"models--{repository.replace('/', '--')}"
    for folder in ("refs", "snapshots/made"):
        (place / folder).mkdir(parents=True, exist_ok=True)
    (place / "refs" / "main").write_text("made")
    save_file(state, place / "snapshots/made/model.safetensors")


def random_state(network: nn.Module) -> dict[str, torch.Tensor]:
    """Its weights, with noise: some heads begin as zeros."""
    state = network.state_dict()
    return {key: v + 0.01 * torch.rand_like(v) if v.is_floating_point() else v.clone() for key, v in state.items()}


def of_timm() -> Iterator[Case]:
    import timm

    for name in TIMM:

        def own(name: str = name) -> tuple[nn.Module, Logits, list[str]]:
            made = timm.create_model(name)
            in_hub(made.pretrained_cfg["hf_hub_id"], random_state(made))
            network = timm.create_model(name, pretrained=True).eval()
            transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
            info = timm.data.ImageNetInfo(timm.data.infer_imagenet_subset(network))
            names = [info.index_to_description(index) for index in range(network.num_classes)]
            return network, lambda picture: network(transform(picture)[None]), names

        yield f"timm:{name}", own


def of_torchvision() -> Iterator[Case]:
    from torchvision import models

    for name in TORCHVISION:

        def own(name: str = name) -> tuple[nn.Module, Logits, list[str]]:
            builder = "resnet50" if "." in name else name
            weights = models.get_weight(name) if "." in name else models.get_model_weights(name).DEFAULT
            place = CACHE / "hub" / "checkpoints" / Path(urlparse(weights.url).path).name
            place.parent.mkdir(parents=True, exist_ok=True)
            torch.save(random_state(models.get_model(builder, weights=None)), place)
            network, transforms = models.get_model(builder, weights=weights).eval(), weights.transforms()
            return network, lambda picture: network(transforms(picture)[None]), weights.meta["categories"]

        yield f"torchvision:{name}", own


def of_transformers() -> Iterator[Case]:
    import transformers

    for title, (family, sizes) in TRANSFORMERS.items():
        folder = CACHE / title

        def own(title=title, family=family, sizes=sizes, folder=folder) -> tuple[nn.Module, Logits, list[str]]:
            names = {0: "cat", 1: "dog", 2: "crane", 3: "crane"}
            config = getattr(transformers, f"{family}Config")(num_labels=len(names), **sizes)
            config.id2label = names
            getattr(transformers, f"{family}ForImageClassification")(config).save_pretrained(folder)
            getattr(transformers, f"{PROCESSORS.get(title, family)}ImageProcessor")().save_pretrained(folder)
            network = transformers.AutoModelForImageClassification.from_pretrained(folder)
            processor = transformers.AutoImageProcessor.from_pretrained(folder)
            return network, lambda picture: network(**processor(picture, return_tensors="pt")).logits, [*names.values()]

        yield f"hf:{folder}", own


def made_up() -> Iterator[Case]:
    """A network of the user's own."""
    (CACHE / "made_up.py").write_text(
        "from torch import nn\n"
        "net = nn.Sequential(nn.Conv2d(3, 4, 9, 9), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))\n"
        "make = lambda: net\n"
    )
    sys.path.insert(0, str(CACHE))

    def own() -> tuple[nn.Module, Logits, list[str]]:
        from made_up import net

        return (
            net,
            lambda picture: net(camlens.Classifier(net, 3, preprocess=camlens.Preprocess()).prepare(picture)),
            ["0", "1", "2"],
        )

    yield "made_up:make", own


@torch.no_grad()
def measure(cases: Iterator[Case]) -> dict[str, Any]:
    """How many agree, by how much at worst, and what fails."""
    pictures = [photo((427, 640), 0), photo((375, 500), 1)]
    differences, failed = {}, {}
    for spec, make in cases:
        title = spec.replace(f"{CACHE}/", "")
        _, logits, names = make()
        try:
            model = camlens.load(spec)
            theirs = torch.cat([logits(picture) for picture in pictures])
            ours = torch.cat([model(model.prepare(picture)) for picture in pictures])
            differences[title] = round(float((ours - theirs).abs().max() / theirs.std(dim=1).mean()), 5)
            if any(
                own not in (name, f"{name} ({n})")
                for n, (own, name) in enumerate(zip(model.class_names, names, strict=True))
            ):
                failed[title] = f"class names: {model.class_names[:4]}"
        except CamlensError as error:
            failed[title] = str(error)
        print(title, differences.get(title), failed.get(title, ""), flush=True)
    worst = max(differences, key=lambda name: differences[name])
    return {
        "cases": len(differences.keys() | failed.keys()),
        "agree": sum(value <= AGREE and name not in failed for name, value in differences.items()),
        "largest difference": {worst: differences[worst]},
        "beyond": {name: value for name, value in differences.items() if value > AGREE},
        "failed": failed,
    }


def main() -> None:
    smoke = arguments(__doc__).parse_args().smoke
    torch.manual_seed(0)
    if smoke:
        write("libraries", {"made up": measure(made_up())}, smoke)
        return
    kinds = {"timm": of_timm, "torchvision": of_torchvision, "transformers": of_transformers}
    found = {name: {"version": version(name), **measure(cases())} for name, cases in kinds.items()}
    write("libraries", {"commit": commit(), "machine": machine(), "libraries": found}, smoke)


if __name__ == "__main__":
    main()
