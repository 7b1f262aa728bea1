"""A joint model's layers: what is shared, what is each task's own, and what batch norm remembers of whom."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from selftrain_core.accelerators import CpuAccelerator, share_batch_norm
from selftrain_core.augmentation import NoAugmentation
from selftrain_core.batch import HUMAN, Batch, Targets
from selftrain_core.classification.config import ClassificationConfig
from selftrain_core.classification.model import ClassificationModel
from selftrain_core.classification.task import ClassificationTask
from selftrain_core.config import DeviceConfig
from selftrain_core.config_model import StrictModel
from selftrain_core.interfaces import Backbone
from selftrain_core.joint import JointModel, JointPart
from selftrain_core.objective import NormalisedObjective
from selftrain_core.testing.fakes import TinyBackbone, TinyBackboneConfig
from selftrain_core.testing.samples import draws

CLASSES = ("cat", "dog", "hen")


class NormedHead(ClassificationTask):
    """A classifier with batch norm of its own."""

    def build_model(self, backbone: Backbone) -> nn.Module:
        model = ClassificationModel(backbone, ClassificationConfig(), len(CLASSES))
        width = model.head.in_features
        model.head = nn.Sequential(nn.BatchNorm1d(width), nn.Linear(width, len(CLASSES)))  # type: ignore[assignment]
        return model


def normed_backbone() -> TinyBackbone:
    backbone = TinyBackbone(TinyBackboneConfig(width=4), "", (4,))
    for layer in backbone.layers:
        layer[1] = nn.BatchNorm2d(4)  # type: ignore[operator]
    return backbone


def batch_of(images_B3HW: Tensor) -> Batch:
    size = len(images_B3HW)
    side_B2, number_B = torch.full((size, 2), 16), torch.arange(size)
    targets = Targets(class_B=number_B % 3, class_weight_B=torch.ones(size))
    matrix_B23 = torch.eye(2, 3).expand(size, 2, 3)
    source_B = torch.full((size,), HUMAN)
    return Batch(images_B3HW, side_B2, number_B, torch.zeros_like(number_B), side_B2, matrix_B23, source_B, targets)


def joint_of(task: ClassificationTask) -> tuple[JointModel, JointPart]:
    backbone = normed_backbone()
    main = ClassificationModel(backbone, ClassificationConfig(), 2)
    objective = NormalisedObjective(task.terms, 0.0)
    part = JointPart("photos", task, NoAugmentation(StrictModel()), objective, 0.2)
    return JointModel(main, backbone, {"photos": task}), part


def loss_of(model: JointModel, part: JointPart, batch: Batch) -> Tensor:
    counts = part.objective.denominators([part.task.counts(batch.targets)], [batch.source_B])
    return part.loss(model, batch, counts, "float32")


def test_the_backbone_forgets_joint_images_and_the_head_remembers_them() -> None:
    model, part = joint_of(NormedHead(ClassificationConfig(), CLASSES))
    before = copy.deepcopy(model.main.state_dict())
    head = model.other("photos").head[0]  # type: ignore[index]
    loss_of(model.train(), part, batch_of(draws((6, 3, 16, 16), 3) + 2)).backward()
    assert all(torch.equal(value, model.main.state_dict()[name]) for name, value in before.items())
    assert int(head.num_batches_tracked) == 1 and bool(head.running_mean.any())  # type: ignore[union-attr]
    assert all(bool(parameter.grad.any()) for parameter in model.backbone.parameters() if parameter.ndim > 1)  # type: ignore[union-attr]


def test_heads_share_batch_norm_as_their_backbone_does() -> None:
    """Several devices would else normalise each by its own few images what the backbone normalises by all."""

    class Syncing(CpuAccelerator):
        @property
        def has_sync_batch_norm(self) -> bool:
            return True

    model, _ = joint_of(NormedHead(ClassificationConfig(), CLASSES))
    before = copy.deepcopy(model.heads.state_dict())
    share_batch_norm(model.others, Syncing(), DeviceConfig(devices=2))
    norms = [part for part in model.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 3 and all(isinstance(part, nn.SyncBatchNorm) for part in norms)
    after = model.heads.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("name", ["type", "train", "keys", "forward"])
def test_a_stream_may_be_called_as_a_part_of_torch(name: str) -> None:
    backbone, task = normed_backbone(), NormedHead(ClassificationConfig(), CLASSES)
    model = JointModel(ClassificationModel(backbone, ClassificationConfig(), 2), backbone, {name: task})
    assert isinstance(model.other(name), ClassificationModel)


def test_a_copy_is_of_one_piece() -> None:
    """As a weight average is: its backbone is its own, and the same for all of its tasks."""
    model, part = joint_of(NormedHead(ClassificationConfig(), CLASSES))
    copied = copy.deepcopy(model)
    backbones = [each for each in copied.modules() if isinstance(each, Backbone)]
    assert len(backbones) == 1 and backbones[0] is copied.backbone is not model.backbone
    before = copy.deepcopy(model.state_dict())
    loss_of(copied.train(), part, batch_of(draws((6, 3, 16, 16), 3))).backward()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
