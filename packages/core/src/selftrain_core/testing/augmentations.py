"""What every augmentation must do (`selftrain_core.interfaces.Augmentation`)."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import ClassVar

import torch
from torch import Tensor

from selftrain_core.batch import Batch, Targets
from selftrain_core.interfaces import Augmentation
from selftrain_core.keys import fold
from selftrain_core.labels import IGNORE
from selftrain_core.testing.component import ComponentContract, assert_equal, is_equal
from selftrain_core.testing.samples import object_batch

NUM_IMAGES = 16
CANVAS = (64, 96)
"""Height and width of the canvas that the augmentation returns."""


class AugmentationContract(ComponentContract):
    """Inherit and name the augmentation."""

    kind = "augmentations"
    interface = Augmentation
    is_identity: ClassVar[bool] = False
    """Whether it draws nothing, so that the next visit of an image looks as the last."""
    tolerance: ClassVar[float] = 1e-5
    """By how much an image may differ when its batch does: kernels sum in another order."""

    def augmentation(self) -> Augmentation:
        """Return the augmentation."""
        augmentation: Augmentation = self.load()(self.settings())
        return augmentation

    def batch(self) -> Batch:
        """Return the batch to test with; every image shows a rectangle of class 1, as mask and as box.

        Its canvas is `oversample` times as large as `CANVAS`, as it is in training.
        """
        oversample = self.augmentation().oversample
        return object_batch(NUM_IMAGES, (CANVAS[0] * oversample, CANVAS[1] * oversample))

    def keys(self, batch: Batch, visit: int = 0) -> Tensor:
        """Return the keys of a visit, int64 [B]."""
        return fold(1234, batch.id_B, batch.visit_B + visit)

    def changed(self, batch: Batch, visit: int = 0) -> Batch:
        """Return the batch as it looks at a visit."""
        return self.augmentation()(batch, self.keys(batch, visit))

    def test_one_image_alone_is_the_same(self) -> None:
        """What becomes of an image depends on its key and on itself, not on the rest of its batch."""
        batch = self.batch()
        key_B = self.keys(batch)
        whole = self.changed(batch)
        for chosen in ([5], [11, 2, 7]):
            part = self.augmentation()(_chosen(batch, chosen), key_B[chosen])
            assert_equal(part, _chosen(whole, chosen), f"images {chosen} on their own", atol=self.tolerance)

    def test_same_keys_same_result(self) -> None:
        """A second call gives the same bits, whatever torch's generator did; and it does not move the generator."""
        batch = self.batch()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            first = self.changed(batch)
            torch.manual_seed(2)
            before = torch.get_rng_state()
            assert_equal(self.changed(batch), first, "a second call")
            assert torch.equal(torch.get_rng_state(), before), "it draws from torch's generator"

    def test_parameters_replay(self) -> None:
        """Parameters have one entry per image, do not depend on the pixels, and replay to the same batch."""
        batch, augmentation = self.batch(), self.augmentation()
        key_B = self.keys(batch)
        parameters = augmentation.parameters(batch, key_B)
        for name, value in parameters.items():
            assert isinstance(value, Tensor), f"the parameter '{name}' is {type(value).__name__}, not a tensor"
            assert value.shape[:1] == (len(batch),), f"the parameter '{name}' has shape {tuple(value.shape)}"
        other = augmentation.parameters(replace(batch, image_B3HW=255 - batch.image_B3HW), key_B)
        assert_equal(other, parameters, "parameters for other pixels")
        called = augmentation(batch, key_B)
        assert_equal(augmentation.replay(batch, parameters), called, "the replay of its parameters")
        assert_equal(augmentation.replay(batch, parameters), called, "the second replay of its parameters")

    def test_next_visit_differs(self) -> None:
        """Drawn anew for the next visit, unless the augmentation is declared to draw nothing."""
        batch = self.batch()
        same = is_equal(self.changed(batch, 1), self.changed(batch, 0))
        assert same == self.is_identity, f"is_identity is {self.is_identity}, two visits are {'the same' * same}"

    def test_oversample(self) -> None:
        """It is a whole number from 1 on that divides the canvas, and the targets' canvas is the one returned."""
        oversample = self.augmentation().oversample
        assert type(oversample) is int and oversample >= 1, f"oversample is {oversample!r}, not a whole number >= 1"
        batch = self.batch()
        height, width = batch.image_B3HW.shape[2:]
        divides = height % oversample == 0 and width % oversample == 0
        assert divides, f"oversample {oversample} does not divide the canvas of {height} × {width}"
        assert batch.targets.canvas_B2 is not None
        expected_B2 = torch.tensor([[height // oversample, width // oversample]]).expand(len(batch), 2)
        assert_equal(self.changed(batch).targets.canvas_B2, expected_B2, "canvas_B2")

    def test_shapes_and_types_stay(self) -> None:
        """Every tensor keeps its shape, maps smaller by `oversample`, and its type; images become floating point."""
        batch, oversample = self.batch(), self.augmentation().oversample
        changed = self.changed(batch)
        assert changed.image_B3HW.is_floating_point(), f"images are {changed.image_B3HW.dtype}"
        for field in fields(batch):
            old, new = getattr(batch, field.name), getattr(changed, field.name)
            for name, before, after in _tensors(field.name, old, new):
                assert after is not None, f"{name} is gone"
                shape = tuple(before.shape)
                if name.endswith("HW"):
                    shape = (*shape[:-2], shape[-2] // oversample, shape[-1] // oversample)
                assert after.shape == shape, f"{name}: {tuple(before.shape)} → {tuple(after.shape)}, expected {shape}"
                if name != "image_B3HW":
                    assert after.dtype == before.dtype, f"{name}: {before.dtype} → {after.dtype}"

    def test_values_stay_in_range(self) -> None:
        """Images stay in 0..1, pictures on the canvas, masks among their classes, boxes where the picture is."""
        batch = self.batch()
        canvas_2 = torch.tensor(batch.image_B3HW.shape[2:]) // self.augmentation().oversample
        for visit in range(4):
            changed = self.changed(batch, visit)
            low, high = changed.image_B3HW.min().item(), changed.image_B3HW.max().item()
            assert low >= 0 and high <= 1, f"images lie in {low}..{high}"
            valid = (changed.valid_B2 >= 1) & (changed.valid_B2 <= canvas_2)
            assert valid.all(), f"pictures leave the canvas: {changed.valid_B2.tolist()}"
            mask_BHW, boxes_BN4 = changed.targets.mask_BHW, changed.targets.boxes_BN4
            assert mask_BHW is not None and boxes_BN4 is not None and changed.targets.label_BN is not None
            assert torch.isin(mask_BHW, torch.tensor([0, 1, IGNORE], dtype=torch.uint8)).all(), "a mask has new classes"
            kept_N4 = boxes_BN4[changed.targets.label_BN >= 0]
            limit_4 = canvas_2.flip(0).repeat(2)
            assert ((kept_N4 >= -1e-3) & (kept_N4 <= limit_4 + 1e-3)).all(), f"boxes leave the canvas: {kept_N4}"
            assert (kept_N4[:, 2:] > kept_N4[:, :2]).all(), f"boxes without area: {kept_N4}"

    def test_identity_of_images_stays(self) -> None:
        """Ids, visits, sources, original sizes and the class of an image are not the augmentation's to change."""
        batch = self.batch()
        changed = self.changed(batch)
        for name in ("id_B", "visit_B", "source_B", "original_B2"):
            assert_equal(getattr(changed, name), getattr(batch, name), name)
        for name in ("class_B", "class_weight_B"):
            assert_equal(getattr(changed.targets, name), getattr(batch.targets, name), name)

    def test_inputs_are_not_changed(self) -> None:
        """The batch that was given is as it was."""
        batch = self.batch()
        floating = replace(batch, image_B3HW=batch.image_B3HW.float() / 255)
        for given in (batch, floating):
            copy = given._map(Tensor.clone)
            self.changed(given)
            assert_equal(given, copy, "the batch that was given")

    def test_no_targets(self) -> None:
        """Images without targets are changed as those with targets; what they show may follow boxes, if that is said.

        It is said by `remarks`. What they show never follows anything but boxes.
        """
        batch = self.batch()
        bare, whole = self.changed(replace(batch, targets=Targets())), self.changed(batch)
        if self.augmentation().remarks(has_boxes=False):
            whole = replace(whole, image_B3HW=bare.image_B3HW)
        assert_equal(bare, replace(whole, targets=Targets()), "images without targets")
        no_boxes = replace(batch.targets, boxes_BN4=None, label_BN=None, weight_BN=None)
        without = replace(self.changed(replace(batch, targets=no_boxes)), targets=Targets())
        assert_equal(without, bare, "images without boxes")

    def test_mask_box_and_matrix_agree(self) -> None:
        """Every pixel of the rectangle lies in its box, and comes, by the matrix, from the rectangle in the file."""
        batch = self.batch()
        assert batch.targets.boxes_BN4 is not None
        for visit in range(4):
            changed = self.changed(batch, visit)
            targets = changed.targets
            assert targets.mask_BHW is not None and targets.boxes_BN4 is not None and targets.label_BN is not None
            for image in range(len(batch)):
                yx_P2 = (targets.mask_BHW[image] == 1).nonzero()
                xy_P2 = yx_P2.flip(1) + 0.5
                for box_4 in targets.boxes_BN4[image][targets.label_BN[image] == 1]:
                    inside = (xy_P2 >= box_4[:2] - 1.5) & (xy_P2 <= box_4[2:] + 1.5)
                    assert inside.all(), f"visit {visit}, image {image}: the mask leaves its box {box_4.tolist()}"
                there = _original(batch, image, batch.targets.boxes_BN4[image, 0].view(2, 2))
                back_P2 = _original(changed, image, xy_P2)
                slack = 0.05 * batch.original_B2[image].max()
                inside = (back_P2 >= there[0] - slack) & (back_P2 <= there[1] + slack)
                assert inside.all(), f"visit {visit}, image {image}: the matrix leads outside the rectangle"


def _original(batch: Batch, image: int, xy_P2: Tensor) -> Tensor:
    matrix_33 = torch.cat([batch.matrix_B23[image].double(), torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)])
    homogeneous_P3 = torch.cat([xy_P2.double(), torch.ones(len(xy_P2), 1, dtype=torch.float64)], 1)
    original_P3: Tensor = homogeneous_P3 @ torch.linalg.inv(matrix_33).T
    return original_P3[:, :2]


def _tensors(name: str, old: object, new: object) -> list[tuple[str, Tensor, Tensor | None]]:
    if isinstance(old, Tensor):
        return [(name, old, new)]  # type: ignore[list-item]  # the caller asserts that it is one
    return [
        (field.name, getattr(old, field.name), getattr(new, field.name))
        for field in fields(old)  # type: ignore[arg-type]
        if getattr(old, field.name) is not None
    ]


def _chosen(batch: Batch, places: list[int]) -> Batch:
    return batch._map(lambda tensor: tensor[places])
