"""Optimisers and the learning rate as a pure function of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from selftrain_core.config import OptimizerConfig


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimiser; weight decay acts on matrices and kernels alone, not on biases and normalisation."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=config.lr)


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Return the learning rate of step `step` (from 0) out of `steps`.

    Linear from 0 over the warm-up, then half a cosine down to ``final_lr · lr`` at the last step (paper §3.2 warms up
    and decays by cosine too).
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, steps - 1 - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.lr * (config.final_lr + (1 - config.final_lr) * cosine)
