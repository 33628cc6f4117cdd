"""Reads models of tables from ONNX files with the operators of ai.onnx.ml: linear models, tree ensembles, and networks
behind what prepares a table's columns."""
