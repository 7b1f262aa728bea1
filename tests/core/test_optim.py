"""The learning rate as a function of the step, and which weights decay."""

import math
import sys

import pytest
import torch
from timm.layers.norm import LayerNorm2d, RmsNorm
from timm.layers.norm_act import BatchNormAct2d
from torch import nn

from selftrain_core.config import OptimizerConfig
from selftrain_core.errors import ConfigError
from selftrain_core.optim import build_optimizer, learning_rate


def test_schedule_end_points() -> None:
    config = OptimizerConfig(lr=0.5, warmup_steps=10, final_lr=0.02)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.05)
    assert rates[9] == rates[10] == max(rates) == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(0.01)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_half_way_down_the_cosine() -> None:
    config = OptimizerConfig(lr=1.0, warmup_steps=0, final_lr=0.0)
    assert learning_rate(config, 0, 101) == 1
    assert learning_rate(config, 50, 101) == pytest.approx(0.5)


def test_warm_up_from_a_hundredth() -> None:
    config = OptimizerConfig(lr=0.32, warmup_steps=1000, warmup_start=0.01)
    rates = [learning_rate(config, step, 45_000) for step in range(1001)]
    assert rates[0] == pytest.approx(0.0032, rel=0.1), "paper, §3.2: from 0.0032"
    assert rates[499] == pytest.approx((0.0032 + 0.32) / 2)
    assert rates[999] == pytest.approx(0.32) and rates == sorted(rates)


def test_drops() -> None:
    """SpineNet-143's 231,500 steps, with drops 30 and 10 epochs of 463 steps before the end."""
    config = OptimizerConfig(lr=0.28, warmup_steps=2000, final_lr=0.5, drops=(0.94, 0.98))
    steps = {1999: 0.28, 100_000: 0.28, 217_609: 0.28, 217_610: 0.028, 226_869: 0.028, 226_870: 0.0028, 231_499: 0.0028}
    for step, rate in steps.items():
        assert learning_rate(config, step, 231_500) == pytest.approx(rate), step


@pytest.mark.parametrize(("warmup", "steps"), [(0, 1), (5, 3), (5, 5), (5, 6), (0, 2)])
def test_short_schedules_stay_in_range(warmup: int, steps: int) -> None:
    config = OptimizerConfig(lr=1.0, warmup_steps=warmup, final_lr=0.1)
    rates = [learning_rate(config, step, steps) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)


def test_a_step_beyond_the_last_keeps_the_last_rate() -> None:
    config = OptimizerConfig(lr=1.0, warmup_steps=0, final_lr=0.1)
    assert learning_rate(config, 500, 100) == pytest.approx(0.1)


@pytest.mark.parametrize(("name", "expected"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_only_matrices_and_kernels_decay(name: str, expected: type) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    model[2].bias.requires_grad_(False)
    config = OptimizerConfig.model_validate({"name": name, "weight_decay": 0.3, "momentum": 0.7})
    optimizer = build_optimizer(config, model)
    assert type(optimizer) is expected
    decayed, free = optimizer.param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.3, 0)
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 3, 3, 3), (2, 4)]
    assert len(free["params"]) == 3, "conv bias, and scale and shift of the normalisation; the frozen bias is left out"
    assert decayed.get("momentum", 0.7) == 0.7


def test_normalisation_decays_where_asked_for() -> None:
    norms = [nn.BatchNorm2d(4), BatchNormAct2d(4), nn.SyncBatchNorm(4), nn.GroupNorm(2, 4), LayerNorm2d(4), RmsNorm(4)]
    model = nn.Sequential(nn.Conv2d(3, 4, 3), *norms, nn.Linear(4, 2))
    decayed, free = build_optimizer(OptimizerConfig(name="sgd", decay_norms=True), model).param_groups
    assert len(decayed["params"]) == 2 + 2 * 5 + 1
    assert [id(p) for p in free["params"]] == [id(model[0].bias), id(model[-1].bias)]


def test_lars_adapts_kernels_alone_even_without_weight_decay() -> None:
    """The rate of a kernel is 0.001 · |w| / |g| of the one asked for; biases move as under SGD."""
    model = nn.Linear(3, 2)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(OptimizerConfig(name="lars", lr=2.0, momentum=0.0, weight_decay=0.0), model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    ratio = 0.001 * float(before["weight"].norm()) / math.sqrt(6)
    torch.testing.assert_close(model.weight.detach(), before["weight"] - 2 * ratio)
    torch.testing.assert_close(model.bias.detach(), before["bias"] - 2)


def test_lars_without_timm_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm.optim.lars", None)
    with pytest.raises(ConfigError, match=r"pip install 'selftrain-core\[timm\]'; or take sgd or adamw"):
        build_optimizer(OptimizerConfig(name="lars"), nn.Linear(1, 1))
