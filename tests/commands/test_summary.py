"""`camlens summary`."""

import json
from pathlib import Path

from command_line import camlens


def test_summary_prints_the_layer_table():
    table = Path(__file__).parent.parent / "model" / "layer-table.txt"
    assert camlens("summary", "resnet18") == table.read_text(encoding="utf-8")
    assert "Total params: 21,797,672" in camlens(
        "summary", "resnet34", "--stem", "imagenet", "--classes", "1000", "--input", "3x224x224"
    )
    assert "Multiply-adds per image: 555,422,720" in camlens("summary", "--detail")
    assert json.loads(camlens("summary", "--json"))["parameters"] == 11_173_962
