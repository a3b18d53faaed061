"""The training images behind an error."""

import pytest
import torch

from camlens.analyse.training_images import RankedImages
from camlens.data.dataset import InMemoryDataset
from camlens.show.report.page import read_facts as facts_of
from camlens.show.report.render import render_training_images
from tiny import NAMES


@pytest.mark.parametrize(("count", "side"), [(1000, 160), (1001, 64)])
def test_few_training_photos_are_packed_larger_than_many(count, side):
    photos = InMemoryDataset(
        "photos",
        "train",
        NAMES,
        torch.arange(count) % 3,
        tuple(map(str, range(count))),
        "200x200",
        torch.zeros(count, 3, 200, 200, dtype=torch.uint8),
    )
    found = render_training_images({"nearest": RankedImages(torch.arange(count)[None], torch.zeros(1, count))}, photos)
    assert found["pictures"]["size"] == [side, side] and found["pictures"]["count"] == count


def test_training_images_are_named_and_open_large(tab, axe, report):
    facts = facts_of(report)
    page = tab(report, f"#image={facts['images']['index'][0]}", bypass_csp=True)
    number = facts["evidence"]["lists"]["nearest"][0][1]
    file, score = facts["evidence"]["file"][number], facts["evidence"]["scores"]["nearest"][0][1]
    shown = page.locator("[data-kind=nearest] figure").nth(1)
    assert file.rsplit("/", 1)[1] in shown.inner_text()
    large, button = page.locator("#large"), shown.get_by_role("button")
    button.click()
    assert large.locator("h2").inner_text() == file and large.locator(".picture").count() == 2
    index, label = facts["evidence"]["index"][number], NAMES[facts["evidence"]["label"][number]]
    assert f"training image {index}; cosine similarity of the features: " in large.inner_text()
    assert f"{abs(score):.2f}" in large.inner_text() and f"training image, label {label}" in large.inner_text()
    assert not axe(page)
    photo = large.locator(".picture").first
    close = [
        lambda: page.keyboard.press("Escape"),
        photo.click,
        lambda: page.mouse.click(3, 3),
        lambda: large.get_by_role("button", name="close").click(),
    ]
    for width, way in zip((360, 390, 1280, 1920), close, strict=True):
        page.set_viewport_size({"width": width, "height": 900})
        button.click() if large.is_hidden() else None
        box = photo.bounding_box()
        assert box["width"] >= 320 and box["height"] >= 320
        assert photo.evaluate("p => getComputedStyle(p).imageRendering") == "pixelated", "16 x 16 pixels"
        way()
        assert large.is_hidden() and page.locator("#card").is_visible()
        assert button.evaluate("b => b === document.activeElement"), "the focus returns"
