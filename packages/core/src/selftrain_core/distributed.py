"""The few collectives that are not Lightning's. Without a process group each is the identity."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from selftrain_core.interfaces import Accelerator

ValueT = TypeVar("ValueT")


@contextmanager
def several_ranks(accelerator: Accelerator, devices: int) -> Iterator[None]:
    """Share the work of the block among `devices` ranks, each this process's own command, started again by Lightning.

    With one device nothing is started.

    Raises:
        ConfigError: There are fewer devices.
    """
    if devices == 1:
        yield
        return
    from lightning_fabric import Fabric  # only here: it takes a second to import

    Fabric(**accelerator.trainer_settings(devices)).launch()
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Return this process's rank, 0 when there is only one."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of ranks."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Return the sum of `tensor` over all ranks, the same bits on each."""
    if world_size() == 1:
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total


def gathered(tensor: Tensor) -> Tensor:
    """Return the tensors of all ranks, of one shape, one behind the other; without gradient."""
    if world_size() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def share_buffers(model: nn.Module) -> None:
    """Give every rank the buffers of rank 0, whose model is the one that is saved: batch norm's differ by rank."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def gather_objects(value: ValueT) -> list[ValueT]:
    """Return every rank's `value`, in rank order."""
    if world_size() == 1:
        return [value]
    gathered = [value] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered
