"""How fast and how small voicekiln is, measured; see `__main__`."""

import sys
from pathlib import Path

import voicekiln.convert  # noqa: F401 - before anything loads ONNX Runtime, which would report to its maker

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # whose daemon in one thread and thin voices are of use here
