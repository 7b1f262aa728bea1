"""The suites of tasks: each check fails for a component that breaks what it checks."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from selftrain_core.batch import Batch, Targets
from selftrain_core.config_model import StrictModel
from selftrain_core.geometry import Geometry
from selftrain_core.interfaces import LossTerm, Policy
from selftrain_core.labels import KEEP, Decisions, Labels, MaskLabels, ScoreStatistics
from selftrain_core.testing import (
    TaskContract,
)
from selftrain_core.testing.component import ComponentContract, checks, run_check
from selftrain_core.testing.fakes import ArrayWriter, PixelPrediction, PixelTask
from selftrain_core.testing.samples import mask_labels
from selftrain_core.views import PLAIN_VIEW, View

CASES: list[tuple[type[ComponentContract], str, str, type]] = []
"""(suite, check, what its message says, a component that breaks what it checks)."""


def breaks(suite: type[ComponentContract], check: str, match: str) -> Callable[[type], type]:
    def add(broken: type) -> type:
        CASES.append((suite, check, match, broken))
        return broken

    return add


class TaskSuite(TaskContract):
    def labels(self, size: tuple[int, int], seed: int, *, scored: bool) -> Labels:
        return mask_labels(size, len(self.classes), seed, scored=scored)

    def perfect_prediction(self, labels: Labels, size: tuple[int, int]) -> PixelPrediction:
        assert isinstance(labels, MaskLabels)
        classes = torch.arange(len(self.classes))[:, None, None]
        return PixelPrediction((torch.from_numpy(labels.classes_HW)[None] == classes).float(), size)


@breaks(TaskSuite, "test_describes_itself", "terms need distinct names")
class TwinTerms(PixelTask):
    terms = (LossTerm("pixels"), LossTerm("pixels"))


@breaks(TaskSuite, "test_is_sent_to_worker_processes", "does not survive pickling")
class ForgetsClasses(PixelTask):
    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config, "classes": ()}


@breaks(TaskSuite, "test_counts", r"terms \['pixels'\]")
class OtherCounts(PixelTask):
    def counts(self, targets: Targets) -> dict[str, Tensor]:
        return {"boxes": super().counts(targets)["pixels"]}


@breaks(TaskSuite, "test_losses", r"have shape \(\), expected \(4,\)")
class SummedLoss(PixelTask):
    def losses(self, outputs: Tensor, targets: Targets) -> dict[str, Tensor]:
        return {"pixels": super().losses(outputs, targets)["pixels"].sum()}


@breaks(TaskSuite, "test_losses", "no gradient")
class DetachedLoss(PixelTask):
    def losses(self, outputs: Tensor, targets: Targets) -> dict[str, Tensor]:
        return {"pixels": super().losses(outputs, targets)["pixels"].detach()}


@breaks(TaskSuite, "test_losses_are_per_image", "loss 'pixels' of images")
class MixesImages(PixelTask):
    def losses(self, outputs: Tensor, targets: Targets) -> dict[str, Tensor]:
        loss_B = super().losses(outputs, targets)["pixels"]
        return {"pixels": loss_B / loss_B.sum()}


@breaks(TaskSuite, "test_everything_ignored", "not finite")
class DividesByNothing(PixelTask):
    def losses(self, outputs: Tensor, targets: Targets) -> dict[str, Tensor]:
        return {"pixels": super().losses(outputs, targets)["pixels"] / self.counts(targets)["pixels"]}


class RootOfZero(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * float("nan")


@breaks(TaskSuite, "test_gradients", "the gradient of .* is not finite")
class NanGradient(PixelTask):
    def losses(self, outputs: Tensor, targets: Targets) -> dict[str, Tensor]:
        return {"pixels": RootOfZero.apply(super().losses(outputs, targets)["pixels"])}


@breaks(TaskSuite, "test_predict_in_threads", "predictions of several threads")
class KeepsTheBatch(PixelTask):
    def predict(self, model: nn.Module, batch: Batch, views: Sequence[View] = PLAIN_VIEW) -> list[PixelPrediction]:
        self.batch = batch
        time.sleep(0.02)  # in which other threads come by
        return super().predict(model, self.batch, views)


@breaks(TaskSuite, "test_predict", "3 predictions of 4 images")
class ForgetsAnImage(PixelTask):
    def predict(self, model: nn.Module, batch: Batch, views: Sequence[View] = PLAIN_VIEW) -> list[PixelPrediction]:
        return super().predict(model, batch, views)[1:]


@breaks(TaskSuite, "test_predict", "changes the model's mode")
class ChangesMode(PixelTask):
    def predict(self, model: nn.Module, batch: Batch, views: Sequence[View] = PLAIN_VIEW) -> list[PixelPrediction]:
        return super().predict(model.eval(), batch, views)


@breaks(TaskSuite, "test_predict", "moves a random generator")
class MovesGenerator(PixelTask):
    def predict(self, model: nn.Module, batch: Batch, views: Sequence[View] = PLAIN_VIEW) -> list[PixelPrediction]:
        random.random()
        return super().predict(model, batch, views)


@breaks(TaskSuite, "test_views", "the views change no prediction")
class LooksOnce(PixelTask):
    def predict(self, model: nn.Module, batch: Batch, views: Sequence[View] = PLAIN_VIEW) -> list[PixelPrediction]:
        return super().predict(model, batch)


@breaks(TaskSuite, "test_views", "12 predictions of 4 images seen in three ways")
class AnswersEachView(PixelTask):
    def predict(self, model: nn.Module, batch: Batch, views: Sequence[View] = PLAIN_VIEW) -> list[PixelPrediction]:
        return [found for view in views for found in super(AnswersEachView, self).predict(model, batch, (view,))]


@breaks(TaskSuite, "test_labels_at_the_images_own_size", "has a map of")
class StaysOnTheCanvas(PixelTask):
    def at_original(self, prediction: PixelPrediction) -> MaskLabels:
        return self.as_labels(prediction)


class Forgetful(ArrayWriter):
    def write(self, id_: str, labels: MaskLabels, original: tuple[int, int], image: Path) -> Path:
        return self.folder / id_


@breaks(TaskSuite, "test_labels_at_the_images_own_size", "which is not there")
class WritesNothing(PixelTask):
    def writer(self, folder: Path) -> ArrayWriter:
        return Forgetful(folder)


@breaks(TaskSuite, "test_row_round_trip", "labels read back from a row")
class LosesScores(PixelTask):
    def from_row(self, row: Mapping[str, Any]) -> MaskLabels:
        labels = super().from_row(row)
        assert labels.scores_HW is not None
        return MaskLabels(labels.classes_HW, np.ones_like(labels.scores_HW))


@breaks(TaskSuite, "test_row_round_trip", r"row_schema names \['classes'\]")
class NarrowSchema(PixelTask):
    def row_schema(self) -> pa.Schema:
        return pa.schema([("classes", pa.binary())])


@breaks(TaskSuite, "test_row_round_trip", r"columns \['id'\] belong to the store")
class TakesStoreColumn(PixelTask):
    def row_schema(self) -> pa.Schema:
        return super().row_schema().append(pa.field("id", pa.string()))


@breaks(TaskSuite, "test_targets_have_fixed_shapes", "targets of .* are")
class RaggedTargets(PixelTask):
    def to_targets(self, labels: Any, decisions: Any, geometry: Any) -> Targets:
        found = super().to_targets(labels, decisions, geometry)
        assert found.mask_BHW is not None
        return replace(found, mask_BHW=found.mask_BHW[: geometry.valid[0]])


@breaks(TaskSuite, "test_decisions_are_honoured", "with every label IGNORED")
class KeepsEverything(PixelTask):
    def apply(self, labels: MaskLabels, decisions: Decisions) -> MaskLabels:
        return labels


@breaks(TaskSuite, "test_decisions_are_honoured", "weight of a label changes no loss")
class IgnoresWeights(PixelTask):
    def losses(self, outputs: Tensor, targets: Targets) -> dict[str, Tensor]:
        assert targets.weight_BHW is not None
        return super().losses(outputs, replace(targets, weight_BHW=torch.ones_like(targets.weight_BHW)))


@breaks(TaskSuite, "test_apply", "labels after apply")
class AppliesInPlace(PixelTask):
    def apply(self, labels: MaskLabels, decisions: Decisions) -> MaskLabels:
        found = super().apply(labels, decisions)
        labels.classes_HW[...] = found.classes_HW
        return found


@breaks(TaskSuite, "test_apply", "takes nothing out")
class AppliesNothing(KeepsEverything): ...


@breaks(TaskSuite, "test_decide", "does not hand on")
class DecidesItself(PixelTask):
    def decide(self, labels: MaskLabels, policy: Policy) -> Decisions:
        decided = super().decide(labels, policy)
        return Decisions(np.full_like(decided.actions, KEEP), decided.weights)


@breaks(TaskSuite, "test_decide", r"decisions have shape \(1,\)")
class DecidesOnce(PixelTask):
    def decide(self, labels: MaskLabels, policy: Policy) -> Decisions:
        assert labels.scores_HW is not None
        return policy(labels.scores_HW.mean(keepdims=True)[0], labels.classes_HW[0, :1])


@breaks(TaskSuite, "test_statistics", "disagree")
class BadStatistics(PixelTask):
    def statistics(self, labels: MaskLabels, geometry: Geometry | None = None) -> ScoreStatistics:
        found = super().statistics(labels, geometry)
        return replace(found, images_C=np.zeros_like(found.images_C))


class Score:
    def __init__(self, scores: dict[str, float]) -> None:
        self.scores = scores

    def update(self, prediction: PixelPrediction, truth: MaskLabels) -> None: ...

    def compute(self) -> dict[str, float]:
        return self.scores


@breaks(TaskSuite, "test_metric", "not 'accuracy'")
class OtherMetric(PixelTask):
    def metric(self, device: torch.device) -> Any:
        return Score({"miou": 1.0})


@breaks(TaskSuite, "test_perfect_prediction", "a perfect prediction scores 1")
class PoorMetric(PixelTask):
    def metric(self, device: torch.device) -> Any:
        return Score({"accuracy": 1.0})


@breaks(TaskSuite, "test_draw", "draw changes its input")
class DrawsInPlace(PixelTask):
    def draw(self, image_HW3: Any, labels: MaskLabels) -> Any:
        image_HW3[0] = 0
        return super().draw(image_HW3, labels)


@breaks(TaskSuite, "test_legend", "the legend names")
class NamelessColours(PixelTask):
    def legend(self) -> list[tuple[str, tuple[int, int, int]]]:
        return [("", colour) for _, colour in super().legend()]


@breaks(TaskSuite, "test_legend", "the colour of 'background' is")
class BrightColours(PixelTask):
    def legend(self) -> list[tuple[str, tuple[int, int, int]]]:
        return [(name, (256, 0, 0)) for name, _ in super().legend()]


@breaks(TaskSuite, "test_draw", "drawing: ")
class DrawsTranspose(PixelTask):
    def draw(self, image_HW3: Any, labels: MaskLabels) -> Any:
        return super().draw(image_HW3, labels)[1:]


SOUND: dict[type[ComponentContract], tuple[type, type[BaseModel]]] = {TaskSuite: (PixelTask, StrictModel)}


@pytest.mark.parametrize(
    ("suite", "check", "match", "broken"), CASES, ids=[f"{check}-{broken.__name__}" for _, check, _, broken in CASES]
)
def test_check_fails_for_a_broken_component(
    suite: type[ComponentContract], check: str, match: str, broken: type
) -> None:
    with pytest.raises(AssertionError, match=match):
        run_check(suite, check, broken, SOUND[suite][1])


@pytest.mark.parametrize(("suite", "check"), [(suite, check) for suite in SOUND for check in checks(suite)])
def test_check_passes_for_a_sound_component(suite: type[ComponentContract], check: str) -> None:
    run_check(suite, check, *SOUND[suite])


def test_every_check_has_a_broken_component() -> None:
    own = {(suite, check) for suite in SOUND for check in checks(suite) if check not in checks(ComponentContract)}
    assert own == {(suite, check) for suite, check, _, _ in CASES}
