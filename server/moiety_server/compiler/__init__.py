"""From a float model to a plan: trace or ONNX, operations (`ir`), ranges, scales, layers."""
