"""What a backbone may start from, and how a configuration says it. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo

from selftrain_core.config_model import ContentPath, StrictModel
from selftrain_core.errors import ConfigError, did_you_mean

CHECKPOINT_SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors", ".bin", ".tar", ".th")
"""A text that ends in one of these, or holds a slash, is a file and no init's name."""

_Mean = Annotated[float, Field(ge=0, le=1)]
_Deviation = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True, slots=True)
class Init:
    """A way for a backbone to start.

    Attributes:
        name: ``random``, ``imagenet``, ``imagenet++``, ``simclr``, …
        mean: Subtracted from each channel of images in 0..1.
        std: Divides each channel after that.
        origin: Where the weights come from, for people.
        licence: The weights' licence.
        note: What was loaded, for people, where the user should look at it.
    """

    name: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    origin: str
    licence: str
    note: str = ""


class CheckpointInit(StrictModel):
    """Weights from a checkpoint file."""

    name: Literal["checkpoint", "imagenet", "imagenet++", "simclr"] = Field(
        default="checkpoint", description="What the weights are; it decides the normalisation where none is given."
    )
    checkpoint: ContentPath = Field(description="The file: PyTorch's formats or safetensors, relative to this one.")
    mean: tuple[_Mean, _Mean, _Mean] | None = Field(
        default=None,
        description="What the weights expect to be subtracted from images in 0..1. By default: for simclr 0; for a "
        "model of selftrain's what it was trained with; else the backbone's own.",
    )
    std: tuple[_Deviation, _Deviation, _Deviation] | None = Field(
        default=None, description="What they expect images in 0..1 to be divided by after that; for simclr 1."
    )
    prefix: str | None = Field(
        default=None,
        description="What the backbone's names in the file begin with, such as 'teacher.backbone.'. By default the "
        "beginning that fits most of them.",
    )


def find_init(inits: Sequence[Init], name: str, what: str) -> Init:
    """Return the init called `name`.

    Args:
        inits: Those that the backbone has.
        name: What the user asks for.
        what: The backbone, for the message.

    Raises:
        ConfigError: The backbone has no such init.
    """
    known = {init.name: init for init in inits}
    if name not in known:
        raise ConfigError(
            f"{what} has no init '{name}'{did_you_mean(name, known)}; it has: {', '.join(known)}; "
            "or give a checkpoint file: init: FILE"
        )
    return known[name]


def _read(data: Any, info: ValidationInfo) -> str | CheckpointInit:
    if isinstance(data, CheckpointInit):
        return data
    if isinstance(data, Mapping):
        if set(data) == {"name"} and isinstance(data["name"], str):
            return _read(data["name"], info)
        return CheckpointInit.model_validate(data, context=info.context)
    if not isinstance(data, str):
        raise ValueError("give an init's name, a checkpoint file, or {name: …, checkpoint: FILE}")
    if "/" in data or data.lower().endswith(CHECKPOINT_SUFFIXES):
        return CheckpointInit.model_validate({"checkpoint": data}, context=info.context)
    if data == "simclr":
        raise ValueError("SimCLR's weights come from a file: init: {name: simclr, checkpoint: FILE}")
    return data


InitChoice = Annotated[str | CheckpointInit, BeforeValidator(_read)]
"""The settings field of a backbone that starts from a named init or a checkpoint file.

In YAML: the init's name, the path of a file, or ``{name: …, checkpoint: FILE, mean: …, std: …, prefix: …}``.
"""
