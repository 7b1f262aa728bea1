"""What a model costs, counted without building it, and how a step fits a device."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from selftrain_core import sizing
from selftrain_core.components import build_model, build_task
from selftrain_core.config import OptimizerConfig, TrainingConfig
from selftrain_core.config_model import BackboneChoice, TaskChoice
from selftrain_core.sizing import ModelSize, model_size, plan_memory
from selftrain_core.testing.samples import draws

LITE = BackboneChoice.of("timm/tf_efficientnet_lite0", init="random")
MASKS = TaskChoice.of("segmentation/semantic")


class Small(nn.Module):
    """Keeps its input, and what its ReLU gives; the view of that costs nothing more."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.linear = nn.Linear(4 * 8 * 8, 2)

    def forward(self, images: Tensor) -> Tensor:
        """Return two numbers."""
        found: Tensor = self.linear(functional.relu(self.conv(images)).flatten(1))
        return found


def test_what_is_kept_is_counted_once_and_weights_not_at_all() -> None:
    images = torch.empty(5, 3, 8, 8)
    assert sizing._kept_bytes(Small(), images, []) == 4 * 5 * (3 + 4) * 8 * 8


def test_counted_on_the_meta_device_as_on_any() -> None:
    size = model_size(MASKS, ["a", "b"], LITE, (96, 64))
    model, _ = build_model(build_task(MASKS, ["a", "b"]), LITE)
    assert size.parameters == sum(parameter.numel() for parameter in model.parameters())
    model.train()
    for number in (2, 3):
        kept = sizing._kept_bytes(model, draws((number, 3, 96, 64), 0), [])
        assert kept == size.fixed_bytes + number * size.activation_bytes


def test_more_pixels_cost_more_and_half_the_bytes_half() -> None:
    small, large = (model_size(MASKS, ["a", "b"], LITE, (side, 64)) for side in (64, 128))
    assert large.parameters == small.parameters
    assert large.macs == pytest.approx(2 * small.macs, rel=0.02)
    assert large.activation_bytes == pytest.approx(2 * small.activation_bytes, rel=0.02)
    half = model_size(MASKS, ["a", "b"], LITE, (64, 64), "bf16")
    assert half.macs == small.macs
    assert half.activation_bytes == pytest.approx(small.activation_bytes / 2, rel=0.1)


def adamw(ema: float | None = 0.9) -> TrainingConfig:
    return TrainingConfig(ema_decay=ema)


def test_a_step_is_cut_into_parts_that_fit() -> None:
    size = ModelSize(parameters=1000, macs=0, activation_bytes=100, fixed_bytes=50)
    # Weights, gradients, two averages of AdamW and that of the weights, four bytes each.
    plan = plan_memory(size, adamw(), streams=[20], memory_bytes=29_000, devices=2)
    assert plan.state_bytes == 20_000
    assert (plan.micro_batch, plan.micro_batches) == (10, 1)
    assert plan.used_bytes == 20_000 + 50 + 1000
    # Three quarters of 27,500 leave 575 bytes: five images, so ten in two parts.
    plan = plan_memory(size, adamw(), streams=[20], memory_bytes=27_500, devices=2)
    assert (plan.micro_batch, plan.micro_batches) == (5, 2)
    # Room for seven of ten: two parts of five, not of seven and three.
    assert plan_memory(size, adamw(), [20], 27_700, 2).micro_batch == 5


def test_what_does_not_fit_says_what_one_image_takes() -> None:
    size = ModelSize(parameters=1000, macs=0, activation_bytes=100, fixed_bytes=50)
    plan = plan_memory(size, adamw(), streams=[20], memory_bytes=20_000, devices=1)
    assert (plan.micro_batch, plan.micro_batches, plan.used_bytes) == (0, 0, 20_150)


def test_each_stream_is_cut_for_itself() -> None:
    """Nine human and nine pseudo images in four parts: three and three come together, not five."""
    size = ModelSize(parameters=1000, macs=0, activation_bytes=100, fixed_bytes=50)
    plan = plan_memory(size, adamw(), [9, 9], memory_bytes=27_600, devices=1)
    assert (plan.micro_batch, plan.micro_batches, plan.used_bytes) == (6, 3, 20_650)
    plan = plan_memory(size, adamw(), [9, 9], memory_bytes=27_400, devices=1)
    assert (plan.micro_batch, plan.micro_batches) == (4, 5)


def test_no_part_is_left_without_images() -> None:
    """A training in more parts than a stream has images would be refused."""
    size, head = (ModelSize(1000, 0, activation_bytes=100, fixed_bytes=0) for _ in range(2))
    plan = plan_memory(size, adamw(), [8], 10**9, 1, [(head, 2)])
    assert (plan.micro_batch, plan.micro_batches) == (8, 1)
    # Two parts take 500 bytes beside the weights' 40,000, and more parts than joint images there cannot be.
    assert plan_memory(size, adamw(), [8], 54_000, 1, [(head, 2)]).micro_batches == 2
    plan = plan_memory(size, adamw(), [8], 53_600, 1, [(head, 2)])
    assert (plan.micro_batch, plan.micro_batches, plan.used_bytes) == (0, 0, 40_500)


@pytest.mark.parametrize(("name", "ema", "copies"), [("sgd", None, 3), ("sgd", 0.9, 4), ("adamw", None, 4)])
def test_what_training_keeps_of_each_weight(name: str, ema: float | None, copies: int) -> None:
    size = ModelSize(parameters=1000, macs=0, activation_bytes=100, fixed_bytes=0)
    training = TrainingConfig.model_validate({"optimizer": OptimizerConfig.model_validate({"name": name})}).model_copy(
        update={"ema_decay": ema}
    )
    assert plan_memory(size, training, [1], 10**9, 1).state_bytes == copies * 4000
