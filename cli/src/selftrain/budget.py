"""How long a run will take, and which canvas and number of steps fit a time. No torch here.

A run trains a teacher for k steps of 8 images, a student for k of 16, and a baseline on as many images as both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

HUMAN, PSEUDO = 8, 8
"""Images in a step."""
FEWEST_STEPS = 100
"""Of a training that shows anything."""
GOOD_STEPS = 1000
"""With fewer, a smaller canvas serves better."""
ENOUGH_STEPS = 300
"""With fewer, a smaller canvas serves better even if it shows objects as small as they should not be."""
SMALLEST_SIDE = 24
"""Pixels of the canvas that half of the boxes are to have as √area: what finds them begins with 32."""
MOST_STEPS = 20_000
_LONG_SIDES = (96, 128, 160, 192, 256, 320, 384, 448, 512)
_PROCESSES, _MODELS = 8, 3
_IMAGES_PER_STEP = HUMAN + (HUMAN + PSEUDO) + (2 * HUMAN + PSEUDO)
"""Of teacher, student and baseline together."""
_VALIDATIONS = (6, 5, 4, 3)
_MOST_VALIDATING = 0.15
_MARGIN = 0.95

Canvas = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Speed:
    """What was measured on one canvas, in seconds.

    Attributes:
        supervised: Training, per human image.
        joint: Training of a student, per image.
        labelling: Per unlabelled image.
        evaluating: Per image with labels.
        start: A stage's process until it works.
        reading: Of an image with its labels.
    """

    supervised: float
    joint: float
    labelling: float
    evaluating: float
    start: float
    reading: float

    def at(self, ratio: float) -> Speed:
        """Return what to expect on a canvas with `ratio` times as many pixels."""
        scaled = (self.supervised * ratio, self.joint * ratio, self.labelling * ratio, self.evaluating * ratio)
        return Speed(*scaled, self.start, self.reading)


@dataclass(frozen=True, slots=True)
class Schedule:
    """A run that fits.

    Attributes:
        canvas: Height and width.
        steps: Of the teacher, and of the student.
        validate_every: Images seen between two validations.
        step_seconds: What a step of each of the three models takes together.
        seconds: By what they are spent on.
    """

    canvas: Canvas
    steps: int
    validate_every: int
    step_seconds: float
    seconds: dict[str, float]

    @property
    def total(self) -> float:
        """Seconds in all."""
        return sum(self.seconds.values())


def canvases(size: tuple[int, int]) -> list[Canvas]:
    """Return canvases of the shape of `size` (height, width), from the smallest to the first that is no smaller."""
    height, width = size
    longest = max(size)
    found: list[Canvas] = []
    for long_side in _LONG_SIDES:
        canvas = (_multiple(height * long_side / longest), _multiple(width * long_side / longest))
        if canvas not in found:
            found.append(canvas)
        if long_side >= longest:
            break
    return found


def first_to_show(offered: Sequence[Canvas], relative_side: float | None) -> Canvas:
    """Return the smallest canvas on which half of the boxes have `SMALLEST_SIDE`, else the largest.

    Args:
        offered: Canvases, the smallest first.
        relative_side: The median √area of the boxes as a share of the image's longer side; None for masks, which the
            smallest canvas shows.
    """
    if relative_side is None:
        return offered[0]
    return next((canvas for canvas in offered if max(canvas) * relative_side >= SMALLEST_SIDE), offered[-1])


def _multiple(side: float) -> int:
    return max(1, round(side / 32)) * 32


def schedule(canvas: Canvas, speed: Speed, images: Mapping[str, int], minutes: float) -> Schedule:
    """Return the longest run on `canvas` that takes no more than `minutes`; its steps may be too few, or negative.

    Args:
        canvas: Height and width.
        speed: On this canvas.
        images: Number of images by part.
        minutes: The time there is.
    """
    budget = 60 * minutes * _MARGIN
    per_step = HUMAN * speed.supervised + (HUMAN + PSEUDO) * speed.joint + (2 * HUMAN + PSEUDO) * speed.supervised
    # Every model is validated whenever it has seen as many images; together they see six times what the teacher sees.
    per_validation = images["validation"] * speed.evaluating * _IMAGES_PER_STEP / HUMAN
    validations = next((n for n in _VALIDATIONS if n * per_validation <= _MOST_VALIDATING * budget), _VALIDATIONS[-1])
    held_out = images["validation"] + images["test"]
    seconds = {
        "starting": _PROCESSES * speed.start,
        "checking the labels": (images["labelled"] + held_out) * speed.reading,
        "validating": validations * per_validation,
        "labelling": images["unlabelled"] * speed.labelling,
        "evaluating": 2 * _MODELS * held_out * speed.evaluating,
    }
    steps = min(MOST_STEPS, int((budget - sum(seconds.values())) / per_step))
    validate_every = max(HUMAN, -(-steps * HUMAN // validations))
    return Schedule(canvas, steps, validate_every, per_step, {**seconds, "training": steps * per_step})


def needed_minutes(plan: Schedule) -> float:
    """Return the minutes in which a run on this canvas would train for `FEWEST_STEPS`."""
    rest = plan.total - plan.seconds["training"]
    return (rest + FEWEST_STEPS * plan.step_seconds) / _MARGIN / 60


def choose(
    offered: Sequence[Canvas],
    measure: Callable[[Canvas], Speed],
    images: Mapping[str, int],
    minutes: float,
    wanted: Canvas | None = None,
) -> Schedule:
    """Return the run on the largest canvas on which it has `GOOD_STEPS`, else on the smallest.

    Up to the canvas that is wanted, `ENOUGH_STEPS` do.

    The smallest is measured first; the one that its speed promises second.

    Args:
        offered: Canvases, the smallest first.
        measure: Returns the speed on a canvas; takes a while.
        images: Number of images by part.
        minutes: The time there is.
        wanted: A smaller canvas would show too little; None is the smallest.
    """
    smallest = offered[0]
    wanted_pixels = 0 if wanted is None or wanted == smallest else wanted[0] * wanted[1]
    speeds = {smallest: measure(smallest)}
    while True:
        plans = [schedule(canvas, _expected(canvas, speeds), images, minutes) for canvas in offered]
        good = [
            plan
            for plan in plans
            if plan.steps >= (ENOUGH_STEPS if plan.canvas[0] * plan.canvas[1] <= wanted_pixels else GOOD_STEPS)
        ]
        best = good[-1] if good else plans[0]
        if best.canvas in speeds:
            return best
        speeds[best.canvas] = measure(best.canvas)


def _expected(canvas: Canvas, speeds: Mapping[Canvas, Speed]) -> Speed:
    """Return the speed on a canvas from the measured one that is closest in size."""
    pixels = canvas[0] * canvas[1]
    nearest = min(speeds, key=lambda each: abs(each[0] * each[1] - pixels))
    return speeds[nearest].at(pixels / (nearest[0] * nearest[1]))
