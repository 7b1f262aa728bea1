"""Contrastive learning without labels: SimCLR (Chen et al. 2020).

Two views of each image go through the backbone and a small head; each is to be told, among all views of the step, from
those of other images by its likeness to the other view of its own.

Shape letters: B = images, D = what the head gives, N = all views of a step.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed.nn
from torch import Tensor, nn
from torch.nn import functional

from selftrain_core.batch import Batch
from selftrain_core.config import PretrainingConfig
from selftrain_core.distributed import gathered, rank, sum_over_ranks, world_size
from selftrain_core.interfaces import Augmentation, Backbone
from selftrain_core.precision import Precision, forward
from selftrain_core.stepping import Recipe, StepModule


def nt_xent(first_BD: Tensor, second_BD: Tensor, id_B: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the normalised temperature-scaled cross-entropy, and how often it is won: means over this rank's views.

    The views of other ranks are told from as well, with gradient; every rank has as many images. Where an image comes
    twice, as at the turn from one visit to the next, none of its views is told from those of the other time.

    Args:
        first_BD: Of each image's first view, of any length.
        second_BD: Of its second.
        id_B: int64, which image it is.
        temperature: τ.
    """
    own = functional.normalize(torch.cat([first_BD, second_BD]), dim=1)
    own_ids = every_ids = torch.cat([id_B, id_B])
    every = own
    if world_size() > 1:
        every = torch.cat(torch.distributed.nn.all_gather(own))
        every_ids = gathered(own_ids)
    partners = rank() * len(own) + torch.arange(len(own), device=own.device).roll(len(first_BD))
    is_masked = (own_ids[:, None] == every_ids).scatter(1, partners[:, None], False)
    # Written out: autocast would round products of unit vectors to bfloat16.
    with torch.autocast(own.device.type, enabled=False):
        logits = (own @ every.T / temperature).masked_fill(is_masked, float("-inf"))
    won = (logits.argmax(1) == partners).float().mean()
    return functional.cross_entropy(logits, partners), won


class ContrastiveModel(nn.Module):
    """A backbone, the mean of its coarsest map, and a head that is thrown away in the end.

    The head's layers are linear with batch norm, the last one's without scale and shift, and a ReLU between them.

    Args:
        backbone: What is trained.
        config: Says how deep the head is.
    """

    def __init__(self, backbone: Backbone, config: PretrainingConfig) -> None:
        super().__init__()
        self.backbone = backbone
        width = backbone.channels[max(backbone.channels)]
        layers: list[nn.Module] = []
        for _ in range(config.projection_layers - 1):
            layers += [nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        layers += [
            nn.Linear(width, config.projection_channels, bias=False),
            nn.BatchNorm1d(config.projection_channels, affine=False),
        ]
        self.head = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Return what the head makes of images, float [B,3,H,W] in 0..1: [B, D]."""
        features = self.backbone(images)
        found: Tensor = self.head(features[max(features)].mean((2, 3)))
        return found


class ContrastiveModule(StepModule):
    """A `ContrastiveModel` in training. A step is one batch: its images are what each view is told from.

    Args:
        model: The model.
        augmentation: Makes the views.
        recipe: What the stage is; its settings are a `PretrainingConfig`.
        folder: Where a batch that stops the run is saved.
        precision: In which the model computes.
    """

    def __init__(
        self, model: nn.Module, augmentation: Augmentation, recipe: Recipe, folder: Path, *, precision: Precision
    ) -> None:
        assert isinstance(recipe.training, PretrainingConfig)
        super().__init__(model, recipe, folder, precision=precision)
        self.augmentation, self.temperature = augmentation, recipe.training.temperature
        self._logged: dict[str, Tensor | float] = {}
        self._won = torch.zeros(())

    def prepared(self, batches: list[Batch]) -> Batch:
        """Return both views of the images, the first ones before the second ones."""
        (batch,) = batches
        views = [self.augmented(batch, self.augmentation, view) for view in range(2)]
        return replace(views[0], image_B3HW=torch.cat([view.image_B3HW for view in views]))

    def gradients(self, step: Batch) -> Tensor:
        """Return the loss, the mean over all ranks' views."""
        loss, self._won = self._loss(step)
        self.manual_backward(loss)  # whose mean over the ranks DDP takes
        return sum_over_ranks(loss.detach()[None]) / world_size()

    def remember(self, losses_K: Tensor, gradient_norm: Tensor, rate: float, *, is_finite: bool) -> None:
        """Remember the loss, and how often a view was told."""
        del is_finite
        self._logged = {
            "loss": losses_K[0],
            "told": 100 * self._won.detach(),
            "gradient_norm": gradient_norm,
            "learning_rate": rate,
        }

    def taken(self, losses_K: Tensor, step: Any) -> None:
        """Do nothing: nothing is averaged."""

    def log_values(self) -> dict[str, float]:
        """Return the loss, and in % how many views of this rank found their other one among all."""
        return {name: float(value) for name, value in self._logged.items()}

    def blame(self, step: Batch) -> str:
        """Return the loss of a step."""
        with torch.no_grad():
            return f"contrastive loss {float(self._loss(step)[0]):g}"

    def batches_of(self, step: Batch) -> list[Batch]:
        """Return the batch of both views."""
        return [step]

    def _loss(self, step: Batch) -> tuple[Tensor, Tensor]:
        first_BD, second_BD = forward(self.model, step.image_B3HW, self.precision).chunk(2)
        return nt_xent(first_BD, second_BD, step.id_B, self.temperature)
