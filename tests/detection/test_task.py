"""The detection task: its contract, and what it does with boxes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from selftrain_core.errors import DataError
from selftrain_core.geometry import Geometry
from selftrain_core.labels import DROP, IGNORE_LABEL, IGNORED, KEEP, PADDING_LABEL, BoxLabels, Decisions, Labels
from selftrain_core.policies import FixedDecision
from selftrain_core.testing import TaskContract
from selftrain_core.testing.samples import box_labels
from selftrain_detection.config import BoxPredictionConfig, DetectionConfig
from selftrain_detection.prediction import BoxPrediction
from selftrain_detection.task import DetectionTask

CLASSES = ("nut", "bolt")


class TestContract(TaskContract):
    spec_name = "detection/retinanet"
    # A model that has learnt nothing gives every anchor a score near 0.01: without a floor there is something to see.
    options = {"head": {"channels": 8, "num_convs": 1}, "prediction": {"floor": 0.0, "max_detections": 20}}

    def labels(self, size: tuple[int, int], seed: int, *, scored: bool) -> Labels:
        return box_labels(size, len(self.classes), seed, scored=scored)

    def perfect_prediction(self, labels: Labels, size: tuple[int, int]) -> BoxPrediction:
        assert isinstance(labels, BoxLabels)
        return BoxPrediction(
            torch.from_numpy(labels.boxes_N4), torch.ones(len(labels)), torch.from_numpy(labels.labels_N), size
        )


@pytest.fixture
def task() -> DetectionTask:
    return DetectionTask(DetectionConfig(max_boxes=4, prediction=BoxPredictionConfig(max_detections=4)), CLASSES)


def boxes(*rows: tuple[float, ...], labels: list[int], scores: list[float] | None = None) -> BoxLabels:
    scored = None if scores is None else np.array(scores, np.float32)
    return BoxLabels(np.array(rows, np.float32).reshape(-1, 4), np.array(labels, np.int64), scored)


FOUND = boxes((0, 0, 10, 10), (10, 0, 30, 20), (50, 40, 60, 60), labels=[0, 1, 1], scores=[0.9, 0.6, 0.2])
DECIDED = Decisions(np.array([KEEP, IGNORED, DROP], np.int8), np.array([0.5, 1, 1], np.float32))


def test_boxes_go_to_the_canvas_with_the_picture(task: DetectionTask) -> None:
    targets = task.to_targets(boxes((10, 20, 30, 60), labels=[1]), None, Geometry.fit((100, 200), (64, 64)))
    assert targets.boxes_BN4 is not None
    assert targets.label_BN is not None
    assert targets.weight_BN is not None
    assert targets.canvas_B2 is not None
    assert targets.boxes_BN4[0].tolist() == pytest.approx([3.2, 6.4, 9.6, 19.2])
    assert targets.label_BN.tolist() == [1, PADDING_LABEL, PADDING_LABEL, PADDING_LABEL]
    assert targets.weight_BN.tolist() == [1, 0, 0, 0]
    assert targets.canvas_B2.tolist() == [64, 64]


def test_a_decision_keeps_marks_or_drops_a_box(task: DetectionTask) -> None:
    targets = task.to_targets(FOUND, DECIDED, Geometry((100, 100), (100, 100), (100, 100)))
    assert targets.boxes_BN4 is not None
    assert targets.label_BN is not None
    assert targets.weight_BN is not None
    assert targets.label_BN.tolist() == [0, IGNORE_LABEL, PADDING_LABEL, PADDING_LABEL]
    assert targets.boxes_BN4[1].tolist() == [10, 0, 30, 20]
    assert targets.weight_BN[0] == 0.5
    applied = task.apply(FOUND, DECIDED)
    assert applied.labels_N.tolist() == [0, IGNORE_LABEL]


def test_between_two_thresholds_a_box_becomes_a_region_to_ignore(task: DetectionTask) -> None:
    decided = task.decide(FOUND, FixedDecision(0.7, 0.5))
    assert task.apply(FOUND, decided).labels_N.tolist() == [0, IGNORE_LABEL]


def test_a_crowd_is_trained_on_by_nobody_and_counted_by_nobody(task: DetectionTask) -> None:
    crowd = replace(boxes((0, 0, 10, 10), (5, 5, 9, 9), labels=[0, 1]), crowds_N=np.array([True, False]))
    targets = task.to_targets(crowd, None, Geometry((20, 20), (32, 32), (32, 32)))
    assert targets.label_BN is not None
    assert targets.label_BN.tolist()[:2] == [IGNORE_LABEL, 1]
    statistics = task.statistics(crowd)
    assert statistics.images_C.tolist() == [0, 1]
    assert statistics.exposure == 1


def test_of_too_many_boxes_objects_and_the_largest_go_first(task: DetectionTask) -> None:
    rows = [(0.0, 0.0, side, side) for side in (4, 9, 2, 8, 7, 30)]
    crowded = boxes(*rows, labels=[0, 0, 0, 0, 0, IGNORE_LABEL])
    assert task.overflow(crowded) == 2
    assert task.overflow_advice(2) == "task.max_boxes: 6"
    targets = task.to_targets(crowded, None, Geometry((100, 100), (100, 100), (100, 100)))
    assert targets.boxes_BN4 is not None
    assert targets.boxes_BN4[:, 2].tolist() == [4, 9, 8, 7]


def test_of_too_many_scored_boxes_the_surest_go_first(task: DetectionTask) -> None:
    """A box to ignore goes after every object, however sure; of equally sure ones the largest goes first."""
    rows = [(0.0, 0.0, side, side) for side in (20, 9, 2, 8, 7, 5)]
    found = boxes(*rows, labels=[0] * 6, scores=[0.3, 0.6, 0.9, 0.5, 0.5, 0.99])
    decided = Decisions(np.array([KEEP] * 5 + [IGNORED], np.int8), np.array([0.3, 0.6, 0.9, 0.5, 0.5, 1], np.float32))
    picture = Geometry((100, 100), (100, 100), (100, 100))
    targets = task.to_targets(found, decided, picture)
    assert targets.boxes_BN4 is not None
    assert targets.weight_BN is not None
    assert targets.boxes_BN4[:, 2].tolist() == [9, 2, 8, 7]
    assert targets.weight_BN.tolist() == pytest.approx([0.6, 0.9, 0.5, 0.5])
    fewer = replace(decided, actions=np.array([DROP, KEEP, KEEP, IGNORED, IGNORED, IGNORED], np.int8))
    targets = task.to_targets(found, fewer, picture)
    assert targets.boxes_BN4 is not None
    assert targets.boxes_BN4[:, 2].tolist() == [9, 2, 8, 5]


def test_the_floor_is_the_settings(task: DetectionTask) -> None:
    assert (task.floor, task.floor_setting) == (0.05, "task.prediction.floor")
    lower = BoxPredictionConfig(floor=0.01)
    assert DetectionTask(DetectionConfig(prediction=lower), CLASSES).floor == 0.01


def test_a_class_that_there_is_not_is_refused(task: DetectionTask) -> None:
    with pytest.raises(DataError, match=r"box 2 has the class 2; there are 2, counted from 0: nut, bolt"):
        task.to_targets(boxes((0, 0, 1, 1), (0, 0, 2, 2), labels=[0, 2]), None, Geometry((9, 9), (32, 32), (32, 32)))


def test_an_image_without_boxes_has_a_row_and_targets(task: DetectionTask) -> None:
    nothing = boxes(labels=[], scores=[])
    again = task.from_row(task.to_row(nothing))
    assert again.boxes_N4.shape == (0, 4)
    assert again.scores_N is not None
    assert again.scores_N.shape == (0,)
    first = task.to_targets(nothing, None, Geometry((9, 9), (32, 32), (32, 32)))
    second = task.to_targets(FOUND, None, Geometry((100, 100), (32, 32), (32, 32)))
    assert first.label_BN is not None
    assert second.boxes_BN4 is not None
    assert first.label_BN.tolist() == [PADDING_LABEL] * 4
    assert not any(task.statistics(nothing).images_C)


def test_what_is_written_is_read_by_the_source_it_names(task: DetectionTask, tmp_path: Path) -> None:
    settings = task.written_source(tmp_path / "images", tmp_path / "boxes", tmp_path / "list.txt")
    assert settings["name"] == "detection/coco"
    assert settings["annotations"] == str(tmp_path / "boxes" / "instances.json")
