"""Which device is chosen, and what Lightning is told, on machines that this one pretends to be."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from pytorch_lightning.accelerators import AcceleratorRegistry
from pytorch_lightning.strategies import StrategyRegistry

from selftrain_accel.cuda import CudaAccelerator
from selftrain_accel.mps import MpsAccelerator
from selftrain_core.accelerators import CpuAccelerator, select_accelerator
from selftrain_core.errors import ConfigError
from selftrain_core.interfaces import Accelerator
from selftrain_core.plugins import Registry, config_model, load_component, load_registry
from selftrain_core.testing import AcceleratorContract, check_plugin

README = Path(__file__).parents[2] / "packages/accel/README.md"


def pretend(monkeypatch: pytest.MonkeyPatch, *, cuda: int = 0, mps: bool = False) -> None:
    """Let torch see `cuda` CUDA devices, and an MPS device or none."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.delenv("LOCAL_RANK", raising=False)


def core_alone() -> Registry:
    return load_registry(installed=False)


def core_and_accel() -> Registry:
    return load_registry([EntryPoint("accel", "selftrain_accel.plugin", "selftrain")], installed=False)


class TestCuda(AcceleratorContract):
    spec_name = "accel/cuda"

    @pytest.fixture(autouse=True)
    def two_gpus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pretend(monkeypatch, cuda=2)


class TestMps(AcceleratorContract):
    spec_name = "accel/mps"

    def test_trainer_settings(self) -> None:
        """The suite asks for two devices as well, which no Mac has."""
        settings = self.accelerator().trainer_settings(1)
        assert settings == {"accelerator": "mps", "devices": 1, "strategy": "auto", "precision": "32-true"}


@pytest.mark.parametrize(("cuda", "mps"), [(1, False), (0, True)], ids=["CUDA", "MPS"])
def test_a_gpu_that_no_plugin_claims_stops_the_run(monkeypatch: pytest.MonkeyPatch, cuda: int, mps: bool) -> None:
    pretend(monkeypatch, cuda=cuda, mps=mps)
    with pytest.raises(ConfigError, match="pip install selftrain-accel") as caught:
        select_accelerator("auto", core_alone())
    assert f"torch sees a {'CUDA' if cuda else 'MPS'} device" in str(caught.value)
    assert isinstance(select_accelerator("core/cpu", core_alone()), CpuAccelerator)


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [
        (0, False, CpuAccelerator),
        (0, True, MpsAccelerator),
        (2, False, CudaAccelerator),
        (1, True, CudaAccelerator),
    ],
)
def test_auto_takes_the_best_that_is_there(
    monkeypatch: pytest.MonkeyPatch, cuda: int, mps: bool, expected: type[Accelerator]
) -> None:
    pretend(monkeypatch, cuda=cuda, mps=mps)
    assert type(select_accelerator("auto", core_and_accel())) is expected


@pytest.mark.parametrize("name", ["accel/cuda", "accel/mps"])
def test_a_device_asked_for_by_name_must_be_there(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pretend(monkeypatch)
    with pytest.raises(ConfigError, match=f"'{name}' is not available on this machine"):
        select_accelerator(name, core_and_accel())
    pretend(monkeypatch, cuda=1, mps=True)
    assert select_accelerator(name, core_and_accel()).device().type == name.removeprefix("accel/")


@pytest.mark.parametrize(("devices", "strategy"), [(1, "auto"), (4, "ddp")])
def test_cuda_trains_on_one_process_per_gpu(monkeypatch: pytest.MonkeyPatch, devices: int, strategy: str) -> None:
    pretend(monkeypatch, cuda=4)
    assert CudaAccelerator().trainer_settings(devices) == {
        "accelerator": "cuda",
        "devices": devices,
        "strategy": strategy,
        "precision": "32-true",
    }


def test_more_gpus_than_there_are_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, cuda=2)
    with pytest.raises(ConfigError, match="3 GPUs are asked for, torch sees 2") as caught:
        CudaAccelerator().trainer_settings(3)
    assert "lower device.devices to 2, or look at CUDA_VISIBLE_DEVICES" in str(caught.value)


def test_each_rank_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, cuda=4)
    assert CudaAccelerator().device() == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert CudaAccelerator().device() == torch.device("cuda", 3)


def test_mps_is_one_device_without_float64() -> None:
    accelerator = MpsAccelerator()
    assert accelerator.device() == torch.device("mps")
    assert accelerator.reduction_dtype == torch.float32


def test_cuda_sums_losses_in_float64() -> None:
    assert CudaAccelerator().reduction_dtype == torch.float64


def test_several_mps_devices_are_an_error_that_says_why() -> None:
    with pytest.raises(ConfigError, match="a Mac has a single GPU") as caught:
        MpsAccelerator().trainer_settings(2)
    assert "device.devices: 2 are asked for" in str(caught.value)
    assert "set device.devices to 1" in str(caught.value)


def test_lightning_knows_the_names(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, cuda=2)
    for settings in (CudaAccelerator().trainer_settings(2), MpsAccelerator().trainer_settings(1)):
        assert settings["accelerator"] in AcceleratorRegistry.available_accelerators()
        assert settings["strategy"] in {"auto", *StrategyRegistry.available_strategies()}


def test_the_installed_plugin_offers_both() -> None:
    registry = load_registry()
    for name, expected in (("accel/cuda", CudaAccelerator), ("accel/mps", MpsAccelerator)):
        found = registry.find("accelerators", name)
        assert found.plugin.distribution == "selftrain-accel"
        assert load_component(found) is expected
        assert config_model(found)() is not None


def test_the_plugin_keeps_the_rules() -> None:
    check_plugin("selftrain_accel.plugin")


def test_the_readme_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith("device: ")


def test_what_cuda_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation: not including_emulation)
    cuda = CudaAccelerator()
    assert cuda.has_bf16 and cuda.has_sync_batch_norm
    assert (cuda.prefers_channels_last("bf16"), cuda.prefers_channels_last("float32")) == (True, False)


def test_what_mps_lacks() -> None:
    mps = MpsAccelerator()
    assert not (mps.has_bf16 or mps.has_sync_batch_norm or mps.prefers_channels_last("float32"))
