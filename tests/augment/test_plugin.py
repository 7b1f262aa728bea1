"""The plugin keeps its contracts, its settings are checked, and its README runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel, ValidationError

from selftrain_augment.augment import Augment
from selftrain_augment.config import CustomConfig, S1Config, S2Config, S3Config, S4Config
from selftrain_augment.operations import OPERATIONS, OperationName, needs_boxes
from selftrain_augment.policies import RAND_AUGMENT, auto_augment
from selftrain_core.batch import Batch, Targets
from selftrain_core.config_model import AugmentationChoice
from selftrain_core.plugins import config_model, load_component, load_registry
from selftrain_core.testing import AugmentationContract, check_plugin
from selftrain_core.testing.samples import object_batch

README = Path(__file__).parents[2] / "packages/augment/README.md"
CONFIGS: dict[str, type[S1Config]] = {
    "s1": S1Config,
    "s2": S2Config,
    "s3": S3Config,
    "s4": S4Config,
    "custom": CustomConfig,
}
EVERYTHING = [[{"operation": name, "magnitude": 4}] for name in OPERATIONS]


class TestS1(AugmentationContract):
    spec_name = "augment/s1"


class TestLargerJitter(AugmentationContract):
    spec_name = "augment/s1"
    options = {"scale_min": 0.5, "scale_max": 2.0, "min_visibility": 0.5}


class TestOversampled(AugmentationContract):
    spec_name = "augment/s1"
    options = {"oversample": 2}


class TestS2(AugmentationContract):
    spec_name = "augment/s2"


class TestV1(AugmentationContract):
    spec_name = "augment/s2"
    options = {"policy": "v1"}


class TestS3(AugmentationContract):
    spec_name = "augment/s3"


class TestV2(AugmentationContract):
    spec_name = "augment/s3"
    options = {"policy": "v2", "pixel_reference": None, "contrast": "white", "solarize": "rising"}


class TestV3Oversampled(AugmentationContract):
    spec_name = "augment/s3"
    options = {"policy": "v3", "oversample": 2}


class TestS4(AugmentationContract):
    spec_name = "augment/s4"


class TestThreeOperations(AugmentationContract):
    spec_name = "augment/s4"
    options = {"operations": "tf-vision", "num_operations": 3, "magnitude": 15}


class TestThreeOperationsOversampled(AugmentationContract):
    spec_name = "augment/s4"
    options = {"operations": "efficientdet", "num_operations": 3, "oversample": 3}


class TestCustom(AugmentationContract):
    spec_name = "augment/custom"
    options = {"sub_policies": EVERYTHING}


class TestCustomOversampled(AugmentationContract):
    spec_name = "augment/custom"
    options = {"sub_policies": [EVERYTHING[0] + EVERYTHING[-1], *EVERYTHING], "oversample": 2}


def test_the_plugin_keeps_the_rules() -> None:
    check_plugin("selftrain_augment.plugin")


@pytest.mark.parametrize("name", CONFIGS)
def test_the_installed_plugin_offers_each(name: str) -> None:
    found = load_registry().find("augmentations", f"augment/{name}")
    assert found.plugin.distribution == "selftrain-augment"
    assert config_model(found) is CONFIGS[name]
    assert load_component(found) is Augment


def test_the_defaults_are_the_papers() -> None:
    for settings, scales in (
        (S1Config(), (0.8, 1.2)),
        (S2Config(), (0.8, 1.2)),
        (S3Config(), (0.5, 2.0)),
        (S4Config(), (0.5, 2.0)),
    ):
        assert (settings.flip_probability, settings.oversample) == (0.5, 1)
        assert (settings.scale_min, settings.scale_max) == scales
    assert (S2Config().policy, S3Config().policy) == ("v0", "v0")
    assert (S4Config().operations, S4Config().num_operations, S4Config().magnitude) == ("randaugment", 1, 10)
    for given in (S2Config(), S3Config(), S4Config()):
        assert (given.pixel_reference, given.contrast, given.solarize) == (640, "grey", "falling")


def test_the_defaults_do_what_the_paper_names() -> None:
    assert not S1Config().policy_to_apply().sub_policies
    assert S2Config().policy_to_apply() == S3Config().policy_to_apply() == auto_augment("v0")
    policy = S4Config().policy_to_apply()
    assert policy.draws == 1
    assert {(step.probability, step.magnitude) for steps in policy.sub_policies for step in steps} == {(1, 10)}
    assert tuple(steps[0].operation for steps in policy.sub_policies) == RAND_AUGMENT["randaugment"]


def steps(*given: dict[str, Any]) -> dict[str, Any]:
    return {"sub_policies": [list(given)]}


WRONG: list[tuple[type[BaseModel], dict[str, Any], str]] = [
    (S1Config, {"flip_probability": 1.5}, "less than or equal to 1"),
    (S1Config, {"scale_min": 0.05}, "greater than or equal to 0.1"),
    (S1Config, {"scale_max": float("inf")}, "finite"),
    (S1Config, {"scale_min": 1.3}, "scale_min 1.3 is larger than scale_max 1.2"),
    (S3Config, {"scale_min": 2.5}, "scale_min 2.5 is larger than scale_max 2"),
    (S1Config, {"min_visibility": -0.1}, "greater than or equal to 0"),
    (S1Config, {"min_visability": 0.1}, "did you mean 'min_visibility'"),
    (S1Config, {"oversample": 0}, "greater than or equal to 1"),
    (S1Config, {"oversample": 1.5}, "valid integer"),
    (S1Config, {"oversample": 5}, "less than or equal to 4"),
    (S1Config, {"policy": "v0"}, "has no key 'policy'"),
    (S2Config, {"policy": "v4"}, "'v0', 'v1', 'v2' or 'v3'"),
    (S2Config, {"pixel_reference": 0}, "greater than 0"),
    (S2Config, {"contrast": "black"}, "'grey' or 'white'"),
    (S3Config, {"solarize": "up"}, "'falling' or 'rising'"),
    (S4Config, {"operations": "all"}, "'randaugment', 'efficientdet' or 'tf-vision'"),
    (S4Config, {"num_operations": 0}, "greater than or equal to 1"),
    (S4Config, {"magnitude": 31}, "less than or equal to 30"),
    (S4Config, {"magnitude": -1}, "greater than or equal to 0"),
    (CustomConfig, {}, "sub_policies\n  Field required"),
    (CustomConfig, {"sub_policies": []}, "sub_policies\n  Value error, is empty; wanted is at least one"),
    (CustomConfig, {"sub_policies": [[]]}, "sub_policies.0\n  Value error, is empty; wanted is at least one"),
    (CustomConfig, steps({"operation": "Equalise"}), "no operation 'Equalise' (did you mean 'Equalize'?)"),
    (CustomConfig, steps({"operation": "Equalise"}), "there are: Identity, AutoContrast, Equalize,"),
    (CustomConfig, steps({"operation": "TranslateX"}), "did you mean 'TranslateX_BBox'"),
    (
        CustomConfig,
        steps({"operation": "Color", "probability": 1.5}),
        "probability\n  Input should be less than or equal",
    ),
    (
        CustomConfig,
        steps({"operation": "Color", "magnitude": -2}),
        "magnitude\n  Input should be greater than or equal",
    ),
    (CustomConfig, steps({"operation": "Color", "magntude": 2}), "did you mean 'magnitude'"),
    (CustomConfig, steps({"probability": 0.5}), "sub_policies.0.0.operation\n  Field required"),
]


@pytest.mark.parametrize(("config", "settings", "message"), WRONG)
def test_wrong_settings_are_refused(config: type[BaseModel], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        config.model_validate(settings)


@pytest.mark.parametrize("step", [{"operation": "Equalise"}, {"operation": "Color", "probability": 1.5}])
def test_one_mistake_in_a_step_is_one_error(step: dict[str, Any]) -> None:
    """Not also that its list, and the list of lists, are too short without it."""
    with pytest.raises(ValidationError) as error:
        CustomConfig.model_validate(steps({"operation": "Invert"}, step))
    assert error.value.error_count() == 1, error.value
    with pytest.raises(ValidationError) as error:
        CustomConfig.model_validate(steps(step))
    assert error.value.error_count() == 1, error.value


def test_every_setting_is_part_of_a_results_identity() -> None:
    identity = AugmentationChoice.of("augment/s1", scale_max=1.5).identity()
    assert identity == {"name": "augment/s1", "numerics": 2, **S1Config(scale_max=1.5).model_dump()}


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("s1", {}, {"oversample": 2}),
        ("s2", {}, {"policy": "v1"}),
        ("s2", {}, {"contrast": "white"}),
        ("s3", {}, {"solarize": "rising"}),
        ("s3", {}, {"pixel_reference": None}),
        ("s4", {}, {"num_operations": 2}),
        ("s4", {}, {"magnitude": 15}),
        ("s4", {}, {"operations": "tf-vision"}),
        ("custom", steps({"operation": "Color"}), steps({"operation": "Invert"})),
        ("custom", steps({"operation": "Color"}), steps({"operation": "Color", "probability": 0.5})),
    ],
)
def test_what_differs_differs_in_identity(name: str, first: dict[str, Any], second: dict[str, Any]) -> None:
    one, other = (AugmentationChoice.of(f"augment/{name}", **options).identity() for options in (first, second))
    assert one != other
    assert one.keys() == other.keys() == {"name", "numerics", *CONFIGS[name].model_fields}


def test_a_custom_policy_may_say_what_the_paper_says() -> None:
    rows = [[{"operation": step.operation, "probability": step.probability, "magnitude": step.magnitude}
             for step in row] for row in auto_augment("v1").sub_policies]  # fmt: skip
    own = Augment(CustomConfig.model_validate({"sub_policies": rows}))
    theirs = Augment(S2Config(policy="v1"))
    batch, key_B = object_batch(16), torch.arange(16)
    assert own.policy == theirs.policy
    assert torch.equal(own(batch, key_B).image_B3HW, theirs(batch, key_B).image_B3HW)


def test_remarks_name_what_does_nothing_without_boxes() -> None:
    remark = "without boxes these operations change nothing: "
    assert Augment(S2Config()).remarks(has_boxes=False) == [f"{remark}TranslateY_Only_BBoxes"]
    assert Augment(S2Config(policy="v3")).remarks(has_boxes=False) == [f"{remark}BBox_Cutout"]
    everything = Augment(CustomConfig.model_validate({"sub_policies": EVERYTHING}))
    (said,) = everything.remarks(has_boxes=False)
    only = [name for name in OPERATIONS if name.endswith("_Only_BBoxes")]
    assert said == f"{remark}{', '.join(['BBox_Cutout', *only])}"


def test_remarks_say_nothing_where_nothing_is_idle() -> None:
    for config in (S1Config(), S4Config(), S4Config(operations="tf-vision"), S4Config(operations="efficientdet")):
        assert Augment(config).remarks(has_boxes=False) == []
    for config in (S2Config(), S3Config(policy="v1"), CustomConfig.model_validate({"sub_policies": EVERYTHING})):
        assert Augment(config).remarks(has_boxes=True) == []


def test_what_is_never_drawn_is_not_remarked_upon() -> None:
    never = steps({"operation": "Color"}, {"operation": "BBox_Cutout", "probability": 0})
    assert Augment(CustomConfig.model_validate(never)).remarks(has_boxes=False) == []


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "Identity"])
def test_remarks_are_true(name: OperationName) -> None:
    """Without boxes, an operation that needs them leaves every picture as it is, and every other changes some."""
    augment = Augment(
        CustomConfig.model_validate(
            {**steps({"operation": name, "magnitude": 7}), "flip_probability": 0, "scale_min": 1, "scale_max": 1}
        )
    )
    batch = object_batch(4, with_targets=False)
    shown = augment(batch, torch.arange(4)).image_B3HW
    is_same = bool(torch.isclose(shown, batch.image_B3HW / 255, rtol=0, atol=1e-4).all())
    assert is_same == needs_boxes(name) == bool(augment.remarks(has_boxes=False))


def wide(width: int) -> Batch:
    image = torch.zeros(8, 3, 4, 640, dtype=torch.uint8)
    size, number = torch.tensor([[4, width]]).expand(8, 2), torch.arange(8)
    return Batch(image, size, number, number, size, torch.eye(2, 3).repeat(8, 1, 1), number * 0, Targets())


@pytest.mark.parametrize(
    ("reference", "width", "pixels"),
    [(640, 640, 100), (640, 320, 50), (1280, 640, 50), (None, 640, 100), (None, 320, 100)],
)
@pytest.mark.parametrize("oversample", [1, 2])
def test_pixels_of_magnitudes_grow_with_the_picture(
    reference: float | None, width: int, pixels: float, oversample: int
) -> None:
    """Magnitude 4 translates by 100 pixels of a picture whose long side is the reference; null is literal.

    What is moved lies on the larger canvas: where it is oversampled, half of the pixels are seen.
    """
    config = CustomConfig.model_validate(
        {**steps({"operation": "TranslateX_BBox", "magnitude": 4}), "pixel_reference": reference,
         "flip_probability": 0, "scale_min": 1, "scale_max": 1, "oversample": oversample}
    )  # fmt: skip
    moved_B = Augment(config)(wide(width), torch.arange(8)).matrix_B23[:, 0, 2]
    assert sorted(set(moved_B.tolist())) == [-pixels / oversample, pixels / oversample]


def test_the_readme_runs() -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL))
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    first, *steps = answer.stdout.splitlines()
    assert first == "torch.float32 torch.uint8 torch.Size([4, 2, 4]) torch.Size([4, 2])"
    assert [step.rpartition(" ")[0] for step in steps] == ["0 [0, 1]", "0 [2, 3]", "1 [0, 1]", "1 [2, 3]"]
    assert len({step.rpartition(" ")[2] for step in steps}) == 4
