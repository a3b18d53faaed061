"""The explorer's answer for one picture: the prediction, maps and the nearest training images."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from camlens.analyse.error_analysis import analyse
from camlens.analyse.evaluation import evaluate
from camlens.analyse.explanations import METHOD, compute_maps, explain_predictions
from camlens.analyse.training_images import NeighbourSearch
from camlens.data.dataset import Dataset, InMemoryDataset
from camlens.data.decoder_process import decoder
from camlens.data.pictures import original
from camlens.errors import UsageError
from camlens.files import out_folder
from camlens.maps.methods import METHODS, find_method
from camlens.model.align import align
from camlens.model.classifier import Classifier
from camlens.model.preprocess import to_pixels
from camlens.runtime.predict import FEATURES_FILE, fingerprints, predict_cached
from camlens.runtime.prediction_cache import PredictionCache
from camlens.show.report.packing import pack_maps, pack_photos, pack_pictures
from camlens.show.report.page import read_facts, to_html, warn_of_replacing, write_report
from camlens.show.report.render import render_identity, render_predictions, render_training_images
from camlens.show.report.schema import Answer, ChosenLayer, Facts, Live, ReportFacts

MAX_PIXELS = 50_000_000
MAX_SIDE = 320  # pixels; larger pictures are made smaller for the page
NEAREST = 6  # training images


class Explorer:
    """Predicts and explains single pictures.

    Args:
        model: The classifier.
        data: The evaluated images, which can be requested by number.
        train: The training images, or None.
        train_features: Their features, (M, C), or None.
        is_exact: Whether the cells of the last layer's maps and the bias add up to the logit.
    """

    def __init__(
        self,
        model: Classifier,
        data: Dataset,
        train: Dataset | None,
        train_features: Tensor | None,
        is_exact: bool,
    ) -> None:
        self.model, self.data, self.train, self.is_exact = model, data, train, is_exact
        self.search = None if train_features is None else NeighbourSearch(train_features)

    def answer(self, picture: int | bytes, layer: str = "", method: str = "", class_name: str = "") -> Answer:
        """Predict and explain a picture.

        Args:
            picture: Number of an image of the data set, or the content of a picture file.
            layer: A layer to explain in addition to the last; "" for the last if a method is given, otherwise none.
            method: Method at that layer; "" for the report's.
            class_name: A class that must be explained; "" for none.

        Raises:
            DataError: The file is not a picture.
            UsageError: There is no such image, layer, method or class.
        """
        image, frames = (self.image(picture), 1) if isinstance(picture, int) else decoder.decode(picture, MAX_PIXELS)
        number = picture if isinstance(picture, int) else None
        label = None if number is None else int(self.data.labels[number])
        file = "your picture" if number is None else self.data.files[number]
        model = self.model
        data = InMemoryDataset(
            name=self.data.name,
            split=self.data.split,
            class_names=model.class_names,
            labels=torch.tensor([label or 0]),
            files=(file,),
            original_size=f"{image.height}x{image.width}",
            pixels=model.denormalise(model.prepare(image)).cpu(),
            geometry=model.geometry,
        )
        evaluation, last = evaluate(model, data, batch_size=1, features=True), model.find_layers()[-1]
        extra_class = model.class_index(class_name) if class_name else None
        explained = explain_predictions(evaluation, torch.tensor([0]), [last], extra_class)
        chosen: ChosenLayer | None = None
        if layer or method:
            layer, method = layer or last, find_method(method or METHOD).name
            maps = compute_maps(evaluation, explained.indices, explained.classes, [layer], method)[layer]
            chosen = {"method": method, **pack_maps(layer, maps, precise=True)}
        evidence = None
        if self.search is not None and self.train is not None and evaluation.features is not None:
            nearest = self.search.nearest(evaluation.features, NEAREST)
            evidence = render_training_images({"nearest": nearest}, self.train)
        photo = original(image, [model.geometry], MAX_SIDE)
        if photo is not None:
            pictures = pack_photos([photo], MAX_SIDE)
        else:
            preview = model.geometry.apply(image) if model.geometry.window((1, 1)) is None else image.copy()
            preview.thumbnail((MAX_SIDE, MAX_SIDE))
            preview_size = (preview.height, preview.width)
            pictures = pack_pictures([to_pixels(preview, preview_size)], 1, preview_size, MAX_SIDE)
        return {
            "index": number,
            "file": file,
            "label": label,
            "size": [image.height, image.width],
            "frames": frames,
            "model": {**render_predictions(explained), "exact": self.is_exact},  # not to be seen in one image
            "chosen": chosen,
            "pictures": pictures,
            "evidence": evidence,
        }

    def image(self, number: int) -> Image.Image:
        """An image of the data set. Raises `UsageError` if it has no image with this number."""
        if not 0 <= number < len(self.data):
            raise UsageError(f"there is no image {number}; {self.data.name} has 0 to {len(self.data) - 1}")
        image = self.data.images(torch.tensor([number]))[0].permute(1, 2, 0)
        return self.data.picture(number) or Image.fromarray(image.numpy())


def prepare_explorer(
    model: Classifier, test: Dataset, train: Dataset | None, out: Path, batch_size: int
) -> tuple[Explorer, str]:
    """Make an explorer and its page.

    The report in the folder `out` is used if it is of this model and these images; otherwise a new one is written.
    """
    model, test = align(model, test)
    train = None if train is None else align(model, train)[1]
    path = out_folder(out) / "report.html"
    keys, facts = fingerprints(model, test, train), read_facts(path)
    is_whole = facts is not None and facts.keys() >= ReportFacts.__required_keys__
    if facts is None or not is_whole or not render_identity(*keys).items() <= facts.items():
        warn_of_replacing(path, [model])
        write_report(analyse(model, test, train, cache=out, batch_size=batch_size), path)
        facts = read_facts(path)
        assert facts is not None, "it was just written"
    train_features = None
    if train is not None and facts["plane"] is not None:  # the network has features
        train_features = predict_cached(
            model, train, PredictionCache(out), FEATURES_FILE, batch_size, True, keys[1]
        ).features
    methods = [name for name, method in METHODS.items() if method.needs == "gradients"]
    live: Live = {"methods": methods, "method": METHOD, "layers": list(model.find_layers())}
    served: Facts = {**facts, "live": live}
    return Explorer(model, test, train, train_features, facts["models"][0]["exact"]), to_html(served)
