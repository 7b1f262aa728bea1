"""The few collectives that are not Lightning's. Without a process group each is the identity."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor, nn


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


def share_buffers(model: nn.Module) -> None:
    """Give every rank the buffers of rank 0, whose model is the one that is saved: batch norm's differ by rank."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def gather_objects(value: object) -> list[object]:
    """Return every rank's `value`, in rank order."""
    if world_size() == 1:
        return [value]
    gathered: list[object] = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered
