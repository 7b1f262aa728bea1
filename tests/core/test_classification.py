"""The classification task: what its contract does not say."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from selftrain_core.batch import Batch, Targets, collate, float_images
from selftrain_core.classification.class_list import LABELS
from selftrain_core.classification.config import ClassificationConfig
from selftrain_core.classification.drawing import UNKNOWN_RGB
from selftrain_core.classification.metric import Accuracy
from selftrain_core.classification.prediction import ClassPrediction
from selftrain_core.classification.task import ClassificationTask
from selftrain_core.components import build_model, build_task
from selftrain_core.config import OptimizerConfig, TrainingConfig
from selftrain_core.config_model import BackboneChoice, DataSourceChoice, TaskChoice
from selftrain_core.data_source import Entry
from selftrain_core.errors import ConfigError, DataError
from selftrain_core.geometry import Geometry
from selftrain_core.index import build_source
from selftrain_core.labels import DROP, IGNORE_LABEL, IGNORED, KEEP, ClassLabels, Decisions
from selftrain_core.policies import FixedDecision, SoftDecision
from selftrain_core.prediction import evaluating
from selftrain_core.testing.drawn import Drawn, train
from selftrain_core.testing.fakes import TinyBackbone, TinyBackboneConfig
from selftrain_core.testing.samples import draws, picture, sample
from selftrain_core.views import View

CLASSES = ("cat", "dog", "hen")
SQUARE = Geometry.fit((32, 32), (32, 32))


def task_of(**settings: Any) -> ClassificationTask:
    return ClassificationTask(ClassificationConfig(**settings), CLASSES)


def labels_of(index: int, score: float | None = None) -> ClassLabels:
    return ClassLabels(np.array([index]), None if score is None else np.array([score], np.float32))


def targets_of(indices: list[int], weights: list[float]) -> Targets:
    return Targets(class_B=torch.tensor(indices), class_weight_B=torch.tensor(weights))


def certain(index: int) -> ClassPrediction:
    return ClassPrediction((torch.arange(3) == index).float(), (4, 5))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_weighted_cross_entropy_of_each_image(smoothing: float) -> None:
    logits_BC, indices, weights = draws((4, 3), 1) * 4, [0, 2, IGNORE_LABEL, 1], [1.0, 0.5, 1.0, 0.0]
    targets = targets_of(indices, weights)
    by_hand = []
    for logits, index, weight in zip(logits_BC.double().tolist(), indices, weights, strict=True):
        log_sum = np.log(np.exp(logits).sum())
        shares = [smoothing / 3 + (1 - smoothing) * (place == index) for place in range(3)]
        loss = sum(share * (log_sum - logit) for share, logit in zip(shares, logits, strict=True))
        by_hand.append(0.0 if index == IGNORE_LABEL else weight * loss)
    task = task_of(label_smoothing=smoothing)
    assert task.losses(logits_BC, targets)["cross_entropy"].tolist() == pytest.approx(by_hand, rel=1e-5)
    assert task.counts(targets)["cross_entropy"].tolist() == [1, 1, 0, 1], "weights do not count"


def test_an_image_of_no_known_class_gives_no_gradient() -> None:
    logits = draws((2, 3), 2).requires_grad_()
    targets = targets_of([IGNORE_LABEL, 1], [1, 1])
    (gradient,) = torch.autograd.grad(
        task_of(label_smoothing=0.1).losses(logits, targets)["cross_entropy"].sum(), logits
    )
    assert not gradient[0].any() and gradient[1].all()


@pytest.mark.parametrize("strides", [(32,), (4, 8, 16), (8, 16, 32, 64, 128)])
def test_the_head_stands_on_the_mean_of_the_coarsest_map(strides: tuple[int, ...]) -> None:
    """Whatever strides the backbone was built for."""
    backbone = TinyBackbone(TinyBackboneConfig(width=6), "", strides)
    model = task_of().build_model(backbone).eval()
    images = draws((2, 3, 128, 192), 3)
    mean_BD = backbone(images)[strides[-1]].flatten(2).mean(2)
    head = model.get_submodule("head")
    assert isinstance(head, nn.Linear)
    torch.testing.assert_close(model(images), mean_BD @ head.weight.T + head.bias)


def test_dropout_is_of_the_features_while_training() -> None:
    model = task_of(dropout=0.5).build_model(TinyBackbone(TinyBackboneConfig(), "", (32,)))
    images = draws((1, 3, 64, 64), 4)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


class LeftIsBright(nn.Module):
    """Stands for a model: one logit is how bright the left edge is, another the width of what it sees."""

    def forward(self, images: Tensor) -> Tensor:
        bright_B, wide_B = images[..., 0].mean((1, 2)), images.new_full((len(images),), images.shape[-1] / 32)
        return torch.stack([bright_B, wide_B, torch.zeros_like(bright_B)], 1)


def test_a_prediction_is_the_mean_of_the_probabilities_of_all_views() -> None:
    image = np.zeros((32, 64, 3), np.uint8)
    image[:, 0] = 255
    batch = collate([sample(image, (32, 64), "a")])
    batch = replace(batch, image_B3HW=float_images(batch.image_B3HW))
    (found,) = task_of().predict(LeftIsBright(), batch, (View(), View(flip=True), View(2)))
    seen = torch.tensor([[1.0, 2, 0], [0, 2, 0], [1, 4, 0]]).softmax(1).mean(0)
    torch.testing.assert_close(found.probability_C, seen, atol=0.01, rtol=0)
    assert found.original == (32, 64)
    assert found.labels().class_1.tolist() == [1]
    assert found.labels().score_1 == pytest.approx([float(seen[1])], abs=0.01)


def test_accuracy_by_hand() -> None:
    metric = Accuracy(CLASSES, torch.device("cpu"))
    assert metric.compute() == {"top1": 0}
    for found, truth in [(0, 0), (1, 0), (0, 0), (1, 1), (2, IGNORE_LABEL), (1, 1), (0, 1)]:
        metric.update(certain(found), labels_of(truth))
    expected = {"top1": 400 / 6, "top1/cat": 200 / 3, "top1/dog": 200 / 3}
    assert metric.compute() == pytest.approx(expected), "no truth is a hen, and the unknown one is passed over"


def test_accuracy_adds_up_over_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selftrain_core.classification.metric.sum_over_ranks", lambda counts: counts * 2 + 1)
    metric = Accuracy(CLASSES, torch.device("cpu"))
    metric.update(certain(1), labels_of(1))
    assert metric.compute() == pytest.approx({"top1": 100, "top1/cat": 100, "top1/dog": 100, "top1/hen": 100})


def test_what_a_policy_does_not_keep_is_not_known() -> None:
    task, labels = task_of(), labels_of(2, 0.4)
    kept = task.to_targets(labels, task.decide(labels, SoftDecision(0.3)), SQUARE)
    assert kept.class_B is not None and kept.class_weight_B is not None
    assert int(kept.class_B) == 2 and float(kept.class_weight_B) == pytest.approx(0.4)
    refused = task.to_targets(labels, task.decide(labels, FixedDecision(0.5, None)), SQUARE)
    assert refused.class_B is not None and int(refused.class_B) == IGNORE_LABEL
    for action, index in ((KEEP, 2), (IGNORED, IGNORE_LABEL), (DROP, IGNORE_LABEL)):
        decided = Decisions(np.array([action], np.int8), np.ones(1, np.float32))
        assert task.apply(labels, decided).class_1.tolist() == [index]


def test_statistics_are_shares_of_the_images_that_are_known() -> None:
    task = task_of()
    found = [task.statistics(each) for each in (labels_of(1), labels_of(1, 0.5), labels_of(0), labels_of(IGNORE_LABEL))]
    total = found[0] + found[1] + found[2] + found[3]
    assert (total.num_images, total.exposure) == (4, 3)
    assert total.density_CS.sum(1).tolist() == pytest.approx([1 / 3, 2 / 3, 0])


def test_rows_keep_every_bit() -> None:
    task, score = task_of(), np.float32(0.1) + np.float32(2**-27)
    again = task.from_row(task.to_row(labels_of(2, float(score))))
    assert again.class_1.tolist() == [2] and again.class_1.dtype == np.int64
    assert again.score_1 is not None and again.score_1[0] == score and again.score_1.dtype == np.float32


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    task = task_of()
    ids = {"a": 1, 'odd, "name"': 0, "deep/é": IGNORE_LABEL, "001": 2}
    writer = task.writer(tmp_path / "classes")
    for id_, index in ids.items():
        writer.write(id_, labels_of(index, 0.25), (4, 5), Path(f"{id_}.jpg"))
    assert not (tmp_path / "classes" / LABELS).exists(), "whole or absent"
    writer.close()
    text = 'id,class,score\na,dog,0.25\n"odd, ""name""",cat,0.25\ndeep/é,,\n001,hen,0.25\n'
    assert [path.name for path in (tmp_path / "classes").iterdir()] == [LABELS]
    assert (tmp_path / "classes" / LABELS).read_text(encoding="utf-8") == text
    settings = task.written_source(tmp_path, tmp_path / "classes", tmp_path / "list.txt")
    source = build_source(DataSourceChoice.model_validate(settings), CLASSES)
    for id_, index in ids.items():
        found = source.read_labels(Entry(id_, tmp_path / f"{id_}.jpg"))
        assert isinstance(found, ClassLabels)
        assert found.class_1.tolist() == [index] and found.score_1 is None


def test_a_person_has_no_score_to_write(tmp_path: Path) -> None:
    writer = task_of().writer(tmp_path)
    writer.write("a", labels_of(0), (4, 5), Path("a.jpg"))
    writer.close()
    assert (tmp_path / LABELS).read_text() == "id,class,score\na,cat,\n"


def test_lines_are_found_by_their_ids(tmp_path: Path) -> None:
    (tmp_path / LABELS).write_text("id,class\nphoto-1,cat\nphoto-33,dog\n")
    held, strangers = task_of().ids_in(tmp_path, ["photo-1", "other", "photo-23"])
    assert held == {"photo-1": "photo-1"}
    message = "the image 'photo-33' is none that was exported (did you mean 'photo-23'?)"
    assert strangers == [f"{tmp_path / LABELS}: {message}"]


def test_a_class_out_of_range_is_explained() -> None:
    with pytest.raises(DataError, match=r"the class index 3 is out of range; there are 3 classes, from 0"):
        task_of().to_targets(labels_of(3), None, SQUARE)


def test_one_class_alone_is_refused() -> None:
    message = "core/classification tells classes apart, and there is one alone, 'cat'; name a second one"
    with pytest.raises(ConfigError, match=message):
        build_task(TaskChoice.of("core/classification"), ("cat",))


@pytest.mark.parametrize("settings", [{"dropout": 1.0}, {"dropout": -0.1}, {"label_smoothing": 1.0}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"should be (less|greater) than"):
        ClassificationConfig(**settings)


@pytest.mark.parametrize("size", [(1, 1), (40, 9), (9, 200), (700, 500)])
def test_a_picture_of_any_size_has_a_frame_of_its_class(size: tuple[int, int]) -> None:
    task, image = task_of(), picture(size, 1)
    for labels, colour in ((labels_of(1, 0.9), task.legend()[1][1]), (labels_of(IGNORE_LABEL), UNKNOWN_RGB)):
        drawn = task.draw(image, labels)
        assert tuple(drawn[-1, -1]) == colour and drawn.shape == image.shape


def test_a_caption_says_class_and_score() -> None:
    task, image = task_of(), picture((100, 200), 1)
    texts = [task.draw(image, labels) for labels in (labels_of(1), labels_of(1, 0.9), labels_of(1, 0.5))]
    assert not np.array_equal(texts[0], texts[1]) and not np.array_equal(texts[1], texts[2])
    assert np.array_equal(texts[0][30:-1, 1:-1], image[30:-1, 1:-1]), "below the caption is the picture"


def coloured(step: int, number: int) -> tuple[Batch, ClassLabels]:
    """Return a noisy image whose colour is its class."""
    index = (step + number) % 3
    image = picture((32, 32), 10 * step + number) // 2
    image[..., index] += 100
    labels = labels_of(index)
    targets = task_of().to_targets(labels, None, SQUARE)
    return sample(image, (32, 32), f"{step}-{number}", visit=step, targets=targets), labels


def test_colours_are_learnt(tmp_path: Path) -> None:
    """From random weights; images of later steps are named right."""
    torch.manual_seed(0)
    task = task_of(dropout=0.1, label_smoothing=0.1)
    model, _ = build_model(task, BackboneChoice.of("timm/test_resnet", init="random"))
    unseen, truths = zip(*[coloured(1000, number) for number in range(12)], strict=True)
    batch = collate(list(unseen))
    batch = replace(batch, image_B3HW=float_images(batch.image_B3HW))

    def judged(judge: nn.Module) -> tuple[float, float]:
        with evaluating(judge):
            loss = task.losses(judge(batch.image_B3HW), batch.targets)["cross_entropy"].mean()
            metric = task.metric(torch.device("cpu"))
            for prediction, truth in zip(task.predict(judge, batch), truths, strict=True):
                metric.update(prediction, truth)
        return float(loss), metric.compute()["top1"]

    before, _ = judged(model)
    training = TrainingConfig(steps=40, human=6, optimizer=OptimizerConfig(lr=3e-3, warmup_steps=5), ema_decay=0.9)
    drawn = Drawn(task, model, lambda step, _, number: coloured(step, number)[0], training)
    after, top1 = judged(train(drawn, tmp_path).result)
    assert after < 0.7 * before
    assert top1 >= 90
