"""RetinaNet's losses: focal loss of the classes, Huber's loss of the boxes (Lin et al. 2017; Zoph et al. 2020).

Per image they are sums over anchors; the objective divides the class loss by ``Σ N_pos + 1`` and the box loss by
``4 · (Σ N_pos + 1)``, N_pos being an image's positive anchors.

Shape letters: B = images, N = boxes of an image, A = anchors, C = classes.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.weak import WeakIdKeyDictionary

from selftrain_core.batch import Targets
from selftrain_core.task_parts import LossTerm
from selftrain_detection.anchors import Anchors
from selftrain_detection.boxes import encode
from selftrain_detection.config import DetectionConfig
from selftrain_detection.matching import Matches, match
from selftrain_detection.model import RetinaNetOutputs


class RetinaNetLoss:
    """The two losses, and what they are divided by.

    A step asks for the counts of its targets and later for the losses. Both need the anchors' matches, which are made
    once: they are remembered for as long as the targets' tensors live, and made anew where one of the tensors is
    another, or was changed in place. Results therefore depend on the arguments alone.

    Args:
        config: The task's settings.
    """

    def __init__(self, config: DetectionConfig) -> None:
        self.config = config
        self.anchors = Anchors(config.anchors)
        self._remembered: WeakIdKeyDictionary = WeakIdKeyDictionary()

    @property
    def terms(self) -> tuple[LossTerm, ...]:
        """The terms of both losses."""
        return (
            LossTerm("class", count_offset=1),
            LossTerm("box", weight=self.config.loss.box_weight, count_scale=4, count_offset=1),
        )

    def counts(self, targets: Targets) -> dict[str, Tensor]:
        """Return the number of positive anchors of each image for both terms, float32 [B].

        A box counts in full however little it weighs, so that a light box is a light one beside others.

        Args:
            targets: With boxes and the canvas.
        """
        positive_B = self.matches(targets).positive_BA.sum(1).float()
        return {"class": positive_B, "box": positive_B}

    def losses(self, outputs: RetinaNetOutputs, targets: Targets) -> dict[str, Tensor]:
        """Return each image's summed losses, floating as the outputs, [B].

        Args:
            outputs: The model's, at the canvas of the targets.
            targets: With boxes and the canvas.
        """
        matches, config = self.matches(targets), self.config.loss
        class_B = focal_loss(
            outputs.logits_BAC, matches.label_BA, matches.weight_BA, config.focal_alpha, config.focal_gamma
        )
        box_B = box_loss(
            outputs.deltas_BA4, matches, outputs.anchors_A4, config.huber_delta, skip_zeros=config.mask_zero_targets
        )
        return {"class": class_B, "box": box_B}

    def matches(self, targets: Targets) -> Matches:
        """Return what every anchor is to predict."""
        boxes_BN4, label_BN, weight_BN, canvas_B2 = (
            targets.boxes_BN4, targets.label_BN, targets.weight_BN, targets.canvas_B2,
        )  # fmt: skip
        assert boxes_BN4 is not None and label_BN is not None and weight_BN is not None and canvas_B2 is not None
        tensors = (boxes_BN4, label_BN, weight_BN, canvas_B2)
        if any(tensor.is_inference() for tensor in tensors):
            return self._match(*tensors)  # such tensors do not know whether they were changed
        remembered: _Remembered | None = self._remembered.get(boxes_BN4)
        if remembered is None or not remembered.is_of(tensors):
            remembered = _Remembered.of(tensors, self._match(*tensors))
            self._remembered[boxes_BN4] = remembered
        return remembered.matches

    def _match(self, boxes_BN4: Tensor, label_BN: Tensor, weight_BN: Tensor, canvas_B2: Tensor) -> Matches:
        # All images of a batch lie on one canvas.
        height, width = canvas_B2[0].tolist()
        anchors_A4 = self.anchors((height, width), boxes_BN4.device)
        return match(boxes_BN4, label_BN, weight_BN, anchors_A4, (height, width), self.config.matching)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_remembered": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _remembered=WeakIdKeyDictionary())


@dataclass(frozen=True)
class _Remembered:
    """Matches, and of which tensors at which state; of them it keeps none alive."""

    references: tuple[weakref.ref[Tensor], ...]
    versions: tuple[int, ...]
    matches: Matches

    @classmethod
    def of(cls, tensors: tuple[Tensor, ...], matches: Matches) -> _Remembered:
        return cls(tuple(map(weakref.ref, tensors)), tuple(tensor._version for tensor in tensors), matches)

    def is_of(self, tensors: tuple[Tensor, ...]) -> bool:
        same = all(reference() is tensor for reference, tensor in zip(self.references, tensors, strict=True))
        return same and self.versions == tuple(tensor._version for tensor in tensors)


def box_loss(
    deltas_BA4: Tensor, matches: Matches, anchors_A4: Tensor, delta: float, *, skip_zeros: bool = False
) -> Tensor:
    """Return Huber's loss of the positive anchors' deltas, weighted and summed over each image, [B].

    An error e costs ½e² up to `delta`, and delta·|e| − ½delta² beyond.

    Args:
        deltas_BA4: The model's.
        matches: What they are to be.
        anchors_A4: float32 xyxy.
        delta: Where the loss goes on evenly.
        skip_zeros: Whether coordinates that are to be exactly 0 have no loss.
    """
    target_BA4 = encode(matches.boxes_BA4, anchors_A4).to(deltas_BA4.dtype)
    taken_BAX = matches.positive_BA[:, :, None]
    if skip_zeros:
        taken_BAX = taken_BAX & (target_BA4 != 0)
    error_BA4 = torch.where(taken_BAX, deltas_BA4 - target_BA4, 0.0)
    loss_BA4 = functional.huber_loss(error_BA4, torch.zeros_like(error_BA4), reduction="none", delta=delta)
    return (loss_BA4.sum(2) * matches.weight_BA).sum(1)


def focal_loss(logits_BAC: Tensor, label_BA: Tensor, weight_BA: Tensor, alpha: float, gamma: float) -> Tensor:
    """Return the focal loss of every class's sigmoid, weighted and summed over each image, floating [B].

    Each of an anchor's C scores p costs ``−α (1 − p)^γ log p`` if it is the anchor's class, else
    ``−(1 − α) p^γ log(1 − p)``.

    Args:
        logits_BAC: The model's.
        label_BA: int64, the anchor's class; if negative, it has none.
        weight_BA: float32, of the anchor's loss; 0 takes it out.
        alpha: In 0..1.
        gamma: ≥ 0.
    """
    loss_B: Tensor = _FocalLoss.apply(logits_BAC, label_BA, weight_BA.to(logits_BAC.dtype), alpha, gamma)
    return loss_B


class _FocalLoss(torch.autograd.Function):
    """Makes the gradient along with the loss: on the way there is a handful of [B, A, C], and one is kept.

    With the sign of the right class's logit turned, every term is ``σ(z)^γ · softplus(z)``, and log σ(z) is
    ``z − softplus(z)``: stable at any z, and neither one-hot classes nor a power of a score are needed.
    """

    @staticmethod
    def forward(
        ctx: Any, logits_BAC: Tensor, label_BA: Tensor, weight_BA: Tensor, alpha: float, gamma: float
    ) -> Tensor:
        positive_BA1 = (label_BA >= 0)[:, :, None]
        class_BA1 = label_BA.clamp(min=0)[:, :, None]
        own_BA1 = logits_BAC.gather(2, class_BA1)
        z_BAC = logits_BAC.scatter(2, class_BA1, torch.where(positive_BA1, -own_BA1, own_BA1))
        softplus_BAC = functional.softplus(z_BAC)
        log_BAC = z_BAC.sub_(softplus_BAC)  # log σ(z)
        power_BAC = (log_BAC * gamma).exp_()
        weight_BA1 = weight_BA[:, :, None]
        # The right class counts α, every other 1 − α.
        extra_BA1 = weight_BA1 * positive_BA1 * (2 * alpha - 1)
        term_BAC = power_BAC * softplus_BAC
        loss_BA1 = (1 - alpha) * weight_BA1 * term_BAC.sum(2, keepdim=True) + extra_BA1 * term_BAC.gather(2, class_BA1)
        if ctx.needs_input_grad[0]:
            score_BAC = log_BAC.exp_()
            # d/dz σ^γ·softplus = σ^γ · (γ (1 − σ) softplus + σ)
            slope_BAC = term_BAC.mul_(gamma).addcmul_(term_BAC, score_BAC, value=-1)
            slope_BAC.addcmul_(power_BAC, score_BAC)
            own_BA1 = slope_BAC.gather(2, class_BA1)
            slope_BAC.mul_((1 - alpha) * weight_BA1)
            turned_BA1 = torch.where(positive_BA1, -alpha * weight_BA1 * own_BA1, slope_BAC.gather(2, class_BA1))
            ctx.save_for_backward(slope_BAC.scatter_(2, class_BA1, turned_BA1))
        return loss_BA1.sum((1, 2))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_B: Tensor) -> tuple[Tensor | None, ...]:
        (slope_BAC,) = ctx.saved_tensors
        return slope_BAC * gradient_B[:, None, None], None, None, None, None
