"""Statistics of scores."""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from selftrain_core.labels import HISTOGRAM_BINS, IGNORE, IGNORE_LABEL, PADDING_LABEL, ScoreStatistics
from selftrain_core.testing import assert_equal
from selftrain_core.testing.samples import mask_labels, score_statistics


def test_a_map_is_counted_by_class_and_score() -> None:
    labels = np.array([[0, 1, 1], [2, IGNORE, 1]], np.uint8)
    scores = np.array([[0.0, 0.5, 1.0], [0.999, 0.3, 0.5]], np.float32)
    found = ScoreStatistics.of(labels, scores, 4)
    assert found.num_images == 1
    assert found.images_C.tolist() == [1, 1, 1, 0]
    assert found.histogram_CS.shape == (4, HISTOGRAM_BINS)
    assert found.histogram_CS.sum(1).tolist() == [1, 3, 1, 0]
    assert found.histogram_CS[0, 0] == 1
    assert found.histogram_CS[1, 32] == 2
    assert found.histogram_CS[1, 63] == 1, "a score of 1 falls into the last bin"
    assert found.histogram_CS[2, 63] == 1


def test_labels_without_scores_count_as_certain() -> None:
    found = ScoreStatistics.of(np.array([0, 0, PADDING_LABEL, IGNORE_LABEL, 7]), None, 2)
    assert found.histogram_CS[:, -1].tolist() == [2, 0]
    assert found.histogram_CS.sum() == 2


def test_density_compares_sets_of_any_size() -> None:
    pixels = ScoreStatistics.of(np.array([0, 0, 0, 1, 255], np.uint8), None, 2)
    assert pixels.density_CS.sum(1).tolist() == [0.75, 0.25]
    assert (pixels + pixels).density_CS.sum(1).tolist() == [0.75, 0.25]
    boxes = ScoreStatistics.of(np.array([0, 0, 1]), None, 2, exposure=1)
    nothing = ScoreStatistics.of(np.zeros(0, np.int64), None, 2, exposure=1)
    assert (boxes + nothing).density_CS.sum(1).tolist() == [1.0, 0.5], "boxes per image"
    assert not ScoreStatistics.empty(2).density_CS.any()


def test_an_image_with_nothing_is_counted() -> None:
    found = ScoreStatistics.of(np.zeros(0, np.int64), np.zeros(0, np.float32), 3)
    assert (found.num_images, found.images_C.tolist()) == (1, [0, 0, 0])


@given(st.integers(0, 100), st.integers(1, 5))
def test_the_histogram_against_a_loop(seed: int, num_classes: int) -> None:
    labels = mask_labels((6, 7), num_classes, seed, scored=True)
    assert labels.scores_HW is not None
    expected = np.zeros((num_classes, HISTOGRAM_BINS), np.int64)
    for class_, score in zip(labels.classes_HW.ravel(), labels.scores_HW.ravel(), strict=True):
        expected[class_, min(63, int(score * 64))] += 1
    found = ScoreStatistics.of(labels.classes_HW, labels.scores_HW, num_classes)
    assert_equal(found.histogram_CS, expected, "histogram")


def test_sums_and_the_empty_statistics() -> None:
    one, other = score_statistics(3, 1), score_statistics(3, 2)
    assert_equal(one + ScoreStatistics.empty(3), one, "sum with nothing")
    assert_equal(one + other, other + one, "sum")
    assert (one + other).num_images == 8


def test_json_round_trip() -> None:
    statistics = score_statistics(3, 1)
    assert_equal(ScoreStatistics.from_json(json.loads(json.dumps(statistics.to_json()))), statistics, "statistics")
    assert_equal(ScoreStatistics.from_json(ScoreStatistics.empty(2).to_json()), ScoreStatistics.empty(2), "nothing")
