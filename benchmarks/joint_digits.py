"""Data for benchmarks/joint_digits.yaml: the demo's scenes, and single digits to classify, in a folder for each class.

    python benchmarks/joint_digits.py DATA
    selftrain run benchmarks/joint_digits.yaml -o runs/joint

The single digits are those that the unlabelled scenes show; those of the validation and test scenes are not among them.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from selftrain.demo_data import write_scenes
from selftrain.scenes import CLASSES, SceneSettings, split_glyphs

SIDE = 64
"""Of a picture of one digit, in pixels."""


def write_digits(folder: Path, settings: SceneSettings) -> int:
    """Write a picture of each digit that unlabelled scenes show, white on black, and return how many there are."""
    pixels = load_digits().images
    parts = split_glyphs(settings)
    count = 0
    for name, glyphs in zip(CLASSES[1:], parts["unlabelled"], strict=True):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for glyph in glyphs:
            grey_HW = np.rint(np.pad(pixels[glyph], 1) * (255 / 16)).astype(np.uint8)
            Image.fromarray(grey_HW).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR).save(
                folder / name / f"{glyph:04}.png"
            )
            count += 1
    return count


def main() -> None:
    data = Path(sys.argv[1])
    settings = SceneSettings()
    write_scenes(data / "scenes", settings)
    print(f"{write_digits(data / 'digits', settings):,} pictures of single digits beside the scenes in {data}")


if __name__ == "__main__":
    main()
