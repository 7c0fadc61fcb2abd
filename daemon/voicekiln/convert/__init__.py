"""From a checkpoint file to a verified ONNX file. Knows no inbox and no outbox."""
