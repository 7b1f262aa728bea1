"""Image classification as selftrain knows it: one class per image.

Shape letters: B = images, C = classes, H, W = height, width.
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
from torch.nn import functional

from selftrain_core.batch import Batch, Targets
from selftrain_core.classification.class_list import LABELS, ClassWriter, read_classes
from selftrain_core.classification.config import ClassificationConfig
from selftrain_core.classification.drawing import colours, draw_class
from selftrain_core.classification.metric import Accuracy
from selftrain_core.classification.model import ClassificationModel
from selftrain_core.classification.prediction import ClassPrediction
from selftrain_core.correcting import Correcting
from selftrain_core.errors import ConfigError, DataError, did_you_mean
from selftrain_core.geometry import Geometry
from selftrain_core.interfaces import Backbone, LossTerm, Policy, Task
from selftrain_core.labels import IGNORE_LABEL, KEEP, ClassLabels, Decisions, ScoreStatistics
from selftrain_core.views import PLAIN_VIEW, View


class ClassificationTask(Task[ClassLabels, ClassPrediction]):
    """Cross-entropy, top-1 accuracy, one pseudo label per image.

    A class that a policy drops is ignored: every image has some class.

    Raises:
        ConfigError: There is one class alone.
    """

    config: ClassificationConfig
    metric_name = "top1"
    unit = "% top-1"
    quantity = "share of images"
    label_type = ClassLabels
    label_files = "classes"
    strides = (32,)
    terms = (LossTerm("cross_entropy"),)
    correcting = Correcting(
        files=f"{LABELS}: the id, the class and the score of each image",
        left_open="What the policy {policy} did not keep is left open: the class of such an image is empty.",
        steps=f"""\
To correct labels: open

    {{folder}}/{LABELS}

in a spreadsheet or an editor, change what is wrong in the column 'class', fill in what is left open, and save it in its
place as CSV. Scores are not read. Delete the lines of images that are not to be used.""",
    )

    def __init__(self, config: ClassificationConfig, classes: Sequence[str]) -> None:
        super().__init__(config, classes)
        if self.num_classes < 2:
            raise ConfigError(
                f"core/classification tells classes apart, and there is one alone, '{self.classes[0]}'; name a second "
                "one, be it for all that the first is not"
            )

    def build_model(self, backbone: Backbone) -> nn.Module:
        """Return a linear layer over the mean of the backbone's coarsest map, whatever strides it was built for."""
        return ClassificationModel(backbone, self.config, self.num_classes)

    def counts(self, targets: Targets) -> dict[str, Tensor]:
        """Return 1 for each image whose class is known, else 0."""
        assert targets.class_B is not None
        return {"cross_entropy": (targets.class_B != IGNORE_LABEL).float()}

    def losses(self, outputs: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Return the weighted cross-entropy of each image, 0 where its class is not known.

        Args:
            outputs: Logits [B,C].
            targets: With `class_B` and `class_weight_B`.
        """
        assert targets.class_B is not None and targets.class_weight_B is not None
        loss_B = functional.cross_entropy(
            outputs,
            targets.class_B,
            ignore_index=IGNORE_LABEL,
            reduction="none",
            label_smoothing=self.config.label_smoothing,
        )
        return {"cross_entropy": loss_B * targets.class_weight_B}

    def predict(self, model: nn.Module, batch: Batch, views: Sequence[View] = PLAIN_VIEW) -> list[ClassPrediction]:
        """Return class probabilities, the mean of those of all views."""
        seen = [model(view(batch.image_B3HW)).float().softmax(1) for view in views]
        probability_BC = torch.stack(seen).mean(0).cpu()
        return [
            ClassPrediction(probability_C, (original[0], original[1]))
            for probability_C, original in zip(probability_BC, batch.original_B2.tolist(), strict=True)
        ]

    def metric(self, device: torch.device) -> Accuracy:
        """Return a fresh accuracy."""
        return Accuracy(self.classes, device)

    def row_schema(self) -> pa.Schema:
        """Return the class index and its score."""
        return pa.schema([("class", pa.int32()), ("score", pa.float32())])

    def as_labels(self, prediction: ClassPrediction, top_k: int = 1) -> ClassLabels:
        """Return the most probable class and its probability; one is all this task keeps."""
        return prediction.labels()

    def to_row(self, labels: ClassLabels) -> dict[str, Any]:
        """Return the class index and its score."""
        assert labels.score_1 is not None
        return {"class": int(labels.class_1[0]), "score": float(labels.score_1[0])}

    def from_row(self, row: Mapping[str, Any]) -> ClassLabels:
        """Return the class and its score."""
        return ClassLabels(np.array([row["class"]], np.int64), np.array([row["score"]], np.float32))

    def at_original(self, prediction: ClassPrediction) -> ClassLabels:
        """Return the most probable class: it is that of the image at any size."""
        return prediction.labels()

    def writer(self, folder: Path) -> ClassWriter:
        """Return what writes ``labels.csv`` into `folder`."""
        return ClassWriter(folder, self.classes)

    def written_source(self, images: Path, folder: Path, list_path: Path) -> dict[str, Any]:
        """Return the settings of a source of listed classes."""
        paths = {"images": images, "labels": folder / LABELS, "list": list_path}
        return {"name": "core/class-list", **{key: str(path) for key, path in paths.items()}}

    def ids_in(self, folder: Path, ids: Sequence[str]) -> tuple[dict[str, str], list[str]]:
        """Return the images that ``labels.csv`` still names, and what it names beside them."""
        path = folder / LABELS
        named, known = read_classes(path, self.classes), set(ids)
        strangers = [
            f"{path}: the image '{name}' is none that was exported{did_you_mean(name, ids)}"
            for name in named
            if name not in known
        ]
        return {id_: id_ for id_ in ids if id_ in named}, strangers

    def apply(self, labels: ClassLabels, decisions: Decisions) -> ClassLabels:
        """Return the class, not known where it is not kept."""
        return replace(labels, class_1=np.where(decisions.actions == KEEP, labels.class_1, IGNORE_LABEL))

    def to_targets(self, labels: ClassLabels, decisions: Decisions | None, geometry: Geometry) -> Targets:
        """Return the class and its weight."""
        weight = 1.0
        if decisions is not None:
            labels, weight = self.apply(labels, decisions), float(decisions.weights[0])
        index = int(labels.class_1[0])
        if index != IGNORE_LABEL and not 0 <= index < self.num_classes:
            raise DataError(f"the class index {index} is out of range; there are {self.num_classes} classes, from 0")
        return Targets(class_B=torch.tensor(index), class_weight_B=torch.tensor(weight, dtype=torch.float32))

    def decide(self, labels: ClassLabels, policy: Policy) -> Decisions:
        """Return the policy's decision on the class."""
        assert labels.score_1 is not None
        return policy(labels.score_1, labels.class_1)

    def statistics(self, labels: ClassLabels, geometry: Geometry | None = None) -> ScoreStatistics:
        """Return that the image shows its class, and at which score."""
        return ScoreStatistics.of(labels.class_1, labels.score_1, self.num_classes)

    def draw(self, image_HW3: NDArray[np.uint8], labels: ClassLabels) -> NDArray[np.uint8]:
        """Return the image in a frame of its class's colour, with a caption."""
        return draw_class(image_HW3, labels, self.classes)

    def legend(self) -> list[tuple[str, tuple[int, int, int]]]:
        """Return the classes with the colours of their frames."""
        return list(zip(self.classes, colours(self.num_classes), strict=True))
