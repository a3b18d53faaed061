"""Export: logits and heat maps as one ONNX graph, for programs without torch."""
