"""What is on a picture, and where: python heat_map.py model.onnx photo.jpg heat_map.png

`model.onnx` is what `camlens export` writes. Needs onnxruntime, numpy and Pillow; no torch, no camlens.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

model, source, target = sys.argv[1:] if len(sys.argv) == 4 else sys.exit(__doc__)
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
facts = json.loads(session.get_modelmeta().custom_metadata_map["camlens"])
height, width = facts["input_size"]
colours = ImageOps.exif_transpose(Image.open(source)).convert("RGBA")
picture = Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours).convert("RGB")
if "preprocess" in facts:  # the network is shown a crop, or otherwise than resized whole and bilinear
    sys.exit("this file prepares pictures otherwise: see facts['preprocess'] and camlens.data.geometry.ResizeCrop")
pixels = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR), np.float32) / 255
images = ((pixels - facts["mean"]) / facts["std"]).transpose(2, 0, 1)[None].astype(np.float32)
probabilities, maps = session.run(["probabilities", "maps"], {"images": images})

best = int(probabilities[0].argmax())
print(f"{facts['class_names'][best]}, {100 * probabilities[0, best]:.1f} %")

evidence = np.maximum(maps[0, best], 0)  # logits; the negative part speaks against the class
picture = ImageOps.contain(picture, (640, 640))
cover = Image.fromarray(evidence / max(evidence.max(), 1e-12)).resize(picture.size, Image.Resampling.BILINEAR)
mask = Image.fromarray((200 * np.asarray(cover)).clip(0, 255).astype(np.uint8))
orange = Image.new("RGB", picture.size, (226, 104, 12))
Image.composite(orange, picture.convert("L").convert("RGB"), mask).save(target)
