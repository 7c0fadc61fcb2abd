"""For all tests."""

import os
import signal

import voicekiln.convert  # noqa: F401 - before anything loads ONNX Runtime, which would report to its maker

os.environ["LC_ALL"] = "C.UTF-8"  # what voicekiln says to people depends on it
# In the background of a shell it is ignored, and would be by all programs that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
