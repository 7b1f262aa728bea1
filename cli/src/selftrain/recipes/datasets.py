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
_VOC_SETS = "voc2012/ImageSets/Segmentation"

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
            "list": f"{_VOC_SETS}/trainaug.txt",
        }
    },
}


def _coco(images: str, **more: Any) -> Section:
    annotations = f"coco/annotations/instances_{images}.json"
    return {"name": "detection/coco", "images": f"coco/{images}", "annotations": annotations, **more}


def _voc(labelled: str, **more: Any) -> Section:
    masks = "SegmentationClassAug" if labelled == "voc-aug" else "SegmentationClass"
    return {"name": "segmentation/index-masks", "images": "voc2012/JPEGImages", "masks": f"voc2012/{masks}", **more}


def things_to_make(labelled: str, unlabelled: str | None) -> list[str]:
    """Return what a recipe needs and no set is distributed with, as commands where there are such.

    Args:
        labelled: As in `selftrain.recipes.cells.Cell`.
        unlabelled: Likewise.
    """
    draw = f"selftrain split RECIPE.yaml --source labelled --validation {HELD_OUT}"
    if not labelled.startswith("voc"):
        # The same for every fraction: all recipes hold out the same images.
        counts = " ".join(f"--count {_coco_size(percent)}" for percent in COCO_PERCENT)
        return [f"{draw} {counts} --set data.sources.labelled.list=null -o {_COCO_LISTS}"]
    found = []
    if "voc-aug" in (labelled, unlabelled):
        found.append(f"{_VOC_SETS}/trainaug.txt: the ids of VOC's 1,464 and SBD's 9,118 (Hariharan et al. 2011)")
    if labelled == "voc-aug":
        found.append("voc2012/SegmentationClassAug: masks of them all and of val, as PNGs of class indices")
    if labelled == "voc-trainval":
        draw += f" --test {HELD_OUT}"
    return [*found, f"{draw} -o {_voc_lists(labelled)}"]


def _coco_size(percent: int) -> int:
    return round(COCO_IMAGES * percent / 100)


def _voc_lists(labelled: str) -> str:
    return f"voc2012/splits-{_voc_list(labelled)}"


def _voc_list(labelled: str) -> str:
    return {"voc": "train", "voc-aug": "trainaug", "voc-trainval": "trainval"}[labelled]


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
        "labelled": "labelled - held_out - val" if labelled == "voc-trainval" else "labelled - held_out",
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
    test = f"{_voc_lists(labelled)}/test.txt" if labelled == "voc-trainval" else f"{_VOC_SETS}/val.txt"
    return {
        "labelled": _voc(labelled, list=f"{_VOC_SETS}/{_voc_list(labelled)}.txt"),
        "held_out": _voc(labelled, list=f"{_voc_lists(labelled)}/val.txt"),
        "val": _voc(labelled, list=test),
    }
