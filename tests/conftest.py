"""For all tests."""

import os

import voicekiln.convert  # noqa: F401 - before anything loads ONNX Runtime, which would report to its maker

os.environ["LC_ALL"] = "C.UTF-8"  # what voicekiln says to people depends on it
