"""The smallest complete components: for the tests of what uses components, and as examples of the contracts.

Shape letters: B = images, C = classes, H, W = height, width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from selftrain_core.batch import Batch, Targets, float_images
from selftrain_core.config_model import StrictModel
from selftrain_core.distributed import sum_over_ranks
from selftrain_core.errors import StridesError
from selftrain_core.geometry import Geometry, map_on_canvas
from selftrain_core.interfaces import Augmentation, Backbone, Init, LossTerm, Policy, Task
from selftrain_core.keys import uniform
from selftrain_core.labels import IGNORE, KEEP, Decisions, MaskLabels, ScoreStatistics
from selftrain_core.views import PLAIN_VIEW, View


class TinyBackboneConfig(StrictModel):
    """Settings of `TinyBackbone`."""

    init: str = "random"
    width: PositiveInt = 4


class TinyBackbone(Backbone):
    """Stride-2 convolutions with group normalisation, a few hundred weights; strides 2 to 128."""

    config: TinyBackboneConfig

    def __init__(
        self,
        config: TinyBackboneConfig,
        member: str = "",
        strides: Sequence[int] = (4,),
        output_stride: int | None = None,
    ) -> None:
        super().__init__(config, member, strides, output_stride)
        # No layer is built behind the last stride asked for, so an output stride leaves nothing to dilate.
        offered = [2**n for n in range(1, 8)]
        missing = [stride for stride in (*strides, output_stride or 2) if stride not in offered]
        if missing or max(strides) > (output_stride or 128):
            asked = f"{list(strides)} at the output stride {output_stride}"
            raise StridesError(f"TinyBackbone has no strides {asked}; it has: {offered}", {None: tuple(offered)})
        width = config.width
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width if number else 3, width, 3, 2, 1), nn.GroupNorm(2 - width % 2, width), nn.SiLU()
            )
            for number in range(offered.index(max(strides)) + 1)
        )
        self.channels = dict.fromkeys(self.strides, width)

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Return features by stride."""
        features, level = {}, self.normalise(images)
        for number, layer in enumerate(self.layers):
            level = layer(level)
            features[2 ** (number + 1)] = level
        return {stride: features[stride] for stride in self.strides}

    def inits(self) -> tuple[Init, ...]:
        """Return ``random``, and ``ones``, whose weights are all one."""
        half = (0.5, 0.5, 0.5)
        return (Init("random", half, half, "none", "none"), Init("ones", half, half, "a constant", "none"))

    def load_weights(self, init: Init) -> None:
        """Set every weight to one."""
        for parameter in self.parameters():
            nn.init.ones_(parameter)


@dataclass(frozen=True)
class PixelPrediction:
    """Class probabilities over the picture's part of the canvas, and the image's own size."""

    probability_CHW: Tensor
    original: tuple[int, int]


class PixelAccuracy:
    """The share of pixels that are right, in percent.

    Args:
        classes: Class names.
        device: Where to count.
    """

    def __init__(self, classes: Sequence[str], device: torch.device) -> None:
        self.num_classes = len(classes)
        self._right_and_all = torch.zeros(2, dtype=torch.int64, device=device)

    def update(self, prediction: PixelPrediction, truth: MaskLabels) -> None:
        """Count one image at the truth's resolution."""
        resized = functional.interpolate(prediction.probability_CHW[None], size=truth.classes_HW.shape, mode="nearest")
        predicted_HW = resized[0].argmax(0)
        truth_HW = torch.from_numpy(truth.classes_HW).to(predicted_HW.device, torch.int64)
        known = truth_HW != IGNORE
        self._right_and_all += torch.stack([(known & (predicted_HW == truth_HW)).sum(), known.sum()])

    def compute(self) -> dict[str, float]:
        """Return the score over all ranks."""
        right, total = sum_over_ranks(self._right_and_all).tolist()
        return {"accuracy": 100 * right / max(1, total)}


class PixelTask(Task[MaskLabels, PixelPrediction]):
    """One class per pixel: cross-entropy and pixel accuracy, over one feature map of stride 4."""

    metric_name = "accuracy"
    unit = "% of pixels"
    quantity = "share of pixels"
    label_type = MaskLabels
    label_files = "arrays"
    strides: tuple[int, ...] = (4,)
    terms: tuple[LossTerm, ...] = (LossTerm("pixels"),)

    def build_model(self, backbone: Backbone) -> nn.Module:
        """Return the backbone with one logit per class and pixel."""
        return PixelModel(backbone, self.num_classes)

    def counts(self, targets: Targets) -> dict[str, Tensor]:
        """Return the number of pixels that are not ignored."""
        assert targets.mask_BHW is not None
        return {"pixels": (targets.mask_BHW != IGNORE).sum((1, 2)).float()}

    def losses(self, outputs: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Return the weighted cross-entropy summed over each image's pixels."""
        assert targets.mask_BHW is not None and targets.weight_BHW is not None
        loss_BHW = functional.cross_entropy(outputs, targets.mask_BHW.long(), ignore_index=IGNORE, reduction="none")
        return {"pixels": (loss_BHW * targets.weight_BHW).sum((1, 2))}

    def predict(self, model: nn.Module, batch: Batch, views: Sequence[View] = PLAIN_VIEW) -> list[PixelPrediction]:
        """Return class probabilities over each picture's part of the canvas, the mean of all views."""
        canvas = (batch.image_B3HW.shape[2], batch.image_B3HW.shape[3])
        seen = [view.back(model(view(batch.image_B3HW)).softmax(1), canvas) for view in views]
        probability_BCHW = torch.stack(seen).mean(0)
        return [
            PixelPrediction(probability_BCHW[number, :, :height, :width], (rows, columns))
            for number, ((height, width), (rows, columns)) in enumerate(
                zip(batch.valid_B2.tolist(), batch.original_B2.tolist(), strict=True)
            )
        ]

    def metric(self, device: torch.device) -> PixelAccuracy:
        """Return a fresh metric."""
        return PixelAccuracy(self.classes, device)

    def row_schema(self) -> pa.Schema:
        """Return raw bytes and their shape."""
        return pa.schema([("classes", pa.binary()), ("scores", pa.binary()), ("shape", pa.list_(pa.int32(), 2))])

    def to_row(self, labels: MaskLabels) -> dict[str, Any]:
        """Return the labels' bytes; one class is all this task keeps."""
        assert labels.scores_HW is not None
        return {
            "classes": labels.classes_HW.tobytes(),
            "scores": labels.scores_HW.tobytes(),
            "shape": list(labels.classes_HW.shape),
        }

    def from_row(self, row: Mapping[str, Any]) -> MaskLabels:
        """Return the labels of the bytes."""
        shape = tuple(row["shape"])
        scores_HW = np.frombuffer(row["scores"], np.float32).reshape(shape)
        return MaskLabels(np.frombuffer(row["classes"], np.uint8).reshape(shape), scores_HW)

    def as_labels(self, prediction: PixelPrediction, top_k: int = 1) -> MaskLabels:
        """Return the most probable classes with their probabilities."""
        score_HW, class_HW = prediction.probability_CHW.float().max(0)
        return MaskLabels(class_HW.to(torch.uint8).numpy(), score_HW.clamp(0, 1).numpy())

    def at_original(self, prediction: PixelPrediction) -> MaskLabels:
        """Return the classes and scores of the nearest canvas pixel."""
        labels = self.as_labels(prediction)
        assert labels.scores_HW is not None
        onto = Geometry(prediction.original, prediction.original, prediction.original)
        return MaskLabels(map_on_canvas(labels.classes_HW, onto, 0), map_on_canvas(labels.scores_HW, onto, 0))

    def writer(self, folder: Path) -> ArrayWriter:
        """Return what writes NumPy files."""
        return ArrayWriter(folder)

    def written_source(self, images: Path, folder: Path, list_path: Path) -> dict[str, Any]:
        """Return the settings of a source that nobody offers."""
        return {"name": "fakes/arrays", "images": str(images), "arrays": str(folder), "list": str(list_path)}

    def apply(self, labels: MaskLabels, decisions: Decisions) -> MaskLabels:
        """Return the class map with every pixel that is not kept ignored."""
        return MaskLabels(np.where(decisions.actions == KEEP, labels.classes_HW, np.uint8(IGNORE)), labels.scores_HW)

    def to_targets(self, labels: MaskLabels, decisions: Decisions | None, geometry: Geometry) -> Targets:
        """Return mask and weights on the canvas."""
        weights = np.ones(labels.classes_HW.shape, np.float32)
        if decisions is not None:
            labels, weights = self.apply(labels, decisions), decisions.weights
        return Targets(
            mask_BHW=torch.from_numpy(map_on_canvas(labels.classes_HW, geometry, IGNORE)),
            weight_BHW=torch.from_numpy(map_on_canvas(weights, geometry, 0.0)),
        )

    def decide(self, labels: MaskLabels, policy: Policy) -> Decisions:
        """Return the policy's decision on every pixel."""
        assert labels.scores_HW is not None
        return policy(labels.scores_HW, labels.classes_HW)

    def statistics(self, labels: MaskLabels, geometry: Geometry | None = None) -> ScoreStatistics:
        """Return how many pixels of each class the map holds at which score."""
        return ScoreStatistics.of(labels.classes_HW, labels.scores_HW, self.num_classes)

    def draw(self, image_HW3: NDArray[np.uint8], labels: MaskLabels) -> NDArray[np.uint8]:
        """Return the image, darker where the class is 0."""
        size = (image_HW3.shape[0], image_HW3.shape[1])
        drawn_HW = map_on_canvas(labels.classes_HW, Geometry(size, size, size), 0)
        return np.where(drawn_HW[:, :, None] == 0, image_HW3 // 2, image_HW3)

    def legend(self) -> list[tuple[str, tuple[int, int, int]]]:
        """Return one grey for what is darkened, another for the rest."""
        return [(name, (200, 200, 200) if number else (100, 100, 100)) for number, name in enumerate(self.classes)]


class ArrayWriter:
    """Writes class maps as NumPy files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, id_: str, labels: MaskLabels, original: tuple[int, int], image: Path) -> Path:
        """Write the map at the image's size."""
        path = self.folder / f"{id_}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, map_on_canvas(labels.classes_HW, Geometry(original, original, original), 0))
        return path

    def close(self) -> None:
        """Do nothing."""


class PixelModel(nn.Module):
    """A 1×1 convolution over the coarsest stride of the backbone, resized to the images."""

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Conv2d(backbone.channels[backbone.strides[-1]], num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B,C,H,W]."""
        logits = self.head(self.backbone(images)[self.backbone.strides[-1]])
        return functional.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)


class Brightness(Augmentation):
    """Darkens each image by a factor between ½ and 1, drawn from its key."""

    def parameters(self, batch: Batch, key_B: Tensor) -> dict[str, Tensor]:
        """Return the factors, [B]."""
        return {"factor_B": 0.5 + 0.5 * uniform(key_B, 0)}

    def replay(self, batch: Batch, parameters: Mapping[str, Tensor]) -> Batch:
        """Return the darker batch."""
        factor_B111 = parameters["factor_B"][:, None, None, None]
        return replace(batch, image_B3HW=float_images(batch.image_B3HW) * factor_B111)
