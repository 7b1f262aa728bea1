"""What a model costs before it is trained: parameters, multiplications and memory, counted on the meta device.

Nothing is computed there and no memory is taken, so a model of any size can be counted on any machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from selftrain_core.components import body_of, build_model, build_task
from selftrain_core.config import PretrainingConfig, RunConfig, TrainingConfig
from selftrain_core.config_model import BackboneChoice, TaskChoice
from selftrain_core.interfaces import Backbone
from selftrain_core.recomputation import blocks_of

_COUNTED_IMAGES = (2, 4)
"""Two batches, whose difference is what images cost: some of what a model keeps does not grow with the batch."""
_BYTES_OF_FLOAT32 = 4
USABLE = 0.75
"""Share of a device's memory that is planned with: the loss (of a RetinaNet a fifth of a step), workspaces and
fragments take the rest. On an H200, steps took 1.00 to 1.27 times what is counted here."""


@dataclass(frozen=True)
class ModelSize:
    """What a model costs.

    Attributes:
        parameters: How many there are, all trained; of a joint stream's, those that it adds.
        macs: Multiply-adds of convolutions and matrix products in a forward pass of one image.
        activation_bytes: What is kept of each image in training until the backward pass, the loss' own apart.
        fixed_bytes: What is kept beside that, whatever the number of images, parameters apart.
    """

    parameters: int
    macs: int
    activation_bytes: int
    fixed_bytes: int


@dataclass(frozen=True)
class RunSize:
    """What the models of a run cost.

    Attributes:
        main: The task's.
        joint: What each joint stream makes of the same backbone.
        pretraining: What is pre-trained, an image being two views; None without pre-training.
    """

    main: ModelSize
    joint: Mapping[str, ModelSize]
    pretraining: ModelSize | None


@dataclass(frozen=True)
class MemoryPlan:
    """How a step fits a device.

    Attributes:
        state_bytes: Weights, gradients, the optimiser's averages, the weight average.
        micro_batch: Images at once on a device, those of joint streams apart; 0 if a step does not fit, even in as many
            parts as leave none without images.
        micro_batches: Parts of a step, `device.micro_batches`.
        used_bytes: What is taken then; where nothing fits, what the smallest parts would take.
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
    *,
    activation_checkpointing: bool = False,
) -> ModelSize:
    """Return what a task's model costs on a canvas.

    Args:
        task: The task.
        classes: Its classes.
        backbone: The backbone.
        canvas: Height and width.
        precision: ``float32``, or ``bf16``: then activations have two bytes each rather than four.
        activation_checkpointing: Whether blocks keep their inputs alone, and one at a time its insides.

    Raises:
        ConfigError: The model cannot be built.
    """
    with torch.device("meta"):
        model, _ = build_model(build_task(task, classes), backbone)
    return _size(model, canvas, precision, activation_checkpointing=activation_checkpointing)


def _size(model: nn.Module, canvas: tuple[int, int], precision: str, *, activation_checkpointing: bool) -> ModelSize:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        model.eval()(torch.empty(1, 3, *canvas, device="meta"))
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model.train().to(dtype)
    blocks = blocks_of(model) if activation_checkpointing else []
    batches = (torch.empty(n, 3, *canvas, device="meta", dtype=dtype) for n in _COUNTED_IMAGES)
    few, many = (_kept_bytes(model, images, blocks) for images in batches)
    each = (many - few) // (_COUNTED_IMAGES[1] - _COUNTED_IMAGES[0])
    return ModelSize(parameters, counted.get_total_flops() // 2, each, max(0, few - _COUNTED_IMAGES[0] * each))


class _Kept:
    """The tensors that a forward pass keeps for the backward pass, each once, parameters and buffers apart."""

    def __init__(self, model: nn.Module) -> None:
        self._own = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
        self._tensors: dict[int, Tensor] = {}

    @property
    def bytes(self) -> int:
        """Of all of them."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._tensors.values())

    def add(self, tensor: Tensor) -> Tensor:
        """Count a tensor, whole if it is a part of one."""
        base = tensor if tensor._base is None else tensor._base
        if id(base) not in self._own:
            # It is held, for a freed one's number may be another's later.
            self._tensors[id(base)] = base
        return tensor


def _kept_bytes(model: nn.Module, images: Tensor, blocks: Sequence[nn.Module]) -> int:
    """Return the most bytes that a forward pass keeps for the backward pass, parameters apart.

    Args:
        model: The model.
        images: What it is given.
        blocks: Those that keep their inputs alone; one at a time they are computed again, and keep their insides, too.
    """
    outside = _Kept(model)
    with ExitStack() as stack:
        stack.enter_context(saved_tensors_hooks(outside.add, _as_it_is))
        insides = [_count_inside(block, outside, model, stack) for block in blocks]
        model(images)
    return outside.bytes + max((inside.bytes for inside in insides), default=0)


def _count_inside(block: nn.Module, outside: _Kept, model: nn.Module, stack: ExitStack) -> _Kept:
    inside = _Kept(model)
    hooks = saved_tensors_hooks(inside.add, _as_it_is)

    def enter(_: nn.Module, args: Any, kwargs: Any) -> None:
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor):
                outside.add(value)
        hooks.__enter__()

    def leave(*_: Any) -> None:
        hooks.__exit__()

    stack.callback(block.register_forward_pre_hook(enter, with_kwargs=True).remove)
    stack.callback(block.register_forward_hook(leave).remove)
    return inside


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def plan_memory(
    size: ModelSize,
    training: TrainingConfig | PretrainingConfig,
    streams: Sequence[int],
    memory_bytes: int,
    devices: int,
    joint: Sequence[tuple[ModelSize, int]] = (),
) -> MemoryPlan:
    """Return the fewest parts into which a step has to be cut to fit.

    Args:
        size: Of the model.
        training: Its optimiser and weight average; the steps of a pre-training cannot be cut.
        streams: Images of each of the model's streams in a step, on all devices together.
        memory_bytes: Of each device.
        devices: How many of them.
        joint: Of each joint stream, what it adds to the model, and its images in a step.
    """
    averages = isinstance(training, TrainingConfig) and training.ema_decay is not None
    copies = 2 + (2 if training.optimizer.name == "adamw" else 1) + averages
    sizes = [size, *(each for each, _ in joint)]
    state = sum(each.parameters for each in sizes) * copies * _BYTES_OF_FLOAT32
    fixed = state + sum(each.fixed_bytes for each in sizes)
    groups = [tuple(streams), *((number,) for _, number in joint)]

    def at_once(group: Sequence[int], parts: int) -> int:
        return sum(math.ceil(number / (devices * parts)) for number in group)

    def taken(parts: int) -> int:
        # A part's losses are added before the backward pass: what all of its streams keep is there at once.
        shares = zip(groups, sizes, strict=True)
        return fixed + sum(at_once(group, parts) * each.activation_bytes for group, each in shares)

    # No part may be left without images; those of a pre-training are told from one another.
    most = min(max(group) // devices for group in groups) if isinstance(training, TrainingConfig) else 1
    fitting = (parts for parts in range(1, most + 1) if taken(parts) <= USABLE * memory_bytes)
    parts = next(fitting, None)
    if parts is None:
        return MemoryPlan(state, 0, 0, taken(max(1, most)))
    return MemoryPlan(state, at_once(streams, parts), parts, taken(parts))


def size_of_run(config: RunConfig, *, activation_checkpointing: bool) -> RunSize:
    """Return what the models of a run cost; of its ``device`` the precision counts alone."""
    precision = config.device.precision
    size = partial(_size, precision=precision, activation_checkpointing=activation_checkpointing)
    main = model_size(
        config.task,
        config.data.class_names(),
        config.backbone,
        config.canvas,
        precision,
        activation_checkpointing=activation_checkpointing,
    )
    joint = {}
    for name, stream in config.joint.items():
        backbone = _backbone(config)
        shared = sum(parameter.numel() for parameter in backbone.parameters())
        with torch.device("meta"):
            model = build_task(stream.task, stream.class_names()).build_model(backbone)
        whole = size(model, stream.canvas)
        joint[name] = replace(whole, parameters=whole.parameters - shared)
    if config.pretraining is None:
        return RunSize(main, joint, None)
    from selftrain_core.contrastive import ContrastiveModel  # Lightning takes seconds to import

    with torch.device("meta"):
        contrastive = ContrastiveModel(body_of(_backbone(config)), config.pretraining)
    view = size(contrastive, config.canvas)
    image = replace(view, macs=2 * view.macs, activation_bytes=2 * view.activation_bytes)
    return RunSize(main, joint, image)


def _backbone(config: RunConfig) -> Backbone:
    with torch.device("meta"):
        _, backbone = build_model(build_task(config.task, config.data.class_names()), config.backbone)
    return backbone
