"""The segmentation task: its contract, and what is its own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from selftrain_core.batch import Targets, collate, float_images
from selftrain_core.components import build_backbone
from selftrain_core.config_model import BackboneChoice
from selftrain_core.errors import ConfigError, DataError, RunError
from selftrain_core.geometry import Geometry
from selftrain_core.images import read_index_mask
from selftrain_core.interfaces import Policy
from selftrain_core.labels import DROP, IGNORE, IGNORED, KEEP, Decisions, Labels, MaskLabels
from selftrain_core.legend import palette
from selftrain_core.policies import FixedDecision, SoftDecision
from selftrain_core.testing import DataSourceContract, TaskContract, check_plugin
from selftrain_core.testing.samples import decisions, draws, mask_labels, picture, sample, write_images, write_masks
from selftrain_core.views import View
from selftrain_segmentation.config import SegmentationConfig
from selftrain_segmentation.prediction import SegmentationPrediction
from selftrain_segmentation.task import SegmentationTask

CLASSES = ("ground", "sky", "sea")


class TestContract(TaskContract):
    spec_name = "segmentation/semantic"
    options = {"decoder": {"name": "fpn", "pyramid_channels": 16, "segmentation_channels": 32}}

    def labels(self, size: tuple[int, int], seed: int, *, scored: bool) -> Labels:
        return mask_labels(size, len(self.classes), seed, scored=scored)

    def perfect_prediction(self, labels: Labels, size: tuple[int, int]) -> SegmentationPrediction:
        assert isinstance(labels, MaskLabels)
        return certain(labels.classes_HW, size)


class TestContractAtAQuarter(TestContract):
    options = {**TestContract.options, "loss_stride": 4}


class TestIndexMasks(DataSourceContract):
    spec_name = "segmentation/index-masks"

    def write(self, folder: Path) -> dict[str, Any]:
        ids = ["b", "a", "deep/c"]
        write_images(folder / "images", ids)
        write_masks(folder / "masks", ids, len(self.classes))
        return {"images": str(folder / "images"), "masks": str(folder / "masks")}


def test_plugin() -> None:
    check_plugin("selftrain_segmentation.plugin")


def certain(classes_HW: Any, original: tuple[int, int], num_classes: int = 3) -> SegmentationPrediction:
    classes_C11 = torch.arange(num_classes)[:, None, None]
    return SegmentationPrediction((torch.from_numpy(classes_HW)[None] == classes_C11).float(), original)


@pytest.fixture
def task() -> SegmentationTask:
    return SegmentationTask(SegmentationConfig(), CLASSES)


def targets_of(mask: list[list[int]], weight: list[list[float]]) -> Targets:
    return Targets(mask_BHW=torch.tensor([mask], dtype=torch.uint8), weight_BHW=torch.tensor([weight]))


def test_the_loss_of_every_nth_pixel() -> None:
    """It is that of the pixels in the middle of squares, whatever the others are; predictions stay whole."""
    task = SegmentationTask(SegmentationConfig(loss_stride=4), CLASSES)
    mask, weight = torch.full((1, 8, 8), IGNORE, dtype=torch.uint8), draws((1, 8, 8), 2)
    mask[0, 2, 2], mask[0, 2, 6], mask[0, 6, 6] = 0, 2, 1
    targets, logits = Targets(mask_BHW=mask, weight_BHW=weight), draws((1, 3, 2, 2), 1) * 4
    log = functional.log_softmax(logits, 1)[0]
    by_hand = -(log[0, 0, 0] * weight[0, 2, 2] + log[2, 0, 1] * weight[0, 2, 6] + log[1, 1, 1] * weight[0, 6, 6])
    assert float(task.losses(logits, targets)["cross_entropy"]) == pytest.approx(float(by_hand))
    assert task.counts(targets)["cross_entropy"].tolist() == [3]
    mask[0, 3, 3] = mask[0, 0, 0] = 1
    assert task.counts(targets)["cross_entropy"].tolist() == [3], "pixels beside are nothing to it"
    model = task.build_model(build_backbone(BackboneChoice.of("timm/test_efficientnet", init="random"), task.strides))
    assert model(draws((1, 3, 64, 96), 3)).shape == (1, 3, 16, 24)


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_the_loss_of_every_nth_pixel_of_soft_labels(stride: int) -> None:
    """It is the loss of targets that are as small, of all their parts."""

    def every_nth(plane: torch.Tensor) -> torch.Tensor:
        return torch.stack([plane[..., y, stride // 2 :: stride] for y in range(stride // 2, 16, stride)], -2)

    whole = Targets(
        mask_BHW=(draws((2, 16, 16), 1) * 3).to(torch.uint8),
        weight_BHW=draws((2, 16, 16), 2),
        runners_up_BKHW=(draws((2, 2, 16, 16), 3) * 3).to(torch.uint8),
        runner_up_weight_BKHW=draws((2, 2, 16, 16), 4),
    )
    small = Targets(**{name: None if part is None else every_nth(part) for name, part in vars(whole).items()})
    logits = draws((2, 3, 16 // stride, 16 // stride), 5) * 4
    found = SegmentationTask(SegmentationConfig.model_validate({"loss_stride": stride}), CLASSES)
    plain = SegmentationTask(SegmentationConfig(), CLASSES)
    torch.testing.assert_close(found.losses(logits, whole), plain.losses(logits, small))
    torch.testing.assert_close(found.counts(whole), plain.counts(small))


def test_models_of_a_loss_at_a_stride_predict_at_the_images_size() -> None:
    """Of the same weights, the same: logits are brought to that size in one step, or are so already."""
    options = {"decoder": {"name": "fpn", "pyramid_channels": 16, "segmentation_channels": 32, "dropout": 0.0}}
    found = []
    for stride in (1, 4):
        task = SegmentationTask(SegmentationConfig.model_validate({**options, "loss_stride": stride}), CLASSES)
        torch.manual_seed(0)
        backbone = build_backbone(BackboneChoice.of("timm/test_resnet", init="random"), task.strides)
        pictures = [picture((40, 60), 1), picture((64, 96), 2)]
        batch = collate([sample(each, (64, 96), str(n)) for n, each in enumerate(pictures)])
        batch = replace(batch, image_B3HW=float_images(batch.image_B3HW))
        views = [View(scale, flip) for scale in (1.0, 0.5) for flip in (False, True)]
        with torch.no_grad():
            found.append(task.predict(task.build_model(backbone).eval(), batch, views))
    for whole, strided in zip(*found, strict=True):
        torch.testing.assert_close(strided.probability_CHW, whole.probability_CHW)


def test_the_loss_is_the_weighted_cross_entropy(task: SegmentationTask) -> None:
    logits = draws((1, 3, 2, 2), 1) * 4
    targets = targets_of([[0, 2], [IGNORE, 1]], [[1, 0.5], [1, 2]])
    log = functional.log_softmax(logits, 1)[0]
    by_hand = -(log[0, 0, 0] + 0.5 * log[2, 0, 1] + 2 * log[1, 1, 1])
    assert float(task.losses(logits, targets)["cross_entropy"]) == pytest.approx(float(by_hand))
    assert task.counts(targets)["cross_entropy"].tolist() == [3], (
        "weights do not count: a light label makes a light loss"
    )


def test_a_mask_of_another_size_is_explained(task: SegmentationTask) -> None:
    labels = MaskLabels(np.zeros((20, 30), np.uint8))
    message = r"the mask is 30×20 pixels, its image 20×30 pixels; a mask has its image's size \(after the image's EXIF"
    with pytest.raises(DataError, match=message):
        task.to_targets(labels, None, Geometry.fit((30, 20), (32, 32)))


def test_targets_by_hand(task: SegmentationTask) -> None:
    labels = MaskLabels(np.array([[0, 1], [2, IGNORE]], np.uint8))
    targets = task.to_targets(labels, None, Geometry((2, 2), (4, 6), (4, 4)))
    assert targets.mask_BHW is not None
    assert targets.weight_BHW is not None
    assert targets.mask_BHW.tolist() == [
        [0, 0, 1, 1, 255, 255],
        [0, 0, 1, 1, 255, 255],
        [2, 2, 255, 255, 255, 255],
        [2, 2, 255, 255, 255, 255],
    ]
    assert targets.weight_BHW[:, :4].eq(1).all()
    assert not targets.weight_BHW[:, 4:].any()


def test_what_is_not_kept_is_ignored(task: SegmentationTask) -> None:
    """A pixel that is dropped cannot become background: every pixel has some class."""
    labels = MaskLabels(np.array([[0, 1, 2]], np.uint8), np.array([[0.9, 0.4, 0.1]], np.float32))
    decided = Decisions(np.array([[KEEP, IGNORED, DROP]], np.int8), np.array([[0.5, 1, 1]], np.float32))
    assert task.apply(labels, decided).classes_HW.tolist() == [[0, IGNORE, IGNORE]]
    targets = task.to_targets(labels, decided, Geometry((1, 3), (1, 3), (1, 3)))
    assert targets.mask_BHW is not None
    assert targets.weight_BHW is not None
    assert targets.mask_BHW.tolist() == [[0, IGNORE, IGNORE]]
    assert targets.weight_BHW[0, 0] == 0.5


def test_a_teachers_map_may_have_another_resolution(task: SegmentationTask) -> None:
    labels = mask_labels((8, 8), 3, 0, scored=True)
    targets = task.to_targets(labels, decisions(labels), Geometry.fit((300, 300), (16, 16)))
    assert targets.mask_BHW is not None
    assert np.array_equal(targets.mask_BHW.numpy(), labels.classes_HW.repeat(2, 0).repeat(2, 1))


def test_scores_are_rounded_down_to_64ths(task: SegmentationTask) -> None:
    probability_CHW = torch.tensor([0.4999, 0.5, 0.51, 1.0])[None, None]
    probability_CHW = torch.cat([probability_CHW, 0 * probability_CHW])
    labels = task.as_labels(SegmentationPrediction(probability_CHW, (1, 4)))
    assert labels.scores_HW is not None
    assert (labels.scores_HW * 64).tolist() == [[31, 32, 32, 64]]
    again = task.from_row(task.to_row(labels))
    assert again.scores_HW is not None
    assert again.scores_HW.tolist() == labels.scores_HW.tolist()


def test_a_prediction_leaves_the_empty_canvas_out(task: SegmentationTask) -> None:
    batch = collate([sample(picture((20, 40), 0), (64, 64), "x")])
    with torch.no_grad():
        (found,) = task.predict(nn.Identity(), replace(batch, image_B3HW=float_images(batch.image_B3HW)))
    assert found.probability_CHW.shape == (3, 32, 64)
    assert found.original == (20, 40)
    assert torch.allclose(found.probability_CHW.sum(0), torch.ones(32, 64))


def test_probabilities_of_all_views_are_averaged(task: SegmentationTask) -> None:
    """The model says class 1 on the left half of whatever it sees: mirrored, that is the right half of the picture."""

    class LeftIsOne(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits = torch.zeros(len(images), 3, *images.shape[-2:])
            logits[:, 1, :, : images.shape[-1] // 2] = 8
            return logits

    batch = collate([sample(picture((64, 64), 0), (64, 64), "x")])
    batch = replace(batch, image_B3HW=float_images(batch.image_B3HW))
    (found,) = task.predict(LeftIsOne(), batch, (View(), View(0.5), View(2, flip=True), View(1, flip=True)))
    sure, unsure = float(torch.tensor([0, 8.0, 0]).softmax(0)[1]), 1 / 3
    assert torch.allclose(found.probability_CHW[1, :, 8], torch.tensor((sure + unsure) / 2))
    assert torch.allclose(found.probability_CHW[1, :, 56], torch.tensor((sure + unsure) / 2))
    assert torch.allclose(found.probability_CHW.sum(0), torch.ones(64, 64))


def soft_labels() -> MaskLabels:
    probability_CHW = torch.tensor([[0.5, 0.125, 0.0], [0.25, 0.75, 0.0], [0.25, 0.125, 1.0]])[:, None]
    return SegmentationPrediction(probability_CHW, (1, 3)).labels(top_k=2)


def test_soft_labels_are_the_most_probable_classes(task: SegmentationTask) -> None:
    labels = soft_labels()
    assert labels.classes_HW.tolist() == [[0, 1, 2]]
    assert labels.scores_HW is not None
    assert labels.scores_HW.tolist() == [[0.5, 0.75, 1.0]]
    assert labels.runner_up_scores_KHW is not None
    assert labels.runner_up_scores_KHW.tolist() == [[[0.25, 0.125, 0.0]]]
    more = SegmentationPrediction(torch.rand(3, 4, 4).softmax(0), (4, 4)).labels(top_k=9)
    assert more.runners_up_KHW is not None
    assert more.runners_up_KHW.shape == (2, 4, 4), "there are only three classes"


@pytest.mark.parametrize(
    ("policy", "mask", "weight", "runners_up", "runner_up_weight"),
    [
        (SoftDecision(0.0), [0, 1, 2], [0.5, 0.75, 1], [1, 0, 255], [0.25, 0.125, 0]),
        (SoftDecision(0.6), [255, 1, 2], [0, 0.75, 1], [255, 255, 255], [0, 0, 0]),
        (FixedDecision(0.5, None), [0, 1, 2], [1, 1, 1], [255, 255, 255], [0, 0, 0]),
        # Two classes kept at full weight share the pixel as their scores do.
        (FixedDecision(0.25, None), [0, 1, 2], [2 / 3, 1, 1], [1, 255, 255], [1 / 3, 0, 0]),
    ],
)
def test_soft_targets_by_hand(
    task: SegmentationTask, policy: Policy, mask: Any, weight: Any, runners_up: Any, runner_up_weight: Any
) -> None:
    labels = soft_labels()
    targets = task.to_targets(labels, task.decide(labels, policy), Geometry((1, 3), (1, 4), (1, 3)))
    assert targets.mask_BHW is not None
    assert targets.weight_BHW is not None
    assert targets.runners_up_BKHW is not None
    assert targets.runner_up_weight_BKHW is not None
    assert targets.mask_BHW.tolist() == [[*mask, 255]]
    assert targets.weight_BHW.tolist() == [pytest.approx([*weight, 0])]
    # Which of two equally improbable classes comes next is nobody's business.
    found = torch.where(targets.runner_up_weight_BKHW == 0.25, 1, targets.runners_up_BKHW)
    assert [k == 255 for k in found[0, 0].tolist()] == [k == 255 for k in [*runners_up, 255]]
    assert targets.runner_up_weight_BKHW[0].tolist() == [pytest.approx([*runner_up_weight, 0])]


def test_the_soft_loss_is_the_cross_entropy_of_the_distribution(task: SegmentationTask) -> None:
    logits = draws((2, 3, 1, 1), 3) * 4
    log = functional.log_softmax(logits, 1)[:, :, 0, 0]
    targets = Targets(
        mask_BHW=torch.tensor([0, 2], dtype=torch.uint8)[:, None, None],
        weight_BHW=torch.tensor([0.6, 1.0])[:, None, None],
        runners_up_BKHW=torch.tensor([[1, 2], [255, 255]], dtype=torch.uint8)[:, :, None, None],
        runner_up_weight_BKHW=torch.tensor([[0.3, 0.1], [0, 0]])[:, :, None, None],
    )
    loss = task.losses(logits, targets)["cross_entropy"]
    assert float(loss[0]) == pytest.approx(float(-(0.6 * log[0, 0] + 0.3 * log[0, 1] + 0.1 * log[0, 2])))
    assert float(loss[1]) == pytest.approx(float(-log[1, 2]))
    assert task.counts(targets)["cross_entropy"].tolist() == [1, 1], "a pixel counts once, however many classes it has"


def test_human_and_soft_labels_share_a_batch(task: SegmentationTask) -> None:
    soft = soft_labels()
    geometry = Geometry((1, 3), (1, 3), (1, 3))
    human = task.to_targets(MaskLabels(soft.classes_HW), None, geometry)
    taught = task.to_targets(soft, task.decide(soft, SoftDecision(0.0)), geometry)
    image = np.zeros((1, 3, 3), np.uint8)
    batch = collate([sample(image, (1, 3), "a", targets=human), sample(image, (1, 3), "b", targets=taught)])
    assert batch.targets.runners_up_BKHW is not None
    assert batch.targets.runner_up_weight_BKHW is not None
    assert batch.targets.runners_up_BKHW[0].eq(IGNORE).all()
    assert not batch.targets.runner_up_weight_BKHW[0].any()
    logits = draws((2, 3, 1, 3), 3)
    alone = task.losses(logits[:1], human._map(lambda tensor: tensor[None]))
    assert torch.equal(task.losses(logits, batch.targets)["cross_entropy"][:1], alone["cross_entropy"])


def test_masks_are_written_for_people_and_programs(task: SegmentationTask, tmp_path: Path) -> None:
    labels = MaskLabels(np.array([[0, 2], [IGNORE, 1]], np.uint8))
    path = task.writer(tmp_path).write("deep/a.b", labels, (4, 6), Path("deep/a.b.png"))
    assert path == tmp_path / "deep" / "a.b.png"
    assert read_index_mask(path).tolist() == np.repeat(np.repeat(labels.classes_HW, 2, 0), 3, 1).tolist()
    with Image.open(path) as image:
        assert image.convert("RGB").getpixel((5, 0)) == tuple(palette(3)[2].tolist())


def test_statistics_count_pixels(task: SegmentationTask) -> None:
    found = task.statistics(MaskLabels(np.array([[0, 0, 2, IGNORE]], np.uint8)))
    assert found.histogram_CS.sum(1).tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decoder": {"segmentation_channels": 48}}, "multiple of 32"),
        ({"decoder": {"dropout": 1}}, "less than 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SegmentationConfig.model_validate(settings)


def test_more_classes_than_a_mask_can_hold_are_refused() -> None:
    SegmentationTask(SegmentationConfig(), [str(index) for index in range(255)])
    with pytest.raises(ConfigError, match="names 256 classes; masks hold at most 255, since 255 itself is ignore"):
        SegmentationTask(SegmentationConfig(), [str(index) for index in range(256)])


def test_a_large_photo_counts_as_much_as_a_small_one(task: SegmentationTask) -> None:
    large = task.statistics(MaskLabels(np.zeros((400, 400), np.uint8)), Geometry.fit((400, 400), (32, 32)))
    small = task.statistics(MaskLabels(np.ones((40, 40), np.uint8)), Geometry.fit((40, 40), (32, 32)))
    assert (large + small).density_CS.sum(1).tolist() == [0.5, 0.5, 0]
    dot = np.zeros((400, 400), np.uint8)
    dot[0, 0] = 2
    assert task.statistics(MaskLabels(dot), Geometry.fit((400, 400), (32, 32))).images_C.tolist() == [1, 0, 1]


def test_an_id_that_leads_out_of_the_folder_is_not_written(task: SegmentationTask, tmp_path: Path) -> None:
    writer = task.writer(tmp_path / "masks")
    for id_ in ("../x", "/tmp/../absolute"):
        with pytest.raises(RunError, match="leads out of the folder"):
            writer.write(id_, MaskLabels(np.zeros((2, 2), np.uint8)), (2, 2), Path("a.png"))
    assert not list(tmp_path.rglob("*.png"))


def test_a_drawing_shows_classes_and_hatches_what_is_ignored(task: SegmentationTask) -> None:
    image = np.full((40, 40, 3), 120, np.uint8)
    classes = np.zeros((40, 40), np.uint8)
    classes[:, 20:] = IGNORE
    drawn = task.draw(image, MaskLabels(classes))
    assert (drawn[:, :20] == 48).all(), "black at 60 %"
    assert set(np.unique(drawn[:, 20:])) == {120, 190}


def test_a_drawing_of_a_coarse_map_has_the_images_size(task: SegmentationTask) -> None:
    drawn = task.draw(picture((50, 70), 0), mask_labels((8, 8), 3, 0, scored=True))
    assert drawn.shape == (50, 70, 3)
