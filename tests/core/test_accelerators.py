"""The choice of where to train."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from selftrain_core import accelerators
from selftrain_core.accelerators import CpuAccelerator, select_accelerator
from selftrain_core.errors import ConfigError, UnknownComponentError
from selftrain_core.hookspecs import AcceleratorSpec
from selftrain_core.plugins import Found, PluginInfo, Registry, load_registry


class Fast(CpuAccelerator):
    priority = 10

    def device(self) -> torch.device:
        return torch.device("meta")


class Gone(Fast):
    priority = 20

    def available(self) -> bool:
        return False


@pytest.fixture
def registry() -> Registry:
    return load_registry(installed=False)


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def see(name: str) -> None:
        monkeypatch.setattr(accelerators, "_gpu_that_torch_sees", lambda: name)

    see("")
    return see


def offer(registry: Registry, name: str, kind: type) -> None:
    spec = AcceleratorSpec(
        name=name, summary="", config="selftrain_core.config_model:StrictModel", load=f"{__name__}:{kind.__name__}"
    )
    registry.components["accelerators"][name] = Found(spec, PluginInfo("x", __name__, "x", "1"))


@pytest.fixture
def offering(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Registry:
    kinds: dict[str, Any] = {"Fast": Fast, "Gone": Gone, "CpuAccelerator": CpuAccelerator}
    monkeypatch.setattr(accelerators, "load_component", lambda found: kinds[found.spec.load.rpartition(":")[2]])
    offer(registry, "x/fast", Fast)
    offer(registry, "x/gone", Gone)
    return registry


def test_the_processor_is_always_there(registry: Registry) -> None:
    assert type(select_accelerator("auto", registry)) is CpuAccelerator
    assert type(select_accelerator("core/cpu", registry)) is CpuAccelerator


def test_auto_takes_the_available_one_of_highest_priority(offering: Registry) -> None:
    assert type(select_accelerator("auto", offering)) is Fast


def test_a_named_one_is_taken(offering: Registry) -> None:
    assert type(select_accelerator("core/cpu", offering)) is CpuAccelerator


def test_a_named_one_that_is_not_there_is_explained(offering: Registry) -> None:
    with pytest.raises(
        ConfigError, match=r"device\.accelerator: 'x/gone' is not available on this machine; 'auto' takes"
    ):
        select_accelerator("x/gone", offering)


def test_an_unknown_one_is_explained(registry: Registry) -> None:
    with pytest.raises(UnknownComponentError, match="no accelerator is called 'core/gpu'"):
        select_accelerator("core/gpu", registry)


@pytest.mark.parametrize("name", ["CUDA", "MPS"])
def test_a_gpu_that_nobody_claims_is_explained(registry: Registry, gpu: Callable[[str], None], name: str) -> None:
    gpu(name)
    message = (
        rf"torch sees a {name} device, but no installed plugin trains on it\n  to use it: pip install selftrain-accel\n"
        r"  to train on the processor all the same: --set device\.accelerator=core/cpu"
    )
    with pytest.raises(ConfigError, match=message):
        select_accelerator("auto", registry)


def test_a_gpu_is_no_hindrance_where_the_processor_was_asked_for(
    registry: Registry, gpu: Callable[[str], None]
) -> None:
    gpu("CUDA")
    assert type(select_accelerator("core/cpu", registry)) is CpuAccelerator


def test_a_claimed_gpu_is_used(offering: Registry, gpu: Callable[[str], None]) -> None:
    gpu("CUDA")
    assert type(select_accelerator("auto", offering)) is Fast


@pytest.mark.parametrize(("cuda", "mps", "name"), [(True, True, "CUDA"), (False, True, "MPS"), (False, False, "")])
def test_which_gpu_torch_sees(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, name: str) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert accelerators._gpu_that_torch_sees() == name


@pytest.mark.parametrize(("devices", "strategy"), [(1, "auto"), (2, "ddp")])
def test_several_processors_are_ranks(devices: int, strategy: str) -> None:
    assert CpuAccelerator().trainer_settings(devices)["strategy"] == strategy
