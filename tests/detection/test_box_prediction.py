"""From outputs to boxes in original pixels."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from selftrain_core.batch import Batch, float_images
from selftrain_core.testing.samples import draws, object_batch
from selftrain_core.views import View
from selftrain_detection.boxes import decode
from selftrain_detection.config import BoxPredictionConfig
from selftrain_detection.model import RetinaNetOutputs
from selftrain_detection.prediction import BoxPrediction, detect, to_original
from selftrain_detection.suppression import (
    ScoredBoxes,
    nms,
    soft_nms,
    soft_nms_tensorflow,
    together,
    weighted_boxes_fusion,
)

PLAIN = (View(),)
HEIGHT, WIDTH = 64, 96


class Says(nn.Module):
    """A model that says the same of every image."""

    def __init__(self, logits_BAC: Tensor, deltas_BA4: Tensor, anchors_A4: Tensor) -> None:
        super().__init__()
        self.outputs = RetinaNetOutputs(logits_BAC, deltas_BA4, anchors_A4)

    def forward(self, images: Tensor) -> RetinaNetOutputs:
        return self.outputs


class FindsBright(nn.Module):
    """A model that finds the rectangle that `object_batch` draws, wherever a view shows it."""

    def forward(self, images: Tensor) -> RetinaNetOutputs:
        boxes = []
        for image_3HW in images:
            rows, columns = (image_3HW[0] > 0.75).nonzero(as_tuple=True)
            boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        count = len(boxes)
        logits_BAC = torch.full((count, count, 2), -9.0)
        logits_BAC[range(count), range(count), 1] = 2.0
        return RetinaNetOutputs(logits_BAC, torch.zeros(count, count, 4), torch.tensor(boxes, dtype=torch.float32))


def batch_of(images: int) -> Batch:
    batch = object_batch(images, (HEIGHT, WIDTH))
    return replace(batch, image_B3HW=float_images(batch.image_B3HW))


def config(**values: Any) -> BoxPredictionConfig:
    return BoxPredictionConfig.model_validate(values)


def drawn_outputs(seed: int, images: int, anchors: int, classes: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Return outputs of which about half are above the floor of 0.05."""
    start_A2 = draws((anchors, 2), seed, 1) * torch.tensor([WIDTH, HEIGHT])
    anchors_A4 = torch.cat([start_A2, start_A2 + 5 + 20 * draws((anchors, 2), seed, 2)], 1)
    logits_BAC = draws((images, anchors, classes), seed, 3) * 6 - 6
    return logits_BAC, draws((images, anchors, 4), seed, 4) - 0.5, anchors_A4


def assert_same(found: BoxPrediction, expected: ScoredBoxes) -> None:
    assert found.labels_N.tolist() == expected.labels_N.tolist()
    torch.testing.assert_close(found.scores_N, expected.scores_N, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.boxes_N4, expected.boxes_N4, rtol=1e-5, atol=1e-3)


def on_canvas(batch: Batch, image: int, outputs: tuple[Tensor, Tensor, Tensor], **options: Any) -> ScoredBoxes:
    """Return the boxes of one image that go into suppression, class by class and box by box."""
    (height, width), settings = batch.valid_B2[image].tolist(), config(**options)
    logits_BAC, deltas_BA4, anchors_A4 = outputs
    boxes, scores, labels = [], [], []
    for label in range(logits_BAC.shape[2]):
        score_A = torch.sigmoid(logits_BAC[image, :, label].float()).tolist()
        above = [anchor for anchor, score in enumerate(score_A) if score > settings.floor]
        for anchor in sorted(above, key=lambda a: -score_A[a])[: settings.candidates]:
            x0, y0, x1, y1 = decode(deltas_BA4[image, anchor].float(), anchors_A4[anchor]).tolist()
            box = [max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)]
            if box[2] > box[0] and box[3] > box[1]:
                boxes.append(box)
                scores.append(score_A[anchor])
                labels.append(label)
    labels_N = torch.tensor(labels, dtype=torch.int64)
    return ScoredBoxes(torch.tensor(boxes).reshape(-1, 4), torch.tensor(scores), labels_N)


def in_original(batch: Batch, image: int, found: ScoredBoxes) -> ScoredBoxes:
    scale = batch.original_B2[image].flip(0) / batch.valid_B2[image].flip(0)
    return ScoredBoxes(found.boxes_N4 * scale.repeat(2), found.scores_N, found.labels_N)


@pytest.mark.parametrize("options", [{}, {"max_detections": 7}, {"candidates": 9, "max_detections": 9}, {"floor": 0.2}])
def test_against_a_count_box_by_box(options: dict[str, Any]) -> None:
    batch, outputs = batch_of(3), drawn_outputs(1, 3, 60)
    predictions = detect(Says(*outputs), batch, PLAIN, config(**options))
    assert len(predictions) == 3
    for image, found in enumerate(predictions):
        expected = nms(on_canvas(batch, image, outputs, **options), 0.5, options.get("max_detections", 100))
        assert_same(found, in_original(batch, image, expected))
        assert 5 < len(found.scores_N) <= options.get("max_detections", 100)
        assert found.original == tuple(batch.original_B2[image].tolist())
        assert (found.scores_N > options.get("floor", 0.05)).all()


@pytest.mark.parametrize(("candidates", "boxes"), [(9, 2), (10, 3)])
def test_the_worst_of_too_many_candidates_of_a_class_are_not_looked_at(candidates: int, boxes: int) -> None:
    """Of the first class nine boxes are one thing and the tenth is another; the second class has a box of its own."""
    anchors_A4 = torch.tensor([[0.0, 0, 9, 9]] * 9 + [[20.0, 0, 29, 9], [40, 0, 49, 9]])
    logits_BAC = torch.full((1, 11, 2), -9.0)
    logits_BAC[0, :10, 0], logits_BAC[0, 10, 1] = torch.linspace(3, 1, 10), -1.0
    settings = config(candidates=candidates, max_detections=9)
    found = detect(Says(logits_BAC, torch.zeros(1, 11, 4), anchors_A4), batch_of(1), PLAIN, settings)[0]
    assert len(found.scores_N) == boxes


def test_each_way_to_suppress() -> None:
    batch, outputs = batch_of(1), drawn_outputs(2, 1, 200)
    given = on_canvas(batch, 0, outputs)
    ways = {
        "nms": nms(given, 0.4, 80),
        "soft_nms": soft_nms(given, sigma=0.2, floor=0.05, limit=80),
        "soft_nms_tensorflow": soft_nms_tensorflow(given, sigma=0.2, iou_threshold=0.4, floor=0.05, limit=80),
        "none": given.best(80),
    }
    for name, expected in ways.items():
        settings = config(suppression=name, iou_threshold=0.4, sigma=0.2, max_detections=80)
        assert_same(detect(Says(*outputs), batch, PLAIN, settings)[0], in_original(batch, 0, expected))
    assert len({str(found.scores_N.tolist()) for found in ways.values()}) == 4, "they differ"


def test_tensorflows_soft_suppression_takes_nothing_out_unless_told() -> None:
    """Of two boxes with an IoU of 0.6, hard suppression takes one out and either soft form lowers its score."""
    anchors_A4 = torch.tensor([[10.0, 10, 30, 20], [15.0, 10, 35, 20]])
    outputs = torch.tensor([[[3.0], [2.0]]]), torch.zeros(1, 2, 4), anchors_A4
    found = {
        name: detect(Says(*outputs), batch_of(1), PLAIN, config(suppression=name))[0].scores_N.tolist()
        for name in ("nms", "soft_nms_tensorflow")
    }
    best, other = torch.tensor([3.0, 2.0]).sigmoid().tolist()
    assert found["nms"] == pytest.approx([best])
    assert found["soft_nms_tensorflow"] == pytest.approx([best, other * math.exp(-(0.6**2) / (2 * 0.3))])
    told = config(suppression="soft_nms_tensorflow", iou_threshold=0.5)
    assert len(detect(Says(*outputs), batch_of(1), PLAIN, told)[0].scores_N) == 1


@pytest.mark.parametrize("view", [View(), View(flip=True), View(2.0), View(2.0, flip=True), View(1.4), View(3.1, True)])
def test_every_view_finds_things_where_they_are(view: View) -> None:
    """Views whose sides are no whole multiples, of images that leave a part of the canvas empty, mirrored too."""
    batch = batch_of(3)
    assert batch.targets.boxes_BN4 is not None
    for image, found in enumerate(detect(FindsBright(), batch, [view], config())):
        true_4 = in_original(
            batch, image, ScoredBoxes(batch.targets.boxes_BN4[image, :1], torch.ones(1), torch.ones(1))
        ).boxes_N4[0]
        assert found.labels_N.tolist() == [1]
        pixel = float((batch.original_B2[image] / batch.valid_B2[image]).max())
        torch.testing.assert_close(found.boxes_N4[0], true_4, rtol=0, atol=1.6 * pixel)


def test_a_view_is_led_back_exactly() -> None:
    """A canvas of 64×96 at 0.7 is 32×64 wide: each axis has a scale of its own."""
    batch = batch_of(1)
    assert View(0.7).size(HEIGHT, WIDTH) == (32, 64)
    outputs = (torch.tensor([[[2.0]]]), torch.zeros(1, 1, 4), torch.tensor([[8.0, 4, 16, 28]]))
    plain, mirrored = (detect(Says(*outputs), batch, [View(0.7, flip)], config())[0] for flip in (False, True))
    assert batch.matrix_B23[0].tolist() == [[0.5, 0, 0], [0, 0.5, 0]]
    assert plain.boxes_N4.tolist() == [[24, 16, 48, 112]]
    assert mirrored.boxes_N4.tolist() == [[2 * 1.5 * (64 - 16), 16, 2 * 1.5 * (64 - 8), 112]]


@pytest.mark.parametrize("merging", ["weighted_boxes_fusion", "nms"])
def test_views_are_merged(merging: str) -> None:
    batch, outputs = batch_of(2), drawn_outputs(3, 2, 60)
    views = (View(), View(flip=True))
    settings = config(merging=merging, fusion_iou=0.6, max_detections=30)
    for image, found in enumerate(detect(Says(*outputs), batch, views, settings)):
        # What the model says of the mirror image is what it would say, mirrored, of the image.
        left_A, top_A, right_A, bottom_A = outputs[2].unbind(1)
        anchors_A4 = torch.stack([WIDTH - right_A, top_A, WIDTH - left_A, bottom_A], 1)
        mirrored = (outputs[0], outputs[1] * torch.tensor([-1, 1, 1, 1]), anchors_A4)
        both = [nms(on_canvas(batch, image, each), 0.5, 30) for each in (outputs, mirrored)]
        expected = (
            weighted_boxes_fusion(both, iou_threshold=0.6, floor=0.05)
            if merging == "weighted_boxes_fusion"
            else nms(together(both), 0.6, 30)
        )
        assert_same(found, in_original(batch, image, expected.best(30)))
        assert len(found.scores_N) > 5


def test_a_thing_that_all_views_see_keeps_its_score() -> None:
    batch = batch_of(3)
    one = detect(FindsBright(), batch, PLAIN, config())
    several = detect(FindsBright(), batch, (View(), View(flip=True), View(1.5)), config())
    for alone, fused in zip(one, several, strict=True):
        torch.testing.assert_close(fused.scores_N, alone.scores_N)


def test_a_model_in_bfloat16_is_decoded_in_float32() -> None:
    batch, outputs = batch_of(1), drawn_outputs(4, 1, 50)
    logits_BAC, deltas_BA4 = outputs[0].bfloat16(), outputs[1].bfloat16()
    found = detect(Says(logits_BAC, deltas_BA4, outputs[2]), batch, PLAIN, config())[0]
    expected = detect(Says(logits_BAC.float(), deltas_BA4.float(), outputs[2]), batch, PLAIN, config())[0]
    assert found.boxes_N4.dtype == found.scores_N.dtype == torch.float32
    assert found.boxes_N4.tolist() == expected.boxes_N4.tolist()
    assert found.scores_N.tolist() == expected.scores_N.tolist()


def test_under_autocast_nothing_is_rounded() -> None:
    batch, outputs = batch_of(1), drawn_outputs(4, 1, 50)
    expected = detect(Says(*outputs), batch, PLAIN, config())[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = detect(Says(*outputs), batch, PLAIN, config())[0]
    assert found.boxes_N4.tolist() == expected.boxes_N4.tolist()


def test_nothing_above_the_floor_is_nothing_found() -> None:
    outputs = drawn_outputs(5, 2, 20)
    views = (View(), View(flip=True))
    for found in detect(Says(outputs[0] - 9, *outputs[1:]), batch_of(2), views, config()):
        assert found.boxes_N4.shape == (0, 4)
        labels = found.labels()
        assert len(labels) == 0
        assert labels.boxes_N4.shape == (0, 4)


def test_a_floor_of_zero_keeps_every_box() -> None:
    outputs = drawn_outputs(6, 1, 20)
    settings = config(floor=0.0, suppression="none")
    found = detect(Says(outputs[0] - 20, *outputs[1:]), batch_of(1), PLAIN, settings)[0]
    inside = on_canvas(batch_of(1), 0, (outputs[0] - 20, *outputs[1:]), floor=0.0)
    assert len(found.scores_N) == len(inside) > 20


def test_boxes_outside_the_picture_and_what_is_no_number_are_dropped() -> None:
    batch = batch_of(2)
    height, width = batch.valid_B2[1].tolist()
    assert (height, width) != (HEIGHT, WIDTH)
    anchors_A4 = torch.tensor([[0.0, 0, 9, 9], [20, 20, 40, 40], [width, 0, width + 9, 9], [-30, -30, -10, -10]])
    logits_BAC, deltas_BA4 = torch.full((2, 4, 1), 2.0), torch.zeros(2, 4, 4)
    deltas_BA4[:, 1, 0] = torch.nan
    logits_BAC[:, 0, 0] = torch.tensor([1.0, torch.nan])
    found = detect(Says(logits_BAC, deltas_BA4, anchors_A4), batch, PLAIN, config())
    assert [len(each.scores_N) for each in found] == [2, 0]


def test_boxes_end_at_the_edge_of_the_image() -> None:
    batch = batch_of(3)
    outputs = (torch.full((3, 1, 1), 3.0), torch.zeros(3, 1, 4), torch.tensor([[-50.0, -50, 500, 500]]))
    for image, found in enumerate(detect(Says(*outputs), batch, PLAIN, config())):
        height, width = batch.original_B2[image].tolist()
        assert found.boxes_N4.tolist() == [[0, 0, width, height]]


def test_the_way_back_from_the_canvas() -> None:
    boxes_N4 = torch.tensor([[10.0, 20, 30, 60]])
    assert to_original(boxes_N4, [[0.5, 0, 4], [0, 2, -8]]).tolist() == [[12, 14, 52, 34]]
    assert to_original(boxes_N4, [[-0.5, 0, 40], [0, 2, 0]]).tolist() == [[20, 10, 60, 30]], "mirrored boxes stay boxes"
    with pytest.raises(ValueError, match="turns or shears"):
        to_original(boxes_N4, [[1, 0.1, 0], [0, 1, 0]])


def test_labels_are_arrays_of_their_own() -> None:
    batch, outputs = batch_of(1), drawn_outputs(7, 1, 30)
    found = detect(Says(*outputs), batch, PLAIN, config())[0]
    labels = found.labels()
    assert labels.scores_N is not None
    dtypes = [str(values.dtype) for values in (labels.boxes_N4, labels.labels_N, labels.scores_N)]
    assert dtypes == ["float32", "int64", "float32"]
    assert labels.boxes_N4.tolist() == found.boxes_N4.tolist()
    assert labels.labels_N.tolist() == found.labels_N.tolist()
    assert labels.scores_N.tolist() == found.scores_N.tolist()
    assert labels.boxes_N4.flags.c_contiguous


def test_no_gradient_is_kept() -> None:
    outputs = tuple(tensor.requires_grad_() for tensor in drawn_outputs(8, 1, 30))
    for way in ("nms", "soft_nms"):
        found = detect(Says(*outputs), batch_of(1), PLAIN, config(suppression=way))[0]
        assert not found.boxes_N4.requires_grad
        assert len(found.labels()) > 0
