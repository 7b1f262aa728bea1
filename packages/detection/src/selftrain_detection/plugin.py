"""What this package offers to selftrain. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence

from selftrain_core.hookspecs import BackboneSpec, DataSourceSpec, TaskSpec, hookimpl


@hookimpl
def selftrain_tasks() -> Sequence[TaskSpec]:
    """Return the task."""
    return [
        TaskSpec(
            name="detection/retinanet",
            summary="boxes: RetinaNet with focal and Huber loss, COCO average precision",
            config="selftrain_detection.config:DetectionConfig",
            load="selftrain_detection.task:DetectionTask",
        )
    ]


@hookimpl
def selftrain_backbones() -> Sequence[BackboneSpec]:
    """Return the SpineNets."""
    return [
        BackboneSpec(
            name="spinenet/*",
            summary="SpineNet 49s, 49, 96, 143, 143l, 190: strides 8 to 128 without a neck (Du et al. 2020)",
            config="selftrain_detection.spinenet_config:SpineNetConfig",
            load="selftrain_detection.spinenet:SpineNet",
        )
    ]


@hookimpl
def selftrain_data_sources() -> Sequence[DataSourceSpec]:
    """Return the data sources."""
    return [
        DataSourceSpec(
            name="detection/coco",
            summary="a folder of images and a JSON file of COCO instances",
            config="selftrain_detection.source_config:CocoConfig",
            load="selftrain_detection.coco:CocoSource",
        ),
        DataSourceSpec(
            name="detection/voc",
            summary="a folder of images and a folder of Pascal VOC XML files",
            config="selftrain_detection.source_config:VocConfig",
            load="selftrain_detection.voc:VocSource",
        ),
        DataSourceSpec(
            name="detection/yolo",
            summary="a YOLO data.yaml, or folders of images and text files",
            config="selftrain_detection.source_config:YoloConfig",
            load="selftrain_detection.yolo:YoloSource",
        ),
    ]
