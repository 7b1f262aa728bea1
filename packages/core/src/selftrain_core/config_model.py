"""The base of every settings model: frozen, strict, helpful about typos, and aware of what identifies a result."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationInfo,
    model_serializer,
    model_validator,
)
from pydantic.config import JsonDict

from selftrain_core.errors import ConfigError, did_you_mean
from selftrain_core.plugins import Kind, config_model, registry

NOT_IDENTITY: JsonDict = {"identity": False}
"""`json_schema_extra` of a field that cannot change a result: workers, logging, where a folder lies."""

CONTENT_IDENTITY: JsonDict = {"identity": "content"}
"""`json_schema_extra` of a path whose file's bytes can change a result, wherever the file lies."""


class StrictModel(BaseModel):
    """A frozen settings model that refuses unknown keys and says which one was probably meant."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            known = cls.model_fields
            unknown = [f"'{key}'{did_you_mean(str(key), known)}" for key in data if key not in known]
            if unknown:
                raise ValueError(f"has no key {', '.join(unknown)}; keys: {', '.join(known) or 'none'}")
        return data


def _relative_to_config(path: Path, info: ValidationInfo) -> Path:
    base: Path | None = (info.context or {}).get("base_dir")
    path = path.expanduser()
    return (base / path).resolve() if base and not path.is_absolute() else path


DataPath = Annotated[Path, AfterValidator(_relative_to_config), Field(json_schema_extra=NOT_IDENTITY)]
"""A path in a configuration, relative to the folder of the file it stands in. It is not part of a result's identity:
what lies there is."""

ContentPath = Annotated[Path, AfterValidator(_relative_to_config), Field(json_schema_extra=CONTENT_IDENTITY)]
"""The path of one file, such as a checkpoint; `identity` reads it."""


class ComponentChoice(BaseModel):
    """The choice of a component by name, with its own settings beside the name.

    In YAML: ``{name: provider/name, key: value, …}``, or the name alone.
    """

    model_config = ConfigDict(frozen=True)
    kind: ClassVar[Kind]

    name: str
    options: SerializeAsAny[BaseModel]

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, data: Any, info: ValidationInfo) -> Any:
        if isinstance(data, str):
            data = {"name": data}
        if not isinstance(data, Mapping) or not isinstance(data.get("name"), str):
            raise ValueError("give the component's name, or a mapping with the key 'name'")
        found = registry().find(cls.kind, data["name"])
        rest = {key: value for key, value in data.items() if key != "name"}
        return {"name": data["name"], "options": config_model(found).model_validate(rest, context=info.context)}

    @model_serializer
    def _flatten(self) -> dict[str, Any]:
        return {"name": self.name, **self.options.model_dump(mode="json")}

    @property
    def member(self) -> str:
        """The part of the name that a family hands to its component, empty for a component that is no family."""
        return registry().find(self.kind, self.name).member

    def identity(self) -> dict[str, Any]:
        """Return what identifies this component's results: name, numerics version, and its identity settings."""
        found = registry().find(self.kind, self.name)
        return {"name": self.name, "numerics": found.spec.numerics, **identity(self.options)}

    @classmethod
    def of(cls, name: str, **options: Any) -> Self:
        """Return a choice made in Python rather than in YAML."""
        return cls.model_validate({"name": name, **options})


class TaskChoice(ComponentChoice):
    """Which task."""

    kind = "tasks"


class BackboneChoice(ComponentChoice):
    """Which backbone."""

    kind = "backbones"


class AugmentationChoice(ComponentChoice):
    """Which augmentation."""

    kind = "augmentations"


class PolicyChoice(ComponentChoice):
    """Which pseudo-label policy."""

    kind = "policies"


class DataSourceChoice(ComponentChoice):
    """Which data source."""

    kind = "data_sources"


def identity(model: BaseModel) -> dict[str, Any]:
    """Return the settings of `model` that can change a result, as JSON values.

    A field opts out with ``Field(json_schema_extra=NOT_IDENTITY)``; a `ContentPath` stands for its file's bytes.

    Raises:
        ConfigError: A file that a `ContentPath` names cannot be read.
    """
    result: dict[str, Any] = {}
    dumped = model.model_dump(mode="json")
    for name, field in type(model).model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get("identity") is False:
            continue
        value = getattr(model, name)
        if isinstance(extra, dict) and extra.get("identity") == "content":
            result[name] = _content(value)
        elif isinstance(value, ComponentChoice):
            result[name] = value.identity()
        elif isinstance(value, BaseModel):
            result[name] = identity(value)
        else:
            result[name] = dumped[name]
    return result


def _content(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; the configuration names it") from error
