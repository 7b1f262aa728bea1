"""A training step and inference, against torchvision's RetinaNet: ``detection_speed.py``.

Both stand on the same lite0 body, with a pyramid of 64 channels without normalisation and towers of four normalised
convolutions, and see the same drawn images and boxes. Torchvision's towers share one batch norm among levels.
Inference is from images to final boxes: at most 1,000 candidates, hard NMS at 0.5, 100 boxes. So that it has something
to suppress, both class predictors get a new bias and weights, with which some anchors pass the floor.
"""

from __future__ import annotations

import argparse
import itertools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

import torch
from timing import alternating, print_table
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from selftrain_core.accelerators import CpuAccelerator, prepare_model
from selftrain_core.batch import Batch, collate, float_images
from selftrain_core.components import build_backbone
from selftrain_core.config import DeviceConfig
from selftrain_core.config_model import BackboneChoice
from selftrain_core.geometry import Geometry
from selftrain_core.interfaces import Backbone
from selftrain_core.objective import NormalisedObjective
from selftrain_core.prediction import evaluating
from selftrain_core.testing.samples import box_labels, picture, sample
from selftrain_core.views import PLAIN_VIEW
from selftrain_detection.config import DetectionConfig
from selftrain_detection.task import DetectionTask

CHANNELS, NUM_CONVS, CANDIDATES = 64, 4, 1000
BIAS, SPREAD = -3.2, 0.5
"""Bias of the class predictors, and deviation of their weights, in inference."""
BODY = BackboneChoice.of("timm/tf_efficientnet_lite0", init="random")


class TorchvisionBody(nn.Module):
    """The same body under torchvision's pyramid."""

    def __init__(self, body: Backbone) -> None:
        super().__init__()
        self.body, self.out_channels = body, CHANNELS
        last = LastLevelP6P7(CHANNELS, CHANNELS)
        self.fpn = FeaturePyramidNetwork([body.channels[s] for s in body.strides], CHANNELS, last)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the levels by name."""
        features = self.body(images)
        levels: dict[str, Tensor] = self.fpn(OrderedDict((str(stride), features[stride]) for stride in features))
        return levels


def torchvision_model(size: int, num_classes: int) -> nn.Module:
    """Return torchvision's RetinaNet, which normalises as it comes and resizes to `size`: not at all."""
    body = TorchvisionBody(build_backbone(BODY, (8, 16, 32)))
    sides = [4 * 8 * 2**level for level in range(5)]
    generator = AnchorGenerator(
        tuple((s, int(s * 2 ** (1 / 3)), int(s * 2 ** (2 / 3))) for s in sides), ((0.5, 1.0, 2.0),) * 5
    )
    model: nn.Module = TorchvisionRetinaNet(
        body, num_classes, min_size=size, max_size=size, anchor_generator=generator,
        head=RetinaNetHead(CHANNELS, 9, num_classes, norm_layer=nn.BatchNorm2d),
        image_mean=[0.0] * 3, image_std=[1.0] * 3,
        topk_candidates=CANDIDATES, detections_per_img=100, nms_thresh=0.5, score_thresh=0.05,
    )  # fmt: skip
    return model


def our_task(num_classes: int) -> DetectionTask:
    """Return our task with the same layers and limits."""
    config = DetectionConfig.model_validate(
        {
            "head": {"channels": CHANNELS, "num_convs": NUM_CONVS},
            "neck": {"batch_norm": False},
            "prediction": {"candidates": CANDIDATES},
        }
    )
    return DetectionTask(config, [f"class {number}" for number in range(num_classes)])


def drawn_batch(task: DetectionTask, images: int, size: int) -> Batch:
    """Return a batch of drawn images with three boxes each."""
    samples = []
    for number in range(images):
        labels = box_labels((size, size), task.num_classes, number, scored=False)
        targets = task.to_targets(labels, None, Geometry.fit((size, size), (size, size)))
        samples.append(sample(picture((size, size), number), (size, size), str(number), targets=targets))
    batch = collate(samples)
    return replace(batch, image_B3HW=float_images(batch.image_B3HW))


def our_step(task: DetectionTask, model: nn.Module, batch: Batch) -> Callable[[], float]:
    """Return one optimiser step of ours."""
    objective = NormalisedObjective(task.terms, alpha=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    model.train()

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        divided = objective.denominators([task.counts(batch.targets)], [batch.source_B])
        half_2 = objective.halves(task.losses(model(batch.image_B3HW), batch.targets), batch.source_B, divided)
        loss = objective.combine(half_2)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def their_step(model: nn.Module, batch: Batch) -> Callable[[], float]:
    """Return one optimiser step of torchvision's."""
    assert batch.targets.boxes_BN4 is not None and batch.targets.label_BN is not None
    images = list(batch.image_B3HW)
    pairs = zip(batch.targets.boxes_BN4, batch.targets.label_BN, strict=True)
    targets = [{"boxes": boxes[labels >= 0], "labels": labels[labels >= 0]} for boxes, labels in pairs]
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    model.train()

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        losses: dict[str, Tensor] = model(images, targets)
        loss = torch.stack(list(losses.values())).sum()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def widen(predictor: nn.Module) -> None:
    """Let some scores pass the floor."""
    assert isinstance(predictor, nn.Conv2d)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        nn.init.normal_(predictor.weight, std=SPREAD)
    assert predictor.bias is not None
    nn.init.constant_(predictor.bias, BIAS)


def measure(images: int, size: int, num_classes: int, repeats: int) -> list[list[object]]:
    """Return the lines of one setting."""
    task = our_task(num_classes)
    torch.manual_seed(0)
    ours = prepare_model(task.build_model(build_backbone(BODY, task.strides)), CpuAccelerator(), DeviceConfig())
    theirs = torchvision_model(size, num_classes).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch = drawn_batch(task, images, size)
    steps = {"ours": our_step(task, ours, batch), "theirs": their_step(theirs, batch)}
    assert all(0 < step() < 100 for step in steps.values()), "a loss is out of its usual range"
    taken = alternating(steps, repeats)

    widen(ours.head.classes.predictor)  # type: ignore[union-attr, arg-type]
    widen(theirs.head.classification_head.cls_logits)  # type: ignore[union-attr, arg-type]
    pictures = list(batch.image_B3HW)

    def our_inference() -> int:
        with evaluating(ours):
            return sum(len(found.boxes_N4) for found in task.predict(ours, batch, PLAIN_VIEW))

    def their_inference() -> int:
        with evaluating(theirs):
            return sum(len(found["boxes"]) for found in theirs(pictures))

    found = {"ours": our_inference(), "theirs": their_inference()}
    assert min(found.values()) > 0, f"nothing passes the floor: {found}"
    looked = alternating({"ours": our_inference, "theirs": their_inference}, repeats)
    name = f"{images} × {size}², {num_classes} classes"
    rows: list[list[object]] = []
    for what, times, note in (("step", taken, ""), ("inference", looked, f"{found['ours']} / {found['theirs']}")):
        rows.append([name, what, 1000 * times["theirs"], 1000 * times["ours"], times["theirs"] / times["ours"], note])
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    given = parser.parse_args()
    settings = [(8, 128, 5), (8, 256, 20), (4, 256, 80)]
    rows = list(itertools.chain.from_iterable(measure(*setting, given.repeats) for setting in settings))
    heads = ["", "", "torchvision ms", "ours ms", "torchvision / ours", "boxes found, ours / torchvision"]
    print_table(f"RetinaNet on lite0, 64 channels, 4 convolutions, median of {given.repeats}", heads, rows)


if __name__ == "__main__":
    main()
