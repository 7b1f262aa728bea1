"""The losses, against loops and against torchvision."""

import copy
import gc
import math
import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor

from selftrain_core.batch import Targets
from selftrain_core.testing.samples import draws
from selftrain_detection import losses as losses_module
from selftrain_detection.anchors import Anchors
from selftrain_detection.config import AnchorConfig, DetectionConfig, LossConfig
from selftrain_detection.losses import RetinaNetLoss, focal_loss
from selftrain_detection.matching import Matches, match
from selftrain_detection.model import RetinaNetOutputs

CANVAS = (64, 96)
CONFIG = DetectionConfig(anchors=AnchorConfig(num_scales=1))
NUM_ANCHORS, NUM_CLASSES = 3 * (96 + 24 + 6 + 2 + 1), 4


def targets(num_images: int = 3, num_boxes: int = 6) -> Targets:
    corners_BN2 = draws((num_images, num_boxes, 2), 1) * 50
    return Targets(
        boxes_BN4=torch.cat([corners_BN2, corners_BN2 + 10 + 30 * draws((num_images, num_boxes, 2), 2)], 2),
        label_BN=(draws((num_images, num_boxes), 3) * (NUM_CLASSES + 2)).long() - 2,
        weight_BN=0.25 + draws((num_images, num_boxes), 4),
        canvas_B2=torch.tensor([CANVAS] * num_images),
    )


def outputs(num_images: int = 3) -> RetinaNetOutputs:
    shape = (num_images, NUM_ANCHORS)
    return RetinaNetOutputs(
        (6 * draws((*shape, NUM_CLASSES), 5).double() - 4).requires_grad_(),
        (draws((*shape, 4), 6).double() - 0.5).requires_grad_(),
        Anchors(CONFIG.anchors)(CANVAS),
    )


def slow_class(logits_AC: Tensor, labels: list[int], weights: list[float], alpha: float, gamma: float) -> float:
    total = 0.0
    for logits, label, weight in zip(logits_AC.tolist(), labels, weights, strict=True):
        for number, logit in enumerate(logits):
            score = 1 / (1 + math.exp(-logit))
            if number == label:
                total -= weight * alpha * (1 - score) ** gamma * math.log(score)
            else:
                total -= weight * (1 - alpha) * score**gamma * math.log(1 - score)
    return total


def slow_box(deltas_A4: Tensor, matches: Matches, image: int, anchors_A4: Tensor, huber: float, skip: bool) -> float:
    total = 0.0
    for place, (x0, y0, x1, y1) in enumerate(anchors_A4.double().tolist()):
        if matches.label_BA[image, place] < 0:
            continue
        left, top, right, bottom = matches.boxes_BA4[image, place].double().tolist()
        wide, high = x1 - x0, y1 - y0
        wanted = [
            ((left + right) / 2 - (x0 + x1) / 2) / wide, ((top + bottom) / 2 - (y0 + y1) / 2) / high,
            math.log((right - left) / wide), math.log((bottom - top) / high),
        ]  # fmt: skip
        for delta, want in zip(deltas_A4[place].tolist(), wanted, strict=True):
            error = abs(delta - want)
            loss = error**2 / 2 if error <= huber else huber * error - huber**2 / 2
            total += 0.0 if skip and want == 0 else loss * float(matches.weight_BA[image, place])
    return total


def test_as_the_loops_say() -> None:
    given, found_outputs = targets(), outputs()
    loss = RetinaNetLoss(CONFIG)
    matches = loss.matches(given)
    found, counts = loss.losses(found_outputs, given), loss.counts(given)
    assert {-2, -1, 0, 3} <= set(matches.label_BA.flatten().tolist())
    for image in range(3):
        labels, weights = matches.label_BA[image].tolist(), matches.weight_BA[image].tolist()
        expected = slow_class(found_outputs.logits_BAC[image], labels, weights, 0.25, 1.5)
        assert found["class"][image].item() == pytest.approx(expected, rel=1e-8)
        expected = slow_box(found_outputs.deltas_BA4[image], matches, image, found_outputs.anchors_A4, 0.1, False)
        assert found["box"][image].item() == pytest.approx(expected, rel=1e-5)
        positive = sum(label >= 0 for label in labels)
        assert counts["class"][image] == counts["box"][image] == positive
    assert counts["class"].dtype == torch.float32


def test_the_terms_are_the_papers() -> None:
    terms = RetinaNetLoss(DetectionConfig()).terms
    assert [(t.name, t.weight, t.count_scale, t.count_offset) for t in terms] == [
        ("class", 1, 1, 1), ("box", 50, 4, 1),
    ]  # fmt: skip


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 1.5), (0.25, 2.0), (0.6, 0.0), (0.5, 0.5)])
def test_focal_loss_is_torchvisions(alpha: float, gamma: float) -> None:
    logits_BAC = (12 * draws((2, 40, 5), 1).double() - 6).requires_grad_()
    label_BA = (draws((2, 40), 2) * 7).long() - 2
    weight_BA = draws((2, 40), 3).masked_fill(label_BA == -2, 0.0)
    upstream_B = torch.tensor([0.3, 2.0], dtype=torch.float64)
    onehot_BAC = torch.nn.functional.one_hot(label_BA.clamp(min=-1) + 1, 6)[:, :, 1:].double()
    expected_BAC = torchvision.ops.sigmoid_focal_loss(logits_BAC, onehot_BAC, alpha, gamma)
    expected_B = (expected_BAC.sum(2) * weight_BA).sum(1)
    found_B = focal_loss(logits_BAC, label_BA, weight_BA, alpha, gamma)
    torch.testing.assert_close(found_B, expected_B)
    (found,) = torch.autograd.grad(found_B, logits_BAC, upstream_B)
    (expected,) = torch.autograd.grad(expected_B, logits_BAC, upstream_B)
    torch.testing.assert_close(found, expected)


def test_the_gradient_is_that_of_the_loss() -> None:
    logits_BAC = (8 * draws((2, 5, 3), 1).double() - 4).requires_grad_()
    label_BA, weight_BA = torch.tensor([[0, 2, -1, -2, 1]] * 2), torch.tensor([[1.0, 0.5, 1.0, 0.0, 2.0]] * 2)
    assert torch.autograd.gradcheck(
        lambda logits: focal_loss(logits, label_BA, weight_BA.double(), 0.25, 1.5), (logits_BAC,)
    )


@pytest.mark.parametrize("size", [30.0, 100.0, 1e4])
def test_extreme_logits_have_finite_losses_and_gradients(size: float) -> None:
    logits_BAC = torch.tensor([[[size, -size], [-size, size], [size, size], [-size, -size]]], requires_grad=True)
    loss_B = focal_loss(logits_BAC, torch.tensor([[0, 0, -1, 1]]), torch.ones(1, 4), 0.25, 1.5)
    (gradient,) = torch.autograd.grad(loss_B.sum(), logits_BAC)
    # A wrong score costs its logit, a right one nothing.
    expected = size * (0.75 * (1 + 1 + 1) + 0.25 * (1 + 1))
    assert loss_B.item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(gradient, torch.tensor([[[0, 0], [-0.25, 0.75], [0.75, 0.75], [0, -0.25]]]))


def test_the_input_is_left_alone() -> None:
    logits_BAC = draws((1, 6, 3), 1).requires_grad_()
    before = logits_BAC.detach().clone()
    loss_B = focal_loss(logits_BAC, torch.tensor([[0, 1, 2, -1, -2, -1]]), torch.ones(1, 6), 0.25, 1.5)
    loss_B.sum().backward()
    assert torch.equal(logits_BAC.detach(), before)


def test_zero_targets_may_be_left_out() -> None:
    """An object that is an anchor: with the released code's rule nothing of it is learnt."""
    anchors_A4 = Anchors(CONFIG.anchors)(CANVAS)
    boxes_BN4 = torch.stack([anchors_A4[30], anchors_A4[60] + torch.tensor([2.0, 0.0, 2.0, 0.0])])[None]
    given = Targets(
        boxes_BN4=boxes_BN4, label_BN=torch.tensor([[0, 1]]), weight_BN=torch.ones(1, 2),
        canvas_B2=torch.tensor([CANVAS]),
    )  # fmt: skip
    found_outputs, found = outputs(1), []
    for skip in (False, True):
        loss = RetinaNetLoss(
            DetectionConfig(anchors=CONFIG.anchors, loss=LossConfig(mask_zero_targets=skip), matching=CONFIG.matching)
        )
        expected = slow_box(found_outputs.deltas_BA4[0], loss.matches(given), 0, anchors_A4, 0.1, skip)
        found.append(loss.losses(found_outputs, given)["box"].item())
        assert found[-1] == pytest.approx(expected, rel=1e-5)
    assert found[1] < found[0]


def test_without_boxes_there_is_no_box_loss_but_a_gradient() -> None:
    given = replace(targets(), label_BN=torch.full((3, 6), -1))
    loss, found_outputs = RetinaNetLoss(CONFIG), outputs()
    found = loss.losses(found_outputs, given)
    assert found["box"].tolist() == [0, 0, 0] and (found["class"] > 0).all()
    assert loss.counts(given)["box"].tolist() == [0, 0, 0]
    (found["box"].sum() + found["class"].sum()).backward()
    assert found_outputs.deltas_BA4.grad is not None and not found_outputs.deltas_BA4.grad.any()
    assert found_outputs.logits_BAC.grad is not None and (found_outputs.logits_BAC.grad > 0).all()


def test_everything_ignored_has_no_loss() -> None:
    given = replace(
        targets(), boxes_BN4=torch.tensor([-999.0, -999, 999, 999]).expand(3, 6, 4), label_BN=torch.full((3, 6), -2)
    )
    found_outputs = outputs()
    found = RetinaNetLoss(CONFIG).losses(found_outputs, given)
    assert not found["class"].any() and not found["box"].any()
    found["class"].sum().backward()
    assert found_outputs.logits_BAC.grad is not None and not found_outputs.logits_BAC.grad.any()


def test_an_image_does_not_change_another() -> None:
    given, found_outputs, loss = targets(), outputs(), RetinaNetLoss(CONFIG)
    whole, counts = loss.losses(found_outputs, given), loss.counts(given)
    for chosen in ([1], [2, 0]):
        part_targets = given._map(lambda tensor, chosen=chosen: tensor[chosen])  # type: ignore[misc]
        part = loss.losses(
            replace(
                found_outputs, logits_BAC=found_outputs.logits_BAC[chosen], deltas_BA4=found_outputs.deltas_BA4[chosen]
            ),
            part_targets,
        )
        for name in whole:
            torch.testing.assert_close(part[name], whole[name][chosen], rtol=1e-12, atol=0)
            assert torch.equal(loss.counts(part_targets)[name], counts[name][chosen])


class Counting:
    """Counts the matchings made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made = 0
        monkeypatch.setattr(losses_module, "match", self)

    def __call__(self, *arguments: Any) -> Matches:
        self.made += 1
        return match(*arguments)


def test_a_step_matches_each_batch_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts of all micro-batches first, then the losses of each."""
    counting, loss = Counting(monkeypatch), RetinaNetLoss(CONFIG)
    batches = [targets(), targets(2), targets(1)]
    for each in batches:
        loss.counts(each)
    for each in batches:
        loss.losses(outputs(len(each.label_BN)), each)  # type: ignore[arg-type]
    assert counting.made == 3
    loss.counts(replace(batches[0]))
    assert counting.made == 3  # the same tensors


@pytest.mark.parametrize("name", ["boxes_BN4", "label_BN", "weight_BN", "canvas_B2"])
def test_other_targets_are_matched_anew(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counting, loss, given = Counting(monkeypatch), RetinaNetLoss(CONFIG), targets()
    loss.counts(given)
    loss.counts(replace(given, **{name: getattr(given, name).clone()}))
    assert counting.made == 2


@pytest.mark.parametrize("name", ["boxes_BN4", "label_BN", "weight_BN", "canvas_B2"])
def test_targets_changed_in_place_are_matched_anew(name: str) -> None:
    loss, given = RetinaNetLoss(CONFIG), targets()
    loss.matches(given)
    getattr(given, name).copy_(getattr(given, name).flip(-1))
    fresh = RetinaNetLoss(CONFIG).matches(given)
    assert all(torch.equal(one, other) for one, other in zip(*map(_values, (loss.matches(given), fresh)), strict=True))


def test_inference_mode_remembers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    counting, loss = Counting(monkeypatch), RetinaNetLoss(CONFIG)
    with torch.inference_mode():
        given = targets()
        first, second = loss.counts(given), loss.counts(given)
    assert counting.made == 2 and torch.equal(first["box"], second["box"])


def test_matches_are_forgotten_with_their_targets() -> None:
    loss, given = RetinaNetLoss(CONFIG), targets()
    loss.counts(given)
    assert len(loss._remembered) == 1
    del given
    gc.collect()
    assert len(loss._remembered) == 0


def test_it_pickles_and_copies_without_what_it_remembers() -> None:
    loss, given = RetinaNetLoss(CONFIG), targets()
    expected = loss.counts(given)
    for again in (pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss)):
        assert len(again._remembered) == 0
        assert torch.equal(again.counts(given)["class"], expected["class"])


def test_no_gradient_is_kept_where_none_is_wanted() -> None:
    with torch.no_grad():
        loss_B = focal_loss(draws((1, 3, 2), 1), torch.tensor([[0, -1, 1]]), torch.ones(1, 3), 0.25, 1.5)
    assert not loss_B.requires_grad


def _values(matches: Matches) -> list[Tensor]:
    return list(vars(matches).values())
