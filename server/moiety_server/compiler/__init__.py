"""From a float model to a plan. The steps are: trace or ONNX, operations (`ir`), ranges, scales, layers."""
