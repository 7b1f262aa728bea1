"""The CPU, and the choice among the accelerators that plugins offer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from selftrain_core.config import DeviceConfig
from selftrain_core.errors import ConfigError
from selftrain_core.interfaces import Accelerator
from selftrain_core.plugins import Registry, load_component
from selftrain_core.recomputation import checkpoint_activations


class CpuAccelerator(Accelerator):
    """The processor. Several devices are that many processes, joined by gloo."""

    priority = 0

    def available(self) -> bool:
        """Return True: there always is one."""
        return True

    def trainer_settings(self, devices: int) -> dict[str, Any]:
        """Return float32 training on `devices` processes."""
        strategy = "ddp" if devices > 1 else "auto"
        return {"accelerator": "cpu", "devices": devices, "strategy": strategy, "precision": "32-true"}

    def device(self) -> torch.device:
        """Return the CPU."""
        return torch.device("cpu")

    @property
    def has_bf16(self) -> bool:
        """True: torch has it on every processor, and old ones compute it slowly."""
        return True

    def prefers_channels_last(self, precision: str) -> bool:
        """Return True: a first comparison on two cores, lite0 with FPN, trained faster by a sixth to a third."""
        return True


def select_accelerator(name: str, registry: Registry) -> Accelerator:
    """Return the accelerator called `name`, or for ``auto`` the available one with the highest priority.

    Raises:
        ConfigError: The named one is not available here, or torch sees a GPU that no installed plugin claims.
        UnknownComponentError: There is none of that name.
    """
    if name != "auto":
        chosen: Accelerator = load_component(registry.find("accelerators", name))()
        if not chosen.available():
            raise ConfigError(f"device.accelerator: '{name}' is not available on this machine; 'auto' takes what is")
        return chosen
    offered: list[Accelerator] = [load_component(f)() for f in registry.components["accelerators"].values()]
    best = max((a for a in offered if a.available()), key=lambda a: a.priority)
    unclaimed = _gpu_that_torch_sees()
    if unclaimed and best.device().type == "cpu":
        raise ConfigError(
            f"torch sees a {unclaimed} device, but no installed plugin trains on it\n"
            "  to use it: pip install selftrain-accel\n"
            "  to train on the processor all the same: --set device.accelerator=core/cpu"
        )
    return best


def prepare_model(model: nn.Module, accelerator: Accelerator, device: DeviceConfig) -> nn.Module:
    """Return the model made ready for the device as the settings say; it is yet to be moved there.

    The names and values of its weights stay.

    Raises:
        ConfigError: The device or the model lacks what the settings ask for, or batch norm of another kind cannot be
            synchronised.
    """
    kind = accelerator.device().type
    if device.precision == "bf16" and not accelerator.has_bf16:
        raise ConfigError(
            f"device.precision: bf16 is asked for, but the device '{kind}' does not compute in bfloat16\n"
            "  set device.precision to float32"
        )
    if device.devices > 1 and device.sync_batch_norm and not accelerator.has_sync_batch_norm:
        raise ConfigError(
            f"device.sync_batch_norm: {kind} devices cannot share batch norm; torch has it on CUDA alone\n"
            "  set device.sync_batch_norm to null or false, or device.devices to 1"
        )
    model = share_batch_norm(accelerator.prepare(model), accelerator, device)
    if device.channels_last is None:
        channels_last = accelerator.prefers_channels_last(device.precision)
    else:
        channels_last = device.channels_last
    if device.activation_checkpointing:
        model = checkpoint_activations(model)
    # A convolution whose weights lie so gives maps that lie so: nobody need turn the images.
    return model.to(memory_format=torch.channels_last) if channels_last else model


def share_batch_norm(model: nn.Module, accelerator: Accelerator, device: DeviceConfig) -> nn.Module:
    """Return the model with its batch norm over all devices where the settings want it so; what is so already stays.

    Raises:
        ConfigError: As `synchronised`.
    """
    return synchronised(model) if shares_batch_norm(accelerator, device) else model


def shares_batch_norm(accelerator: Accelerator, device: DeviceConfig) -> bool:
    """Return whether there are several devices, whose batch norm is to be one."""
    wants_sync = accelerator.has_sync_batch_norm if device.sync_batch_norm is None else device.sync_batch_norm
    return device.devices > 1 and wants_sync


def synchronised(model: nn.Module) -> nn.Module:
    """Return the model with its batch norm taken over the images of all ranks; names and values of weights stay.

    Raises:
        ConfigError: A layer is a batch norm of its own kind, of which torch's conversion would lose what it adds.
    """
    known: set[type[nn.Module]] = {nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm}
    convert = nn.SyncBatchNorm.convert_sync_batchnorm
    try:
        # timm's batch norm holds the activation too, which torch's conversion would drop without a word.
        from timm.layers.norm_act import BatchNormAct2d, SyncBatchNormAct, convert_sync_batchnorm
    except ImportError:
        pass  # without timm there are no layers of timm
    else:
        known |= {BatchNormAct2d, SyncBatchNormAct}
        convert = convert_sync_batchnorm
    unknown = {type(part) for part in model.modules() if isinstance(part, _BatchNorm)} - known
    if unknown:
        names = ", ".join(sorted(kind.__name__ for kind in unknown))
        raise ConfigError(
            f"device.sync_batch_norm: the model's layers {names} are batch norm of a kind that cannot be synchronised\n"
            "  set device.sync_batch_norm to false"
        )
    result: nn.Module = convert(model)
    return result


def _gpu_that_torch_sees() -> str:
    if torch.cuda.is_available():
        return "CUDA"
    return "MPS" if torch.backends.mps.is_available() else ""
