"""Mean intersection over union."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from selftrain_core.labels import IGNORE, MaskLabels
from selftrain_segmentation.prediction import SegmentationPrediction


class MeanIoU:
    """mIoU from one confusion matrix over all pixels of all images and ranks, in percent.

    A class that neither the truth nor any prediction holds has no IoU and is left out of the mean.

    Args:
        classes: Ordered class names.
        device: Where to count.
    """

    def __init__(self, classes: tuple[str, ...], device: torch.device) -> None:
        self.classes = classes
        self._confusion = MulticlassConfusionMatrix(len(classes), ignore_index=IGNORE, validate_args=False).to(device)

    def update(self, prediction: SegmentationPrediction, truth: MaskLabels) -> None:
        """Count one image at the truth's resolution."""
        height, width = truth.classes_HW.shape
        predicted_HW = prediction.classes_at((height, width))
        truth_HW = torch.from_numpy(truth.classes_HW).to(predicted_HW.device, torch.int64)
        self._confusion.update(predicted_HW[None], truth_HW[None])

    def compute(self) -> dict[str, float]:
        """Return ``miou``, ``pixel_accuracy`` and ``iou/<class>`` in percent, summed over ranks."""
        confusion_CC = self._confusion.compute().double()
        return scores(confusion_CC, self.classes)


def scores(confusion_CC: Tensor, classes: tuple[str, ...]) -> dict[str, float]:
    """Return the scores of a confusion matrix, rows truth, columns prediction."""
    hit_C = confusion_CC.diagonal()
    union_C = confusion_CC.sum(0) + confusion_CC.sum(1) - hit_C
    iou_C = 100 * hit_C / union_C
    present_C = union_C > 0
    total = confusion_CC.sum()
    return {
        "miou": float(iou_C[present_C].mean()) if present_C.any() else 0.0,
        "pixel_accuracy": float(100 * hit_C.sum() / total) if total > 0 else 0.0,
        **{f"iou/{name}": float(iou) for name, iou, is_in in zip(classes, iou_C, present_C, strict=True) if is_in},
    }
