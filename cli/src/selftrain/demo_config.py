"""The configurations that ``selftrain demo`` runs, one for each task."""

from __future__ import annotations

from dataclasses import dataclass

from selftrain.scenes import SceneSettings

_HEAD = """\
# What `selftrain demo{option}` runs. To try something else, copy this file beside itself, change it, and say:
#   selftrain run COPY.yaml -o ANOTHER-FOLDER
# Every setting there is, with its default: selftrain config show COPY.yaml

seed: {seed}
canvas: [{height}, {width}]          # height and width to which images are fitted; multiples of 32

"""

_MASKS = """\
data:
  # Paths are relative to this file.
  sources:
    labelled:                 # few scenes, which show few different handwritten digits
      name: segmentation/index-masks
      images: data/images
      masks: data/masks       # PNG; the value of a pixel is its class
      list: data/splits/labelled.txt
    train:                    # labelled and unlabelled scenes; no mask is read here
      name: core/images
      images: data/images
      list: data/splits/train.txt
    validation:
      name: segmentation/index-masks
      images: data/images
      masks: data/masks
      list: data/splits/validation.txt
    test:
      name: segmentation/index-masks
      images: data/images
      masks: data/masks
      list: data/splits/test.txt
  labelled: labelled
  unlabelled: train - labelled
  validation: validation
  test: test
  classes: data/classes.json

task: segmentation/semantic
"""

_BOXES = """\
data:
  # Paths are relative to this file.
  sources:
    labelled:                 # few scenes, which show few different handwritten digits
      name: detection/coco
      images: data/images
      annotations: data/boxes/labelled.json
    train:                    # labelled and unlabelled scenes; no box is read here
      name: core/images
      images: data/images
      list: data/splits/train.txt
    validation:
      name: detection/coco
      images: data/images
      annotations: data/boxes/validation.json
    test:
      name: detection/coco
      images: data/images
      annotations: data/boxes/test.json
  labelled: labelled
  unlabelled: train - labelled
  validation: validation
  test: test
  classes: [zero, one, two, three, four, five, six, seven, eight, nine]

task: detection/retinanet
"""

_TAIL = """\

backbone:
  name: timm/tf_efficientnet_lite0
  init: imagenet              # its weights come as a Python package: nothing is downloaded

augmentation:
  name: augment/s1
  flip_probability: 0         # a mirrored digit is none

policy: core/adaptive         # of each class the surest {things}, as many as its share of the labels suggests

teacher:
  steps: {teacher_steps}
  human: 8                    # labelled images in each step
  optimizer: {{lr: 0.003}}

student:
  steps: {student_steps}
  human: 8
  pseudo: 8                   # images in each step that the teacher labelled
  optimizer: {{lr: 0.003}}

# A supervised model that sees as many images as teacher and student together: what the student has to beat.
baseline: true

validate_every_images: 640

device:
  predict_batch: 32
"""


@dataclass(frozen=True)
class Recipe:
    """What is different from task to task.

    Attributes:
        data: The sections of the configuration on data and task.
        things: What a policy chooses among.
        teacher_steps: Steps after which the teacher's validation score is flat, on the scenes of several seeds.
        student_steps: Steps of the student.
    """

    data: str
    things: str
    teacher_steps: int
    student_steps: int


RECIPES = {
    "segmentation": Recipe(_MASKS, "pixels", 1200, 400),
    "detection": Recipe(_BOXES, "boxes", 800, 400),
}
SUFFIXES = {"segmentation": "", "detection": "-detection"}
"""Of the names of a task's configuration and run, which lie beside the scenes that all tasks share."""


def demo_config(task: str, settings: SceneSettings) -> str:
    """Return the configuration of a task as YAML with comments."""
    recipe = RECIPES[task]
    return (_HEAD + recipe.data + _TAIL).format(
        option="" if task == "segmentation" else f" --task {task}",
        seed=settings.seed,
        height=settings.height,
        width=settings.width,
        things=recipe.things,
        teacher_steps=recipe.teacher_steps,
        student_steps=recipe.student_steps,
    )
