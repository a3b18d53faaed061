"""`camlens env`."""

import json

import torch

from command_line import camlens


def test_env():
    answer = json.loads(camlens("env", "--json"))
    assert answer["torch"] == torch.__version__ and "cpu" in answer["devices"]
    assert "python" in camlens("env")
