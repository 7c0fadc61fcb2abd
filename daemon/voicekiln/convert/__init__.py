"""From a checkpoint file to a verified ONNX file. Knows no inbox and no outbox."""

import os

# ONNX Runtime reports every session to its maker unless it is told not to before it is loaded. The worker is told by
# its environment (`worker.rooms`); this is for whoever uses the package without one.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
