"""Settings of the data sources."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, TypeAdapter, ValidationInfo, field_validator, model_validator

from selftrain_core.config_model import NOT_IDENTITY, DataPath, StrictModel
from selftrain_core.sources import ImageFolderConfig
from selftrain_detection.yolo_data import by_number, read_data_file

Unannotated = Literal["negative", "error", "skip"]
"""What an image without annotations is: one that shows none of the classes, a mistake, or none of the source's."""


class BoxSettings(StrictModel):
    """What to do with boxes that cannot be used as they are. Boxes belong to classes by name."""

    bad_boxes: Literal["error", "drop"] = Field(
        default="error",
        description="What to do with a box outside of its image, inside out, without area or of numbers that are none; "
        "what is left out is listed.",
    )
    ignore_classes: tuple[str, ...] = Field(
        default=(), description="Classes of the files whose boxes are left out, as if the files did not hold them."
    )
    classes_as: dict[str, str] = Field(
        default_factory=dict, description="What classes are called in the files, and for each its name in data.classes."
    )

    @model_validator(mode="after")
    def _one_fate_for_each(self) -> Self:
        both = [name for name in self.ignore_classes if name in self.classes_as]
        if both:
            raise ValueError(f"classes_as and ignore_classes both name '{both[0]}'; take it out of one of them")
        return self


class CocoConfig(BoxSettings, ImageFolderConfig):
    """Images, and a COCO file of instances for all of them."""

    annotations: DataPath = Field(description="The JSON file: images, annotations and categories.")
    unannotated: Unannotated = Field(
        default="negative",
        description="What an image is that the file lists without any annotation: one that shows none of the classes, "
        "an error, or passed over.",
    )


class VocConfig(BoxSettings, ImageFolderConfig):
    """Images, and for each a Pascal VOC file of the same path below another folder."""

    annotations: DataPath = Field(description="The folder of XML files.")
    unannotated: Unannotated = Field(
        default="error",
        description="What an image without a file is: one that shows none of the classes, an error, or passed over.",
    )
    difficult: Literal["ignore", "keep", "drop"] = Field(
        default="ignore",
        description="What to do with objects that are marked as difficult: neither train on them nor count them, take "
        "them as any other, or leave them out.",
    )
    first_pixel: Literal[0, 1] = Field(
        default=1, description="The coordinate of the first pixel. xmax and ymax are those of a box's last pixel."
    )


class YoloConfig(BoxSettings):
    """Images, and for each a text file with a line for each box: either a data file, or folders and names.

    The numbers of the classes are part of a result's identity, whichever way they are given.
    """

    data: DataPath | None = Field(
        default=None,
        description="A data file (data.yaml), which says where images are and what the classes are called.",
        json_schema_extra=NOT_IDENTITY,
    )
    split: str = Field(
        default="train", description="The part that the data file is to name.", json_schema_extra=NOT_IDENTITY
    )
    images: DataPath | None = Field(
        default=None,
        description="The folder, where no data file says so; folders within it are searched too.",
        json_schema_extra=NOT_IDENTITY,
    )
    labels: DataPath | None = Field(
        default=None,
        description="The folder of text files; by default that in which the last 'images' of an image's path is "
        "'labels'.",
        json_schema_extra=NOT_IDENTITY,
    )
    names: dict[int, str] = Field(
        description="The files' classes by number, or a list of them; by default those of the data file."
    )
    list: DataPath | None = Field(
        default=None,
        description="A text file with one image id per line: the path below the folder, with or without ending.",
        json_schema_extra=NOT_IDENTITY,
    )
    unannotated: Unannotated = Field(
        default="negative",
        description="What an image without a file is: one that shows none of the classes, an error, or passed over.",
    )

    @model_validator(mode="before")
    @classmethod
    def _names_of_the_data_file(cls, settings: Any, info: ValidationInfo) -> Any:
        if not isinstance(settings, Mapping):
            return settings
        settings = dict(settings)
        if settings.get("names") is None:
            if settings.get("data") is None:
                raise ValueError("give 'data', a data.yaml, or the folder 'images' with the 'names' of the classes")
            path = TypeAdapter(DataPath).validate_python(settings["data"], context=info.context)
            settings["names"] = read_data_file(Path(path)).names
        elif isinstance(settings["names"], (list, tuple)):
            settings["names"] = dict(enumerate(settings["names"]))
        return settings

    @field_validator("names")
    @classmethod
    def _are_names(cls, names: dict[int, str]) -> dict[int, str]:
        return by_number(names, "names")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.data is None) == (self.images is None):
            raise ValueError("give either 'data', a data.yaml, or the folder 'images', and not both")
        if self.data is not None and self.labels is not None:
            raise ValueError("'labels' goes with 'images'; where 'data' is given, the data file says where images are")
        return self
