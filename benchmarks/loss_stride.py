"""What `task.loss_stride` saves of a segmenter's step: forward, loss and backward, in turn, in one process."""

from __future__ import annotations

from functools import partial

import torch
from timing import alternating, print_table

from selftrain_core.batch import Targets
from selftrain_core.components import build_model, build_task
from selftrain_core.config_model import BackboneChoice, TaskChoice

IMAGES, SIDE, REPEATS = 8, 320, 9
STRIDES = (1, 2, 4)
BACKBONE = BackboneChoice.of("timm/tf_efficientnet_lite0", init="random")


def step_of(stride: int, num_classes: int) -> partial[None]:
    """Return a call that takes a step's forward and backward pass."""
    classes = [str(number) for number in range(num_classes)]
    task = build_task(TaskChoice.of("segmentation/semantic", loss_stride=stride), classes)
    torch.manual_seed(0)
    model, _ = build_model(task, BACKBONE)
    model = model.train().to(memory_format=torch.channels_last)
    mask = torch.randint(0, num_classes, (IMAGES, SIDE, SIDE), dtype=torch.uint8)
    targets = Targets(mask_BHW=mask, weight_BHW=torch.ones(IMAGES, SIDE, SIDE))
    images = torch.rand(IMAGES, 3, SIDE, SIDE)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        total = task.losses(model(images), targets)["cross_entropy"].sum()
        (total / task.counts(targets)["cross_entropy"].sum()).backward()

    return partial(step)


def main() -> None:
    """Measure and print."""
    rows: list[list[object]] = []
    for num_classes in (2, 10, 21, 150):
        taken = alternating({str(stride): step_of(stride, num_classes) for stride in STRIDES}, REPEATS)
        rows += [[num_classes, name, round(1000 * each), each / taken["1"]] for name, each in taken.items()]
    print_table(
        f"What a loss of every n-th pixel saves: {IMAGES} images of {SIDE}², lite0 with FPN",
        ["classes", "loss_stride", "ms a step", "to 1"],
        rows,
    )


if __name__ == "__main__":
    main()
