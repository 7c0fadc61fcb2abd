"""Shallow diffusion is the original's, number for number: the condition, the denoiser, and the way of both samplers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

import reference_voices
from reference_voices import Arrays
from voicekiln.families.diffusion_network import Settings, network
from voicekiln.nets import samplers
from voicekiln.nets.samplers import Sampler

NAME = "sovits-diffusion"
SETTINGS = Settings(
    width=256, hidden=32, channels=64, layers=20, mels=128, limits=1, speakers=2, timesteps=1000, k_step_max=100
)
CLOSE = 0.001
"""What the reference allows."""
METHODS = {"ddim": 0, "dpm": 1}
CASES = [(method, k_step) for method in METHODS for k_step in (100, 50)]


@cache
def whole() -> Any:
    """Return the reference's network with its numbers."""
    made = network(SETTINGS, "diffusion").to_empty(device="cpu")
    numbers = reference_voices.tensors(NAME)
    made.load_state_dict({name: numbers[name] for name in made.state_dict()})
    return made


@pytest.fixture(params=[0, 1])
def run(request: pytest.FixtureRequest) -> dict[str, torch.Tensor]:
    """Return one of the reference's two runs."""
    found: Arrays = reference_voices.arrays(NAME)[request.param]
    return {name: torch.from_numpy(array) for name, array in found.items()}


def mel(run: dict[str, torch.Tensor], k_step: int, method: int, speedup: int = 10) -> torch.Tensor:
    """Return what the network makes of a run."""
    fed = [run[name] for name in ("c", "mel2ph", "f0", "volume", "spk_id", "mel", "noise")]
    made: torch.Tensor = whole()(*fed, *(torch.tensor([number]) for number in (k_step, speedup, method)))
    return made


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference."""
    assert one.shape == other.shape
    return float((one - other).abs().max())


def condition(run: dict[str, torch.Tensor], speaker: torch.Tensor) -> torch.Tensor:
    """Return the condition for a speaker."""
    made: torch.Tensor = whole().condition(run["c"], run["mel2ph"], run["f0"], run["volume"], speaker)
    return made


def test_the_condition_is_the_originals(run: dict[str, torch.Tensor]) -> None:
    """Of the speaker by number, and of the same speaker as the only one in a mix."""
    shares = torch.nn.functional.one_hot(run["spk_id"].repeat(run["f0"].shape[1]), 2).float()
    for speaker in (run["spk_id"], shares):
        assert distance(condition(run, speaker), run["condition"]) < CLOSE / 100
    assert distance(condition(run, 1 - run["spk_id"]), run["condition"]) > 100 * CLOSE


def test_a_mix_lies_between_its_speakers(run: dict[str, torch.Tensor]) -> None:
    """Shares are weights of the speakers' own conditions."""
    shares = torch.tensor([0.3, 0.7]).repeat(run["f0"].shape[1], 1)
    first, second = (condition(run, torch.tensor([number])) for number in (0, 1))
    assert distance(condition(run, shares), 0.3 * first + 0.7 * second) < CLOSE / 100


def test_the_denoiser_is_the_originals(run: dict[str, torch.Tensor]) -> None:
    """At a time between two trained ones."""
    heard = whole().decoder(run["noise"], run["time"], run["condition"])
    assert distance(heard, run["noise_pred"]) < CLOSE / 10
    assert distance(whole().decoder(run["noise"], run["time"] + 0.5, run["condition"]), run["noise_pred"]) > CLOSE


@pytest.mark.parametrize(("method", "k_step"), CASES)
def test_the_samplers_are_the_originals(run: dict[str, torch.Tensor], method: str, k_step: int) -> None:
    """With ten steps and with five: from the second number on, dpm-solver++ is careful at its end."""
    assert distance(mel(run, k_step, METHODS[method]), run[f"mel_{method}_{k_step}"]) < CLOSE


@pytest.mark.parametrize("method", METHODS)
def test_no_deeper_than_was_learnt(run: dict[str, torch.Tensor], method: str) -> None:
    """A `k_step` beyond the largest is the largest, and one below the least is the least."""
    deepest = mel(run, 100, METHODS[method])
    assert torch.equal(mel(run, 101, METHODS[method]), deepest)
    assert torch.equal(mel(run, 10**12, METHODS[method]), deepest)
    assert torch.equal(mel(run, -3, METHODS[method]), mel(run, 1, METHODS[method]))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("k_step", "speedup"), [(1, 1), (1, 10), (2, 1), (100, 100), (100, 101), (100, 0), (37, 7)])
def test_odd_numbers_give_a_mel(run: dict[str, torch.Tensor], method: str, k_step: int, speedup: int) -> None:
    """Whatever a client asks for: nothing is infinite, and no row is read that is not there."""
    assert mel(run, k_step, METHODS[method], speedup).isfinite().all()


def table(k_step: int, speedup: int, method: int) -> torch.Tensor:
    """Return the rows of the steps."""
    schedule = (whole().decoder.betas, whole().decoder.alphas_cumprod)
    steps, rows = Sampler(100)(*(torch.tensor(number) for number in (k_step, speedup, method)), *schedule)
    used: torch.Tensor = rows[: int(steps)]
    return used


def test_the_times_of_the_samplers() -> None:
    """Whole ones down to 0 for ddim; for dpm-solver++ even parts of the way but for its end, which is 0."""
    assert table(100, 10, 0)[:, 0].tolist() == [90, 80, 70, 60, 50, 40, 30, 20, 10, 0]
    assert table(95, 10, 0)[:, 0].tolist() == [90, 80, 70, 60, 50, 40, 30, 20, 10, 0]
    np.testing.assert_allclose(table(100, 25, 1)[:, 0], [99, 74.25, 49.5, 24.75], rtol=1e-6)
    assert len(table(100, 60, 1)) == 2


def test_a_step_of_ddim_keeps_what_is_clean() -> None:
    """Of a mel that is alpha x + sigma eps, with eps heard right, the step makes the same with the next alpha."""
    alphas = whole().decoder.alphas_cumprod.double()
    for row, following in pairwise(table(100, 10, 0).double()):
        now, then = alphas[int(row[0])], alphas[int(following[0])]
        clean, eps = 0.7, -1.3
        x = now.sqrt() * clean + (1 - now).sqrt() * eps
        assert float(row[3] * x + row[4] * eps) == pytest.approx(float(then.sqrt() * clean + (1 - then).sqrt() * eps))


def test_a_step_of_dpm_keeps_what_is_clean() -> None:
    """The same with its own alphas; D is the clean mel in each step, so that the second order changes nothing."""
    clean, eps = 0.7, -1.3
    for row, following in pairwise(table(100, 10, 1).double()):
        alpha, sigma = 1 / row[1], -row[2] / row[1]
        then, less = 1 / following[1], -following[2] / following[1]
        x = alpha * clean + sigma * eps
        assert float(row[1] * x + row[2] * eps) == pytest.approx(clean)
        assert float(row[3] * x + (row[4] + row[5]) * clean) == pytest.approx(float(then * clean + less * eps))


# Each of these mistakes is easily made, and the reference tells.


def _one_time_later(original: Any) -> Any:
    return lambda self, k_step: original(self, k_step) - 1


def _to_the_same_time(_: Any) -> Any:
    def ddim(alphas: torch.Tensor, row: torch.Tensor, steps: torch.Tensor, each: torch.Tensor) -> torch.Tensor:
        return _ddim(alphas, row, steps + 1, each)

    return ddim


def _never_careful(_: Any) -> int:
    return 0


def _always_careful(_: Any) -> int:
    return 1000


def _one_time_short(_: Any) -> Any:
    return lambda betas, row, steps, k_step: _dpm(betas, row, steps, k_step - 1)


_ddim, _dpm = samplers._ddim, samplers._dpm


@pytest.mark.parametrize(
    ("where", "name", "flaw", "seen"),
    [
        pytest.param(Sampler, "depth", _one_time_later, ("ddim", "dpm"), id="noised one time less"),
        pytest.param(samplers, "_ddim", _to_the_same_time, ("ddim",), id="ddim one step behind"),
        pytest.param(samplers, "CAREFUL_STEPS", _never_careful, ("dpm",), id="second order to the end"),
        pytest.param(samplers, "CAREFUL_STEPS", _always_careful, ("dpm",), id="first order at the end of ten steps"),
        pytest.param(samplers, "_dpm", _one_time_short, ("dpm",), id="times divided from one below the last"),
    ],
)
def test_a_wrong_way_is_told(
    monkeypatch: pytest.MonkeyPatch, where: Any, name: str, flaw: Callable[[Any], Any], seen: tuple[str, ...]
) -> None:
    """At least one of the four ways of a sampler is then farther off than the reference allows."""
    run = {key: torch.from_numpy(array) for key, array in reference_voices.arrays(NAME)[0].items()}
    monkeypatch.setattr(where, name, flaw(getattr(where, name)))
    for method in seen:
        far = [distance(mel(run, k_step, METHODS[method]), run[f"mel_{method}_{k_step}"]) for k_step in (100, 50)]
        assert max(far) > CLOSE, far


def test_the_start_is_noised_at_the_last_of_the_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """One time more or less shows."""
    run = {key: torch.from_numpy(array) for key, array in reference_voices.arrays(NAME)[0].items()}
    real = torch.index_select

    def shifted(table: torch.Tensor, axis: int, at: torch.Tensor) -> torch.Tensor:
        return real(table, axis, at + 1 if table is whole().decoder.alphas_cumprod else at)

    monkeypatch.setattr(torch, "index_select", shifted)
    assert distance(mel(run, 100, 0), run["mel_ddim_100"]) > CLOSE
