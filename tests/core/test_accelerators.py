"""The choice of where to train."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import nn

from selftrain_core import accelerators
from selftrain_core.accelerators import CpuAccelerator, prepare_model, select_accelerator, synchronised
from selftrain_core.config import DeviceConfig
from selftrain_core.errors import ConfigError, UnknownComponentError
from selftrain_core.hookspecs import AcceleratorSpec
from selftrain_core.plugins import Found, PluginInfo, Registry, load_registry
from selftrain_core.testing import assert_equal


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


class Syncing(CpuAccelerator):
    """Claims what CUDA has."""

    @property
    def has_sync_batch_norm(self) -> bool:
        return True

    @property
    def has_bf16(self) -> bool:
        return False

    def prefers_channels_last(self, precision: str) -> bool:
        return False


def normed() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), BatchNormAct2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    model(torch.randn(5, 3, 9, 9))
    return model


@pytest.mark.parametrize(
    ("accelerator", "asked", "expected"),
    [
        (CpuAccelerator(), None, True),
        (CpuAccelerator(), False, False),
        (Syncing(), None, False),
        (Syncing(), True, True),
    ],
)
def test_channels_last(accelerator: CpuAccelerator, asked: bool | None, expected: bool) -> None:
    model = normed()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    prepared = prepare_model(model, accelerator, DeviceConfig(channels_last=asked))
    maps = next(prepared.children())(torch.randn(2, 3, 9, 9))  # the images lie as ever
    assert maps.is_contiguous(memory_format=torch.channels_last) == expected
    assert_equal(dict(prepared.state_dict()), before, "weights")


def test_bf16_that_a_device_lacks_is_explained() -> None:
    assert prepare_model(normed(), CpuAccelerator(), DeviceConfig(precision="bf16"))
    message = (
        r"device\.precision: bf16 is asked for, but the device 'cpu' does not .*\n  set device\.precision to float32"
    )
    with pytest.raises(ConfigError, match=message):
        prepare_model(normed(), Syncing(), DeviceConfig(precision="bf16"))


def test_batch_norm_that_processors_cannot_share_is_explained() -> None:
    message = (
        r"device\.sync_batch_norm: cpu devices cannot share batch norm; torch has it on CUDA alone\n"
        r"  set device\.sync_batch_norm to null or false, or device\.devices to 1"
    )
    with pytest.raises(ConfigError, match=message):
        prepare_model(normed(), CpuAccelerator(), DeviceConfig(devices=2, sync_batch_norm=True))


@pytest.mark.parametrize(
    ("accelerator", "devices", "asked", "expected"),
    [
        (CpuAccelerator(), 2, None, 0),
        (CpuAccelerator(), 1, True, 0),
        (Syncing(), 1, None, 0),
        (Syncing(), 2, None, 2),
        (Syncing(), 2, False, 0),
    ],
)
def test_where_batch_norm_is_shared(
    accelerator: CpuAccelerator, devices: int, asked: bool | None, expected: int
) -> None:
    prepared = prepare_model(normed(), accelerator, DeviceConfig(devices=devices, sync_batch_norm=asked))
    assert sum(isinstance(part, nn.SyncBatchNorm) for part in prepared.children()) == expected


def test_shared_batch_norm_computes_what_it_did() -> None:
    """timm's layer holds the activation too: torch's own conversion would drop it."""
    model, images = normed().eval(), torch.randn(2, 3, 9, 9)
    before, expected = {name: value.clone() for name, value in model.state_dict().items()}, model(images)
    shared = synchronised(model)
    assert_equal(dict(shared.state_dict()), before, "weights")
    assert list(shared.state_dict()) == list(before)
    assert_equal(shared(images), expected, "outputs")
    assert not any(part.training for part in shared.modules())


def test_a_batch_norm_of_its_own_kind_is_not_converted() -> None:
    class Odd(nn.BatchNorm2d):
        pass

    message = r"the model's layers Odd are batch norm of a kind .*\n  set device\.sync_batch_norm to false"
    with pytest.raises(ConfigError, match=message):
        synchronised(nn.Sequential(Odd(3)))
