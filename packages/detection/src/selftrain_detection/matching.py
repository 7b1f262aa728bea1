"""Which anchor is to predict which object (Zoph et al. 2020, released code; Lin et al. 2017).

* An anchor is *positive*, and is to predict the object it overlaps most, if the two overlap by ``positive_iou`` or
  more. Of objects that it overlaps equally, it takes the first along N.
* With ``force_match`` every object also has the anchor that overlaps it most, however little, as long as they overlap
  at all; of equal ones the first: the finest level, the upper row, the left column. Where several objects want the
  same anchor, it goes to the one that it overlaps most, of equal ones to the first along N; the others do without.
  This comes before the first rule.
* Of the other anchors, two kinds are *ignored* for a region to ignore. First, those that would not be negative if the
  region were the image's only object: they overlap it by ``negative_iou`` or more, or, with ``force_match``, are its
  best. Otherwise a small region, within no half of any anchor, would be background to the anchor that is to predict
  such an object. Second, those with half or more of what the canvas shows of them within the region. What an anchor
  there would predict is most likely in the region, where nobody knows what is right. The share is of the anchor's area,
  as COCO's evaluation measures detections against crowds: a large anchor around a small region can still be wrong about
  the rest of what it covers. What lies outside the canvas does not count: at the border that may be
  more than half of an anchor. Positive anchors stay positive.
* Of the rest, those that overlap every object by less than ``negative_iou`` are *negative*, others ignored.

Boxes without area overlap nothing, and so match nothing. All of it is one computation for the batch, on its device,
without a loop over images; the largest tensors are [B, n, A] floats, three at a time, n being the largest number of
boxes and regions in an image of the batch: 13 MB each for 8 images of 20 boxes and 20,000 anchors, 64 MB for 100 boxes.

The released code differs in two points. An anchor that is the best of several objects goes there to the first of them
along N, however much it overlaps the others. And it knows no regions to ignore: crowds are left out when it trains.

Shape letters: B = images, N = boxes of an image, padded, n = without the padding, A = anchors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from selftrain_core.labels import IGNORE_LABEL, PADDING_LABEL
from selftrain_detection.boxes import areas, clip, intersections, iou_of_intersections
from selftrain_detection.config import MatchingConfig

NEGATIVE, IGNORED_ANCHOR = -1, -2
"""Labels of an anchor that is to predict nothing, and of one that has no loss."""

IGNORED_SHARE = 0.5
"""Share of its area on the canvas, within a region to ignore, from which an anchor has no loss."""


@dataclass(frozen=True)
class Matches:
    """What every anchor is to predict.

    Attributes:
        label_BA: int64, the class of the object, `NEGATIVE` or `IGNORED_ANCHOR`.
        boxes_BA4: float32 xyxy, the box of the object; the anchor itself where there is none.
        weight_BA: float32, what the anchor's losses weigh: the object's weight, 1 if negative, 0 if ignored.
    """

    label_BA: Tensor
    boxes_BA4: Tensor
    weight_BA: Tensor

    @property
    def positive_BA(self) -> Tensor:
        """Bool, whether the anchor has an object."""
        return self.label_BA >= 0


@torch.no_grad()
def match(
    boxes_BN4: Tensor,
    label_BN: Tensor,
    weight_BN: Tensor,
    anchors_A4: Tensor,
    canvas: tuple[int, int],
    config: MatchingConfig,
) -> Matches:
    """Return what every anchor of every image is to predict.

    Args:
        boxes_BN4: float32 xyxy on the canvas.
        label_BN: int64 class indices; −1 = padding, anywhere along N, −2 = region to ignore.
        weight_BN: float32, what each box weighs.
        anchors_A4: float32 xyxy.
        canvas: Its height and width; the boxes lie within it.
        config: The thresholds.
    """
    boxes_Bn4, label_Bn, weight_Bn, any_region = _without_padding(boxes_BN4, label_BN, weight_BN)
    shared_BnA = intersections(boxes_Bn4, anchors_A4)
    iou_BnA = iou_of_intersections(shared_BnA, areas(boxes_Bn4), areas(anchors_A4))
    in_region_BA = None
    if any_region:
        area_A = areas(clip(anchors_A4, *canvas))
        in_region_BA = _in_regions(shared_BnA, iou_BnA, label_Bn == IGNORE_LABEL, area_A, config)
    iou_BnA.masked_fill_((label_Bn < 0)[:, :, None], -1.0)

    best_BA, box_BA = iou_BnA.max(dim=1)
    positive_BA = best_BA >= config.positive_iou
    ignored_BA = best_BA >= config.negative_iou
    if in_region_BA is not None:
        ignored_BA |= in_region_BA
    if config.force_match:
        forced_BA = _forced(iou_BnA)
        positive_BA |= forced_BA >= 0
        box_BA = torch.where(forced_BA >= 0, forced_BA, box_BA)

    other_BA = torch.where(ignored_BA, IGNORED_ANCHOR, NEGATIVE)
    weight_BA = torch.where(positive_BA, weight_Bn.gather(1, box_BA), (~ignored_BA).to(weight_Bn.dtype))
    matched_BA4 = boxes_Bn4.gather(1, box_BA[:, :, None].expand(-1, -1, 4))
    return Matches(
        label_BA=torch.where(positive_BA, label_Bn.gather(1, box_BA), other_BA),
        boxes_BA4=torch.where(positive_BA[:, :, None], matched_BA4, anchors_A4),
        weight_BA=weight_BA,
    )


def _without_padding(boxes_BN4: Tensor, label_BN: Tensor, weight_BN: Tensor) -> tuple[Tensor, Tensor, Tensor, bool]:
    """Return boxes, labels and weights with the padding taken to the end and cut off, and whether there are regions.

    Most images have few boxes, and the work is proportional to their number. The two numbers that are read from the
    device for it are read before the forward pass, while hardly anything waits there.
    """
    used_BN = label_BN != PADDING_LABEL
    largest, any_region = torch.stack([used_BN.sum(1).max(), (label_BN == IGNORE_LABEL).any().long()]).tolist()
    order_Bn = (~used_BN).long().argsort(dim=1, stable=True)[:, : max(1, largest)]
    boxes_Bn4 = boxes_BN4.gather(1, order_Bn[:, :, None].expand(-1, -1, 4))
    return boxes_Bn4, label_BN.gather(1, order_Bn), weight_BN.gather(1, order_Bn), bool(any_region)


def _in_regions(
    shared_BnA: Tensor, iou_BnA: Tensor, is_region_Bn: Tensor, area_A: Tensor, config: MatchingConfig
) -> Tensor:
    """Return which anchors regions to ignore take out, where they predict no object, bool [B, A].

    Args:
        shared_BnA: The area that each box shares with each anchor. It is used up.
        iou_BnA: Of each box and each anchor.
        is_region_Bn: Which of the boxes are regions.
        area_A: Of each anchor, on the canvas.
        config: The thresholds.
    """
    shared_BA = shared_BnA.masked_fill_(~is_region_Bn[:, :, None], 0.0).amax(dim=1)
    # An anchor may lie outside the canvas altogether; half of nothing is within no region.
    in_region_BA = (shared_BA > 0) & (shared_BA >= IGNORED_SHARE * area_A)
    iou_BnA = iou_BnA.masked_fill(~is_region_Bn[:, :, None], -1.0)
    in_region_BA |= iou_BnA.amax(dim=1) >= config.negative_iou
    if config.force_match:
        in_region_BA |= _forced(iou_BnA) >= 0
    return in_region_BA


def _forced(iou_BnA: Tensor) -> Tensor:
    """Return the place along n of the object that has each anchor as its best, int64 [B, A], −1 where none has."""
    num_images, num_boxes, num_anchors = iou_BnA.shape
    best_Bn, anchor_Bn = iou_BnA.max(dim=2)
    place_n = torch.arange(num_boxes, device=iou_BnA.device)
    same_Bnn = anchor_Bn[:, :, None] == anchor_Bn[:, None]
    before_Bnn = (best_Bn[:, None] > best_Bn[:, :, None]) | (
        (best_Bn[:, None] == best_Bn[:, :, None]) & (place_n[None] < place_n[:, None])
    )
    wins_Bn = (best_Bn > 0) & ~(same_Bnn & before_Bnn).any(dim=2)
    # Objects without an anchor write behind the last one, each to a place of its own: what is written twice is random.
    slot_Bn = torch.where(wins_Bn, anchor_Bn, num_anchors + place_n)
    forced = torch.full((num_images, num_anchors + num_boxes), -1, device=iou_BnA.device)
    return forced.scatter_(1, slot_Bn, place_n.expand(num_images, -1))[:, :num_anchors]
