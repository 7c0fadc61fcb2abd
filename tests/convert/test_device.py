"""What the machine has is said as it is, with the reason where a GPU is not used."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime
import pytest
import torch

from voicekiln.convert import device
from voicekiln.convert.graph import BadGraphError
from voicekiln.convert.verify import open_session


@pytest.fixture(autouse=True)
def _asked_anew() -> None:
    """Forget what an earlier test found."""
    device.why_cpu.cache_clear()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_machine_without_a_gpu_says_why() -> None:
    """The reason is a clause that a person can act on."""
    facts = device.device()
    assert facts["kind"] == "cpu"
    assert facts["providers"] == [device.CPU]
    assert facts["why_cpu"]
    assert facts["name"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_is_used_or_its_absence_explained() -> None:
    """Either the provider really runs, or the reason is given."""
    facts = device.device()
    assert (facts["kind"] == "cuda") == (device.CUDA in facts["providers"]) == ("why_cpu" not in facts)


def test_a_provider_that_does_not_start_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a GPU that PyTorch sees, but libraries that ONNX Runtime lacks, the CPU is used and the reason told."""

    def refuse(*_: object) -> None:
        raise BadGraphError("ONNX Runtime does not use CUDAExecutionProvider")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [device.CUDA, device.CPU])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr("voicekiln.convert.device.open_session", refuse)
    assert "does not use" in str(device.why_cpu())
    assert device.providers() == (device.CPU,)
    device.why_cpu.cache_clear()
    monkeypatch.setattr("voicekiln.convert.device.open_session", lambda *_: None)
    assert device.providers() == (device.CPU, device.CUDA)
    device.why_cpu.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no usable NVIDIA GPU" in str(device.why_cpu())


def test_the_trial_model_runs() -> None:
    """The model that a provider is tried with is sound: the CPU runs it."""
    session = open_session(device._trial(), device.CPU)
    assert session.run(None, {"x": np.array([2], np.float32)})[0].tolist() == [-2]


def test_all_facts_can_be_written_as_json() -> None:
    """Both cross to the supervisor."""
    assert json.loads(json.dumps([device.device(), device.versions()]))
    assert {"voicekiln", "torch", "onnx", "onnxruntime", "onnxconverter-common"} <= device.versions().keys()
