"""`Explanation`: logits and maps of a batch."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image
from torch import Tensor

from camlens.data.decode import upright_rgb
from camlens.data.geometry import Window
from camlens.data.pictures import original, three_channels
from camlens.errors import UsageError
from camlens.files import write_arrays
from camlens.maps.overlay import displayable, overlay
from camlens.maps.upsample import upsample
from camlens.model.classifier import Classifier
from camlens.model.temperature import probabilities

T = TypeVar("T")
MAX_IMAGES, MAX_CLASSES, SIDE = 12, 10, 128  # shown in a notebook; the side of each picture is in CSS pixels
MAX_SIDE = 512  # of an original picture there, in its own pixels


@dataclass(frozen=True, repr=False)
class Explanation:
    """Logits and maps of a batch.

    Attributes:
        logits: (B, K); if the target is a function and the network has no logits, the values (B, 1).
        layer_maps: For each layer the maps (B, h, w) on its own grid, signed if the method is; (B, n, h, w) for n
            classes of each image. Maps of methods that use gradients are in units of the logit.
        target: Indices of the explained classes, (B,), or (B, n) for n classes of each image; None for a function.
        against: Indices of the classes whose logit was subtracted, (B,), or None.
        method: Name of the method.
        images: The images as the network took them, (B, C, H, W).
        classifier: The model, where it is a `Classifier`.
        why: Why this layer was chosen, if none was asked for.
        single_layer: Whether one layer was asked for, not a list of them.
        values: The explained values of a function as target, (B,); None for classes.
        originals: The pictures as given, if pictures were given.
    """

    logits: Tensor
    layer_maps: dict[str, Tensor]
    target: Tensor | None
    against: Tensor | None
    method: str
    images: Tensor
    classifier: Classifier | None
    why: str = ""
    single_layer: bool = True
    values: Tensor | None = None
    originals: Sequence[Image.Image] = ()

    def __repr__(self) -> str:
        shapes = ", ".join(f"{layer} {tuple(maps.shape)}" for layer, maps in self.layer_maps.items())
        return f"Explanation({self.method} of {len(self.logits)} images, maps at {shapes})"

    def by_layer(self) -> dict[str, Tensor]:
        """The maps of each layer, even if there is only one."""
        return self.layer_maps

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers."""
        return tuple(self.layer_maps)

    @property
    def maps(self) -> Tensor | dict[str, Tensor]:
        """The maps of the layer, or a dict from layer to maps where a list of layers was asked for."""
        return self._as_asked(lambda maps: maps)

    @property
    def prediction(self) -> Tensor:
        """Indices of the predicted classes, (B,)."""
        return self.logits.argmax(dim=1)

    @property
    def probabilities(self) -> Tensor:
        """Probabilities of the classes, (B, K), with the classifier's temperature if it has one."""
        return probabilities(self.logits, None if self.classifier is None else self.classifier.temperature)

    @property
    def empty(self) -> Tensor | dict[str, Tensor]:
        """Which maps have no positive evidence: bool, (B,) or (B, n); a dict for a list of layers."""
        return self._as_asked(lambda maps: maps.amax(dim=(-2, -1)) <= 0)

    def upsample(self, size: tuple[int, int] | None = None) -> Tensor | dict[str, Tensor]:
        """Upsample the maps, bilinearly with half-pixel centres.

        Args:
            size: Height and width in pixels; by default those of the images.

        Returns:
            Maps (B, H, W) or (B, n, H, W); a dict for a list of layers.
        """
        height, width = size or self.images.shape[-2:]
        return self._as_asked(lambda maps: upsample(maps, (height, width)))

    @property
    def pictures(self) -> Tensor:
        """The images for display, (B, 3, H, W) uint8; each is stretched to 0..255 if their normalisation is unknown."""
        if self.classifier is None:
            return displayable(self.images)
        return three_channels(self.classifier.denormalise(self.images))

    def overlay(self, strength: float = 0.8) -> list[Image.Image] | dict[str, list[Image.Image]]:
        """Draw each image in grey under its heat map: orange is evidence for the class, blue against it.

        The largest absolute value of a map gets full colour. A picture that was cropped or squeezed for the network is
        drawn as it was given, with the crop outlined.

        Args:
            strength: Opacity of full colour, 0 to 1.

        Raises:
            UsageError: The maps are of several classes.
        """
        if self.target is not None and self.target.ndim > 1:
            raise UsageError("an overlay shows one class; explain one target of each image")
        shown = [self.original(row) for row in range(len(self.images))]
        return self._as_asked(
            lambda maps: [
                overlay(picture, of_image, strength=strength, window=window)
                for (picture, window), of_image in zip(shown, maps, strict=True)
            ]
        )

    def original(self, row: int, max_side: int | None = None) -> tuple[Tensor, Window | None]:
        """The original picture of an image if it was cropped or squeezed for the network, else the image.

        Args:
            row: Number of the image.
            max_side: Pixels; a larger picture is made smaller.

        Returns:
            (3, H, W) uint8, and the part of it that the network takes; None for the image itself.
        """
        if self.originals and self.classifier is not None:
            picture_and_windows = original(upright_rgb(self.originals[row]), [self.classifier.geometry], max_side)
            if picture_and_windows is not None:
                return picture_and_windows[0], picture_and_windows[1][0]
        return self.pictures[row], None  # (C, H, W)

    def class_name(self, index: int) -> str:
        """The name of a class; of a bare network its index."""
        return str(index) if self.classifier is None else self.classifier.class_names[index]

    def save_npz(self, path: str | Path) -> Path:
        """Write logits, target, against, values, class_names, method and `maps/<layer>`; None as an empty array."""
        arrays = {
            "logits": self.logits.float().cpu().numpy(),
            "target": np.zeros(0, np.int64) if self.target is None else self.target.cpu().numpy(),
            "against": np.zeros(0, np.int64) if self.against is None else self.against.cpu().numpy(),
            "values": np.zeros(0, np.float32) if self.values is None else self.values.float().cpu().numpy(),
            "class_names": np.array([self.class_name(index) for index in range(self.logits.shape[1])]),
            "method": np.array(self.method),
            **{f"maps/{layer}": maps.cpu().numpy() for layer, maps in self.layer_maps.items()},
        }
        write_arrays(Path(path), arrays)
        return Path(path)

    def _as_asked(self, function: Callable[[Tensor], T]) -> T | dict[str, T]:
        """Apply a function to the maps of every layer; the result alone where a single layer was asked for."""
        results = {layer: function(maps) for layer, maps in self.layer_maps.items()}
        return results[self.layers[0]] if self.single_layer else results

    def _repr_html_(self) -> str:
        """For notebooks: a row for each image, with its prediction and its heat maps."""
        rows = [self._row_as_html(row) for row in range(min(len(self.images), MAX_IMAGES))]
        omitted = len(self.logits) - len(rows)
        heading = escape(f"{self.method} at {', '.join(self.layers)}. {self.why}")
        return f"<p>{heading}</p>{''.join(rows)}" + (f"<p>and {omitted:,} more images</p>" if omitted else "")

    def _row_as_html(self, row: int) -> str:
        """An image with its prediction, and its heat maps with class, layer and range."""
        picture, window = self.original(row, MAX_SIDE)
        if self.target is None:
            heading, explained = "" if self.values is None else f"value {self.values[row]:.3g}", ["value"]
        else:
            probability = float(self.probabilities[row].max())
            heading = f"{self.class_name(int(self.prediction[row]))} {100 * probability:.1f} %"
            minus = "" if self.against is None else f" − {self.class_name(int(self.against[row]))}"
            classes = self.target[row].reshape(-1).tolist()[:MAX_CLASSES]
            explained = [f"{self.class_name(index)}{minus}" for index in classes]
        figures = [html_figure(heading, Image.fromarray(picture.permute(1, 2, 0).cpu().numpy()))]
        for layer, maps in self.layer_maps.items():
            for name, map in zip(explained, maps[row].reshape(-1, *maps.shape[-2:]), strict=False):
                caption = f"{name}, {layer}, {map.min():.2g} … {map.max():.2g}"
                figures.append(html_figure(caption, overlay(picture, map, window=window)))
        return "".join(figures) + "<br>"


def html_figure(caption: str, picture: Image.Image) -> str:
    """A picture with its caption as HTML that needs no other file."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    data, text = base64.b64encode(file.getvalue()).decode(), escape(caption)
    return (
        f'<figure style="display:inline-block;margin:0 8px 8px 0;width:{SIDE}px;vertical-align:top;font-size:11px">'
        f'<img alt="{text}" src="data:image/png;base64,{data}" style="width:{SIDE}px;image-rendering:pixelated">'
        f"<figcaption>{text}</figcaption></figure>"
    )
