"""`torch.compile` of one model of each kind: captured whole, with the same outputs and gradients as without.

What a compiler makes of the graph takes minutes for each: it is tried with the environment
variable SELFTRAIN_COMPILER=inductor.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from selftrain_core.components import build_model, build_task
from selftrain_core.config_model import BackboneChoice, TaskChoice
from selftrain_core.testing.samples import draws

COMPILER = os.environ.get("SELFTRAIN_COMPILER", "aot_eager")
LITE = {"name": "timm/tf_efficientnet_lite0", "init": "random"}
NAS_FPN = {"name": "core/nas-fpn", "body": LITE, "channels": 16, "repeats": 2}
MASKS, BOXES = "segmentation/semantic", "detection/retinanet"
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "retinanet": ({"name": BOXES, "head": {"channels": 16, "num_convs": 1}}, LITE),
    "spinenet": ({"name": BOXES, "head": {"channels": 16}, "neck": {"kind": "none"}}, {"name": "spinenet/49s"}),
    "nas-fpn": ({"name": BOXES, "head": {"channels": 16}, "neck": {"kind": "none"}}, NAS_FPN),
    "fusion": ({"name": MASKS, "decoder": {"name": "fusion", "channels": 16}}, NAS_FPN),
    "deeplabv3plus": ({"name": MASKS, "decoder": "deeplabv3plus"}, LITE),
}


def model_of(kind: str) -> nn.Module:
    task, backbone = KINDS[kind]
    torch.manual_seed(0)
    model, _ = build_model(
        build_task(TaskChoice.model_validate(task), ["a", "b"]), BackboneChoice.model_validate(backbone)
    )
    return model.eval()


def outputs_of(model: Callable[[Tensor], Any], images: Tensor) -> list[Tensor]:
    found = model(images)
    return [found] if isinstance(found, Tensor) else [found.logits_BAC, found.deltas_BA4]


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(gradient is not None for gradient in found.values())
    return {name: gradient for name, gradient in found.items() if gradient is not None}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", KINDS)
def test_is_captured_whole(kind: str) -> None:
    """Forward and backward are one graph each: nothing in a model depends on what its tensors hold."""
    model, images = model_of(kind), draws((2, 3, 128, 128), 1)
    expected = outputs_of(model, images)
    torch.stack([output.square().mean() for output in expected]).sum().backward()
    wanted = {name: gradient.clone() for name, gradient in gradients(model).items()}
    model.zero_grad()
    try:
        compiled = torch.compile(model, backend=COMPILER, fullgraph=True)
        found = outputs_of(compiled, images)
        torch.stack([output.square().mean() for output in found]).sum().backward()
    finally:
        torch.compiler.reset()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    for name, gradient in gradients(model).items():
        largest = float(wanted[name].abs().max())
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-2, atol=1e-3 * largest + 1e-7, msg=name)
