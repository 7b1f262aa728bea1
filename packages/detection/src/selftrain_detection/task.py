"""Object detection as selftrain knows it: boxes with a class and a score, by RetinaNet (Lin et al. 2017).

Shape letters: B = images, N = boxes, C = classes, A = anchors, H, W = height, width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from selftrain_core.batch import Batch, Targets
from selftrain_core.errors import DataError
from selftrain_core.geometry import Geometry
from selftrain_core.interfaces import Backbone, LossTerm, Policy, Task
from selftrain_core.labels import (
    DROP,
    IGNORE_LABEL,
    IGNORED,
    PADDING_LABEL,
    BoxLabels,
    Decisions,
    ScoreStatistics,
)
from selftrain_core.legend import palette
from selftrain_core.views import PLAIN_VIEW, View
from selftrain_detection import correcting
from selftrain_detection.config import DetectionConfig
from selftrain_detection.correcting import CORRECTING
from selftrain_detection.drawing import draw_boxes
from selftrain_detection.losses import RetinaNetLoss
from selftrain_detection.metric import AveragePrecision
from selftrain_detection.model import RetinaNet, RetinaNetOutputs
from selftrain_detection.prediction import BoxPrediction, detect
from selftrain_detection.writing import INSTANCES, BoxWriter


class DetectionTask(Task[BoxLabels, BoxPrediction]):
    """Focal and Huber loss on anchors, COCO average precision, pseudo labels as boxes with scores.

    People's labels and a teacher's are boxes in the pixels of the image file, so both take one way to targets.
    """

    config: DetectionConfig
    metric_name = "ap"
    unit = "% AP"
    quantity = "boxes per image"
    label_type = BoxLabels
    label_files = "boxes"
    correcting = CORRECTING
    strides = (8, 16, 32)
    optional_strides = (64, 128)
    floor_setting = "task.prediction.floor"

    def __init__(self, config: DetectionConfig, classes: Sequence[str]) -> None:
        super().__init__(config, classes)
        self.floor = config.prediction.floor
        self._loss = RetinaNetLoss(config)
        self.terms: tuple[LossTerm, ...] = self._loss.terms

    def build_model(self, backbone: Backbone) -> nn.Module:
        """Return RetinaNet over the backbone."""
        return RetinaNet(backbone, self.config, self.num_classes)

    def counts(self, targets: Targets) -> dict[str, Tensor]:
        """Return the number of positive anchors, for both terms."""
        return self._loss.counts(targets)

    def losses(self, outputs: RetinaNetOutputs, targets: Targets) -> dict[str, Tensor]:
        """Return the focal and the Huber loss summed over each image's anchors."""
        return self._loss.losses(outputs, targets)

    def predict(self, model: nn.Module, batch: Batch, views: Sequence[View] = PLAIN_VIEW) -> list[BoxPrediction]:
        """Return every box above the floor, in the pixels of the image file, those of all views merged."""
        return detect(model, batch, views, self.config.prediction)

    def metric(self, device: torch.device) -> AveragePrecision:
        """Return a fresh average precision."""
        return AveragePrecision(self.classes, device, self.config.metric)

    def row_schema(self) -> pa.Schema:
        """Return boxes in the pixels of the image file with their classes and scores, surest first."""
        return pa.schema(
            [
                ("boxes", pa.list_(pa.list_(pa.float32(), 4))),
                ("labels", pa.list_(pa.int32())),
                ("scores", pa.list_(pa.float32())),
            ]
        )

    def as_labels(self, prediction: BoxPrediction, top_k: int = 1) -> BoxLabels:
        """Return the boxes on the processor; a box has one class, whatever `top_k`."""
        return prediction.labels()

    def to_row(self, labels: BoxLabels) -> dict[str, Any]:
        """Return the boxes, their classes and their scores."""
        assert labels.scores_N is not None
        return {
            "boxes": labels.boxes_N4.tolist(),
            "labels": labels.labels_N.tolist(),
            "scores": labels.scores_N.tolist(),
        }

    def from_row(self, row: Mapping[str, Any]) -> BoxLabels:
        """Return the boxes with their classes and scores."""
        return BoxLabels(
            np.array(row["boxes"], np.float32).reshape(-1, 4),
            np.array(row["labels"], np.int64),
            np.array(row["scores"], np.float32),
        )

    def at_original(self, prediction: BoxPrediction) -> BoxLabels:
        """Return the boxes, which lie in the pixels of the image file already."""
        return prediction.labels()

    def writer(self, folder: Path) -> BoxWriter:
        """Return what writes one JSON file of COCO instances into `folder`."""
        return BoxWriter(folder, self.classes)

    def written_source(self, images: Path, folder: Path, list_path: Path) -> dict[str, Any]:
        """Return the settings of a source of COCO instances."""
        paths = {"images": images, "annotations": folder / INSTANCES, "list": list_path}
        return {"name": "detection/coco", **{key: str(path) for key, path in paths.items()}}

    def said(self, labels: BoxLabels) -> Any:
        """Return class and corners of each box."""
        return correcting.said(labels)

    def is_changed(self, labels: BoxLabels, said: Any) -> bool:
        """Return whether there are other boxes, or one has moved by more than a pixel."""
        return correcting.is_changed(labels, said)

    def ids_in(self, folder: Path, ids: Sequence[str]) -> tuple[dict[str, str], list[str]]:
        """Return the images that the COCO file of a folder has, found by their ``file_name``."""
        return correcting.ids_in_file(folder / INSTANCES, self.classes, ids)

    def apply(self, labels: BoxLabels, decisions: Decisions) -> BoxLabels:
        """Return the boxes without those that are dropped; one to ignore becomes a region to ignore."""
        is_ignored_N = decisions.actions == IGNORED
        marked = replace(labels, labels_N=np.where(is_ignored_N, IGNORE_LABEL, labels.labels_N))
        return _chosen(marked, decisions.actions != DROP)

    def to_targets(self, labels: BoxLabels, decisions: Decisions | None, geometry: Geometry) -> Targets:
        """Return `max_boxes` boxes on the canvas.

        Of more, objects go before regions to ignore; among either the surest first where there are scores, and of
        equal ones the largest.
        """
        weights_N = np.ones(len(labels), np.float32)
        if decisions is not None:
            weights_N = decisions.weights[decisions.actions != DROP]
            labels = self.apply(labels, decisions)
        classes_N = self._taught_classes(labels)
        scale_4 = np.tile(geometry.matrix_23.diagonal(), 2)
        limit_4 = np.tile(geometry.valid[::-1], 2)
        boxes_N4 = np.clip(labels.boxes_N4 * scale_4, 0, limit_4).astype(np.float32)
        chosen = self._most_important(boxes_N4, classes_N, labels.scores_N)
        count, places = len(chosen), self.config.max_boxes
        boxes = np.zeros((places, 4), np.float32)
        label = np.full(places, PADDING_LABEL, np.int64)
        weight = np.zeros(places, np.float32)
        boxes[:count], label[:count], weight[:count] = boxes_N4[chosen], classes_N[chosen], weights_N[chosen]
        return Targets(
            boxes_BN4=torch.from_numpy(boxes),
            label_BN=torch.from_numpy(label),
            weight_BN=torch.from_numpy(weight),
            canvas_B2=torch.tensor(geometry.canvas),
        )

    def overflow(self, labels: BoxLabels) -> int:
        """Return how many boxes are more than `max_boxes`."""
        return max(0, len(labels) - self.config.max_boxes)

    def overflow_advice(self, overflow: int) -> str:
        """Return the setting that has room for all boxes."""
        return f"task.max_boxes: {self.config.max_boxes + overflow}"

    def decide(self, labels: BoxLabels, policy: Policy) -> Decisions:
        """Return the policy's decision on every box."""
        assert labels.scores_N is not None
        return policy(labels.scores_N, labels.labels_N)

    def statistics(self, labels: BoxLabels, geometry: Geometry | None = None) -> ScoreStatistics:
        """Return how many boxes of each class there are at which score; crowds and regions to ignore are none."""
        return ScoreStatistics.of(_uncrowded(labels), labels.scores_N, self.num_classes, exposure=1)

    def draw(self, image_HW3: NDArray[np.uint8], labels: BoxLabels) -> NDArray[np.uint8]:
        """Return the image with its boxes outlined."""
        return draw_boxes(image_HW3, labels, self.classes)

    def legend(self) -> list[tuple[str, tuple[int, int, int]]]:
        """Return the classes with the colours of their boxes."""
        colours = [(int(red), int(green), int(blue)) for red, green, blue in palette(self.num_classes + 1)[1:]]
        return list(zip(self.classes, colours, strict=True))

    def _taught_classes(self, labels: BoxLabels) -> NDArray[np.int64]:
        """Return the class of each box, `IGNORE_LABEL` for crowds.

        Raises:
            DataError: A box is of no class.
        """
        classes_N = _uncrowded(labels)
        is_class_N = (classes_N >= 0) & (classes_N < self.num_classes)
        wrong = np.flatnonzero(~is_class_N & (classes_N != IGNORE_LABEL))
        if len(wrong):
            raise DataError(
                f"box {wrong[0] + 1} has the class {classes_N[wrong[0]]}; there are {self.num_classes}, counted from "
                f"0: {', '.join(self.classes)}"
            )
        return classes_N

    def _most_important(
        self, boxes_N4: NDArray[np.float32], classes_N: NDArray[np.int64], scores_N: NDArray[np.float32] | None
    ) -> NDArray[np.int64]:
        """Return the places of the boxes that targets have room for, in their order."""
        area_N = (boxes_N4[:, 2] - boxes_N4[:, 0]) * (boxes_N4[:, 3] - boxes_N4[:, 1])
        sure_N = np.ones(len(area_N), np.float32) if scores_N is None else scores_N
        order_N = np.lexsort((-area_N, -sure_N, classes_N == IGNORE_LABEL))
        return np.sort(order_N[: self.config.max_boxes])


def _uncrowded(labels: BoxLabels) -> NDArray[np.int64]:
    if labels.crowds_N is None:
        return labels.labels_N
    return np.where(labels.crowds_N, IGNORE_LABEL, labels.labels_N)


def _chosen(labels: BoxLabels, is_kept_N: NDArray[np.bool_]) -> BoxLabels:
    def kept(values: NDArray[Any] | None) -> Any:
        return None if values is None else values[is_kept_N]

    return BoxLabels(
        labels.boxes_N4[is_kept_N],
        labels.labels_N[is_kept_N],
        kept(labels.scores_N),
        kept(labels.crowds_N),
        kept(labels.areas_N),
    )
