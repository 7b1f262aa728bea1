"""What a model costs before it is trained: parameters, multiplications and memory, counted on the meta device.

Nothing is computed there and no memory is taken, so a model of any size can be counted on any machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from selftrain_core.components import build_model, build_task
from selftrain_core.config import RunConfig, TrainingConfig
from selftrain_core.config_model import BackboneChoice, TaskChoice

_COUNTED_IMAGES = (2, 4)
"""Two batches, whose difference is what images cost: some of what a model keeps does not grow with the batch."""
_BYTES_OF_FLOAT32 = 4
USABLE = 0.9
"""Share of a device's memory that is planned with: CUDA's own buffers, workspaces and fragments take the rest."""


@dataclass(frozen=True)
class ModelSize:
    """What a model costs.

    Attributes:
        parameters: How many there are, all trained.
        macs: Multiply-adds of convolutions and matrix products in a forward pass of one image.
        activation_bytes: What is kept of each image in training until the backward pass, the loss' own apart.
        fixed_bytes: What is kept beside that, whatever the number of images, parameters apart.
    """

    parameters: int
    macs: int
    activation_bytes: int
    fixed_bytes: int


@dataclass(frozen=True)
class MemoryPlan:
    """How a step fits a device.

    Attributes:
        state_bytes: Weights, gradients, the optimiser's averages, the weight average.
        micro_batch: Images at once on a device; 0 if not even one fits.
        micro_batches: Parts of a step, `device.micro_batches`.
        used_bytes: What is taken then.
    """

    state_bytes: int
    micro_batch: int
    micro_batches: int
    used_bytes: int


def model_size(
    task: TaskChoice,
    classes: Sequence[str],
    backbone: BackboneChoice,
    canvas: tuple[int, int],
    precision: str = "float32",
) -> ModelSize:
    """Return what a task's model costs on a canvas.

    Args:
        task: The task.
        classes: Its classes.
        backbone: The backbone.
        canvas: Height and width.
        precision: ``float32``, or ``bf16``: then activations have two bytes each rather than four.

    Raises:
        ConfigError: The model cannot be built.
    """
    with torch.device("meta"):
        model, _ = build_model(build_task(task, classes), backbone)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        model.eval()(torch.empty(1, 3, *canvas, device="meta"))
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model.train().to(dtype)
    few, many = (_kept_bytes(model, torch.empty(n, 3, *canvas, device="meta", dtype=dtype)) for n in _COUNTED_IMAGES)
    each = (many - few) // (_COUNTED_IMAGES[1] - _COUNTED_IMAGES[0])
    return ModelSize(parameters, counted.get_total_flops() // 2, each, max(0, few - _COUNTED_IMAGES[0] * each))


def _kept_bytes(model: nn.Module, images: Tensor) -> int:
    """Return the bytes of all tensors that a forward pass keeps for the backward pass, parameters apart."""
    own = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, tuple[Tensor, int]] = {}

    def keep(tensor: Tensor) -> Tensor:
        base = tensor if tensor._base is None else tensor._base
        if id(base) not in own:
            # The tensor is held, for a freed one's number may be another's later.
            kept[id(base)] = base, base.numel() * base.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(images)
    return sum(size for _, size in kept.values())


def plan_memory(size: ModelSize, training: TrainingConfig, images: int, memory_bytes: int, devices: int) -> MemoryPlan:
    """Return the largest micro-batch that fits, and into how many parts a step has to be cut.

    Args:
        size: Of the model.
        training: Its optimiser and weight average.
        images: In a step, on all devices together.
        memory_bytes: Of each device.
        devices: How many of them.
    """
    copies = 2 + (1 if training.optimizer.name == "sgd" else 2) + (training.ema_decay is not None)
    state = size.parameters * copies * _BYTES_OF_FLOAT32
    free = USABLE * memory_bytes - state - size.fixed_bytes
    own_images = math.ceil(images / devices)
    fitting = min(own_images, int(free // size.activation_bytes))
    if fitting < 1:
        return MemoryPlan(state, 0, 0, state + size.fixed_bytes + size.activation_bytes)
    parts = math.ceil(own_images / fitting)
    micro_batch = math.ceil(own_images / parts)
    return MemoryPlan(state, micro_batch, parts, state + size.fixed_bytes + micro_batch * size.activation_bytes)


def size_of_run(config: RunConfig) -> ModelSize:
    """Return what the model of a run costs."""
    return model_size(config.task, config.data.class_names(), config.backbone, config.canvas, config.device.precision)
