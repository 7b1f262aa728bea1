"""How models are trained: optimiser, steps, the joint loss, and pre-training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from selftrain_core.config_model import NOT_IDENTITY, AugmentationChoice, StrictModel

Fraction = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(StrictModel):
    """The optimiser and its learning rate: linear warm-up, then a fall along a cosine, or by drops."""

    name: Literal["adamw", "sgd", "lars"] = Field(
        default="adamw",
        description="The paper's detectors use SGD with momentum; lars is for contrastive pre-training.",
    )
    lr: PositiveFloat = Field(default=1e-3, description="Highest learning rate, after the warm-up.")
    weight_decay: NonNegativeFloat = Field(
        default=1e-4, description="Of kernels and matrices; not of biases, nor, but with `decay_norms`, normalisation."
    )
    decay_norms: bool = Field(
        default=False,
        description="Have `weight_decay` pull on scale and shift of normalisation layers, too (so the paper's "
        "ResNet-101, Table 12).",
    )
    momentum: Fraction = Field(default=0.9, description="Of sgd and lars; adamw uses betas 0.9 and 0.999.")
    warmup_steps: NonNegativeInt = Field(default=50, description="Steps in which the learning rate rises to `lr`.")
    warmup_start: Fraction = Field(
        default=0.0, description="What it rises from, as a fraction of `lr` (paper: 0.01 for detection, §3.2)."
    )
    final_lr: Fraction = Field(
        default=0.01, description="Learning rate at the last step, as a fraction of `lr`; of no effect with `drops`."
    )
    drops: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        default=(),
        description="Where the learning rate drops to a tenth, as fractions of the steps, rather than falling along a "
        "cosine (SpineNet's: 0.94 and 0.98).",
    )
    gradient_clip: PositiveFloat | None = Field(default=10.0, description="Largest global gradient norm.")


class TrainingConfig(StrictModel):
    """How one model is trained."""

    steps: PositiveInt = Field(default=1000, description="Optimiser steps.")
    human: PositiveInt = Field(default=8, description="Human-labelled images in each step.")
    augmentation: AugmentationChoice | None = Field(
        default=None, description="How this model's training images are varied. null: as `augmentation` says."
    )
    optimizer: OptimizerConfig = OptimizerConfig()
    ema_decay: Fraction | None = Field(
        default=0.998,
        description="Of the weight average, which then is the model; it warms up as (1 + n) / (10 + n). null: none.",
    )
    max_skipped_steps: PositiveInt = Field(
        default=10,
        description="Non-finite steps in a row after which training stops.",
    )


class StudentConfig(TrainingConfig):
    """How the student is trained, on both halves."""

    pseudo: PositiveInt = Field(default=8, description="Pseudo-labelled images in each step.")
    start: Literal["teacher", "init"] = Field(
        default="teacher", description="The student's first weights; the paper's experiments use the teacher's (§3.2)."
    )
    negatives: bool = Field(
        default=True,
        description="Learn from an unlabelled image of which the policy keeps nothing, too: that it shows no object. "
        "false leaves such images out.",
    )


class PretrainingOptimizerConfig(OptimizerConfig):
    """SimCLR's optimiser; sgd and adamw do with small batches, at rates of their own."""

    name: Literal["adamw", "sgd", "lars"] = Field(default="lars", description="Of lars, timm's.")
    lr: PositiveFloat = Field(
        default=0.6,
        description="Highest learning rate, after the warm-up; SimCLR has 0.075 · √images_per_step.",
    )
    weight_decay: NonNegativeFloat = Field(
        default=1e-6, description="Of kernels and matrices; not of biases, nor, but with `decay_norms`, normalisation."
    )
    final_lr: Fraction = Field(
        default=0.0, description="Learning rate at the last step, as a fraction of `lr`; of no effect with `drops`."
    )
    gradient_clip: PositiveFloat | None = Field(default=None, description="Largest global gradient norm.")


class PretrainingConfig(StrictModel):
    """Contrastive pre-training of the backbone on images without labels (SimCLR, Chen et al. 2020)."""

    images: str = Field(
        description="The images to learn from: an expression over data.sources. Images of validation and test are "
        "left out (left-out.json); those that are also labelled may be among them.",
        json_schema_extra=NOT_IDENTITY,
    )
    steps: PositiveInt = Field(default=1000, description="Optimiser steps.")
    images_per_step: Annotated[int, Field(ge=2)] = Field(
        default=64,
        description="Images in each step, each seen in two views; the others' views are what it is told from.",
    )
    augmentation: AugmentationChoice = Field(
        default={"name": "augment/simclr"}, validate_default=True, description="What makes one image's views differ."
    )
    temperature: PositiveFloat = Field(default=0.1, description="τ, by which similarities are divided.")
    projection_layers: PositiveInt = Field(default=2, description="Layers of the head that is thrown away in the end.")
    projection_channels: PositiveInt = Field(default=128, description="What that head gives.")
    optimizer: PretrainingOptimizerConfig = PretrainingOptimizerConfig()
    max_skipped_steps: PositiveInt = Field(
        default=10, description="Non-finite steps in a row after which training stops."
    )

    @field_validator("augmentation")
    @classmethod
    def _varies(cls, augmentation: AugmentationChoice) -> AugmentationChoice:
        if augmentation.name == "core/none":
            raise ValueError("core/none leaves both views of an image alike: there would be nothing to learn")
        return augmentation


class ObjectiveConfig(StrictModel):
    """The joint loss (paper, Appendix B)."""

    alpha: NonNegativeFloat = Field(default=1.0, description="Weight α of the pseudo half.")
    normalise: bool = Field(default=True, description="False is the plain sum L_h + α · L_p.")
    decay: Fraction = Field(default=0.9997, description="Of the two loss averages.")
