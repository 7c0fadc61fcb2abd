"""voicekiln: a watch-folder daemon that turns PyTorch voice models into verified ONNX files."""

__version__ = "0.1.0"
