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

CLASSES: dict[str, list[str]] = {
    name: [each.strip() for each in text.replace("\n", " ").split(",")]
    for name, text in (("coco", _COCO), ("voc", _VOC))
}

_UNLABELLED: dict[str, Section] = {
    "imagenet": {"name": "core/images", "images": "imagenet/train"},
    "oid": {"name": "core/images", "images": "open-images/train"},
    "coco-all": {"name": "core/images", "images": "coco"},
    "coco-unlabelled": {"name": "core/images", "images": "coco/unlabeled2017"},
    "voc": {"name": "core/images", "images": "voc2012/JPEGImages"},
    "voc-aug": {
        "name": "core/images",
        "images": "voc2012/JPEGImages",
        "list": "voc2012/ImageSets/Segmentation/trainaug.txt",
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

    Without self-training there is a pool too: a configuration has one, and teaching alone does not look at it.

    Args:
        labelled: As in `selftrain.recipes.cells.Cell`.
        unlabelled: Likewise.
    """
    is_coco = labelled.startswith("coco")
    sources = _coco_sources(labelled) if is_coco else _voc_sources(labelled)
    sources["pool"] = _UNLABELLED[unlabelled or ("coco-unlabelled" if is_coco else "voc")]
    return {
        "sources": sources,
        "labelled": "labelled - held_out",
        "unlabelled": "pool - labelled - held_out - val",
        "validation": "held_out",
        "test": "val",
        "classes": CLASSES["coco" if is_coco else "voc"],
    }


def _coco_sources(labelled: str) -> dict[str, Section]:
    share = labelled.partition("-")[2]
    return {
        "labelled": _coco("train2017", list=f"coco/splits/labelled-{share}.txt") if share else _coco("train2017"),
        "held_out": _coco("train2017", list="coco/splits/held-out.txt"),
        "val": _coco("val2017"),
    }


def _voc_sources(labelled: str) -> dict[str, Section]:
    sets = "voc2012/ImageSets/Segmentation"
    return {
        "labelled": _voc(list=f"{sets}/{'trainaug' if labelled == 'voc-aug' else 'train'}.txt"),
        "held_out": _voc(list=f"{sets}/held-out.txt"),
        "val": _voc(list=f"{sets}/val.txt"),
    }
