"""Settings of the detection task. Imports no torch.

"Paper" in a description is Zoph et al. 2020 with the code released beside it.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from selftrain_core.config_model import NOT_IDENTITY, StrictModel

Share = Annotated[float, Field(gt=0, le=1)]
"""An intersection over union, or another share that cannot be nothing."""


class AnchorConfig(StrictModel):
    """The boxes that a model's predictions start from; the same at every place of a level."""

    size: PositiveFloat = Field(
        default=4.0,
        description="Side of a level's smallest square anchor, in strides of the level. 4: 32 pixels at stride 8, 512 "
        "at 128 (paper). 3 for smaller objects, as for the paper's smaller SpineNets.",
    )
    num_scales: PositiveInt = Field(
        default=3, description="Sizes within a level, evenly spaced up to the next level's: 3 are × 1, 1.26 and 1.59."
    )
    ratios: tuple[PositiveFloat, ...] = Field(
        default=(1.0, 2.0, 0.5), min_length=1, description="Width over height, at the same area."
    )

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.ratios)) < len(self.ratios):
            raise ValueError(f"ratios are {list(self.ratios)}; each is wanted once, for two are the same anchors twice")
        return self

    @property
    def per_location(self) -> int:
        """Anchors at each place of a level."""
        return self.num_scales * len(self.ratios)


class MatchingConfig(StrictModel):
    """Which anchors are to predict an object."""

    positive_iou: Share = Field(
        default=0.5, description="An anchor that overlaps an object at least so much (IoU) is to predict it."
    )
    negative_iou: Share = Field(
        default=0.5,
        description="An anchor that overlaps every object less than this is to predict nothing. Below positive_iou it "
        "leaves a band of anchors without loss (Lin et al. 2017: 0.4); the paper has none.",
    )
    force_match: bool = Field(
        default=True, description="Whether every object has its best anchor, however little they overlap."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.negative_iou > self.positive_iou:
            raise ValueError(
                f"negative_iou is {self.negative_iou:g} and positive_iou {self.positive_iou:g}: an anchor between the "
                "two would be positive and negative; give a negative_iou of at most positive_iou"
            )
        return self


class HeadConfig(StrictModel):
    """The layers that all levels share: one tower for classes, one for boxes."""

    num_convs: Annotated[int, Field(ge=0, le=16)] = Field(
        default=3, description="3×3 convolutions of each tower (paper: 4; 7 for SpineNet-190)."
    )
    channels: PositiveInt = Field(
        default=64,
        description="Channels of the towers, and of the neck's levels (paper: 256; 128 for SpineNet-49S, 512 for "
        "SpineNet-190). The default suits small sets and one device.",
    )
    activation: Literal["relu", "swish"] = Field(
        default="relu", description="Behind every normalisation of the towers (SpineNets of the paper: swish)."
    )
    prior: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.01, description="The score of every class at every anchor before training (paper: 0.01)."
    )
    batch_norm_momentum: Share = Field(
        default=0.1,
        description="How much of a batch's statistics the running ones of the towers' and the neck's batch norm take "
        "over (paper: 0.003, there written as 0.997).",
    )
    batch_norm_epsilon: PositiveFloat = Field(
        default=1e-5,
        description="Added to the variance in the towers' and the neck's batch norm (paper: 0.001, or 0.0001 where "
        "its settings do not say).",
    )


class NeckConfig(StrictModel):
    """What makes the levels out of the backbone's maps."""

    kind: Literal["fpn", "none"] = Field(
        default="fpn",
        description="A feature pyramid, or none where the backbone is one itself: it then offers strides 8 to 128 with "
        "the same number of channels.",
    )
    batch_norm: bool = Field(
        default=True, description="Whether the pyramid's levels are normalised, each by itself (paper: yes)."
    )


class LossConfig(StrictModel):
    """Focal loss of the classes, Huber's loss of the boxes."""

    focal_alpha: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.25, description="Weight of a positive; a negative weighs 1 less this (paper: 0.25)."
    )
    focal_gamma: NonNegativeFloat = Field(
        default=1.5, description="How much what is right already is taken back; 0 is plain cross-entropy (paper: 1.5)."
    )
    huber_delta: PositiveFloat = Field(
        default=0.1, description="Error of a box coordinate above which the loss grows evenly (paper: 0.1)."
    )
    box_weight: PositiveFloat = Field(default=50.0, description="Of the box loss beside the class loss (paper: 50).")
    mask_zero_targets: bool = Field(
        default=False,
        description="Whether box coordinates that are to be exactly 0 have no loss, as in the code released with the "
        "paper. They are then never learnt.",
    )


class BoxPredictionConfig(StrictModel):
    """How outputs become boxes."""

    floor: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.05, description="Lowest score kept (paper: 0.05). What a policy is to see must lie above it."
    )
    suppression: Literal["nms", "soft_nms_tensorflow", "soft_nms", "none"] = Field(
        default="nms",
        description="What becomes of boxes of a class that overlap a better one: taken out (nms), or with less score. "
        "soft_nms_tensorflow has TensorFlow's weight exp(−IoU²/2σ), soft_nms that of Bodla et al. 2017, exp(−IoU²/σ).",
    )
    iou_threshold: Share | None = Field(
        default=None,
        description="Overlap (IoU) with a better box above which a box is taken out, by nms and soft_nms_tensorflow; "
        "null: 0.5 for nms (paper), 1 for soft_nms_tensorflow, which then takes none out. At 0.5 that would be nms, "
        "with less score for what stays.",
    )
    sigma: PositiveFloat = Field(default=0.3, description="σ of Soft-NMS (paper: 0.3, in TensorFlow's form).")
    candidates: PositiveInt = Field(
        default=5000, description="Best boxes of each class that suppression looks at (paper: 5000)."
    )
    max_detections: PositiveInt = Field(
        default=100, description="Boxes kept of an image, of all classes together (paper: 100)."
    )
    merging: Literal["weighted_boxes_fusion", "nms"] = Field(
        default="weighted_boxes_fusion",
        description="How the boxes of several views of an image become one set: averaged (Solovyev et al. 2019), or "
        "the best of those that overlap.",
    )
    fusion_iou: Share = Field(default=0.55, description="Overlap (IoU) above which boxes of several views are one.")

    @property
    def hard_iou(self) -> float:
        """The overlap (IoU) with a better box above which `suppression` takes a box out."""
        if self.iou_threshold is not None:
            return self.iou_threshold
        return 0.5 if self.suppression == "nms" else 1.0

    @model_validator(mode="after")
    def _enough_candidates(self) -> Self:
        if self.candidates < self.max_detections:
            raise ValueError(
                f"candidates is {self.candidates} and max_detections {self.max_detections}: an image of one class "
                "could not have as many; raise candidates or lower max_detections"
            )
        return self


class DetectionConfig(StrictModel):
    """RetinaNet (Lin et al. 2017) as Zoph et al. 2020 train it, smaller by default."""

    anchors: AnchorConfig = Field(default=AnchorConfig(), description="The boxes that predictions start from.")
    matching: MatchingConfig = Field(default=MatchingConfig(), description="Which anchors are to predict an object.")
    neck: NeckConfig = Field(default=NeckConfig(), description="What makes the levels out of the backbone's maps.")
    head: HeadConfig = Field(default=HeadConfig(), description="The layers that all levels share.")
    loss: LossConfig = Field(default=LossConfig(), description="Of classes and boxes.")
    max_boxes: PositiveInt = Field(
        default=100,
        description="Boxes of an image that are trained on, regions to ignore among them (paper: 100); at least "
        "prediction.max_detections. Of more, objects go first, the surest where they have scores, else the largest.",
    )
    prediction: BoxPredictionConfig = Field(
        default=BoxPredictionConfig(), description="How outputs become boxes, of which what is stored is chosen."
    )
    metric: Literal["pycocotools", "faster_coco_eval"] = Field(
        default="pycocotools",
        description="What computes average precision. faster_coco_eval gives the same numbers sooner on large sets; it "
        "needs selftrain-detection[faster].",
        json_schema_extra=NOT_IDENTITY,
    )

    @model_validator(mode="after")
    def _room_for_pseudo_boxes(self) -> Self:
        if self.prediction.max_detections > self.max_boxes:
            raise ValueError(
                f"prediction.max_detections is {self.prediction.max_detections} and max_boxes {self.max_boxes}: a "
                "teacher could find more boxes in an image than a student is taught; lower prediction.max_detections "
                "or raise max_boxes"
            )
        return self
