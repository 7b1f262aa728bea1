"""Settings of the data sources."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationInfo, field_validator, model_validator

from selftrain_core.config_model import DataPath
from selftrain_core.sources import ImageFolderConfig
from selftrain_segmentation.class_table import read_class_table

Channel = Annotated[int, Field(ge=0, le=255)]
Colour = tuple[Channel, Channel, Channel]


class MaskFolderConfig(ImageFolderConfig):
    """Images, and for each a mask of the same path below another folder."""

    masks: DataPath = Field(description="The folder of masks.")
    mask_name: str = Field(
        default="{id}.png",
        description="A mask's path below `masks`: {id} stands for the image's id, as in '{id}_mask.png'.",
    )

    @field_validator("mask_name")
    @classmethod
    def _names_the_image(cls, name: str) -> str:
        if "{" in name.replace("{id}", "") or "}" in name.replace("{id}", "") or "{id}" not in name:
            raise ValueError("must hold {id}, which stands for the image's id, and no other braces: '{id}_mask.png'")
        return name


class IndexMasksConfig(MaskFolderConfig):
    """Masks whose pixel values are class indices, 255 = ignore.

    Grey images of 1 to 32 bits, palette images (whose indices count) and RGB images with three equal channels; no JPEG.
    """


def _read_table(colours: Any, info: ValidationInfo) -> Any:
    if isinstance(colours, (str, Path)):
        return read_class_table(TypeAdapter(DataPath).validate_python(colours, context=info.context))
    return colours


class ColourMasksConfig(MaskFolderConfig):
    """Masks in which each class has a colour: 8-bit RGB or palette images without transparency; no JPEG."""

    colours: Annotated[
        dict[str, Colour], BeforeValidator(_read_table, json_schema_input_type=dict[str, Colour] | str)
    ] = Field(
        description="Red, green and blue of each class, 0 to 255, or a file with lines 'name,r,g,b' or 'r g b name'.",
        min_length=1,
    )
    ignore: tuple[str | Colour, ...] = Field(
        default=(), description="Names of `colours`, or colours, whose pixels count neither in a loss nor in a metric."
    )
    unknown_colour: Literal["error", "ignore"] = Field(
        default="error", description="What to do with a pixel of any other colour."
    )

    @model_validator(mode="after")
    def _check_colours(self) -> Self:
        unknown = [name for name in self.ignore if isinstance(name, str) and name not in self.colours]
        if unknown:
            raise ValueError(
                f"ignore names {', '.join(map(repr, unknown))}, which colours does not hold: {', '.join(self.colours)}"
            )
        seen: dict[Colour, str] = {}
        named = chain(self.colours.items(), (("ignore", c) for c in self.ignore if not isinstance(c, str)))
        for name, colour in named:
            if seen.setdefault(colour, name) != name:
                raise ValueError(f"'{seen[colour]}' and '{name}' have the same colour {list(colour)}")
        return self

    def class_colours(self) -> Mapping[str, Colour]:
        """Return the colours of the classes."""
        return {name: colour for name, colour in self.colours.items() if name not in self.ignore}

    def ignored_colours(self) -> Iterable[Colour]:
        """Return the colours whose pixels are ignored."""
        return [self.colours[colour] if isinstance(colour, str) else colour for colour in self.ignore]
