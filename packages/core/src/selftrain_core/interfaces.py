"""The contracts that components fulfil. Each is chosen by name in the configuration and built once.

Shape letters: B = images, C = classes, H, W = canvas height and width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from selftrain_core.backbones.checkpoints import load_checkpoint
from selftrain_core.backbones.inits import CheckpointInit, Init, find_init
from selftrain_core.batch import Batch, Targets
from selftrain_core.correcting import Correctable
from selftrain_core.data_source import DataSource, Entry
from selftrain_core.geometry import Geometry
from selftrain_core.labels import Decisions, Labels, ScoreStatistics
from selftrain_core.policy import Policy, PseudoLabelPolicy
from selftrain_core.task_parts import LabelWriter, LossTerm, TaskMetric
from selftrain_core.views import PLAIN_VIEW, View

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "Accelerator",
    "Augmentation",
    "Backbone",
    "DataSource",
    "Entry",
    "Init",
    "LabelWriter",
    "LossTerm",
    "Policy",
    "PseudoLabelPolicy",
    "Task",
    "TaskMetric",
]

LabelsT = TypeVar("LabelsT", bound=Labels)
PredictionT = TypeVar("PredictionT")


class Task(Correctable[LabelsT], ABC, Generic[LabelsT, PredictionT]):
    """What is predicted: model head, losses, prediction, metric, and the shape of targets.

    Args:
        config: The task's own settings.
        classes: The ordered class names.
    """

    metric_name: str
    """Name of the headline score, higher is better."""
    unit: str
    """What the headline score is measured in, for tables."""
    quantity: str
    """What the densities of `statistics` are, for tables: ``share of pixels``, ``boxes per image``."""
    label_type: type[Labels]
    """What it learns from and gives: `MaskLabels`, `BoxLabels` or `ClassLabels`."""
    label_files: str
    """What the folder of the files that `writer` writes is called: ``masks``, ``boxes``."""
    strides: tuple[int, ...]
    """The backbone strides the model reads."""
    optional_strides: tuple[int, ...] = ()
    """Coarser strides that the model takes from the backbone where it offers them all, and makes itself elsewhere."""
    output_stride: int | None = None
    """The output stride the backbone is to keep; None is its own."""
    floor: float = 0.0
    """The score that every stored prediction lies above; 0 where nothing is forgotten."""
    floor_setting: str = ""
    """The setting that `floor` comes from, where it is not 0: ``task.prediction.floor``."""
    terms: tuple[LossTerm, ...]
    """The loss terms, in order. `counts` and `losses` return exactly these names."""

    def __init__(self, config: Any, classes: Sequence[str]) -> None:
        self.config = config
        self.classes = tuple(classes)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    def alternatives(self, offers: Mapping[int | None, tuple[int, ...]]) -> str:
        """Return what to choose instead, for people, where a backbone cannot give what the model reads.

        Args:
            offers: The strides it offers at each output stride it can keep; None is its own.
        """
        return ""

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
    def predict(self, model: nn.Module, batch: Batch, views: Sequence[View] = PLAIN_VIEW) -> list[PredictionT]:
        """Return one raw, scored, never thresholded prediction per image.

        On a processor several threads call it at once, each with images of its own.

        Args:
            model: What `build_model` returned, in evaluation mode.
            batch: Floating images.
            views: How the model looks at each image; the prediction is made from all of them.
        """

    @abstractmethod
    def metric(self, device: torch.device) -> TaskMetric[PredictionT, LabelsT]:
        """Return a fresh metric."""

    @abstractmethod
    def row_schema(self) -> pa.Schema:
        """Return the columns in which the pseudo-label store keeps a prediction."""

    @abstractmethod
    def as_labels(self, prediction: PredictionT, top_k: int = 1) -> LabelsT:
        """Return a prediction as scored labels: what the store keeps of it.

        Args:
            prediction: Of one image.
            top_k: Classes to keep for each element, with their scores, where a task has several for one.
        """

    @abstractmethod
    def to_row(self, labels: LabelsT) -> dict[str, Any]:
        """Return what `as_labels` gave as the values of `row_schema`."""

    @abstractmethod
    def from_row(self, row: Mapping[str, Any]) -> LabelsT:
        """Return the scored labels of a stored row, equal to those that `to_row` was given."""

    @abstractmethod
    def at_original(self, prediction: PredictionT) -> LabelsT:
        """Return a prediction as scored labels in the pixels of the image file, after its EXIF rotation."""

    @abstractmethod
    def writer(self, folder: Path) -> LabelWriter[LabelsT]:
        """Return what writes labels into `folder`, in the form in which this task's data sources read them."""

    @abstractmethod
    def written_source(self, images: Path, folder: Path, list_path: Path) -> dict[str, Any]:
        """Return the settings of the data source that reads what `writer` wrote, as under ``data.sources``.

        Args:
            images: The folder of the images, below which their ids are paths.
            folder: The writer's.
            list_path: A text file with the ids of the images that were written.
        """

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

    def overflow(self, labels: LabelsT) -> int:
        """Return how many labels of one image find no place in its targets, whose shape is fixed."""
        return 0

    def overflow_advice(self, overflow: int) -> str:
        """Return what to set, for people, so that images find place whose `overflow` is at most that."""
        return ""

    @abstractmethod
    def decide(self, labels: LabelsT, policy: Policy) -> Decisions:
        """Return the policy's decisions on the elements of `labels`, which have scores."""

    @abstractmethod
    def statistics(self, labels: LabelsT, geometry: Geometry | None = None) -> ScoreStatistics:
        """Return which classes the labels of one image hold at which scores; of a map, in pixels of the canvas.

        Args:
            labels: A person's or a teacher's.
            geometry: How the image lies on the canvas; None where the labels lie on it already.
        """

    @abstractmethod
    def draw(self, image_HW3: NDArray[np.uint8], labels: LabelsT) -> NDArray[np.uint8]:
        """Return a copy of the image with the labels drawn on it, uint8 [H, W, 3]."""

    @abstractmethod
    def legend(self) -> list[tuple[str, tuple[int, int, int]]]:
        """Return the classes in order, each with the colour in which it is drawn: red, green, blue in 0..255."""


class Backbone(nn.Module, ABC):
    """A feature extractor. It normalises its own input, so that no caller needs to know how.

    Args:
        config: The backbone's own settings; every such model has the field ``init``, best an `InitChoice`.
        member: The model's name, where the backbone is a family.
        strides: The strides to offer, ascending.
        output_stride: The coarsest stride of any map the model computes: later stages dilate instead of striding, and
            the map of this stride is the deepest one. None is the model's own.

    Raises:
        StridesError: The backbone does not offer one of `strides`, or cannot keep `output_stride`.
    """

    channels: dict[int, int]
    """Channels of each stride offered."""

    def __init__(self, config: Any, member: str, strides: Sequence[int], output_stride: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.member = member
        self.strides = tuple(strides)
        self.output_stride = output_stride
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
        init = find_init(self.inits(), name, self._title)
        self._set_normalisation(init)
        if name != "random":
            self.load_weights(init)
        return init

    def load_checkpoint(self, checkpoint: CheckpointInit) -> Init:
        """Start from the weights in a file, with the normalisation that they expect.

        Raises:
            ConfigError: The file cannot be read, or its weights are not this backbone's.
        """
        init = load_checkpoint(checkpoint, self.namings(), self.converted, self.inits(), self._title)
        self._set_normalisation(init)
        return init

    def start(self, init: str | CheckpointInit) -> Init:
        """Start as the settings say: from a named init, or from a checkpoint file."""
        return self.initialise(init) if isinstance(init, str) else self.load_checkpoint(init)

    def namings(self) -> tuple[dict[str, Tensor], ...]:
        """Return the tensors that a checkpoint fills, under each set of names that checkpoints use for them."""
        return ({name: tensor for name, tensor in self.state_dict().items() if name not in ("mean", "std")},)

    def converted(self, state: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """Yield a checkpoint under other names, where those in the file are not one of `namings`."""
        yield from ()

    @property
    def _title(self) -> str:
        return f"{type(self).__name__} {self.member}".rstrip()

    def _set_normalisation(self, init: Init) -> None:
        self.get_buffer("mean").copy_(torch.tensor(init.mean))
        self.get_buffer("std").copy_(torch.tensor(init.std))

    def normalise(self, images: Tensor) -> Tensor:
        """Return `images` less the init's mean, divided by its deviation."""
        return (images - self.get_buffer("mean")[:, None, None]) / self.get_buffer("std")[:, None, None]


class Augmentation(ABC):
    """Changes a batch on its own device. Draws come from keys, never from a generator.

    Args:
        config: The augmentation's own settings.
    """

    oversample: int = 1
    """How many times as high and wide as the canvas it returns the canvas is that it wants."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def remarks(self, *, has_boxes: bool) -> list[str]:
        """Return what somebody should know who uses it for a task with or without boxes."""
        del has_boxes
        return []

    def described(self, parameters: Mapping[str, Tensor], *, has_boxes: bool) -> list[str]:
        """Return for each image what was drawn, in a few words for people; by default nothing at all.

        Args:
            parameters: What `parameters` returned.
            has_boxes: Whether the images have boxes.
        """
        del parameters, has_boxes
        return []

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
    def has_bf16(self) -> bool:
        """Whether `torch.autocast` computes in bfloat16 there."""
        return False

    @property
    def has_sync_batch_norm(self) -> bool:
        """Whether batch norm can be taken over the images of several such devices."""
        return False

    def prefers_channels_last(self, precision: str) -> bool:
        """Return whether models are faster there with channels innermost in memory.

        Args:
            precision: As ``device.precision`` in the configuration.
        """
        return False

    @property
    def reduction_dtype(self) -> torch.dtype:
        """The type in which losses are summed; float64 wherever the device has it."""
        return torch.float64
