from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the demo's extra is not installed")

from selftrain.scenes import (
    CLASSES,
    SPLITS,
    Scene,
    SceneSettings,
    Split,
    glyph_mask,
    make_scene,
    plan_scene,
    render,
    split_glyphs,
)

SETTINGS = SceneSettings(seed=3)
NUM_SCENES = 12


@pytest.fixture(scope="module")
def scenes() -> dict[Split, list[Scene]]:
    return {split: [make_scene(SETTINGS, split, number) for number in range(NUM_SCENES)] for split in SPLITS}


def every(scenes: dict[Split, list[Scene]]) -> list[Scene]:
    return [scene for split in SPLITS for scene in scenes[split]]


def test_shapes_and_ranges(scenes: dict[Split, list[Scene]]) -> None:
    for scene in every(scenes):
        assert scene.image_HW3.shape == (SETTINGS.height, SETTINGS.width, 3)
        assert scene.classes_HW.shape == (SETTINGS.height, SETTINGS.width)
        dtypes = [array.dtype.name for array in (scene.image_HW3, scene.classes_HW, scene.boxes_N4, scene.labels_N)]
        assert dtypes == ["uint8", "uint8", "float32", "int64"]
        assert SETTINGS.min_digits <= len(scene.labels_N) <= SETTINGS.max_digits
        assert scene.boxes_N4.shape == (len(scene.labels_N), 4)
        assert set(np.unique(scene.classes_HW)) == {0, *scene.labels_N.tolist()}
        assert scene.labels_N.min() >= 1
        assert scene.labels_N.max() < len(CLASSES)


def test_a_scene_is_a_function_of_seed_split_and_number(scenes: dict[Split, list[Scene]]) -> None:
    again = make_scene(SETTINGS, "test", 5)
    np.testing.assert_array_equal(again.image_HW3, scenes["test"][5].image_HW3)
    np.testing.assert_array_equal(again.classes_HW, scenes["test"][5].classes_HW)
    others = [(replace(SETTINGS, seed=4), "test", 5), (SETTINGS, "test", 6), (SETTINGS, "validation", 5)]
    for settings, split, number in others:
        assert plan_scene(settings, split, number) != again.plan  # type: ignore[arg-type]


def test_the_number_of_scenes_changes_no_scene(scenes: dict[Split, list[Scene]]) -> None:
    assert plan_scene(replace(SETTINGS, test=1000), "test", 5) == scenes["test"][5].plan


def test_the_mask_is_what_was_pasted(scenes: dict[Split, list[Scene]]) -> None:
    for scene in every(scenes):
        background_HW3 = render(replace(scene.plan, pastes=())).image_HW3
        changed_HW = (scene.image_HW3 != background_HW3).any(2)
        assert not changed_HW[scene.classes_HW == 0].any()
        # A pasted pixel may happen to have the background's colour, but hardly ever.
        assert changed_HW[scene.classes_HW > 0].mean() > 0.999


def test_every_digit_lies_whole_inside_its_scene(scenes: dict[Split, list[Scene]]) -> None:
    for scene in every(scenes):
        for paste in scene.plan.pastes:
            alone = render(replace(scene.plan, pastes=(paste,)))
            mask_HW = glyph_mask(paste.glyph, paste.size, paste.angle)
            assert (alone.classes_HW == paste.label).sum() == mask_HW.sum()


def test_later_digits_cover_little_of_earlier_ones(scenes: dict[Split, list[Scene]]) -> None:
    covered = 0
    for scene in every(scenes):
        for number in range(len(scene.plan.pastes)):
            order = scene.plan.pastes
            before = render(replace(scene.plan, pastes=order[number : number + 1])).classes_HW > 0
            after = render(replace(scene.plan, pastes=order[number + 1 :])).classes_HW > 0
            share = (before & after).sum() / before.sum()
            assert share <= 0.1
            covered += share > 0
    assert covered > 0, "no scene shows that the limit matters"


def test_boxes_are_tight_and_half_open(scenes: dict[Split, list[Scene]]) -> None:
    for scene in every(scenes):
        owner_HW = np.full(scene.classes_HW.shape, -1)
        for number, paste in enumerate(scene.plan.pastes):
            owner_HW[render(replace(scene.plan, pastes=(paste,))).classes_HW > 0] = number
        for number, (x0, y0, x1, y1) in enumerate(scene.boxes_N4.astype(int)):
            seen_HW = owner_HW == number
            inside_HW = seen_HW[y0:y1, x0:x1]
            assert inside_HW.sum() == seen_HW.sum() > 0
            assert inside_HW[0].any()
            assert inside_HW[-1].any()
            assert inside_HW[:, 0].any()
            assert inside_HW[:, -1].any()


def test_no_two_splits_share_a_digit(scenes: dict[Split, list[Scene]]) -> None:
    allowed = {split: {glyph for digit in split_glyphs(SETTINGS)[split] for glyph in digit} for split in SPLITS}
    shown = {split: {paste.glyph for scene in scenes[split] for paste in scene.plan.pastes} for split in SPLITS}
    for split in SPLITS:
        assert shown[split] <= allowed[split]
    for first, second in combinations(SPLITS, 2):
        assert not allowed[first] & allowed[second]
    assert sum(map(len, allowed.values())) == 1797
    assert len(allowed["labelled"]) == 10 * SETTINGS.labelled_glyphs


def test_training_validation_and_test_share_no_part_of_a_photograph(scenes: dict[Split, list[Scene]]) -> None:
    columns: dict[str, set[tuple[int, int]]] = {"train": set(), "validation": set(), "test": set()}
    for split in SPLITS:
        part = split if split in columns else "train"
        for scene in scenes[split]:
            left, _, right, _ = scene.plan.crop
            columns[part] |= {(scene.plan.photograph, column) for column in range(left, right)}
    assert all(columns.values())
    for first, second in combinations(columns.values(), 2):
        assert not first & second


def test_labels_are_those_of_the_glyphs(scenes: dict[Split, list[Scene]]) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits().target
    for scene in every(scenes):
        assert [digits[paste.glyph] + 1 for paste in scene.plan.pastes] == scene.labels_N.tolist()


def test_every_digit_is_shown_by_the_labelled_scenes() -> None:
    shown = {paste.label for number in range(80) for paste in plan_scene(SceneSettings(), "labelled", number).pastes}
    assert shown == set(range(1, len(CLASSES)))
