"""The suites of backbones and augmentations: each check fails for what breaks it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from selftrain_core.augmentation import NoAugmentation
from selftrain_core.batch import Batch, float_images
from selftrain_core.config_model import StrictModel
from selftrain_core.errors import ConfigError
from selftrain_core.interfaces import Init
from selftrain_core.testing import (
    AugmentationContract,
    BackboneContract,
)
from selftrain_core.testing.component import ComponentContract, checks, run_check
from selftrain_core.testing.fakes import Brightness, TinyBackbone, TinyBackboneConfig
from selftrain_core.testing.samples import object_batch

CASES: list[tuple[type[ComponentContract], str, str, type]] = []
"""(suite, check, what its message says, a component that breaks what it checks)."""


def breaks(suite: type[ComponentContract], check: str, match: str) -> Callable[[type], type]:
    def add(broken: type) -> type:
        CASES.append((suite, check, match, broken))
        return broken

    return add


class BackboneSuite(BackboneContract):
    offline_inits = ("random", "ones")

    output_strides = (16,)

    def build(self, strides: Any = None, output_stride: int | None = None) -> TinyBackbone:
        backbone: TinyBackbone = self.load()(TinyBackboneConfig(), "", strides or self.strides, output_stride)
        return backbone


@breaks(BackboneSuite, "test_features", "strides are")
class ExtraStride(TinyBackbone):
    def forward(self, images: Tensor) -> dict[int, Tensor]:
        found = super().forward(images)
        return {**found, 64: found[32]}


@breaks(BackboneSuite, "test_features", r"stride 4: \(2, 4, 15, 24\), expected")
class Smaller(TinyBackbone):
    def forward(self, images: Tensor) -> dict[int, Tensor]:
        found = super().forward(images)
        return {**found, 4: found[4][:, :, 1:]}


@breaks(BackboneSuite, "test_impossible_stride", "a backbone of stride 3: ConfigError was expected")
class AnyStride(TinyBackbone):
    def __init__(self, config: TinyBackboneConfig, member: str, strides: Any, *rest: Any) -> None:
        super().__init__(config, member, [max(4, 1 << (stride.bit_length() - 1)) for stride in strides], *rest)


@breaks(BackboneSuite, "test_output_strides", r"stride 16: \(2, 4, 2, 3\), expected")
class NotDilated(TinyBackbone):
    def forward(self, images: Tensor) -> dict[int, Tensor]:
        found = super().forward(images)
        return found if self.output_stride is None else {**found, 16: found[16][:, :, ::2, ::2]}


@breaks(BackboneSuite, "test_output_strides", "no gradient reaches spare.weight")
class LeavesAStage(TinyBackbone):
    def __init__(self, config: TinyBackboneConfig, member: str, strides: Any, output_stride: int | None) -> None:
        super().__init__(config, member, strides, output_stride)
        if output_stride is not None:
            self.spare = nn.Linear(2, 2)


@breaks(BackboneSuite, "test_impossible_output_stride", "a backbone of output stride 3: ConfigError was expected")
class AnyOutputStride(TinyBackbone):
    def __init__(self, config: TinyBackboneConfig, member: str, strides: Any, output_stride: int | None) -> None:
        super().__init__(config, member, strides)


@breaks(BackboneSuite, "test_impossible_output_stride", "stride 32 at the output stride 16: ConfigError was expected")
class CoarserThanItself(TinyBackbone):
    def __init__(self, config: TinyBackboneConfig, member: str, strides: Any, output_stride: int | None) -> None:
        super().__init__(config, member, strides, output_stride if output_stride == 3 else None)


@breaks(BackboneSuite, "test_inits", "tells no origin or licence")
class NoLicence(TinyBackbone):
    def inits(self) -> tuple[Init, ...]:
        return tuple(replace(init, licence="") for init in super().inits())


@breaks(BackboneSuite, "test_unknown_init", "does not name the init 'random'")
class UnhelpfulInit(TinyBackbone):
    def initialise(self, name: str) -> Init:
        raise ConfigError("wrong init")


@breaks(BackboneSuite, "test_unknown_init", "nothing was raised")
class SilentInit(TinyBackbone):
    def initialise(self, name: str) -> Init:
        return self.inits()[0]


@breaks(BackboneSuite, "test_random_init_is_a_function_of_the_seed", "weights of the same seed")
class OwnGenerator(TinyBackbone):
    generator: ClassVar[torch.Generator] = torch.Generator()

    def initialise(self, name: str) -> Init:
        nn.init.normal_(next(self.parameters()), generator=self.generator)
        return super().initialise(name)


@breaks(BackboneSuite, "test_random_init_is_a_function_of_the_seed", "another seed gives the same weights")
class Constant(TinyBackbone):
    def initialise(self, name: str) -> Init:
        self.load_weights(self.inits()[1])
        return super().initialise(name)


@breaks(BackboneSuite, "test_pretrained_inits_load", "the weights of 'ones' are the random ones")
class LoadsNothing(TinyBackbone):
    def load_weights(self, init: Init) -> None: ...


@breaks(BackboneSuite, "test_normalisation_comes_from_the_init", "no buffers hold its mean")
class NoBuffers(TinyBackbone):
    def initialise(self, name: str) -> Init:
        return self.inits()[0]


@breaks(BackboneSuite, "test_normalisation_comes_from_the_init", "do not depend on the normalisation")
class RawInput(TinyBackbone):
    def normalise(self, images: Tensor) -> Tensor:
        return images


@breaks(BackboneSuite, "test_gradients_reach_every_parameter", "no gradient reaches spare.weight")
class SpareLayer(TinyBackbone):
    def __init__(self, config: TinyBackboneConfig, member: str, strides: Any, *rest: Any) -> None:
        super().__init__(config, member, strides, *rest)
        self.spare = nn.Linear(2, 2)


@breaks(BackboneSuite, "test_state_round_trip", "features after the state was taken up")
class StateOutside(TinyBackbone):
    def __init__(self, config: TinyBackboneConfig, member: str, strides: Any, *rest: Any) -> None:
        super().__init__(config, member, strides, *rest)
        self.shift = float(torch.rand(()))

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        return super().forward(images + self.shift)


@breaks(BackboneSuite, "test_evaluation_is_deterministic", "features of a second pass")
class AlwaysNoisy(TinyBackbone):
    def forward(self, images: Tensor) -> dict[int, Tensor]:
        return super().forward(images + torch.rand(()))


@breaks(AugmentationContract, "test_one_image_alone_is_the_same", r"images \[5\] on their own")
class ByPlace(Brightness):
    def parameters(self, batch: Batch, key_B: Tensor) -> dict[str, Tensor]:
        return {"factor_B": torch.linspace(0.5, 1, len(batch))}


@breaks(AugmentationContract, "test_same_keys_same_result", "a second call")
class FromGenerator(Brightness):
    def parameters(self, batch: Batch, key_B: Tensor) -> dict[str, Tensor]:
        return {"factor_B": torch.rand(len(batch))}


@breaks(AugmentationContract, "test_parameters_replay", "the replay of its parameters")
class DrawsInCall(Brightness):
    def __call__(self, batch: Batch, key_B: Tensor) -> Batch:
        return self.replay(batch, self.parameters(batch, key_B + 1))


@breaks(AugmentationContract, "test_parameters_replay", "parameters for other pixels")
class LooksAtPixels(Brightness):
    def parameters(self, batch: Batch, key_B: Tensor) -> dict[str, Tensor]:
        return {"factor_B": 1 / (1 + float_images(batch.image_B3HW).mean((1, 2, 3)))}


@breaks(AugmentationContract, "test_next_visit_differs", "is_identity is False, two visits are the same")
class NeverDraws(NoAugmentation): ...


@breaks(AugmentationContract, "test_shapes_and_types_stay", r"image_B3HW: \(16, 3, 64, 96\)")
class Crops(Brightness):
    def replay(self, batch: Batch, parameters: Mapping[str, Tensor]) -> Batch:
        found = super().replay(batch, parameters)
        return replace(found, image_B3HW=found.image_B3HW[..., 1:])


class Halves(Brightness):
    """Takes every other pixel of a canvas twice as large: what boxes and matrices say is halved alike."""

    oversample = 2

    def replay(self, batch: Batch, parameters: Mapping[str, Tensor]) -> Batch:
        found, targets = super().replay(batch, parameters), batch.targets
        halved = {"canvas_B2": targets.canvas_B2.div(2).long()} if targets.canvas_B2 is not None else {}
        if targets.mask_BHW is not None and targets.weight_BHW is not None:
            halved |= {"mask_BHW": targets.mask_BHW[:, ::2, ::2], "weight_BHW": targets.weight_BHW[:, ::2, ::2]}
        if targets.boxes_BN4 is not None:
            halved["boxes_BN4"] = targets.boxes_BN4 / 2
        image_B3HW, valid_B2 = found.image_B3HW[..., ::2, ::2], (batch.valid_B2 + 1) // 2
        found = replace(found, image_B3HW=image_B3HW, valid_B2=valid_B2, matrix_B23=batch.matrix_B23 / 2)
        return replace(found, targets=replace(targets, **halved))


@breaks(AugmentationContract, "test_oversample", "oversample is 0, not a whole number >= 1")
class Undersamples(Brightness):
    oversample = 0


@breaks(AugmentationContract, "test_oversample", r"oversample is 1\.5, not a whole number >= 1")
class SamplesByHalves(Brightness):
    oversample = 1.5  # type: ignore[assignment]


@breaks(AugmentationContract, "test_oversample", "canvas_B2: 32 of 32 values differ, by up to 96")
class ForgetsTheCanvas(Halves):
    def replay(self, batch: Batch, parameters: Mapping[str, Tensor]) -> Batch:
        found = super().replay(batch, parameters)
        return replace(found, targets=replace(found.targets, canvas_B2=batch.targets.canvas_B2))


class OddCanvas(AugmentationContract):
    def batch(self) -> Batch:
        return object_batch(2, (64, 95))


@breaks(OddCanvas, "test_oversample", "oversample 2 does not divide the canvas of 64 × 95")
class HalvesOddly(Halves): ...


@breaks(
    AugmentationContract, "test_shapes_and_types_stay", r"image_B3HW: .* → \(16, 3, 128, 192\), expected .* 64, 96\)"
)
class KeepsTheCanvas(Brightness):
    oversample = 2


@breaks(AugmentationContract, "test_shapes_and_types_stay", r"mask_BHW: .* → \(16, 128, 192\), expected \(16, 64, 96\)")
class KeepsTheMask(Halves):
    def replay(self, batch: Batch, parameters: Mapping[str, Tensor]) -> Batch:
        found = super().replay(batch, parameters)
        return replace(found, targets=replace(found.targets, mask_BHW=batch.targets.mask_BHW))


@breaks(AugmentationContract, "test_values_stay_in_range", "pictures leave the canvas")
class KeepsTheSize(Halves):
    def replay(self, batch: Batch, parameters: Mapping[str, Tensor]) -> Batch:
        return replace(super().replay(batch, parameters), valid_B2=batch.valid_B2)


@breaks(AugmentationContract, "test_values_stay_in_range", r"images lie in 0.*\.\.1\.")
class TooBright(Brightness):
    def replay(self, batch: Batch, parameters: Mapping[str, Tensor]) -> Batch:
        return super().replay(batch, {"factor_B": parameters["factor_B"] + 1})


@breaks(AugmentationContract, "test_values_stay_in_range", "a mask has new classes")
class InterpolatesMask(Brightness):
    def replay(self, batch: Batch, parameters: Mapping[str, Tensor]) -> Batch:
        found = super().replay(batch, parameters)
        if found.targets.mask_BHW is None:
            return found
        return replace(found, targets=replace(found.targets, mask_BHW=found.targets.mask_BHW // 2))


@breaks(AugmentationContract, "test_identity_of_images_stays", "visit_B")
class CountsVisits(Brightness):
    def replay(self, batch: Batch, parameters: Mapping[str, Tensor]) -> Batch:
        return replace(super().replay(batch, parameters), visit_B=batch.visit_B + 1)


@breaks(AugmentationContract, "test_identity_of_images_stays", "class_B")
class RenamesImages(Brightness):
    def replay(self, batch: Batch, parameters: Mapping[str, Tensor]) -> Batch:
        found, class_B = super().replay(batch, parameters), batch.targets.class_B
        return found if class_B is None else replace(found, targets=replace(found.targets, class_B=class_B - 1))


@breaks(AugmentationContract, "test_inputs_are_not_changed", "the batch that was given.image_B3HW")
class InPlace(Brightness):
    def replay(self, batch: Batch, parameters: Mapping[str, Tensor]) -> Batch:
        if batch.image_B3HW.is_floating_point():
            batch.image_B3HW.mul_(0.5)
        return super().replay(batch, parameters)


@breaks(AugmentationContract, "test_no_targets", "images without targets")
class DimsLabelled(Brightness):
    def replay(self, batch: Batch, parameters: Mapping[str, Tensor]) -> Batch:
        factor = 1.0 if batch.targets.mask_BHW is None else 0.5
        return super().replay(batch, {"factor_B": parameters["factor_B"] * factor})


class DarkensBoxes(Brightness):
    """Darkens images that have boxes, and says so."""

    def remarks(self, *, has_boxes: bool) -> list[str]:
        return [] if has_boxes else ["without boxes nothing gets dark"]

    def replay(self, batch: Batch, parameters: Mapping[str, Tensor]) -> Batch:
        factor = 1.0 if batch.targets.boxes_BN4 is None else 0.5
        return super().replay(batch, {"factor_B": parameters["factor_B"] * factor})


@breaks(AugmentationContract, "test_no_targets", "images without targets.image_B3HW")
class DarkensBoxesSilently(DarkensBoxes):
    def remarks(self, *, has_boxes: bool) -> list[str]:
        return []


@breaks(AugmentationContract, "test_no_targets", "images without boxes.image_B3HW")
class DarkensMasks(DarkensBoxes):
    def replay(self, batch: Batch, parameters: Mapping[str, Tensor]) -> Batch:
        factor = 1.0 if batch.targets.mask_BHW is None else 0.5
        return super().replay(batch, {"factor_B": parameters["factor_B"] * factor})


@breaks(AugmentationContract, "test_no_targets", "images without targets.valid_B2")
class ShrinksLabelled(DarkensBoxes):
    def replay(self, batch: Batch, parameters: Mapping[str, Tensor]) -> Batch:
        found = super().replay(batch, parameters)
        return found if batch.targets.boxes_BN4 is None else replace(found, valid_B2=batch.valid_B2 - 1)


def _flipped(batch: Batch, *, mask: bool, matrix: bool) -> Batch:
    targets, width = batch.targets, batch.image_B3HW.shape[3]
    if mask and targets.mask_BHW is not None:
        targets = replace(targets, mask_BHW=targets.mask_BHW.flip(2))
    changed = replace(batch, image_B3HW=float_images(batch.image_B3HW).flip(3), targets=targets)
    flip_23 = torch.tensor([[-1.0, 0, width], [0, 1, 0]])
    corner_13 = torch.tensor([[[0.0, 0, 1]]]).expand(len(batch), 1, 3)
    matrix_B23 = flip_23 @ torch.cat([batch.matrix_B23, corner_13], 1)
    return replace(changed, matrix_B23=matrix_B23) if matrix else changed


@breaks(AugmentationContract, "test_mask_box_and_matrix_agree", "the mask leaves its box")
class FlipsMaskOnly(Brightness):
    def replay(self, batch: Batch, parameters: Mapping[str, Tensor]) -> Batch:
        return _flipped(batch, mask=True, matrix=True)


@breaks(AugmentationContract, "test_mask_box_and_matrix_agree", "the matrix leads outside")
class FlipsMatrixOnly(Brightness):
    def replay(self, batch: Batch, parameters: Mapping[str, Tensor]) -> Batch:
        return _flipped(batch, mask=False, matrix=True)


SOUND: dict[type[ComponentContract], tuple[type, type[BaseModel]]] = {
    BackboneSuite: (TinyBackbone, TinyBackboneConfig),
    AugmentationContract: (Brightness, StrictModel),
}


@pytest.mark.parametrize(
    ("suite", "check", "match", "broken"), CASES, ids=[f"{check}-{broken.__name__}" for _, check, _, broken in CASES]
)
def test_check_fails_for_a_broken_component(
    suite: type[ComponentContract], check: str, match: str, broken: type
) -> None:
    with pytest.raises(AssertionError, match=match):
        run_check(suite, check, broken, TinyBackboneConfig if suite is BackboneSuite else StrictModel)


@pytest.mark.parametrize("check", checks(AugmentationContract))
@pytest.mark.parametrize("sound", [Halves, DarkensBoxes])
def test_check_passes_for_augmentations_sound_in_their_own_way(sound: type, check: str) -> None:
    run_check(AugmentationContract, check, sound, StrictModel)


@pytest.mark.parametrize(("suite", "check"), [(suite, check) for suite in SOUND for check in checks(suite)])
def test_check_passes_for_a_sound_component(suite: type[ComponentContract], check: str) -> None:
    run_check(suite, check, *SOUND[suite])


def test_every_check_has_a_broken_component() -> None:
    own = {(suite, check) for suite in SOUND for check in checks(suite) if check not in checks(ComponentContract)}
    assert own == {(suite, check) for suite, check, _, _ in CASES if suite in SOUND}
