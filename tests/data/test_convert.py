"""Images in every form in which people have them become one and the same data set."""

import sys
import warnings
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset, TensorDataset

import camlens
import tiny
from camlens.data import convert
from camlens.errors import CamlensError, DataError, UsageError

COUNT, NAMES = 12, ("cat", "dog", "frog")
ClassLabel = namedtuple("ClassLabel", "names")


def model(side=16, **how):
    torch.manual_seed(0)
    how = how or {"mean": (0.5, 0.4, 0.3), "std": (0.25, 0.2, 0.3), "input_size": (side, side)}
    return camlens.Classifier(tiny.Net().eval(), NAMES, name="tiny", **how)


REFERENCE = tiny.images(COUNT, names=NAMES)
PIXELS, LABELS = tiny.pixels_of(REFERENCE), REFERENCE.labels.tolist()
ARRAYS = PIXELS.permute(0, 2, 3, 1).numpy()
PICTURES = [Image.fromarray(array) for array in ARRAYS]
FLOATS = model().normalise(PIXELS)
ONE_HOT = np.eye(3, dtype=np.float32)[LABELS]


class Torch(torch.utils.data.Dataset):
    """A data set of torch, or of torchvision where it has classes: gives what it is told to."""

    def __init__(self, images, labels=LABELS, **attributes):
        self.images, self.labels = images, labels
        vars(self).update(attributes)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], self.labels[index]


class Stream(IterableDataset):
    def __iter__(self):
        return zip(PICTURES, LABELS, strict=True)


class HuggingFace(Torch):
    """Rows with named columns, of which `features` tells the classes."""

    def __init__(self, image="image", label="label", images=PICTURES, names=NAMES):
        super().__init__(images)
        self.columns, self.features = (image, label), {image: object(), label: ClassLabel(list(names))}

    def __getitem__(self, index):
        return dict(zip(self.columns, super().__getitem__(index), strict=True))

    def __iter__(self):
        return (self[index] for index in range(len(self)))


def loader(data, **options):
    return DataLoader(data, batch_size=5, **options)


def parts(images):
    return [Subset(Torch(images, classes=list(NAMES)), indices) for indices in (range(7), range(7, COUNT))]


SWAPPED = [2, 0, 1]  # a data set whose classes are in another order: its number n is class SWAPPED[n]
FORMS = {
    "pairs of pictures": lambda: list(zip(PICTURES, LABELS, strict=True)),
    "a generator of arrays": lambda: zip(ARRAYS, LABELS, strict=True),
    "arrays with channels first": lambda: zip(PIXELS.numpy(), LABELS, strict=True),
    "arrays X and y": lambda: (ARRAYS, np.array(LABELS)),
    "arrays, one-hot": lambda: (ARRAYS, ONE_HOT),
    "arrays that cannot be written to": lambda: (np.broadcast_to(ARRAYS, ARRAYS.shape), LABELS),
    "uint8 tensors": lambda: [PIXELS, torch.tensor(LABELS)],
    "uint8 tensors, one-hot": lambda: (PIXELS, torch.tensor(ONE_HOT)),
    "names": lambda: zip(PICTURES, [NAMES[label] for label in LABELS], strict=True),
    "labels in lists of one": lambda: (ARRAYS, np.array(LABELS)[:, None]),
    "labels in floats": lambda: (ARRAYS, np.array(LABELS, float)),
    "a data set of torch": lambda: Torch(PICTURES),
    "TensorDataset": lambda: TensorDataset(PIXELS, torch.tensor(LABELS)),
    "an iterable data set": Stream,
    "torchvision's": lambda: Torch(PICTURES, classes=list(NAMES)),
    "torchvision's, in another order": lambda: Torch(
        PICTURES, [SWAPPED.index(label) for label in LABELS], classes=[NAMES[label] for label in SWAPPED]
    ),
    "parts of one": lambda: ConcatDataset(parts(PICTURES)),
    "a loader of tensors": lambda: loader(TensorDataset(PIXELS, torch.tensor(LABELS))),
    "a loader of normalised images": lambda: loader(Torch(FLOATS, classes=list(NAMES))),
    "batches": lambda: [(PIXELS[:8], LABELS[:8]), (PIXELS[8:], LABELS[8:])],
    "Hugging Face's": HuggingFace,
    "Hugging Face's, other columns": lambda: HuggingFace("img", "fine_label"),
    "Hugging Face's, in arrays": lambda: HuggingFace(images=ARRAYS),
    "a loader of Hugging Face's": lambda: loader(HuggingFace("pixel_values", "labels", FLOATS)),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("error")
def test_every_form_is_the_same_data(form):
    classifier = model()
    evaluation = camlens.evaluate(classifier, FORMS[form]())
    assert isinstance(evaluation, camlens.Evaluation)
    assert torch.equal(tiny.pixels_of(evaluation.data), PIXELS)
    assert evaluation.labels.tolist() == LABELS and evaluation.data.class_names == NAMES
    with torch.no_grad():
        torch.testing.assert_close(evaluation.logits, classifier.network(FLOATS), rtol=1e-4, atol=1e-4)
    result = camlens.explain(classifier, FORMS[form](), "hirescam", "late")
    torch.testing.assert_close(result.logits, evaluation.logits, rtol=1e-4, atol=1e-4)


@pytest.fixture
def pets(tmp_path):
    """The pictures in folders of their classes, by which they are in another order; and that order."""
    for number, (picture, label) in enumerate(zip(PICTURES, LABELS, strict=True)):
        (tmp_path / "pets" / "test" / NAMES[label]).mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / "pets" / "test" / NAMES[label] / f"{number:02}.png")
    return tmp_path / "pets"


def by_label():
    return sorted(range(COUNT), key=lambda index: (LABELS[index], index))


@pytest.mark.parametrize("form", ["the folder", "a split", "pairs", "an ImageFolder", "its loader", "half of it"])
def test_files_are_found_again(pets, form):
    paths = [(str(path), NAMES.index(path.parent.name)) for path in sorted(pets.glob("test/*/*.png"))]
    pictures = [PICTURES[index] for index in by_label()]
    folder = Torch(pictures, [label for _, label in paths], classes=list(NAMES), samples=paths)
    floats = Torch(FLOATS[by_label()], folder.labels, classes=list(NAMES), samples=paths)
    forms = {"the folder": str(pets), "a split": pets / "test", "pairs": paths, "an ImageFolder": folder}
    forms |= {"its loader": loader(floats), "half of it": Subset(folder, range(0, COUNT, 2))}
    data, step = camlens.evaluate(model(), forms[form]).data, 2 if form == "half of it" else 1
    assert torch.equal(tiny.pixels_of(data), PIXELS[by_label()][::step])
    assert data.labels.tolist() == [label for _, label in paths][::step]
    root = pets if form in ("the folder", "a split") else pets / "test"
    assert data.files == tuple(Path(path).relative_to(root).as_posix() for path, _ in paths[::step])
    assert form == "its loader" or data.picture(0).size == (16, 16)


def test_the_files_of_a_shuffled_loader_are_not_known(pets):
    folder = Torch(FLOATS, samples=[(str(path), 0) for path in sorted(pets.glob("test/*/*.png"))])
    assert camlens.evaluate(model(), loader(folder, shuffle=True)).data.files[0] == "test image 0"
    batches = torch.utils.data.BatchSampler(range(COUNT - 1, -1, -1), 5, drop_last=False)
    data = camlens.evaluate(model(), DataLoader(folder, batch_sampler=batches)).data
    assert data.files[0] == "test image 0" and torch.equal(tiny.pixels_of(data), PIXELS.flip(0))


def test_what_explain_takes_without_labels(pets):
    classifier, paths = model(), sorted(pets.glob("test/*/*.png"))
    expected = classifier(FLOATS[by_label()]).detach()
    for images in (pets, str(pets), paths, [*map(str, paths)], [PICTURES[index] for index in by_label()]):
        result = camlens.explain(classifier, images, "hirescam", "late")
        torch.testing.assert_close(result.logits, expected, rtol=1e-4, atol=1e-4)
        assert result.originals[0].size == (16, 16)
    for images in (paths[0], PICTURES[by_label()[0]], ARRAYS[by_label()[0]], FLOATS[by_label()[0]].numpy()):
        torch.testing.assert_close(camlens.explain(classifier, images, layer="late").logits, expected[:1])
    grey = camlens.explain(classifier, [ARRAYS[0][:, :, 0], ARRAYS[0][:, :, :1], PIXELS[0, :1]], layer="late").logits
    rgb = camlens.explain(classifier, Image.fromarray(ARRAYS[0][:, :, 0]), layer="late").logits
    torch.testing.assert_close(grey, rgb.expand(3, -1))
    assert len(camlens.explain(classifier, REFERENCE, layer="late").originals) == COUNT
    floats = camlens.explain(classifier.network, loader(TensorDataset(FLOATS)), layer="late")
    torch.testing.assert_close(floats.logits, classifier(FLOATS).detach(), rtol=1e-4, atol=1e-4)


def test_grey_arrays_of_a_network_of_grey_images():
    """As MNIST comes: (N, H, W) and numbers."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    classifier = camlens.Classifier(network, 3, (0.3,), (0.2,), (16, 16))
    grey = ARRAYS[:, :, :, 0]
    expected = network((torch.tensor(grey)[:, None] / 255 - 0.3) / 0.2).detach()
    floats = (torch.tensor(grey)[:, None] / 255 - 0.3) / 0.2
    for images in (grey, torch.tensor(grey), grey[:, :, :, None], floats):
        torch.testing.assert_close(camlens.evaluate(classifier, (images, LABELS)).logits, expected)


def test_five_channels():
    network = nn.Sequential(nn.Conv2d(5, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    classifier = camlens.Classifier(network, NAMES, (0.3,) * 5, (0.2,) * 5, (16, 16), layers=["0"])
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 16, 16, 5), dtype=np.uint8)
    inputs = (torch.tensor(images).permute(0, 3, 1, 2) / 255 - 0.3) / 0.2
    for given in (images, inputs):
        evaluation = camlens.evaluate(classifier, (given, LABELS))
        torch.testing.assert_close(evaluation.logits, network(inputs).detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(camlens.explain(classifier, images).logits, network(inputs).detach())


# --- what is said


def notes(caplog, data, classifier=None):
    camlens.evaluate(classifier or model(), data)
    return caplog.text


def test_floats_are_taken_as_normalised_and_that_is_said(caplog):
    said = notes(caplog, loader(Torch(FLOATS)))
    low, high = float(FLOATS.min()), float(FLOATS.max())
    assert (
        f"floats from {low:.3g} to {high:.3g}: taken as normalised already, by the network's mean 0.5,0.4,0.3" in said
    )
    assert "deviation 0.25,0.2,0.3" in said


@pytest.mark.parametrize("function", [camlens.evaluate, camlens.analyse, camlens.report, camlens.explain])
def test_floats_that_were_not_normalised_are_warned_of_everywhere(function, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    classifier = model(mean=(0.1,) * 3, std=(0.8,) * 3, input_size=(16, 16))
    with pytest.warns(UserWarning, match="reach from 0 to 1: as if they had not been normalised"):
        function(classifier, loader(Torch(PIXELS / 255)))


@pytest.mark.parametrize(
    ("floats", "how"),
    [(PIXELS.float(), "99 %"), ((PIXELS / 255 - 0.5) / 0.05, "% of them"), (FLOATS.log(), "not finite")],
    ids=["255", "others", "nan"],
)
def test_floats_that_are_normalised_otherwise_are_refused(floats, how):
    with pytest.raises(DataError, match=how):
        camlens.evaluate(model(), loader(Torch(floats)))


@pytest.mark.parametrize("function", [camlens.evaluate, camlens.explain])
def test_floats_that_were_normalised_by_others_and_stay_within_0_to_1_are_warned_of(function):
    floats = (PIXELS / 255 - 0.5) / 0.5  # -1 to 1
    imagenet = model(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), input_size=(16, 16))
    reach = (
        "reach from 0.18 to 0.71 of 0 .black. to 1 .white.: as if they had been normalised by other values; give the"
    )
    with pytest.warns(UserWarning, match=f"12 images {reach}"):
        function(imagenet, loader(Torch(floats)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        function(
            imagenet,
            imagenet.normalise(PIXELS) if function is camlens.explain else loader(Torch(imagenet.normalise(PIXELS))),
        )
        camlens.explain(imagenet, floats[:1])  # one picture may be dull


def test_a_network_without_normalisation_is_given_what_it_takes():
    plain = model(mean=(0,) * 3, std=(1,) * 3, input_size=(16, 16))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(tiny.pixels_of(camlens.evaluate(plain, loader(Torch(PIXELS / 255))).data), PIXELS)


def test_what_a_loader_leaves_out_is_counted(caplog):
    said = notes(caplog, loader(Torch(FLOATS), drop_last=True))
    assert "the loader returned 10 images, but its data set has 12" in said


def test_data_that_fill_the_memory_say_how_large_they_are(caplog, monkeypatch):
    assert "held in memory" not in notes(caplog, loader(Torch(FLOATS)))
    monkeypatch.setenv("CAMLENS_MEMORY", "0.000009")
    assert "12 images are held in memory, 9.2e-06 GB: only a folder or a .csv" in notes(caplog, loader(Torch(FLOATS)))


def test_transforms_of_training_are_noticed(caplog):
    class Augmented(Torch):
        def __getitem__(self, index):
            return self.images[index] + torch.randn(1).clamp(-0.01, 0.01), self.labels[index]

    assert "return a different image each time, as for training" in notes(caplog, loader(Augmented(FLOATS * 0.9)))
    caplog.clear()
    assert "different image" not in notes(caplog, loader(Torch(FLOATS)))


def test_pictures_of_a_generator_are_kept_while_there_is_room(caplog, monkeypatch):
    large = [picture.resize((40, 20)) for picture in PICTURES]
    data = camlens.evaluate(model(), zip(large, LABELS, strict=True)).data
    assert data.picture(3).size == (40, 20) and data.original_size == "20x40"
    monkeypatch.setattr(convert, "KEPT_PIXELS", 11 * 800)
    assert "too large to keep" in notes(caplog, zip(large, LABELS, strict=True))
    assert camlens.evaluate(model(), zip(large, LABELS, strict=True)).data.picture(3) is None
    assert camlens.evaluate(model(), list(zip(large, LABELS, strict=True))).data.picture(3).size == (40, 20)


def test_a_second_model_of_another_size_has_no_pictures_of_floats(caplog):
    camlens.analyse(model(), loader(Torch(FLOATS)), second=model(24))
    assert "the data hold no pictures: tiny (second) gets the images for tiny (first), resized" in caplog.text
    caplog.clear()
    camlens.analyse(model(), zip(PICTURES, LABELS, strict=True), second=model(24))
    assert "resized" not in caplog.text


# --- what cannot be known is asked

WRONG = {
    "no images": (lambda: [], "the test data have no images; expected files, PIL pictures"),
    "no labels": (lambda: PICTURES, r"image 0 has no label; give pairs \(image, label\)"),
    "no label column": (lambda: [{"image": picture} for picture in PICTURES], "image 0 has no label"),
    "another column": (lambda: HuggingFace("photo"), "the columns photo, label; expected pictures in one named pixel"),
    "two labels": (lambda: Torch(PICTURES, np.array([[1, 1, 0]] * COUNT)), r"label \[1, 1, 0\]; expected 0 to 2, a"),
    "soft labels": (lambda: (ARRAYS, 0.5 * ONE_HOT), "3 numbers of which one is 1; the classes are cat, dog, frog"),
    "one-hot of four": (lambda: (ARRAYS, np.eye(4)[LABELS]), "image 0 has the label"),
    "a label too large": (lambda: (ARRAYS, [0, 1, 2, 3] * 3), "image 3 has the label 3; expected 0 to 2"),
    "a negative label": (lambda: (ARRAYS, [-1] * COUNT), "image 0 has the label -1"),
    "half a label": (lambda: (ARRAYS, [0.5] * COUNT), "image 0 has the label 0.5"),
    "another class": (lambda: (ARRAYS, ["bird"] * COUNT), "does not know bird"),
    "too few labels": (lambda: (ARRAYS, LABELS[:5]), r"12 images, but labels \(5,\); expected one for each"),
    "splits": (lambda: {"train": [], "test": []}, "the data have the parts train, test; give one of them"),
    "three things": (lambda: [(PICTURES[0], 1, "a.png")], "an item of the data has 3 parts; expected an image and its"),
    "a number": (lambda: 5, "images is of type int; expected files, PIL pictures"),
    "whole numbers": (lambda: (ARRAYS.astype(int), LABELS), r"an image is \(16, 16, 3\) int64; expected files"),
    "five axes": (lambda: [(PIXELS[None], 1)], r"an image is \(1, 12, 3, 16, 16\) uint8"),
    "another size": (lambda: Torch(FLOATS[:, :, :8]), r"image 0 is \(3, 8, 16\) float32; the network takes"),
    "other channels": (lambda: (ARRAYS[:, :, :, [0, 1, 2, 0]], LABELS), r"image 0 is \(4, 16, 16\) uint8"),
    "no file": (lambda: [("nowhere.png", 0)], "cannot read nowhere.png"),
    "no folder": (lambda: "nowhere", "no data 'nowhere'"),
}  # fmt: skip


@pytest.mark.parametrize(("form", "message"), WRONG.values(), ids=WRONG)
def test_what_is_no_data_is_told(form, message):
    with pytest.raises(CamlensError, match=message):
        camlens.evaluate(model(), form())


def test_columns_that_both_name_classes_are_asked_for():
    data = HuggingFace()
    data.features["coarse"] = ClassLabel(["animal"])
    rows = [{**row, "coarse": 0} for row in data]
    data.__class__ = type("Rows", (HuggingFace,), {"__getitem__": lambda self, index: rows[index]})
    with pytest.raises(DataError, match=r"the columns image, label, coarse; .* remove other labels"):
        camlens.evaluate(model(), data)


def test_images_of_several_kinds_and_folders_without_pictures(tmp_path):
    for images, message in (
        ([PICTURES[0], FLOATS[0]], r"\(3, 16, 16\) float32 and PIL pictures; .*all of one kind and shape"),
        ([FLOATS[0], FLOATS[0, :, :8]], r"\(3, 16, 16\) float32 and \(3, 8, 16\) float32"),
        ([], "images is empty"),
        (tmp_path, "has no pictures; expected pictures, ending in .*png"),
    ):
        with pytest.raises(DataError, match=message):
            camlens.explain(model(), images)


def test_a_bare_network_is_asked_for_a_classifier():
    with pytest.raises(UsageError, match=r"model is of type Net; expected a camlens.Classifier, which knows"):
        camlens.evaluate(tiny.Net(), FORMS["arrays X and y"]())


def test_nothing_of_other_libraries_is_imported():
    assert "datasets" not in sys.modules


# --- the front door


def test_what_there_is_is_listed():
    assert set(dir(camlens)) == {*camlens.__all__, "__version__"}
    assert {"Classifier", "analyse", "evaluate", "explain", "load", "report"} <= set(dir(camlens))
    assert all(callable(getattr(camlens, name)) for name in camlens.__all__)
    names = {}
    exec("from camlens import *", names)
    assert set(camlens.__all__) <= set(names)
