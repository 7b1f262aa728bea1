"""The suites of policies, data sources and accelerators: each check fails for what breaks it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import BaseModel
from torch import nn

from selftrain_core.accelerators import CpuAccelerator
from selftrain_core.config_model import StrictModel
from selftrain_core.data_source import Entry
from selftrain_core.errors import ConfigError
from selftrain_core.interfaces import Policy
from selftrain_core.labels import BoxLabels, ClassLabels, Decisions, Labels, MaskLabels, ScoreStatistics
from selftrain_core.policies import FixedDecision, FixedPolicy
from selftrain_core.policy_config import FixedPolicyConfig
from selftrain_core.sources import ImageFolder, ImageFolderConfig
from selftrain_core.testing import (
    AcceleratorContract,
    DataSourceContract,
    PolicyContract,
)
from selftrain_core.testing.component import ComponentContract, checks, run_check
from selftrain_core.testing.samples import box_labels, class_labels, write_images, write_masks

CASES: list[tuple[type[ComponentContract], str, str, type]] = []
"""(suite, check, what its message says, a component that breaks what it checks)."""


def breaks(suite: type[ComponentContract], check: str, match: str) -> Callable[[type], type]:
    def add(broken: type) -> type:
        CASES.append((suite, check, match, broken))
        return broken

    return add


class SourceSuite(DataSourceContract):
    def write(self, folder: Path) -> dict[str, Any]:
        write_images(folder / "images", ["a", "b", "c"])
        write_masks(folder / "masks", ["a", "b", "c"], 3)
        return {"images": str(folder / "images")}


@dataclass(frozen=True)
class Rule(FixedDecision):
    threshold: float = 0.5
    ignore_above: float | None = None


def policy_of(rule: Callable[[], Any]) -> type:
    class Broken(FixedPolicy):
        def fit(self, store: ScoreStatistics, labelled: ScoreStatistics) -> Policy:
            found: Policy = rule()
            return found

    return Broken


@dataclass(frozen=True)
class Flat(Rule):
    def __call__(self, scores: Any, labels: Any) -> Decisions:
        return super().__call__(scores.reshape(-1), labels.reshape(-1))


@dataclass(frozen=True)
class NegativeWeights(Rule):
    def __call__(self, scores: Any, labels: Any) -> Decisions:
        return Decisions(super().__call__(scores, labels).actions, (scores - 0.5).astype(np.float32))


@dataclass(frozen=True)
class OtherActions(Rule):
    def __call__(self, scores: Any, labels: Any) -> Decisions:
        found = super().__call__(scores, labels)
        return Decisions(found.actions * 2, found.weights)


@dataclass(frozen=True)
class Relative(Rule):
    def __call__(self, scores: Any, labels: Any) -> Decisions:
        return super().__call__(scores / scores.max(initial=1e-9), labels)


@dataclass(frozen=True)
class PolicyInPlace(Rule):
    def __call__(self, scores: Any, labels: Any) -> Decisions:
        labels[...] = 0
        return super().__call__(scores, labels)


class ForgetsThreshold(FixedDecision):
    def __reduce__(self) -> Any:
        return ForgetsThreshold, (0.9, None)


class Moody:
    calls = 0

    def __call__(self, scores: Any, labels: Any) -> Decisions:
        Moody.calls += 1
        return FixedDecision(0.2 + 0.2 * (Moody.calls % 3), None)(scores, labels)


class Overstates(FixedPolicy):
    def least(self) -> float:
        return 0.9


class NeedsPredictions(FixedPolicy):
    def fit(self, store: ScoreStatistics, labelled: ScoreStatistics) -> Policy:
        weight = store.images_C.sum() / np.float64(store.num_images) if store.num_images else np.nan

        def rule(scores: Any, labels: Any) -> Decisions:
            return Decisions(np.ones(scores.shape, np.int8), np.full(scores.shape, weight, np.float32))

        return rule


CASES += [
    (PolicyContract, "test_any_shape", r"scores of shape \(5, 6\) give decisions of shape", policy_of(Flat)),
    (PolicyContract, "test_values", "weights are", policy_of(NegativeWeights)),
    (PolicyContract, "test_values", "actions are", policy_of(OtherActions)),
    (PolicyContract, "test_least", "below least", Overstates),
    (PolicyContract, "test_elementwise", "the decision on element", policy_of(Relative)),
    (PolicyContract, "test_inputs_are_not_changed", "scores and labels after", policy_of(PolicyInPlace)),
    (
        PolicyContract,
        "test_is_sent_to_worker_processes",
        "after pickling",
        policy_of(lambda: ForgetsThreshold(0.1, None)),
    ),
    (PolicyContract, "test_fit_is_a_function_of_the_statistics", "a second fit's decisions", policy_of(Moody)),
    (PolicyContract, "test_no_predictions", "weights are", NeedsPredictions),
]


class Masks(ImageFolder):
    """Passes."""

    def read_labels(self, entry: Entry) -> Labels:
        with Image.open(self.config.images.parent / "masks" / f"{entry.id}.png") as mask:
            return MaskLabels(np.array(mask))


@breaks(SourceSuite, "test_scan", "yields an id twice")
class YieldsTwice(Masks):
    def scan(self) -> Iterator[Entry]:
        yield from super().scan()
        yield from super().scan()


@breaks(SourceSuite, "test_scan", "images that do not exist")
class YieldsGhosts(Masks):
    def scan(self) -> Iterator[Entry]:
        yield from super().scan()
        yield Entry("ghost", self.config.images / "ghost.png")


@breaks(SourceSuite, "test_scan_has_one_order", "a second scan yields another list")
class AnyOrder(Masks):
    turn = 0

    def scan(self) -> Iterator[Entry]:
        self.turn += 1
        yield from list(super().scan())[:: 1 if self.turn % 2 else -1]


@breaks(SourceSuite, "test_scan_opens_no_image", "scan opens an image")
class OpensImages(Masks):
    def scan(self) -> Iterator[Entry]:
        for entry in super().scan():
            with Image.open(entry.path):
                yield entry


@breaks(SourceSuite, "test_labels_fit_their_image", r"the mask is \(20, 29\), its image \(20, 30\)")
class WrongSize(Masks):
    def read_labels(self, entry: Entry) -> Labels:
        labels = super().read_labels(entry)
        assert isinstance(labels, MaskLabels)
        return MaskLabels(labels.classes_HW[:, 1:])


@breaks(SourceSuite, "test_labels_fit_their_image", "boxes leave the image")
class WrongBoxes(Masks):
    def read_labels(self, entry: Entry) -> Labels:
        return box_labels((60, 60), 3, 0, scored=False)


@breaks(SourceSuite, "test_labels_fit_their_image", "a class is out of range")
class ClassOutOfRange(Masks):
    def read_labels(self, entry: Entry) -> Labels:
        labels = box_labels((10, 10), 3, 0, scored=False)
        return BoxLabels(labels.boxes_N4, labels.labels_N + 3)


@breaks(SourceSuite, "test_labels_fit_their_image", r"labels are int32 \(3,\), expected int64 \(3,\)")
class NarrowLabels(Masks):
    def read_labels(self, entry: Entry) -> Labels:
        labels = box_labels((10, 10), 3, 0, scored=False)
        return BoxLabels(labels.boxes_N4, labels.labels_N.astype(np.int32))


@breaks(SourceSuite, "test_labels_fit_their_image", "areas are")
class NoAreas(Masks):
    def read_labels(self, entry: Entry) -> Labels:
        labels = box_labels((10, 10), 3, 0, scored=False)
        return BoxLabels(labels.boxes_N4, labels.labels_N, areas_N=np.zeros(3, np.float32))


@breaks(SourceSuite, "test_labels_fit_their_image", "a person's boxes have scores")
class Scored(Masks):
    def read_labels(self, entry: Entry) -> Labels:
        return box_labels((10, 10), 3, 0, scored=True)


@breaks(SourceSuite, "test_labels_fit_their_image", r"the class is int64 \(\), expected int64 \(1,\)")
class ClassWithoutAxis(Masks):
    def read_labels(self, entry: Entry) -> Labels:
        return ClassLabels(np.array(1, np.int64))


@breaks(SourceSuite, "test_labels_fit_their_image", "a person's class has a score")
class ScoredClass(Masks):
    def read_labels(self, entry: Entry) -> Labels:
        return class_labels(3, 0, scored=True)


@breaks(SourceSuite, "test_labels_fit_their_image", "a class is out of range")
class ImageClassOutOfRange(Masks):
    def read_labels(self, entry: Entry) -> Labels:
        return ClassLabels(np.array([3], np.int64))


@breaks(SourceSuite, "test_remarks", r"remarks on None are no lines of text: 'nothing'")
class RemarksAreText(Masks):
    def remarks(self, entry: Entry | None) -> list[str]:
        return "nothing"  # type: ignore[return-value]


@breaks(SourceSuite, "test_remarks", r"remarks on Entry.* change: \['once'\], then \[\]")
class SaysItOnce(Masks):
    def remarks(self, entry: Entry | None) -> list[str]:
        is_new = entry is not None and str(entry) not in vars(self)
        vars(self)[str(entry)] = True
        return ["once"] if is_new else []


@breaks(SourceSuite, "test_reading_twice", "read a second time is not as the first")
class Caches(Masks):
    cached: Labels | None = None

    def read_labels(self, entry: Entry) -> Labels:
        self.cached = self.cached or super().read_labels(entry)
        return self.cached


@breaks(SourceSuite, "test_is_sent_to_worker_processes", "another process sees another list")
class LosesConfig(Masks):
    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.scan = lambda: iter(())  # type: ignore[method-assign]


@breaks(AcceleratorContract, "test_availability", "available\\(\\) is None")
class NeverSays(CpuAccelerator):
    def available(self) -> bool:
        return None  # type: ignore[return-value]


@breaks(AcceleratorContract, "test_trainer_settings", r"Trainer has no arguments \['gpus'\]")
class OldArgument(CpuAccelerator):
    def trainer_settings(self, devices: int) -> dict[str, Any]:
        return {**super().trainer_settings(devices), "gpus": devices}


@breaks(AcceleratorContract, "test_trainer_settings", "asked for 2 devices, got 1")
class OneDevice(CpuAccelerator):
    def trainer_settings(self, devices: int) -> dict[str, Any]:
        return super().trainer_settings(1)


@breaks(AcceleratorContract, "test_trainer_settings", "does not say that 1 were asked for: no")
class Refuses(CpuAccelerator):
    def trainer_settings(self, devices: int) -> dict[str, Any]:
        raise ConfigError("no")


@breaks(AcceleratorContract, "test_device", r"device\(\) is 'cpu'")
class DeviceName(CpuAccelerator):
    def device(self) -> Any:
        return "cpu"


@breaks(AcceleratorContract, "test_model_preparation", "changes the weights")
class Zeroes(CpuAccelerator):
    def prepare(self, model: nn.Module) -> nn.Module:
        nn.init.zeros_(next(model.parameters()))
        return model


@breaks(AcceleratorContract, "test_reduction_type", "reduction_dtype is torch.bfloat16")
class HalfReduction(CpuAccelerator):
    @property
    def reduction_dtype(self) -> torch.dtype:
        return torch.bfloat16


SOUND: dict[type[ComponentContract], tuple[type, type[BaseModel]]] = {
    PolicyContract: (FixedPolicy, FixedPolicyConfig),
    SourceSuite: (Masks, ImageFolderConfig),
    AcceleratorContract: (CpuAccelerator, StrictModel),
}


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
