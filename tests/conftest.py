"""For all tests."""

import voicekiln.convert  # noqa: F401 - before anything loads ONNX Runtime, which would report to its maker
