"""What this package offers to selftrain. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence

from selftrain_core.hookspecs import DataSourceSpec, TaskSpec, hookimpl


@hookimpl
def selftrain_tasks() -> Sequence[TaskSpec]:
    """Return the task."""
    return [
        TaskSpec(
            name="segmentation/semantic",
            summary="one class per pixel: cross-entropy, mean IoU",
            config="selftrain_segmentation.config:SegmentationConfig",
            load="selftrain_segmentation.task:SegmentationTask",
        )
    ]


@hookimpl
def selftrain_data_sources() -> Sequence[DataSourceSpec]:
    """Return the data sources."""
    return [
        DataSourceSpec(
            name="segmentation/index-masks",
            summary="a folder of images and a folder of masks whose pixel values are class indices",
            config="selftrain_segmentation.source_config:IndexMasksConfig",
            load="selftrain_segmentation.sources:IndexMasks",
        ),
        DataSourceSpec(
            name="segmentation/colour-masks",
            summary="a folder of images and a folder of masks in which each class has a colour",
            config="selftrain_segmentation.source_config:ColourMasksConfig",
            load="selftrain_segmentation.sources:ColourMasks",
        ),
    ]
