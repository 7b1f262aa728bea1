"""What is drawn, over 20,000 keys: each sub-policy, operation, sign and place as often as published, by itself.

Keys are fixed, so each test passes or fails once and for all. Counts are compared by chi-square; a fault that is there
fails them by far more than the threshold.
"""

from __future__ import annotations

import itertools
from collections import Counter
from statistics import NormalDist
from typing import Any

import pytest
import torch
from torch import Tensor

from selftrain_augment.augment import Augment
from selftrain_augment.config import CustomConfig, S1Config, S2Config, S3Config, S4Config
from selftrain_augment.draws import PolicyDraws, placement_draws
from selftrain_augment.operations import OPERATIONS, Kind, Step, SubPolicy, kind_of
from selftrain_augment.policies import (
    RAND_AUGMENT,
    AutoAugmentName,
    Policy,
    RandAugmentName,
    auto_augment,
    rand_augment,
)
from selftrain_core.batch import Batch, Targets
from selftrain_core.keys import fold
from selftrain_core.testing import assert_equal
from selftrain_core.testing.samples import object_batch

NUM = 20_000
KEYS = fold(2006, torch.arange(NUM))
Outcome = tuple[tuple[str, float], ...]
"""Of one image: operation and magnitude in each slot."""


def critical(degrees: int, p: float = 1e-4) -> float:
    """Return the chi-square that is exceeded with probability `p` (Wilson and Hilferty: off by less than 1 % here)."""
    spread = 2 / (9 * degrees)
    value: float = degrees * (1 - spread + NormalDist().inv_cdf(1 - p) * spread**0.5) ** 3
    return value


def assert_counts(counts: Tensor, expected: Tensor | float, what: str, p: float = 1e-4) -> None:
    """Assert that counts differ from what is expected of them by no more than chance."""
    expected_of = torch.as_tensor(expected, dtype=torch.float64).expand(counts.shape)
    assert expected_of.min() >= 5, "too few to compare"
    chi_square = ((counts - expected_of) ** 2 / expected_of).sum().item()
    assert chi_square < critical(counts.numel() - 1, p), f"{what}: {counts.tolist()}, expected {expected}"


def assert_uniform(draw: Tensor, what: str, low: float = 0.0, high: float = 1.0) -> None:
    """Assert that draws are uniform in a range, by 50 bins."""
    assert draw.dtype == torch.float32
    assert draw.min() >= low and draw.max() <= high
    assert_counts(torch.histc(draw, 50, low, high), draw.numel() / 50, what)


def assert_as_often(found: Counter[Any], probability: dict[Any, float], total: int, what: str) -> None:
    """Assert that outcomes come with their probabilities, and no others do."""
    assert sum(probability.values()) == pytest.approx(1)
    unexpected = {outcome for outcome in found if probability.get(outcome, 0) == 0}
    assert not unexpected, f"{what}: {unexpected}"
    possible = [outcome for outcome, share in probability.items() if share > 0]
    if len(possible) > 1:
        counts = torch.tensor([float(found[outcome]) for outcome in possible])
        assert_counts(counts, torch.tensor([probability[outcome] * total for outcome in possible]), what)


def tally(is_so: Tensor) -> Counter[bool]:
    return Counter(is_so.flatten().tolist())


def outcomes(drawn: dict[str, Tensor]) -> Counter[Outcome]:
    rows = zip(drawn["operation_BK"].tolist(), drawn["magnitude_BK"].tolist(), strict=True)
    return Counter(tuple((OPERATIONS[code], m) for code, m in zip(*row, strict=True)) for row in rows)


def expected_outcomes(sub_policies: tuple[SubPolicy, ...]) -> dict[Outcome, float]:
    """Return each outcome's probability by going through every sub-policy and what may be done of it.

    Operations on boxes alone are always there: whether a box is changed is drawn for each box.
    """
    width = max(len(steps) for steps in sub_policies)
    result: dict[Outcome, float] = {}
    for steps in sub_policies:
        row = steps + (Step("Identity", 1.0, 0.0),) * (width - len(steps))
        for done in itertools.product((True, False), repeat=width):
            share, outcome = 1 / len(sub_policies), []
            for step, is_done in zip(row, done, strict=True):
                probability = 1.0 if kind_of(step.operation) is Kind.BOXES else step.probability
                share *= probability if is_done else 1 - probability
                outcome.append((str(step.operation) if is_done else "Identity", step.magnitude))
            result[tuple(outcome)] = result.get(tuple(outcome), 0.0) + share
    return result


@pytest.mark.parametrize(("name", "number", "slots"), [("v0", 5, 2), ("v1", 20, 2), ("v2", 15, 3), ("v3", 15, 2)])
def test_auto_augment_draws_each_sub_policy_alike_and_each_step_by_itself(
    name: AutoAugmentName, number: int, slots: int
) -> None:
    policy = auto_augment(name)
    assert (len(policy.sub_policies), policy.num_slots, policy.draws) == (number, slots, None)
    drawn = PolicyDraws(policy)(KEYS, 4)
    assert_as_often(outcomes(drawn), expected_outcomes(policy.sub_policies), NUM, name)


STEPS: list[tuple[AutoAugmentName, int, tuple[tuple[str, float, float], ...]]] = [
    ("v0", 0, (("TranslateX_BBox", 0.6, 4), ("Equalize", 0.8, 10))),
    ("v0", 1, (("TranslateY_Only_BBoxes", 0.2, 2), ("Cutout", 0.8, 8))),
    ("v0", 2, (("Sharpness", 0, 8), ("ShearX_BBox", 0.4, 0))),
    ("v0", 3, (("ShearY_BBox", 1, 2), ("TranslateY_Only_BBoxes", 0.6, 6))),
    ("v0", 4, (("Rotate_BBox", 0.6, 10), ("Color", 1, 6))),
    ("v1", 4, (("Rotate_BBox", 0.6, 10), ("Color", 1, 6))),
    ("v1", 5, (("Color", 0, 0), ("ShearX_Only_BBoxes", 0.8, 4))),
    ("v1", 6, (("ShearY_Only_BBoxes", 0.8, 2), ("Flip_Only_BBoxes", 0, 10))),
    ("v1", 12, (("Cutout_Only_BBoxes", 0.4, 6), ("TranslateY_Only_BBoxes", 0.8, 2))),
    ("v1", 17, (("ShearY_BBox", 0.6, 10), ("Equalize_Only_BBoxes", 0.6, 8))),
    ("v1", 19, (("SolarizeAdd", 0.6, 8), ("Brightness", 0.8, 10))),
    ("v2", 0, (("Color", 0, 6), ("Cutout", 0.6, 8), ("Sharpness", 0.4, 8))),
    ("v2", 2, (("TranslateY_BBox", 1, 8), ("AutoContrast", 0.8, 2))),
    ("v2", 10, (("Rotate_BBox", 0.6, 10), ("BBox_Cutout", 1, 4), ("Cutout", 0.2, 8))),
    ("v2", 14, (("Contrast", 1, 10), ("SolarizeAdd", 0.2, 8), ("Equalize", 0.2, 4))),
    ("v3", 0, (("Posterize", 0.8, 2), ("TranslateX_BBox", 1, 8))),
    ("v3", 1, (("BBox_Cutout", 0.2, 10), ("Sharpness", 1, 8))),
    ("v3", 8, (("AutoContrast", 0.6, 0), ("Rotate_BBox", 1, 6))),
    ("v3", 13, (("Rotate_BBox", 1, 10), ("Cutout", 1, 10))),
    ("v3", 14, (("SolarizeAdd", 0.8, 6), ("Equalize", 0.8, 8))),
]


@pytest.mark.parametrize(("name", "row", "steps"), STEPS)
def test_rows_are_the_published_ones(
    name: AutoAugmentName, row: int, steps: tuple[tuple[str, float, float], ...]
) -> None:
    found = auto_augment(name).sub_policies[row]
    assert tuple((step.operation, step.probability, step.magnitude) for step in found) == steps


def test_v1_begins_with_v0() -> None:
    assert auto_augment("v1").sub_policies[:5] == auto_augment("v0").sub_policies


GEOMETRIC = {"ShearX_BBox", "ShearY_BBox", "TranslateX_BBox", "TranslateY_BBox", "Rotate_BBox"}
LISTS: dict[RandAugmentName, set[str]] = {
    "randaugment": GEOMETRIC
    | {"Identity", "AutoContrast", "Equalize", "Solarize", "Color", "Posterize", "Contrast", "Brightness", "Sharpness"},
    "efficientdet": GEOMETRIC | {"Equalize", "Solarize", "Color", "Cutout", "SolarizeAdd"},
    "tf-vision": GEOMETRIC
    | {"AutoContrast", "Equalize", "Invert", "Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness"}
    | {"Cutout", "SolarizeAdd"},
}


@pytest.mark.parametrize(("name", "number"), [("randaugment", 14), ("efficientdet", 10), ("tf-vision", 16)])
@pytest.mark.parametrize("slots", [1, 2])
def test_rand_augment_draws_each_operation_alike_in_each_slot_by_itself(
    name: RandAugmentName, number: int, slots: int
) -> None:
    """All tuples alike: uniform in each slot, and the second independent of the first."""
    assert set(RAND_AUGMENT[name]) == LISTS[name]
    assert len(RAND_AUGMENT[name]) == number
    drawn = PolicyDraws(rand_augment(RAND_AUGMENT[name], slots, 12.5))(KEYS, None)
    assert drawn["operation_BK"].shape == (NUM, slots)
    assert (drawn["magnitude_BK"] == 12.5).all()
    tuples = itertools.product(LISTS[name], repeat=slots)
    probability = {tuple((operation, 12.5) for operation in each): number**-slots for each in tuples}
    assert_as_often(outcomes(drawn), probability, NUM, name)


def test_drawn_steps_may_have_probabilities_of_their_own() -> None:
    policy = Policy(((Step("Color", 0.5, 3),), (Step("Invert", 0.25, 3),)), draws=3)
    share = {"Color": 0.25, "Invert": 0.125, "Identity": 0.625}
    expected = {
        tuple((name, 3.0) for name in names): share[names[0]] * share[names[1]] * share[names[2]]
        for names in itertools.product(share, repeat=3)
    }
    assert_as_often(outcomes(PolicyDraws(policy)(KEYS, None)), expected, NUM, "drawn steps")


def policy_of(*steps: Step) -> Policy:
    return Policy((steps,))


# What is done half of the time would show if whether it is done were tied to its sign or its place.
EVERY_DRAW = Policy(tuple((Step("Color"), Step("Rotate_Only_BBoxes"), Step(name, 0.5)) for name in OPERATIONS))


def every_draw() -> dict[str, Tensor]:
    """Return each number that is drawn for an image of three boxes, three operations and one sub-policy of 27, [B]."""
    drawn = placement_draws(KEYS, 0.5, (0.5, 2.0)) | PolicyDraws(EVERY_DRAW)(KEYS, 3)
    result: dict[str, Tensor] = {}
    for name, value in drawn.items():
        if name == "magnitude_BK":
            continue
        columns = value.flatten(1).unbind(1) if value.dim() > 1 else [value]
        result |= {f"{name}[{place}]": column for place, column in enumerate(columns)}
    del result["operation_BK[0]"], result["operation_BK[1]"]  # always the same
    return result


def binned(draw: Tensor) -> tuple[Tensor, int]:
    """Return in which of a few bins of about the same size each draw lies, and how many there are."""
    is_few = draw.unique().numel() <= len(OPERATIONS)
    bins = draw.unique(return_inverse=True)[1] if is_few else (draw.argsort().argsort() * 6).div(NUM).long()
    return bins, int(bins.max()) + 1


def test_no_draw_is_tied_to_another() -> None:
    """Every pair, by the table of both: at p = 1e-7, for there are two thousand pairs."""
    draws = every_draw()
    assert len(draws) == 1 + 4 + 3 * 4 + 3 * 3 * 5
    sorted_into = {name: binned(draw.float()) for name, draw in draws.items()}
    for (first, (row_B, rows)), (second, (column_B, columns)) in itertools.combinations(sorted_into.items(), 2):
        table = torch.bincount(row_B * columns + column_B, minlength=rows * columns).double().view(rows, columns)
        expected = table.sum(1, keepdim=True) * table.sum(0, keepdim=True) / NUM
        chi_square = ((table - expected) ** 2 / expected).sum().item()
        assert chi_square < critical((rows - 1) * (columns - 1), 1e-7), f"{first} and {second}"


def test_places_are_uniform_and_signs_even() -> None:
    for name, draw in every_draw().items():
        if "sign" in name:
            assert set(draw.tolist()) == {-1.0, 1.0}
            assert_counts(torch.stack([(draw == side).sum() for side in (-1, 1)]).float(), NUM / 2, name)
        elif name.startswith(("x_", "y_", "choice_", "box_x", "box_y", "box_order", "crop_")):
            assert_uniform(draw, name)
            assert draw.max() < 1


@pytest.mark.parametrize("config", [S1Config(), S2Config(), S3Config(), S4Config()])
def test_scales_and_crops_are_uniform_and_half_of_the_images_mirrored(config: S1Config) -> None:
    image = object_batch(1)
    batch = image._map(lambda value: value.expand(NUM, *value.shape[1:]))
    drawn = Augment(config).parameters(batch, KEYS)
    assert_uniform(drawn["scale_B"], "scale", config.scale_min, config.scale_max)
    for name in ("crop_x_B", "crop_y_B"):
        assert_uniform(drawn[name], name)
    assert_as_often(tally(drawn["flip_B"]), {True: 0.5, False: 0.5}, NUM, "flip")


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_flips_have_their_probability(probability: float) -> None:
    flip_B = placement_draws(KEYS, probability, (1, 1))["flip_B"]
    assert_as_often(tally(flip_B), {True: probability, False: 1 - probability}, NUM, "flip")


@pytest.mark.parametrize("probability", [0.0, 0.2, 0.6, 1.0])
def test_operations_on_boxes_take_each_box_with_a_third_of_the_probability(probability: float) -> None:
    """Each box by itself, whatever becomes of the others, and in each slot by itself."""
    policy = policy_of(Step("Flip_Only_BBoxes", probability, 1), Step("Cutout_Only_BBoxes", 0.9, 1))
    drawn = PolicyDraws(policy)(KEYS, 3)["box_applies_BKN"]
    assert drawn.shape == (NUM, 2, 3)
    share = probability / 3
    expected = {
        case: share ** sum(case) * (1 - share) ** (3 - sum(case)) for case in itertools.product((False, True), repeat=3)
    }
    assert_as_often(Counter(map(tuple, drawn[:, 0].tolist())), expected, NUM, f"boxes at {probability}")
    pairs = {
        (one, other): (share if one else 1 - share) * (0.3 if other else 0.7)
        for one, other in itertools.product((False, True), repeat=2)
    }
    assert_as_often(Counter(map(tuple, drawn[:, :, 1].tolist())), pairs, NUM, "slots")


def test_in_a_policy_boxes_follow_the_row_that_was_drawn() -> None:
    policy = auto_augment("v1")
    drawn = PolicyDraws(policy)(KEYS, 2)
    rows = [(row, slot, step) for row in policy.sub_policies for slot, step in enumerate(row)]
    tested = 0
    for row, slot, step in rows:
        if kind_of(step.operation) is Kind.BOXES:
            # A row is known by its magnitudes, and by its operation on boxes, which is always there.
            is_row_B = (drawn["magnitude_BK"] == torch.tensor([float(each.magnitude) for each in row])).all(1)
            is_row_B &= drawn["operation_BK"][:, slot] == OPERATIONS.index(step.operation)
            applied = drawn["box_applies_BKN"][is_row_B, slot]
            share = step.probability / 3
            assert_as_often(tally(applied), {True: share, False: 1 - share}, applied.numel(), step.operation)
            tested += 1
    assert tested == 11


def test_pixels_of_boxes_change_as_often_as_is_drawn() -> None:
    """Solarize at 0 turns black into white: of 4,000 images with two boxes, each with probability 0.75 / 3."""
    num = 4000
    step = {"operation": "Solarize_Only_BBoxes", "probability": 0.75, "magnitude": 0}
    augment = Augment(CustomConfig.model_validate({"sub_policies": [[step]], "scale_min": 1, "scale_max": 1}))
    size_B2, number_B = torch.tensor([4, 9]).expand(num, 2), torch.arange(num)
    boxes_BN4 = torch.tensor([[0.0, 0, 3, 4], [6, 0, 9, 4], [3, 0, 6, 4], [0, 0, 0, 0]]).expand(num, 4, 4)
    targets = Targets(boxes_BN4=boxes_BN4, label_BN=torch.tensor([0, 1, -2, -1]).expand(num, 4))
    black = torch.zeros(num, 3, 4, 9)
    batch = Batch(black, size_B2, number_B, number_B, size_B2, torch.eye(2, 3).repeat(num, 1, 1), number_B * 0, targets)
    shown = augment(batch, KEYS[:num]).image_B3HW[:, 0, 0].round()
    # The third is a region to ignore: it stays. A flip takes the first for the second: both are alike.
    assert (shown[:, 3:6] == 0).all()
    found = Counter(map(tuple, shown[:, [1, 7]].bool().tolist()))
    quarter = {one: 0.25 if one else 0.75 for one in (True, False)}
    expected = {(one, other): quarter[one] * quarter[other] for one, other in itertools.product(quarter, repeat=2)}
    assert_as_often(found, expected, num, "boxes")


AUGMENTS = {
    "s1": Augment(S1Config()),
    "s2": Augment(S2Config()),
    "s3": Augment(S3Config(policy="v1")),
    "s4": Augment(S4Config(num_operations=2)),
}


def by_image(group: Any, place: int) -> Any:
    return group._map(lambda value: value[place : place + 1])


@pytest.mark.parametrize("name", AUGMENTS)
def test_two_images_of_a_batch_and_two_visits_differ(name: str) -> None:
    """Even where image, boxes and visit are the same: their ids are not."""
    alike = object_batch(1)._map(lambda value: value.expand(8, *value.shape[1:]))
    keys = [fold(5, torch.arange(8), visit) for visit in (0, 1)]
    shown = torch.cat([AUGMENTS[name](alike, key_B).image_B3HW for key_B in keys])
    assert len(torch.cat([AUGMENTS[name].parameters(alike, key_B)["scale_B"] for key_B in keys]).unique()) == 16
    assert len(shown.flatten(1).unique(dim=0)) >= 14  # a scale may come twice when it is rounded to whole pixels


@pytest.mark.parametrize("name", AUGMENTS)
def test_an_image_is_the_same_in_any_batch(name: str) -> None:
    batch, augment = object_batch(13), AUGMENTS[name]
    key_B = fold(5, batch.id_B, batch.visit_B)
    whole, drawn = augment(batch, key_B), augment.parameters(batch, key_B)
    order = torch.randperm(13, generator=torch.Generator().manual_seed(0))
    shuffled = augment(batch._map(lambda value: value[order]), key_B[order])
    assert_equal(shuffled, whole._map(lambda value: value[order]), "in another order", atol=1e-5)
    for place in range(13):
        alone = augment(by_image(batch, place), key_B[place : place + 1])
        assert_equal(alone, by_image(whole, place), "alone", atol=1e-5)
        of_one = augment.parameters(by_image(batch, place), key_B[place : place + 1])
        assert_equal(of_one, {what: value[place : place + 1] for what, value in drawn.items()}, "drawn alone")


@pytest.mark.parametrize("name", AUGMENTS)
def test_parameters_replay_to_the_same_bits(name: str) -> None:
    batch, augment = object_batch(13), AUGMENTS[name]
    key_B = fold(6, batch.id_B)
    drawn = augment.parameters(batch, key_B)
    kept = {what: value.clone() for what, value in drawn.items()}
    assert_equal(augment.replay(batch, drawn), augment(batch, key_B), "replayed")
    assert_equal(drawn, kept, "parameters after a replay")


def test_more_boxes_or_none_change_no_other_draw() -> None:
    """What is drawn for a box is its own, wherever padding ends; what is drawn for the image has no part in it."""
    draws = PolicyDraws(auto_augment("v1"))
    few, many, none = (draws(KEYS[:500], num) for num in (2, 9, None))
    assert_equal({what: few[what] for what in none}, none, "with boxes")
    assert {what for what in many if what not in none} == {
        f"box_{x}_BKN" for x in ("applies", "sign", "x", "y", "order")
    }
    for what, value in few.items():
        assert torch.equal(value, many[what][..., :2] if what.endswith("N") else many[what]), what


def test_a_policy_of_nothing_draws_nothing() -> None:
    assert PolicyDraws(Policy())(KEYS[:5], 3) == {}
    drawn = Augment(S1Config()).parameters(object_batch(2), KEYS[:2])
    assert set(drawn) == {"flip_B", "scale_B", "crop_x_B", "crop_y_B"}


def test_parameters_have_the_types_they_promise() -> None:
    drawn = PolicyDraws(EVERY_DRAW)(KEYS[:7], 4)
    whole = {"operation_BK": torch.int64, "box_applies_BKN": torch.bool}
    for name, value in drawn.items():
        assert value.shape == ((7, 3, 4) if name.endswith("N") else (7, 3)), name
        assert value.dtype == whole.get(name, torch.float32), name
