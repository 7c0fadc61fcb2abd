"""How fast and how small voicekiln is, measured; see `__main__`."""

import voicekiln.convert  # noqa: F401 - before anything loads ONNX Runtime, which would report to its maker
