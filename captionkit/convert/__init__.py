"""Captioners as other programs read them: networks for ONNX Runtime, and the PyTorch tutorial's own files."""
