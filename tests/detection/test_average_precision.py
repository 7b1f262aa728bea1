"""AP against pycocotools run by hand on files."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from selftrain_core.errors import ConfigError
from selftrain_core.labels import IGNORE_LABEL, BoxLabels
from selftrain_core.testing.samples import draws
from selftrain_detection import metric
from selftrain_detection.metric import AveragePrecision, Backend, content_key
from selftrain_detection.prediction import BoxPrediction
from selftrain_detection.writing import INSTANCES, RESULTS, BoxWriter

CLASSES = ("apple", "banana", "orange", "nowhere")
SIZE = (300, 400)
STATS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
Pair = tuple[BoxPrediction, BoxLabels]


def boxes(seed: int, count: int, *, rounded: bool = False) -> NDArray[np.float32]:
    """Return boxes of all of COCO's sizes inside the picture."""
    start = draws((count, 2), seed, 1).numpy() * 150
    side = 4 + draws((count, 1), seed, 2).numpy() ** 2 * 130 + 10 * draws((count, 2), seed, 3).numpy()
    found = np.concatenate([start, start + side], 1).astype(np.float32)
    return np.round(found) if rounded else found


def scene(seed: int, *, regions: bool = False) -> Pair:
    """Return one image: things and crowds, found more or less, and false alarms; scores are in tenths."""
    count, alarms = seed % 6, (seed // 2) % 5
    rounded = seed % 3 == 0
    boxes_N4 = boxes(seed, count, rounded=rounded)
    labels_N = (draws((count,), seed, 4) * 3).long().numpy()
    if regions:
        labels_N[draws((count,), seed, 5).numpy() < 0.3] = IGNORE_LABEL
    crowds_N = draws((count,), seed, 6).numpy() < 0.2 if seed % 2 else None
    areas_N = (np.prod(boxes_N4[:, 2:] - boxes_N4[:, :2], 1) * 0.7).astype(np.float32) if seed % 4 < 2 else None
    noise_N4 = draws((count, 4), seed, 7).numpy() * (0 if rounded else 8)
    found_N4 = np.concatenate([boxes_N4 + noise_N4, boxes(seed + 10**6, alarms)]).astype(np.float32)
    said_N = np.concatenate([np.abs(labels_N) % 3, (draws((alarms,), seed, 8) * 4).long().numpy()])
    scores_N = ((1 + draws((count + alarms,), seed, 9) * 9).floor() / 10).sort(descending=True).values
    prediction = BoxPrediction(torch.from_numpy(found_N4), scores_N, torch.from_numpy(said_N), SIZE)
    return prediction, BoxLabels(boxes_N4, labels_N, None, crowds_N, areas_N)


def score(pairs: list[Pair], backend: Backend = "pycocotools", classes: tuple[str, ...] = CLASSES) -> dict[str, float]:
    counted = AveragePrecision(classes, torch.device("cpu"), backend)
    for prediction, truth in pairs:
        counted.update(prediction, truth)
    return counted.compute()


def write_files(folder: Path, pairs: list[Pair]) -> tuple[Path, Path]:
    """Write truth and results as files, in the order in which the metric numbers the images."""
    for name in ("truth", "found"):
        writer = BoxWriter(folder / name, CLASSES)
        for place, (prediction, truth) in enumerate(sorted(pairs, key=lambda p: content_key(p[0].labels(), p[1]))):
            writer.write(str(place), truth if name == "truth" else prediction.labels(), SIZE, Path("x.png"))
        writer.close()
    return folder / "truth" / INSTANCES, folder / "found" / RESULTS


def by_hand(truth_file: Path, results_file: Path) -> dict[str, float]:
    truth = COCO(str(truth_file))
    evaluation = COCOeval(truth, truth.loadRes(str(results_file)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    scores = dict(zip(STATS, evaluation.stats[:6].tolist(), strict=True))
    precision = evaluation.eval["precision"]
    for place, name in enumerate(CLASSES):
        of_class = precision[:, :, place, 0, 2]
        scores[f"ap/{name}"] = float(np.mean(of_class[of_class > -1])) if (of_class > -1).any() else -1.0
    return {name: 100 * value for name, value in scores.items() if value > -1}


@pytest.mark.parametrize("seed", range(4))
def test_against_pycocotools_on_files(tmp_path: Path, seed: int) -> None:
    pairs = [scene(100 * seed + number) for number in range(40)]
    expected = by_hand(*write_files(tmp_path, pairs))
    found = score(pairs)
    assert found == pytest.approx(expected, abs=1e-9)
    assert set(expected) == {*STATS, "ap/apple", "ap/banana", "ap/orange"}
    assert 5 < found["ap"] < 95
    assert not math.isclose(found["ap_medium"], found["ap_large"])


def test_a_region_to_ignore_is_a_crowd_of_every_class(tmp_path: Path) -> None:
    pairs = [scene(number, regions=True) for number in range(40)]
    truth_file, results_file = write_files(tmp_path, pairs)
    dataset = json.loads(truth_file.read_text("utf-8"))
    rows = dataset["annotations"]
    regions = [(image["id"], bbox) for image in dataset["images"] for bbox in image.get("ignore_regions", [])]
    assert len(regions) > 10
    for image_id, bbox in regions:
        for category in range(1, 5):
            about = {"id": len(rows) + 1, "image_id": image_id, "category_id": category, "bbox": bbox}
            rows.append({**about, "area": bbox[2] * bbox[3], "iscrowd": 1})
    truth_file.write_text(json.dumps(dataset))
    expected = by_hand(truth_file, results_file)
    assert score(pairs) == pytest.approx(expected, abs=1e-9)
    left_out = [(p, BoxLabels(t.boxes_N4[k], t.labels_N[k])) for p, t in pairs for k in [t.labels_N >= 0]]
    assert score(left_out)["ap"] < expected["ap"] - 1, "what is found in a region is no false alarm"


def test_the_order_of_images_does_not_matter() -> None:
    pairs = [scene(number) for number in range(30)]
    expected = score(pairs)
    assert score(pairs[::-1]) == expected
    assert score([pairs[(7 * number) % 30] for number in range(30)]) == expected


def test_the_number_of_ranks_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [scene(number) for number in range(30)]
    expected = score(pairs)
    ranks = [AveragePrecision(CLASSES) for _ in range(2)]
    for number, (prediction, truth) in enumerate(pairs):
        ranks[number % 3 == 0].update(prediction, truth)
    held = [rank._images for rank in ranks]
    monkeypatch.setattr(metric, "gather_objects", lambda value: held)
    assert [rank.compute() for rank in ranks] == [expected, expected]


def test_a_rank_without_images_takes_part(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [scene(number) for number in range(5, 15)]
    full, empty = AveragePrecision(CLASSES), AveragePrecision(CLASSES)
    for prediction, truth in pairs:
        full.update(prediction, truth)
    held = [full._images, empty._images]
    monkeypatch.setattr(metric, "gather_objects", lambda value: held)
    assert empty.compute() == full.compute()


@pytest.mark.skipif(
    importlib.util.find_spec("faster_coco_eval") is None, reason="needs faster-coco-eval: the extra [faster]"
)
@pytest.mark.parametrize("regions", [False, True])
def test_the_faster_backend_finds_the_same(regions: bool) -> None:
    pairs = [scene(number, regions=regions) for number in range(60)]
    assert score(pairs, "faster_coco_eval") == pytest.approx(score(pairs), abs=1e-9)


def test_a_backend_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    message = r"'faster_coco_eval' is not installed\n  to install it: pip install 'selftrain-detection\[faster\]'"
    with pytest.raises(ConfigError, match=message):
        AveragePrecision(CLASSES, backend="faster_coco_eval")


def found(rows: list[list[float]], scores: list[float], labels: list[int]) -> BoxPrediction:
    return BoxPrediction(torch.tensor(rows).reshape(-1, 4), torch.tensor(scores), torch.tensor(labels).long(), SIZE)


def true(rows: list[list[float]], labels: list[int], *, crowd: bool = False) -> BoxLabels:
    crowds_N = np.full(len(rows), crowd)
    return BoxLabels(np.array(rows, np.float32).reshape(-1, 4), np.array(labels, np.int64), crowds_N=crowds_N)


BOX = [10.0, 10.0, 60.0, 60.0]


def test_what_is_right_scores_a_hundred() -> None:
    pair = (found([BOX], [0.3], [1]), true([BOX], [1]))
    expected = {"ap": 100, "ap50": 100, "ap75": 100, "ap_medium": 100, "ap/banana": 100}
    assert score([pair]) == pytest.approx(expected)


def test_an_overlap_counts_up_to_its_own_size() -> None:
    """Half the box and a bit: IoU 0.6, so three of the ten thresholds are met."""
    pair = (found([[10, 10, 60, 40]], [0.3], [1]), true([BOX], [1]))
    assert score([pair])["ap"] == pytest.approx(30)
    assert score([pair])["ap50"] == pytest.approx(100)
    assert score([pair])["ap75"] == 0


def test_nothing_found_scores_nothing() -> None:
    pair = (found([], [], []), true([BOX], [1]))
    assert score([pair]) == {"ap": 0, "ap50": 0, "ap75": 0, "ap_medium": 0, "ap/banana": 0}


@pytest.mark.parametrize("truth", [true([], []), true([BOX], [1], crowd=True), true([BOX], [IGNORE_LABEL])])
def test_where_nothing_is_to_be_found_there_is_no_score(truth: BoxLabels) -> None:
    assert score([(found([BOX], [0.9], [1]), truth)]) == {"ap": 0.0}


def test_no_image_scores_nothing() -> None:
    assert score([]) == {"ap": 0.0}


def test_a_false_alarm_on_an_image_without_boxes_counts() -> None:
    right = (found([BOX], [0.3], [1]), true([BOX], [1]))
    alarm = (found([BOX], [0.4], [1]), true([], []))
    assert score([right, alarm])["ap"] == pytest.approx(50)
    elsewhere = (found([BOX], [0.4], [0]), true([], []))
    assert score([right, elsewhere])["ap"] == pytest.approx(100), "no image holds anything of its class"


def test_things_have_the_size_of_their_area() -> None:
    labels = BoxLabels(np.array([BOX], np.float32), np.array([1]), areas_N=np.array([1000], np.float32))
    assert set(score([(found([BOX], [0.3], [1]), labels)])) >= {"ap_small"}


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    score([scene(5), scene(9)])
    assert capfd.readouterr() == ("", "")
