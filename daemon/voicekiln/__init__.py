"""voicekiln: a watch-folder daemon that turns PyTorch voice models into verified ONNX files."""

from importlib.metadata import version

__version__ = version("voicekiln")
