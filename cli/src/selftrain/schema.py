"""The JSON schema of a run's configuration, with every installed component and its own settings."""

from __future__ import annotations

import re
from typing import Any

import click
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from selftrain_core.config import RunConfig
from selftrain_core.config_model import (
    AugmentationChoice,
    BackboneChoice,
    ComponentChoice,
    DataSourceChoice,
    PolicyChoice,
    TaskChoice,
)
from selftrain_core.plugins import Found, Kind, config_model, registry

Schema = dict[str, Any]

CHOICES: tuple[type[ComponentChoice], ...] = (
    TaskChoice,
    BackboneChoice,
    AugmentationChoice,
    PolicyChoice,
    DataSourceChoice,
)


def run_schema() -> Schema:
    """Return the JSON schema of what a configuration file may hold.

    A component whose settings cannot be imported is reported on stderr and left out.
    """
    settings = {choice: _settings(choice.kind) for choice in CHOICES}
    models = {model for offered in settings.values() for model in offered.values()}
    ordered = sorted(models, key=lambda model: (model.__module__, model.__qualname__))
    every: list[type[BaseModel]] = [RunConfig, *CHOICES, *ordered]
    references, schema = models_json_schema([(model, "validation") for model in every])
    definitions = schema["$defs"]

    def definition(model: type[BaseModel]) -> Schema:
        found: Schema = definitions[references[model, "validation"]["$ref"].rpartition("/")[2]]
        return found

    # Pydantic knows a choice as a name and any settings; what the settings are depends on the name.
    choices = {
        choice: [
            _component(registry().components[choice.kind][name], definition(model)) for name, model in offered.items()
        ]
        for choice, offered in settings.items()
    }
    for choice, components in choices.items():
        target = definition(choice)
        description = target["description"]
        target.clear()
        target.update(description=description, anyOf=[_by_name_alone(components), *components])
    root = definition(RunConfig)
    # `load_config` passes over this key: it is a place for YAML anchors.
    root["properties"]["anchors"] = {"description": "A place for YAML anchors; not read."}
    used = _reachable(root, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **root,
        "$defs": {name: definitions[name] for name in sorted(used)},
    }


def _settings(kind: Kind) -> dict[str, type[BaseModel]]:
    models = {}
    for name, found in sorted(registry().components[kind].items()):
        model = _model(found)
        if model is not None:
            models[name] = model
    return models


def _model(found: Found) -> type[BaseModel] | None:
    try:
        return config_model(found)
    except (ImportError, AttributeError) as error:
        click.echo(f"warning: '{found.spec.name}' of {found.plugin.distribution} is left out: {error}", err=True)
        return None


def _component(found: Found, settings: Schema) -> Schema:
    name = found.spec.name
    if name.endswith("/*"):
        # `re.escape` also escapes hyphens, which the pattern language of JSON schema forbids.
        provider = re.sub(r"[.^$*+?()\[\]{}|\\]", r"\\\g<0>", name[:-1])
        named: Schema = {"type": "string", "pattern": f"^{provider}.+$"}
    else:
        named = {"const": name}
    return {
        **settings,
        "title": name,
        "description": found.spec.summary,
        "properties": {"name": named, **settings.get("properties", {})},
        "required": ["name", *settings.get("required", ())],
    }


def _by_name_alone(components: list[Schema]) -> Schema:
    """Return the schema of a component that is given as a string: one that needs no setting."""
    named = [component["properties"]["name"] for component in components if component["required"] == ["name"]]
    return {"title": "the name alone", "anyOf": named} if named else {"not": {}}


def _reachable(schema: Any, definitions: Schema) -> set[str]:
    seen: set[str] = set()
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            reference = node.get("$ref")
            if isinstance(reference, str):
                name = reference.rpartition("/")[2]
                if name not in seen:
                    seen.add(name)
                    waiting.append(definitions[name])
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)
    return seen
