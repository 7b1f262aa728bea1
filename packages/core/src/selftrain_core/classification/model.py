"""A classification model: backbone, mean over its coarsest map, one logit per class."""

from __future__ import annotations

from torch import Tensor, nn

from selftrain_core.classification.config import ClassificationConfig
from selftrain_core.interfaces import Backbone


class ClassificationModel(nn.Module):
    """Maps images, float [B,3,H,W] in 0..1, to logits [B,C].

    Args:
        backbone: May offer any strides; the coarsest is read.
        config: Of the head.
        num_classes: C.
    """

    def __init__(self, backbone: Backbone, config: ClassificationConfig, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.stride = max(backbone.channels)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(backbone.channels[self.stride], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits; the mean is taken over the whole canvas."""
        features_BD = self.backbone(images)[self.stride].mean((2, 3))
        logits_BC: Tensor = self.head(self.dropout(features_BD))
        return logits_BC
