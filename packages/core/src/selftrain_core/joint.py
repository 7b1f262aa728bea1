"""Joint training (paper §5, Appendix H): other tasks, on labelled images of their own, through the same backbone.

The paper adds ImageNet classification to detection: ``L + w · L_classification``, w 0.2 or 0.5, outside the
normalisation of human and pseudo loss. Where the classifier stands is not described; here its task decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from selftrain_core.batch import HUMAN, Batch
from selftrain_core.batch_norm import running_averages_kept
from selftrain_core.interfaces import Augmentation, Backbone, Task
from selftrain_core.objective import Denominators, NormalisedObjective
from selftrain_core.precision import Precision, forward


class JointModel(nn.Module):
    """A task's model, and models of other tasks on the backbone within it.

    Args:
        main: The task's.
        backbone: The backbone within it.
        tasks: The others, by the names of their streams.
    """

    def __init__(self, main: nn.Module, backbone: Backbone, tasks: Mapping[str, Task[Any, Any]]) -> None:
        super().__init__()
        self.main = main
        self._backbone = (backbone,)  # not one part more: it is within the others
        # Not every name may be that of a part: `type` and `train` are not.
        self.others = nn.ModuleDict({_key(name): task.build_model(backbone) for name, task in tasks.items()})
        shared = {id(tensor) for tensor in (*backbone.parameters(), *backbone.buffers())}
        named = (*self.others.named_parameters(), *self.others.named_buffers())
        self._heads = tuple(name for name, tensor in named if id(tensor) not in shared)

    def forward(self, images: Tensor) -> Any:
        """Return the task's outputs."""
        return self.main(images)

    @property
    def backbone(self) -> Backbone:
        """What all tasks share."""
        return self._backbone[0]

    def other(self, name: str) -> nn.Module:
        """Return the model of a stream's task."""
        return self.others[_key(name)]

    @property
    def heads(self) -> nn.Module:
        """What joint training adds: a module whose state is that of the heads alone."""
        return _Heads(self.others, self._heads)


class _Heads(nn.Module):
    def __init__(self, others: nn.ModuleDict, names: tuple[str, ...]) -> None:
        super().__init__()
        tensors = {**dict(others.named_parameters()), **dict(others.named_buffers())}
        for name in names:
            tensor, own = tensors[name], name.replace(".", "/")
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(own, tensor)
            else:
                self.register_buffer(own, tensor)


def _key(name: str) -> str:
    return f"joint_{name}"


def task_model(model: nn.Module) -> nn.Module:
    """Return the task's model: all that is kept of a joint training."""
    return model.main if isinstance(model, JointModel) else model


@dataclass(frozen=True)
class JointPart:
    """What one joint stream adds to the loss.

    Attributes:
        name: Of the stream.
        task: What is learnt from it.
        augmentation: Of its images.
        objective: Divides its loss; its α is 0.
        weight: What it is multiplied by, w.
    """

    name: str
    task: Task[Any, Any]
    augmentation: Augmentation
    objective: NormalisedObjective
    weight: float

    def loss(self, model: nn.Module, batch: Batch, denominators: Denominators, precision: Precision) -> Tensor:
        """Return the share of a batch in the stream's loss.

        Batch norm normalises these images by themselves, and the backbone's does not remember them: what is kept
        predicts on images of the task alone, and averages over both kinds would be those of neither.
        """
        assert isinstance(model, JointModel)
        with running_averages_kept(model.backbone):
            outputs = forward(model.other(self.name), batch.image_B3HW, precision)
        losses = self.task.losses(outputs, batch.targets)
        return self.objective.halves(losses, batch.source_B, denominators)[HUMAN]
