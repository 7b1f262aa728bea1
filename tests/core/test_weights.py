"""The moving average of weights, and their files."""

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel

from selftrain_core.errors import RunError
from selftrain_core.testing import assert_equal
from selftrain_core.weights import KeptBuffers, WeightAverage, load_weights, read_description, save_model


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()


def train(module: nn.Module, step: int) -> None:
    module(torch.full((5, 3), float(step), dtype=torch.float64) + torch.arange(5)[:, None])
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * (step + 1))


@given(st.sampled_from([0.0, 0.3, 0.9, 0.9999]), st.integers(0, 15))
def test_average_against_a_loop(decay: float, steps: int) -> None:
    trained = model()
    average = WeightAverage(trained, decay)
    expected = {name: value.clone() for name, value in trained.state_dict().items()}
    for step in range(steps):
        train(trained, step)
        average.update(trained)
        # After n updates the next one has decay min(decay, (1 + n) / (10 + n)), n counting from 1.
        used = min(decay, (2 + step) / (11 + step))
        for name, value in trained.state_dict().items():
            expected[name] = used * expected[name] + (1 - used) * value if value.is_floating_point() else value.clone()
    assert_equal(average.model.state_dict(), expected, "average", atol=1e-12)
    assert int(average.model.state_dict()["1.num_batches_tracked"]) == steps


def test_the_average_starts_as_the_model_and_on_its_own() -> None:
    trained = model()
    average = WeightAverage(trained, 0.9)
    before = copy.deepcopy(trained.state_dict())
    train(trained, 0)
    assert_equal(average.model.state_dict(), before, "average before the first update")


def test_state_round_trip() -> None:
    trained = model()
    average, other = WeightAverage(trained, 0.9), WeightAverage(model(), 0.9)
    for step in range(5):
        train(trained, step)
        average.update(trained)
    other.load_state_dict(copy.deepcopy(average.state_dict()))
    train(trained, 5)
    for one in (average, other):
        one.update(trained)
    assert_equal(other.model.state_dict(), average.model.state_dict(), "average after the state was taken up")


def test_save_and_load(tmp_path: Path) -> None:
    trained, other = model(), model()
    train(trained, 1)
    save_model(tmp_path, "model", trained, {"task": "x/ü", "step": 3})
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "model.json").stat().st_mode
    load_weights(other, tmp_path / "model.safetensors")
    assert_equal(other.state_dict(), trained.state_dict(), "loaded weights")
    assert read_description(tmp_path) == {"task": "x/ü", "step": 3}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.safetensors"]


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "other model"])
def test_unusable_weights_are_explained(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "model.safetensors"
    save_model(tmp_path, "model", nn.Linear(2, 2) if damage == "other model" else model(), {})
    if damage == "missing":
        path.unlink()
    elif damage in ("empty", "cut"):
        path.write_bytes(b"" if damage == "empty" else path.read_bytes()[:-9])
    with pytest.raises(RunError, match=r"the weights .*model\.safetensors cannot be loaded: "):
        load_weights(model(), path)


@pytest.mark.parametrize("text", [None, "{"])
def test_an_unusable_description_is_explained(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "model.json").write_text(text)
    with pytest.raises(RunError, match=r"model\.json cannot be read: "):
        read_description(tmp_path)


def test_a_folder_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"none/model\.safetensors cannot be written"):
        save_model(tmp_path / "none", "model", model(), {})


def test_the_state_is_that_of_torchs_own_average() -> None:
    """Checkpoints of earlier versions hold that one."""
    trained = model()
    theirs = AveragedModel(trained, use_buffers=True)
    average = WeightAverage(trained, 0.9)
    assert set(average.state_dict()) == set(theirs.state_dict())
    theirs.update_parameters(trained)
    average.load_state_dict(theirs.state_dict())
    assert_equal(average.state_dict(), dict(theirs.state_dict()), "state")


def test_buffers_come_back() -> None:
    trained, kept = model(), KeptBuffers()
    for step in range(2):
        kept.keep(trained)
        before = copy.deepcopy(dict(trained.named_buffers()))
        train(trained, step)
        kept.put_back(trained)
        assert_equal(dict(trained.named_buffers()), before, f"buffers of step {step}")
