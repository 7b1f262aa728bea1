"""The paper's sets as sources (§3.2): paths as the sets are distributed, relative to the configuration."""

from __future__ import annotations

from typing import Any

Section = dict[str, Any]

_COCO = """\
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag,
tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard,
tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot,
hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote,
keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear,
hair drier, toothbrush"""
_VOC = """\
background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse, motorbike,
person, pottedplant, sheep, sofa, train, tvmonitor"""

HELD_OUT = 0.02
"""The share of the labelled images that steps are chosen by: 2,366 of COCO's."""
COCO_IMAGES = 118_287
"""Of train2017, by which the paper's fractions are counted."""
COCO_PERCENT = (20, 50)
"""Of them, that the paper's fractions are."""
_COCO_LISTS = "coco/splits"

CLASSES: dict[str, list[str]] = {
    name: [each.strip() for each in text.replace("\n", " ").split(",")]
    for name, text in (("coco", _COCO), ("voc", _VOC))
}

_UNLABELLED: dict[str, dict[str, Section]] = {
    "imagenet": {"pool": {"name": "core/images", "images": "imagenet/train"}},
    "oid": {"pool": {"name": "core/images", "images": "open-images/train"}},
    "coco-all": {
        "pool": {"name": "core/images", "images": "coco/train2017"},
        "more": {"name": "core/images", "images": "coco/unlabeled2017"},
    },
    "voc-aug": {
        "pool": {
            "name": "core/images",
            "images": "voc2012/JPEGImages",
            "list": "voc2012/ImageSets/Segmentation/trainaug.txt",
        }
    },
}


def _coco(images: str, **more: Any) -> Section:
    annotations = f"coco/annotations/instances_{images}.json"
    return {"name": "detection/coco", "images": f"coco/{images}", "annotations": annotations, **more}


def _voc(**more: Any) -> Section:
    folder = "voc2012"
    return {
        "name": "segmentation/index-masks",
        "images": f"{folder}/JPEGImages",
        "masks": f"{folder}/SegmentationClassAug",
        **more,
    }


def lists_to_make(labelled: str) -> str:
    """Return the command that makes the lists of a recipe that no set is distributed with.

    Args:
        labelled: As in `selftrain.recipes.cells.Cell`.
    """
    draw = f"selftrain split RECIPE.yaml --source labelled --validation {HELD_OUT}"
    if labelled.startswith("voc"):
        return f"{draw} -o {_voc_lists(labelled)}"
    # The same for every fraction: all recipes hold out the same images.
    counts = " ".join(f"--count {_coco_size(percent)}" for percent in COCO_PERCENT)
    return f"{draw} {counts} --set data.sources.labelled.list=null -o {_COCO_LISTS}"


def _coco_size(percent: int) -> int:
    return round(COCO_IMAGES * percent / 100)


def _voc_lists(labelled: str) -> str:
    return f"voc2012/splits-{_voc_list(labelled)}"


def _voc_list(labelled: str) -> str:
    return "trainaug" if labelled == "voc-aug" else "train"


def joint_section(weight: float, images: int) -> Section:
    """Return the section ``joint`` of a configuration: ImageNet's classification.

    Args:
        weight: Of its loss.
        images: It adds to each step.
    """
    return {
        "imagenet": {
            "task": "core/classification",
            "sources": {"train": {"name": "core/class-folders", "images": "imagenet/train"}},
            "labelled": "train",
            "classes": "imagenet/classes.json",
            "images": images,
            "weight": weight,
            "canvas": [224, 224],
            "augmentation": "augment/s1",
        }
    }


def data_section(labelled: str, unlabelled: str | None) -> Section:
    """Return the section ``data`` of a configuration.

    Args:
        labelled: As in `selftrain.recipes.cells.Cell`.
        unlabelled: Likewise.
    """
    is_coco = labelled.startswith("coco")
    sources = _coco_sources(labelled) if is_coco else _voc_sources(labelled)
    pool = {}
    if unlabelled:
        pools = _UNLABELLED[unlabelled]
        sources |= pools
        pool = {"unlabelled": f"{' + '.join(pools)} - labelled - held_out - val"}
    return {
        "sources": sources,
        "labelled": "labelled - held_out",
        **pool,
        "validation": "held_out",
        "test": "val",
        "classes": CLASSES["coco" if is_coco else "voc"],
    }


def _coco_sources(labelled: str) -> dict[str, Section]:
    percent = labelled.partition("-")[2]
    part = {"list": f"{_COCO_LISTS}/labelled-{_coco_size(int(percent))}-seed0.txt"} if percent else {}
    return {
        "labelled": _coco("train2017", **part),
        "held_out": _coco("train2017", list=f"{_COCO_LISTS}/val.txt"),
        "val": _coco("val2017"),
    }


def _voc_sources(labelled: str) -> dict[str, Section]:
    sets = "voc2012/ImageSets/Segmentation"
    return {
        "labelled": _voc(list=f"{sets}/{_voc_list(labelled)}.txt"),
        "held_out": _voc(list=f"{_voc_lists(labelled)}/val.txt"),
        "val": _voc(list=f"{sets}/val.txt"),
    }
