from __future__ import annotations

import pytest

from selftrain.budget import (
    ENOUGH_STEPS,
    FEWEST_STEPS,
    GOOD_STEPS,
    MOST_STEPS,
    Canvas,
    Speed,
    canvases,
    choose,
    first_to_show,
    needed_minutes,
    schedule,
)

IMAGES = {"labelled": 50, "unlabelled": 500, "validation": 20, "test": 30}
SPEED = Speed(supervised=0.01, joint=0.012, labelling=0.004, evaluating=0.005, start=5.0, reading=0.01)


def linear(canvas: Canvas) -> Speed:
    return SPEED.at(canvas[0] * canvas[1] / (96 * 64))


def test_canvases_have_the_shape_of_the_images() -> None:
    assert canvases((384, 256)) == [(96, 64), (128, 96), (160, 96), (192, 128), (256, 160), (320, 224), (384, 256)]
    assert canvases((40, 60)) == [(64, 96)]
    assert canvases((3000, 4000))[-1] == (384, 512)


def test_a_schedule_adds_up() -> None:
    plan = schedule((96, 64), SPEED, IMAGES, 60)
    assert plan.total <= 60 * 60
    assert plan.total > 0.9 * 60 * 60
    per_step = 8 * 0.01 + 16 * 0.012 + 24 * 0.01
    assert plan.seconds["training"] == pytest.approx(plan.steps * per_step)
    assert plan.seconds["labelling"] == pytest.approx(500 * 0.004)
    assert plan.seconds["starting"] == 8 * 5.0
    assert plan.steps * 8 / plan.validate_every == pytest.approx(6, abs=0.01)


def test_slow_validation_happens_less_often() -> None:
    many = {**IMAGES, "validation": 5000}
    assert schedule((96, 64), SPEED, many, 60).steps * 8 / schedule((96, 64), SPEED, many, 60).validate_every < 3.1


def test_there_is_an_end_to_training() -> None:
    assert schedule((96, 64), SPEED, IMAGES, 1e6).steps == MOST_STEPS


def test_the_largest_canvas_with_enough_steps_is_chosen() -> None:
    measured: list[Canvas] = []

    def measure(canvas: Canvas) -> Speed:
        measured.append(canvas)
        return linear(canvas)

    plan = choose(canvases((384, 256)), measure, IMAGES, 60)
    assert plan.steps >= GOOD_STEPS
    larger = canvases((384, 256))[canvases((384, 256)).index(plan.canvas) + 1]
    assert schedule(larger, linear(larger), IMAGES, 60).steps < GOOD_STEPS
    assert measured == [(96, 64), plan.canvas]


def test_a_canvas_that_disappoints_is_given_up() -> None:
    def measure(canvas: Canvas) -> Speed:
        return linear(canvas) if canvas == (96, 64) else linear(canvas).at(4)

    plan = choose(canvases((384, 256)), measure, IMAGES, 60)
    assert schedule(plan.canvas, measure(plan.canvas), IMAGES, 60) == plan


def test_little_time_takes_the_smallest_canvas() -> None:
    plan = choose(canvases((384, 256)), linear, IMAGES, 5)
    assert plan.canvas == (96, 64)
    assert FEWEST_STEPS <= plan.steps < GOOD_STEPS


def test_too_little_time_says_how_much_is_needed() -> None:
    plan = choose(canvases((384, 256)), linear, IMAGES, 0.1)
    assert plan.steps < FEWEST_STEPS
    enough = schedule(plan.canvas, linear(plan.canvas), IMAGES, needed_minutes(plan) + 0.05)
    assert FEWEST_STEPS <= enough.steps <= FEWEST_STEPS + 10


def test_the_canvas_that_shows_small_objects() -> None:
    offered = canvases((384, 256))
    assert first_to_show(offered, None) == offered[0]
    assert first_to_show(offered, 0.5) == (96, 64)
    assert first_to_show(offered, 0.1) == (256, 160), "24 pixels are a tenth of 240"
    assert first_to_show(offered, 0.01) == offered[-1]


def test_small_objects_are_shown_for_fewer_steps() -> None:
    offered = canvases((384, 256))
    plain = choose(offered, linear, IMAGES, 60)
    larger = offered[offered.index(plain.canvas) + 1]
    wanted = choose(offered, linear, IMAGES, 60, larger)
    assert wanted.canvas == larger and ENOUGH_STEPS <= wanted.steps < GOOD_STEPS
    assert choose(offered, linear, IMAGES, 60, offered[0]).canvas == plain.canvas
    assert choose(offered, linear, IMAGES, 60, offered[-1]).steps >= ENOUGH_STEPS, "too much to want is not had"
