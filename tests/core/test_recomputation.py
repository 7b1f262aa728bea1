"""Activation checkpointing: the same numbers from fewer kept tensors."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from selftrain_core.accelerators import CpuAccelerator, prepare_model
from selftrain_core.components import build_model, build_task
from selftrain_core.config import DeviceConfig
from selftrain_core.config_model import BackboneChoice, TaskChoice
from selftrain_core.errors import ConfigError
from selftrain_core.recomputation import blocks_of, checkpoint_activations
from selftrain_core.sizing import model_size
from selftrain_core.testing.samples import draws

MASKS = {"name": "segmentation/semantic", "decoder": {"name": "fpn", "pyramid_channels": 16}}
BOXES = {"name": "detection/retinanet", "head": {"channels": 16, "num_convs": 1}}
LITE = {"name": "timm/tf_efficientnet_lite0", "init": "random", "drop_path": 0.5}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "efficientnet": (MASKS, LITE),
    "resnet": (BOXES, {"name": "timm/resnet18", "init": "random"}),
    "vision transformer": (
        MASKS,
        {"name": "core/simple-pyramid", "body": {"name": "timm/test_vit", "init": "random"}, "channels": 16},
    ),
    "nas-fpn": (
        {**BOXES, "neck": {"kind": "none"}},
        {"name": "core/nas-fpn", "body": LITE, "channels": 16, "repeats": 2},
    ),
    "spinenet": ({**BOXES, "neck": {"kind": "none"}}, {"name": "spinenet/49s"}),
}


def model_of(case: str) -> nn.Module:
    task, backbone = CASES[case]
    torch.manual_seed(0)
    chosen = build_task(TaskChoice.model_validate(task), ["a", "b"])
    return build_model(chosen, BackboneChoice.model_validate(backbone))[0].train()


def outputs_of(model: nn.Module, images: Tensor) -> list[Tensor]:
    found = model(images)
    return [found] if isinstance(found, Tensor) else [found.logits_BAC, found.deltas_BA4]


def step(model: nn.Module, images: Tensor) -> list[Tensor]:
    torch.manual_seed(3)
    outputs = outputs_of(model, images)
    torch.stack([output.square().mean() for output in outputs]).sum().backward()
    return outputs


@pytest.mark.parametrize("case", CASES)
def test_numbers_are_the_same(case: str) -> None:
    plain, images = model_of(case), draws((2, 3, 64, 64), 1)
    checkpointed = checkpoint_activations(copy.deepcopy(plain))
    names = list(plain.state_dict())
    assert list(checkpointed.state_dict()) == names
    for ours, theirs in zip(step(checkpointed, images), step(plain, images), strict=True):
        assert torch.equal(ours, theirs)
    for (name, ours), theirs in zip(checkpointed.named_parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None, name
        assert torch.equal(ours.grad, theirs.grad), name
    for (name, ours), theirs in zip(checkpointed.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), f"batch norm counts its images once: {name}"


@pytest.mark.parametrize("case", CASES)
def test_what_is_planned_is_less(case: str) -> None:
    task, backbone = CASES[case]
    sizes = [
        model_size(
            TaskChoice.model_validate(task), ["a", "b"], BackboneChoice.model_validate(backbone), (256, 256),
            activation_checkpointing=checkpointing,
        )
        for checkpointing in (False, True)
    ]  # fmt: skip
    # What a pyramid or decoder keeps is kept still: over the tiny transformer, nearly all there is.
    assert sizes[1].activation_bytes < (0.96 if case == "vision transformer" else 0.75) * sizes[0].activation_bytes
    assert sizes[1].macs == sizes[0].macs


class Chain(nn.Module):
    """Four blocks, whose insides are ten times as wide as what goes between them."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Wide() for _ in range(4)))

    def forward(self, x: Tensor) -> Tensor:
        """Return what has passed all of them."""
        found: Tensor = self.blocks(x)
        return found


class Wide(nn.Module):
    """Widens and narrows."""

    def __init__(self) -> None:
        super().__init__()
        self.widen, self.narrow = nn.Linear(1, 10), nn.Linear(10, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the narrowed."""
        found: Tensor = self.narrow(self.widen(x))
        return found


def bytes_kept(model: nn.Module, x: Tensor) -> int:
    """Return the bytes that torch itself is told to keep."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[id(tensor)] = tensor
        return tensor

    own = {id(parameter) for parameter in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(x)
    return sum(4 * tensor.numel() for tensor in kept.values() if id(tensor) not in own and tensor._base is None)


def test_insides_are_not_kept() -> None:
    x = torch.ones(100, 1, requires_grad=True)
    assert bytes_kept(Chain(), x) >= 4 * 4 * 100 * 10
    assert bytes_kept(checkpoint_activations(Chain()), x) == 4 * 4 * 100, "the input of each block, and nothing else"


def test_copies_are_checkpointed_and_prediction_is_not() -> None:
    chain = checkpoint_activations(checkpoint_activations(Chain()))
    twin = copy.deepcopy(chain)
    assert bytes_kept(twin, torch.ones(5, 1, requires_grad=True)) == 4 * 4 * 5
    assert all(isinstance(block, Wide) for block in blocks_of(twin))
    with torch.no_grad():
        assert torch.equal(twin.eval()(torch.ones(5, 1)), chain(torch.ones(5, 1)))


def test_blocks_are_members_of_lists() -> None:
    assert len(blocks_of(Chain())) == 4
    assert blocks_of(Wide()) == []
    with pytest.raises(ConfigError, match="Wide has no blocks that could be computed again"):
        prepare_model(Wide(), CpuAccelerator(), DeviceConfig(activation_checkpointing=True))
