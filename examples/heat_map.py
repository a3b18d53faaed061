"""What is on a picture, and where: python heat_map.py model.onnx picture.png heat_map.png

`model.onnx` is what `camlens export` writes. Needs onnxruntime, numpy and Pillow; no torch, no camlens.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image

model, source, target = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
facts = json.loads(session.get_modelmeta().custom_metadata_map["camlens"])
height, width = facts["input_size"]
picture = Image.open(source).convert("RGB").resize((width, height), Image.Resampling.BILINEAR)

pixels = np.asarray(picture, np.float32) / 255
images = ((pixels - facts["mean"]) / facts["std"]).transpose(2, 0, 1)[None].astype(np.float32)
logits, maps = session.run(["logits", "maps"], {"images": images})

shares = np.exp(logits[0] - logits[0].max()) / np.exp(logits[0] - logits[0].max()).sum()
best = int(shares.argmax())
print(f"{facts['class_names'][best]}, {100 * shares[best]:.1f} %")

evidence = np.maximum(maps[0, best], 0)  # logits; the negative part speaks against the class
cover = Image.fromarray(evidence / max(evidence.max(), 1e-12)).resize((width, height), Image.Resampling.BILINEAR)
grey, orange = picture.convert("L").convert("RGB"), Image.new("RGB", picture.size, (226, 104, 12))
mask = Image.fromarray((200 * np.asarray(cover)).clip(0, 255).astype(np.uint8))
Image.composite(orange, grey, mask).resize((8 * width, 8 * height)).save(target)
