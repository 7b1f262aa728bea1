"""``selftrain demo``: the whole method in minutes, on scenes made on the spot."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import click

from selftrain.demo_data import write_scenes
from selftrain.progress_display import progress_display
from selftrain.scenes import SceneSettings
from selftrain.summary_table import show_summary
from selftrain_core.config import load_config
from selftrain_core.errors import RunError, SelftrainError
from selftrain_core.files import write_text
from selftrain_core.progress import Event, Observer
from selftrain_core.rounds import self_train

CONFIG = """\
# What `selftrain demo` runs. To try something else, copy this file beside itself, change it, and say:
#   selftrain run COPY.yaml -o ANOTHER-FOLDER
# Every setting there is, with its default: selftrain config show COPY.yaml

seed: {seed}
canvas: [{height}, {width}]          # height and width to which images are fitted; multiples of 32

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

backbone:
  name: timm/tf_efficientnet_lite0
  init: imagenet              # its weights come as a Python package: nothing is downloaded

augmentation:
  name: augment/s1
  flip_probability: 0         # a mirrored digit is none

policy: core/adaptive         # of each class the surest pixels, as many as its share of the labels suggests

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

TEACHER_STEPS, STUDENT_STEPS = 800, 400


@click.command()
@click.option(
    "-o",
    "--output",
    "folder",
    metavar="DIR",
    type=click.Path(path_type=Path),
    default=Path("demo-run"),
    show_default=True,
    help="Where everything is left.",
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Of scenes and training.")
def demo(folder: Path, seed: int) -> None:
    """Teach, label and learn on handwritten digits over photographs, made on the spot.

    80 labelled scenes, 1,000 unlabelled ones; the score is the mean IoU over the ten digits and the
    background. Needs no data, no download and no GPU; on one busy processor core training took nine minutes. What is
    printed is what was measured, whether it speaks for self-training or not.
    """
    if find_spec("sklearn") is None:
        raise SelftrainError("the demo needs scikit-learn, which is not installed: pip install 'selftrain[demo]'")
    settings = SceneSettings(seed=seed)
    with progress_display() as observer:
        _make_scenes(folder / "data", settings, observer)
        path = write_config(folder, settings)
        summary = self_train(load_config(path), folder / "run", observer)
    show_summary(summary, folder / "run")
    click.echo(f"  {path}: the configuration, to copy and change")


def write_config(folder: Path, settings: SceneSettings) -> Path:
    """Write the demo's configuration and return its path.

    Args:
        folder: The demo's folder, with the scenes in ``data``.
        settings: Of the scenes.

    Raises:
        RunError: The file is there with other content.
    """
    path = folder / "demo.yaml"
    text = CONFIG.format(
        seed=settings.seed,
        height=settings.height,
        width=settings.width,
        teacher_steps=TEACHER_STEPS,
        student_steps=STUDENT_STEPS,
    )
    if not path.exists():
        write_text(path, text)
    elif path.read_text(encoding="utf-8") != text:
        raise RunError(
            f"{path} is not what the demo writes; it is left as it is\n"
            f"  to run it: selftrain run {path} -o {folder / 'my-run'}\n"
            "  to run the demo: give another folder with -o"
        )
    return path


def _make_scenes(folder: Path, settings: SceneSettings, observer: Observer) -> None:
    name = "demo/scenes"
    observer(Event("started", name))
    made = write_scenes(
        folder, settings, lambda done, total: observer(Event("progress", name, done, total, unit="scenes"))
    )
    observer(Event("finished" if made else "skipped", name, text="" if made else "made before", unit="scenes"))
