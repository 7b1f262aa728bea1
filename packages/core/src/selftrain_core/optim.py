"""Optimisers and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from selftrain_core.config import OptimizerConfig
from selftrain_core.errors import ConfigError


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimiser; weight decay acts on matrices and kernels, and where asked for on normalisation, too.

    LARS (You et al. 2017) does not adapt the rate of what does not decay (as SimCLR has it).

    Raises:
        ConfigError: It is LARS, and timm, which has it, is not installed.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    norms = _of_norms(model) if config.decay_norms else frozenset()
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1 or id(p) in norms], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1 and id(p) not in norms], "weight_decay": 0.0},
    ]
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
    if config.name == "lars":
        groups[0]["always_adapt"] = True  # timm's takes a group without weight decay for one not to adapt
        return _lars()(groups, lr=config.lr, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=config.lr)


def _of_norms(model: nn.Module) -> frozenset[int]:
    # By name: torch's and timm's have no class in common.
    norms = (part for part in model.modules() if "Norm" in type(part).__name__)
    return frozenset(id(parameter) for norm in norms for parameter in norm.parameters(recurse=False))


def _lars() -> Callable[..., torch.optim.Optimizer]:
    try:
        from timm.optim.lars import Lars
    except ImportError as error:
        raise ConfigError(
            "optimizer.name: lars comes with timm, which is not installed\n"
            "  to install it: pip install 'selftrain-core[timm]'; or take sgd or adamw"
        ) from error
    kind: Callable[..., torch.optim.Optimizer] = Lars
    return kind


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Return the learning rate of step `step` (from 0) out of `steps`.

    Linear over the warm-up, then half a cosine down to ``final_lr · lr`` at the last step (paper §3.2 warms up and
    decays by cosine too); or a tenth from each of ``drops`` on.
    """
    if step < config.warmup_steps:
        risen = (step + 1) / config.warmup_steps
        return config.lr * (config.warmup_start + (1 - config.warmup_start) * risen)
    if config.drops:
        return config.lr * 0.1 ** sum(step >= round(drop * steps) for drop in config.drops)
    progress = (step - config.warmup_steps) / max(1, steps - 1 - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.lr * (config.final_lr + (1 - config.final_lr) * cosine)
