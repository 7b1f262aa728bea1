"""The contracts that components fulfil. Each is chosen by name in the configuration and built once.

Shape letters: B = images, C = classes, H, W = canvas height and width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from selftrain_core.batch import Batch, Targets
from selftrain_core.data_source import DataSource, Entry
from selftrain_core.errors import ConfigError, did_you_mean
from selftrain_core.geometry import Geometry
from selftrain_core.labels import Decisions, Labels, ScoreStatistics

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "Accelerator",
    "Augmentation",
    "Backbone",
    "DataSource",
    "Entry",
    "Init",
    "LossTerm",
    "Policy",
    "PseudoLabelPolicy",
    "Task",
    "TaskMetric",
]

LabelsT = TypeVar("LabelsT", bound=Labels)
PredictionT = TypeVar("PredictionT")


@dataclass(frozen=True, slots=True)
class LossTerm:
    """One term of a task's loss. Only the objective divides.

    The term adds ``weight · Σ total / max(1, count_scale · (Σ count + count_offset))`` over all images of a half.
    RetinaNet's class term is ``LossTerm("class", count_offset=1)``, cross-entropy is ``LossTerm("cross_entropy")``.
    """

    name: str
    weight: float = 1.0
    count_scale: float = 1.0
    count_offset: float = 0.0


_PredictionIn = TypeVar("_PredictionIn", contravariant=True)
_LabelsIn = TypeVar("_LabelsIn", contravariant=True)


class TaskMetric(Protocol[_PredictionIn, _LabelsIn]):
    """Sums over images and, in `compute`, over ranks. Each image is given once, to one rank."""

    def update(self, prediction: _PredictionIn, truth: _LabelsIn) -> None:
        """Add one image: its prediction, and its labels at their own resolution."""

    def compute(self) -> dict[str, float]:
        """Return the scores over all images of all ranks, the headline one under `Task.metric_name`."""


class Task(ABC, Generic[LabelsT, PredictionT]):
    """What is predicted: model head, losses, prediction, metric, and the shape of targets.

    Args:
        config: The task's own settings.
        classes: The ordered class names.
    """

    metric_name: str
    """Name of the headline score, higher is better."""
    unit: str
    """What the headline score is measured in, for tables."""
    strides: tuple[int, ...]
    """The backbone strides the model reads."""
    terms: tuple[LossTerm, ...]
    """The loss terms, in order. `counts` and `losses` return exactly these names."""

    def __init__(self, config: Any, classes: Sequence[str]) -> None:
        self.config = config
        self.classes = tuple(classes)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @abstractmethod
    def build_model(self, backbone: Backbone) -> nn.Module:
        """Return a model that maps images, float [B,3,H,W] in 0..1, to the outputs that `losses` takes."""

    @abstractmethod
    def counts(self, targets: Targets) -> dict[str, Tensor]:
        """Return, for each term, what each image adds to the denominator: float [B]. Needs no forward pass."""

    @abstractmethod
    def losses(self, outputs: Any, targets: Targets) -> dict[str, Tensor]:
        """Return, for each term, each image's summed loss: floating [B], not divided by anything."""

    @abstractmethod
    def predict(self, model: nn.Module, batch: Batch) -> list[PredictionT]:
        """Return one raw, scored, never thresholded prediction per image; `batch` holds floating images."""

    @abstractmethod
    def metric(self, device: torch.device) -> TaskMetric[PredictionT, LabelsT]:
        """Return a fresh metric."""

    @abstractmethod
    def row_schema(self) -> pa.Schema:
        """Return the columns in which the pseudo-label store keeps a prediction."""

    @abstractmethod
    def to_row(self, prediction: PredictionT) -> dict[str, Any]:
        """Return a prediction as the values of `row_schema`."""

    @abstractmethod
    def from_row(self, row: Mapping[str, Any]) -> LabelsT:
        """Return the scored labels of a stored row."""

    @abstractmethod
    def as_labels(self, prediction: PredictionT) -> LabelsT:
        """Return a prediction as scored labels, as if it had been stored and read back."""

    @abstractmethod
    def apply(self, labels: LabelsT, decisions: Decisions) -> LabelsT:
        """Return the labels with what the policy refused taken out: what a student is taught, for people to look at."""

    @abstractmethod
    def to_targets(self, labels: LabelsT, decisions: Decisions | None, geometry: Geometry) -> Targets:
        """Return the targets of one image on its canvas, without a batch axis.

        Args:
            labels: A person's labels or a teacher's.
            decisions: What the policy decided of each element of the scores; None keeps everything at weight 1.
            geometry: How the image lies on the canvas.

        Raises:
            DataError: A label is out of range or does not fit the image.
        """

    @abstractmethod
    def decide(self, labels: LabelsT, policy: Policy) -> Decisions:
        """Return the policy's decisions on the elements of `labels`, which have scores."""

    @abstractmethod
    def statistics(self, labels: LabelsT) -> ScoreStatistics:
        """Return which classes the labels of one image hold at which scores."""

    @abstractmethod
    def draw(self, image_HW3: NDArray[np.uint8], labels: LabelsT) -> NDArray[np.uint8]:
        """Return a copy of the image with the labels drawn on it, uint8 [H, W, 3]."""


@dataclass(frozen=True, slots=True)
class Init:
    """A way for a backbone to start.

    Attributes:
        name: ``random``, ``imagenet``, ``imagenet++``, ``simclr``, …
        mean: Subtracted from each channel of images in 0..1.
        std: Divides each channel after that.
        origin: Where the weights come from, for people.
        licence: The weights' licence.
    """

    name: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    origin: str
    licence: str


class Backbone(nn.Module, ABC):
    """A feature extractor. It normalises its own input, so that no caller needs to know how.

    Args:
        config: The backbone's own settings; every such model has the field ``init``.
        member: The model's name, where the backbone is a family.
        strides: The strides to offer, ascending.

    Raises:
        ConfigError: The backbone does not offer one of `strides`.
    """

    channels: dict[int, int]
    """Channels of each stride offered."""

    def __init__(self, config: Any, member: str, strides: Sequence[int]) -> None:
        super().__init__()
        self.config = config
        self.member = member
        self.strides = tuple(strides)
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("std", torch.ones(3))

    @abstractmethod
    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Return features by stride, [B, channels[s], ⌈H/s⌉, ⌈W/s⌉], of float images [B,3,H,W] in 0..1."""

    @abstractmethod
    def inits(self) -> tuple[Init, ...]:
        """Return the inits this backbone has."""

    @abstractmethod
    def load_weights(self, init: Init) -> None:
        """Load the weights of `init`, which is not ``random``.

        Raises:
            ConfigError: The weights are not on this machine and cannot be had.
        """

    def initialise(self, name: str) -> Init:
        """Start from the init called `name`: its weights, and its normalisation, which stays with the model.

        ``random`` loads nothing: it is what a backbone that has just been built already is.

        Raises:
            ConfigError: The backbone has no such init.
        """
        known = {init.name: init for init in self.inits()}
        if name not in known:
            raise ConfigError(
                f"{type(self).__name__} {self.member} has no init '{name}'{did_you_mean(name, known)}; "
                f"it has: {', '.join(known)}"
            )
        init = known[name]
        self.get_buffer("mean").copy_(torch.tensor(init.mean))
        self.get_buffer("std").copy_(torch.tensor(init.std))
        if name != "random":
            self.load_weights(init)
        return init

    def normalise(self, images: Tensor) -> Tensor:
        """Return `images` less the init's mean, divided by its deviation."""
        return (images - self.get_buffer("mean")[:, None, None]) / self.get_buffer("std")[:, None, None]


class Augmentation(ABC):
    """Changes a batch on its own device. Draws come from keys, never from a generator.

    Args:
        config: The augmentation's own settings.
    """

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def parameters(self, batch: Batch, key_B: Tensor) -> dict[str, Tensor]:
        """Return what is drawn for each image, from its key alone; each tensor's first axis is B.

        Args:
            batch: The batch, for its shapes.
            key_B: int64, hash of (seed, stage, id, visit).
        """

    @abstractmethod
    def replay(self, batch: Batch, parameters: Mapping[str, Tensor]) -> Batch:
        """Return the batch changed as `parameters` say: images, targets, `valid_B2` and `matrix_B23` alike."""

    def __call__(self, batch: Batch, key_B: Tensor) -> Batch:
        """Return the batch, changed as its keys say."""
        return self.replay(batch, self.parameters(batch, key_B))


class Policy(Protocol):
    """A fitted policy: elementwise, on arrays of any shape. It is sent to worker processes, so it must pickle."""

    def __call__(self, scores: NDArray[np.float32], labels: NDArray[Any]) -> Decisions:
        """Return what to do with each prediction.

        Args:
            scores: In 0..1.
            labels: Class indices, same shape.
        """


class PseudoLabelPolicy(ABC):
    """Decides what a student is taught of what a teacher predicted.

    Args:
        config: The policy's own settings.
    """

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def fit(self, store: ScoreStatistics, labelled: ScoreStatistics) -> Policy:
        """Return the policy for one stage.

        Args:
            store: What the teacher predicted on the unlabelled images.
            labelled: What people labelled.
        """


class Accelerator(ABC):
    """A kind of device: whether it is there, and how Lightning trains on it."""

    priority: int
    """Where several are there and the user asked for ``auto``, the highest is taken."""

    @abstractmethod
    def available(self) -> bool:
        """Return whether this machine has such a device."""

    @abstractmethod
    def trainer_settings(self, devices: int) -> dict[str, Any]:
        """Return the arguments of Lightning's Trainer: accelerator, devices, strategy, precision.

        Raises:
            ConfigError: There are fewer than `devices` of them.
        """

    @abstractmethod
    def device(self) -> torch.device:
        """Return the device on which this process predicts."""

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return the model made ready for the device, before it is moved there."""
        return model

    @property
    def reduction_dtype(self) -> torch.dtype:
        """The type in which losses are summed; float64 wherever the device has it."""
        return torch.float64
