"""How a classifier prepares pictures: what libraries say of it, a function of the user's, and what is saved."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import camlens
from camlens.data import folder
from camlens.data.pictures import grey
from camlens.errors import UsageError
from camlens.model import checkpoint
from tiny import trained_resnet

HALF = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (43, 64, 3), dtype=np.uint8))


def network(channels=3):
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def classifier(**options):
    return camlens.Classifier(network(len(options.get("mean", "rgb"))), ["a", "b"], **options)


def own(picture):
    """Transforms of the user's own: the left half, in grey levels from -1 to 1."""
    left = picture.crop((0, 0, picture.width // 2, picture.height)).resize((12, 10), Image.Resampling.BICUBIC)
    return (torch.from_numpy(np.array(left)).permute(2, 0, 1) / 255 - 0.5) / 0.5


def test_a_picture_is_prepared_by_hand():
    model = classifier(preprocess=camlens.Preprocess(20, 16, "bicubic", **HALF))
    pixels = np.asarray(PHOTO.resize((29, 20), Image.Resampling.BICUBIC))[2:18, 6:22] / np.float32(255)
    expected = torch.from_numpy((pixels - 0.5) / np.float32(0.5)).permute(2, 0, 1)[None]
    torch.testing.assert_close(model.prepare(PHOTO), expected)
    assert (model.input_size, model.channels) == ((16, 16), 3)


def test_torchvisions_preset():
    preset = SimpleNamespace(
        resize_size=[232], crop_size=[224], interpolation=SimpleNamespace(value="bicubic"), antialias=True,
        mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6],
    )  # fmt: skip
    expected = camlens.Preprocess(232, 224, "bicubic", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert camlens.Preprocess.from_torchvision(preset) == expected
    with pytest.raises(UsageError, match=r"function is not a preset .* give your own transforms as a function"):
        camlens.Preprocess.from_torchvision(own)


@pytest.mark.parametrize(
    ("config", "resize", "crop", "interpolation"),
    [
        ({"input_size": (3, 224, 224), "crop_pct": 0.9}, 248, (224, 224), "bicubic"),
        ({"input_size": (3, 224, 224), "interpolation": "bilinear"}, 256, (224, 224), "bilinear"),
        ({"input_size": (3, 160, 96), "crop_pct": 1.0, "crop_mode": "squash"}, (160, 96), (160, 96), "bicubic"),
    ],
)
def test_timms_configuration(config, resize, crop, interpolation):
    found = camlens.Preprocess.from_timm({**config, **HALF})
    assert found == camlens.Preprocess(resize, crop, interpolation, **HALF)


@pytest.mark.parametrize("more", [{"crop_mode": "border"}, {"input_size": (3, 160, 96)}])
def test_timms_other_crops_are_a_function(more):
    with pytest.raises(UsageError, match=r"give timm\.data\.create_transform"):
        camlens.Preprocess.from_timm({"input_size": (3, 224, 224), **more})


def processor(**more):
    usual = {
        "do_resize": True,
        "size": {"shortest_edge": 20},
        "do_center_crop": True,
        "crop_size": {"height": 16, "width": 16},
    }
    normal = {
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    return SimpleNamespace(**usual | normal | {"resample": 3} | more)


def test_a_processor_of_hugging_face():
    found = camlens.Preprocess.from_hugging_face(processor())
    assert found == camlens.Preprocess(20, 16, "bicubic", round_down=True, by_torch=True, **HALF)
    whole = camlens.Preprocess.from_hugging_face(
        processor(size={"height": 8, "width": 9}, do_center_crop=False, resample=2)
    )
    assert whole.geometry.size == (8, 9) and whole.interpolation == "bilinear"
    levels = camlens.Preprocess.from_hugging_face(processor(rescale_factor=1 / 127.5, do_normalize=False))
    assert levels.mean == (0, 0, 0) and levels.std == pytest.approx((0.5,) * 3)
    for size in ({"longest_edge": 20}, {"height": 20}, {}):
        with pytest.raises(UsageError, match=f"resizes to {size}; .*give it as a function"):
            camlens.Preprocess.from_hugging_face(processor(size=size))


def test_what_a_library_does_besides_is_noticed():
    class Preset:
        resize_size, crop_size, interpolation, mean, std = [20], [16], "bilinear", [0.0] * 3, [1.0] * 3

        def __call__(self, picture):
            made = camlens.Preprocess(20, 16, mean=self.mean, std=self.std).apply(picture)
            return torch.from_numpy(np.array(made)[..., ::-1].copy()).permute(2, 0, 1) / 255  # in BGR

    with pytest.raises(UsageError, match="it does more with pictures than it declares"):
        camlens.Preprocess.from_torchvision(Preset())


# --- a function of the user's


def test_a_function_of_the_users(tmp_path):
    model = classifier(preprocess=own, **HALF)
    assert model.input_size == (10, 12)
    assert torch.equal(model.prepare([PHOTO, PHOTO]), torch.stack([own(PHOTO)] * 2))
    for split in ("train", "test"):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            PHOTO.save(tmp_path / split / name / "1.png")
    images = folder.load(tmp_path, "test", model.geometry).images(torch.tensor([0]))
    torch.testing.assert_close(model.prepare(images), own(PHOTO)[None], atol=0.5 / 255 / 0.5 + 1e-6, rtol=0)
    assert camlens.explain(model, PHOTO, layer="0").overlay()[0].size == (12, 10)  # where it lies is not known


@pytest.mark.parametrize(
    ("function", "how", "message"),
    [
        (own, {"mean": (0,) * 3, "std": (1,) * 3}, r"from -1 \(black\) to 1 \(white\); expected 0 to 1"),
        (lambda picture: own(picture) * 255, HALF, "std 1/255 for values up to 255"),
        (lambda picture: own(picture)[None], HALF, r"gave \(1, 3, 10, 12\) torch.float32; expected a tensor"),
        (np.array, HALF, "gave ndarray; expected a tensor"),
        (lambda picture: torch.zeros(3, picture.height, picture.width), HALF, "expected one for pictures of"),
        (lambda picture: torch.rand(3, 4, 4), HALF, "another result the second time; give the"),
        (lambda picture: 1 / 0, HALF, "preprocess failed on a picture of 320x240: ZeroDivisionError"),
        (lambda picture: own(picture)[:1], HALF, "gave 1 channels, and mean has 3"),
        (own, {**HALF, "input_size": (32, 32)}, r"input_size is \(32, 32\), and preprocess gave \(10, 12\)"),
        (own, {}, "nothing says how pictures are prepared"),
        ("resize", HALF, "preprocess is of type str; expected"),
        (camlens.Preprocess(), HALF, "preprocess says mean, std and input size itself"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told(function, how, message):
    with pytest.raises(UsageError, match=message):
        classifier(preprocess=function, **how)


# --- channels


def test_a_network_of_grey_images():
    model = camlens.Classifier(network(1), ["a", "b"], preprocess=camlens.Preprocess(20, 16, mean=(0.5,), std=(0.25,)))
    levels = np.asarray(PHOTO.resize((29, 20), Image.Resampling.BILINEAR).crop((6, 2, 22, 18)).convert("L"))
    expected = (torch.from_numpy(levels / np.float32(255))[None, None] - 0.5) / 0.25
    torch.testing.assert_close(model.prepare(PHOTO), expected)
    assert torch.equal(model.denormalise(expected)[0, 2], torch.from_numpy(levels.copy()))
    result = camlens.explain(model, PHOTO)
    assert result.overlay()[0].size == PHOTO.size and result.logits.shape == (1, 2)
    with pytest.raises(UsageError, match=r"expected \(B, 1, H, W\)"):
        model.prepare(torch.zeros(1, 3, 16, 16))


def test_grey_is_pillows():
    pixels = torch.from_numpy(np.array(PHOTO)).permute(2, 0, 1)[None]
    assert np.array_equal(grey(pixels)[0, 0], PHOTO.convert("L"))


def test_a_network_of_five_channels_takes_tensors():
    model = camlens.Classifier(network(5), ["a", "b"], (0.5,) * 5, (0.5,) * 5, (16, 16))
    assert camlens.explain(model, torch.randn(2, 5, 16, 16)).logits.shape == (2, 2)
    with pytest.raises(UsageError, match=r"takes images of 5 channels, and these have 3; give tensors \(B, 5, H, W\)"):
        model.prepare(PHOTO)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_a_function_that_makes_any_number_of_channels(tmp_path, channels):
    """Colours and their negatives: pictures go through it from a folder to the report."""

    def function(picture):
        image = own(picture)
        return torch.cat([image, -image])[:channels]

    model = classifier(preprocess=function, mean=(0.5,) * channels, std=(0.5,) * channels)
    numbers = np.random.default_rng(1)
    for split, name, number in [(s, n, k) for s in ("train", "test") for n in "ab" for k in range(4)]:
        (tmp_path / split / name).mkdir(parents=True, exist_ok=True)
        noise = numbers.integers(0, 256, (43, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / split / name / f"{number}.png")
    test, train = (folder.load(tmp_path, split, model.geometry) for split in ("test", "train"))
    pictures = [Image.open(tmp_path / file) for file in test.files]
    expected = torch.stack([function(picture) for picture in pictures])
    found = model.prepare(test.images(torch.arange(8)))
    torch.testing.assert_close(found, expected, atol=0.5 / 255 / 0.5 + 1e-6, rtol=0)
    analysis = camlens.analyse(model, test, train)
    with torch.no_grad():
        torch.testing.assert_close(analysis.evaluation.logits, model(expected), atol=5e-3, rtol=0)
    assert 0 < len(analysis.indices) < 8
    page = camlens.report(model, test, tmp_path / "report.html", train).read_text(encoding="utf-8")
    assert "data:image/webp;base64" in page
    assert camlens.explain(model, pictures, layer="0").overlay()[0].size == (12, 10)


# --- heat maps, and files


def test_a_heat_map_lies_on_the_photo_that_was_given():
    geometry = camlens.Preprocess(20, 16, **HALF)
    model = classifier(preprocess=geometry)
    (drawn,) = camlens.explain(model, PHOTO, "hirescam").overlay()
    assert drawn.size == PHOTO.size
    top, left, bottom, right = geometry.window((43, 64))
    outside = np.ones((43, 64), bool)
    outside[round(top * 43) - 1 : round(bottom * 43) + 1, round(left * 64) - 1 : round(right * 64) + 1] = False
    pixels = np.asarray(drawn).astype(int)
    assert np.ptp(pixels[outside], axis=1).max() == 0  # grey: the network did not see it
    assert np.ptp(pixels[~outside], axis=1).max() > 30
    square = PHOTO.resize((32, 32))
    whole = classifier(mean=(0.5,) * 3, std=(0.5,) * 3, input_size=(16, 16))
    assert camlens.explain(whole, square).overlay()[0].size == (16, 16)
    assert camlens.explain(whole, PHOTO).overlay()[0].size == PHOTO.size


def test_a_file_says_how_pictures_are_prepared(tmp_path):
    model, path = trained_resnet(), tmp_path / "model.safetensors"
    checkpoint.save(path, model)
    assert '"preprocess"' not in json.dumps(str(path.read_bytes()[:3000]))  # as it was before
    assert checkpoint.load(path).preprocess.geometry == model.preprocess.geometry
    changed = model.with_preprocess(resize=40, crop=32, interpolation="bicubic", mean=(0.4, 0.5, 0.6))
    checkpoint.save(path, changed)
    loaded = checkpoint.load(path)
    assert loaded.geometry == changed.geometry != model.geometry
    torch.testing.assert_close(loaded.prepare(PHOTO), changed.prepare(PHOTO))
    assert camlens.load(path, preprocess={"interpolation": "nearest"}).preprocess.interpolation == "nearest"
    with pytest.raises(UsageError, match="preprocess is a function, which a file cannot hold"):
        checkpoint.save(path, camlens.Classifier(model.network, model.class_names, preprocess=own, **HALF))


def test_a_temperature_fitted_to_pictures_prepared_otherwise_is_said(caplog):
    model = trained_resnet()
    model.temperature = 1.25
    assert model.with_preprocess(mean=model.preprocess.mean).temperature == 1.25 and not caplog.text
    assert model.with_preprocess(resize=40, crop=32).temperature == 1.25
    assert "keeps its temperature 1.25, fitted with other preprocessing; camlens calibrate fits" in caplog.text


def test_a_processor_that_normalises_twice_is_read_by_what_it_does():
    """EfficientNet's of transformers divides again by the standard deviation."""

    class Twice(SimpleNamespace):
        def __call__(self, picture, return_tensors):
            pixels = np.asarray(picture.resize((24, 24), Image.Resampling.BICUBIC)) / 255
            values = (pixels - self.image_mean) / np.square(self.image_std)
            return {"pixel_values": torch.from_numpy(values).permute(2, 0, 1).float()[None]}

    facts = {"size": {"height": 24, "width": 24}, "do_resize": True, "resample": 3, "backend": "pil"}
    norm = {"do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7]}
    twice = Twice(**facts, **norm, do_rescale=True, rescale_factor=1 / 255)
    found = camlens.Preprocess.from_hugging_face(twice)
    assert found.mean == pytest.approx((0.5, 0.4, 0.3), abs=1e-5) and found.std == pytest.approx((0.25, 0.36, 0.49))
