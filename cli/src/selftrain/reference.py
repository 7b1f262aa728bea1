"""The configuration reference: every setting of every installed component as Markdown, from the models themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from selftrain.schema import run_schema

Schema = Mapping[str, Any]

SECTIONS = {
    "TaskChoice": "Tasks (`task`)",
    "BackboneChoice": "Backbones (`backbone`)",
    "AugmentationChoice": "Augmentations (`augmentation`)",
    "PolicyChoice": "Pseudo-label policies (`policy`)",
    "DataSourceChoice": "Data sources (`data.sources`)",
}
"""Headings of the kinds of components, by the name of their definition in the schema."""

INTRODUCTION = """\
# Configuration reference

Every setting there is, with its default. Nested keys are written with a dot: `teacher.optimizer.lr` is `lr` below
`optimizer` below `teacher`, and so it is written after `--set` too. Unknown keys are errors. This page is printed by
`selftrain config reference`, which knows the plugins that are installed; `selftrain config schema` prints the same
for editors.

A component is given by its name alone, `policy: core/soft`, or with settings,
`policy: {name: core/soft, threshold: 0.2}`."""


def reference() -> str:
    """Return the reference as Markdown."""
    schema = run_schema()
    definitions = schema["$defs"]
    properties = {name: value for name, value in schema["properties"].items() if name != "anchors"}
    parts = [INTRODUCTION, "## The run", _table({**schema, "properties": properties}, definitions)]
    for definition, heading in SECTIONS.items():
        parts.append(f"## {heading}")
        for component in definitions[definition]["anyOf"][1:]:
            parts += _component(component, definitions)
    return "\n\n".join(parts) + "\n"


def _component(component: Schema, definitions: Schema) -> Iterator[str]:
    settings = {name: value for name, value in component["properties"].items() if name != "name"}
    yield f"### `{component['title']}`"
    yield f"{component['description'][0].upper()}{component['description'][1:]}."
    if settings:
        yield _table({**component, "properties": settings}, definitions)
    for key, value in settings.items():
        for variant in _variants(value, definitions):
            own = {name: each for name, each in variant["properties"].items() if name != "name"}
            yield f"`{key}: {variant['properties']['name']['const']}` – {_sentence(variant['description'])}"
            if own:
                yield _table({**variant, "properties": own}, definitions)


def _table(schema: Schema, definitions: Schema) -> str:
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    rows += [f"| {' | '.join(map(_cell, row))} |" for row in _rows(schema, definitions, "")]
    return "\n".join(rows)


def _rows(schema: Schema, definitions: Schema, prefix: str) -> Iterator[tuple[str, str, str, str]]:
    required = schema.get("required", ())
    for name, value in schema["properties"].items():
        nested = _resolved(value, definitions)
        if "properties" in nested and "anyOf" not in nested:
            about = value.get("description") or nested.get("description", "")
            yield f"**`{prefix}{name}`**", "", "", _sentence(about)
            yield from _rows(nested, definitions, f"{prefix}{name}.")
        else:
            default = "required" if name in required else f"`{_shown(value.get('default'))}`"
            yield f"`{prefix}{name}`", words(value, definitions), default, _sentence(value.get("description", ""))
            for inner, key in _mappings_within(value, definitions):
                yield from _rows(inner, definitions, f"{prefix}{name}.{key}")


def _mappings_within(value: Schema, definitions: Schema) -> Iterator[tuple[Schema, str]]:
    """Yield the mappings that may stand in a setting's place, or under names of the user's own, and those names."""
    for each, key in [*((each, "") for each in value.get("anyOf", ())), *_named(value)]:
        inner = _resolved(each, definitions)
        if "properties" in inner and "discriminator" not in value:
            yield inner, key


def _named(value: Schema) -> Iterator[tuple[Schema, str]]:
    for each in (value.get("additionalProperties"), *value.get("patternProperties", {}).values()):
        if isinstance(each, Mapping):
            yield each, "NAME."


def _variants(value: Schema, definitions: Schema) -> list[Schema]:
    """Return the mappings, told apart by their ``name``, that may stand in a setting's place."""
    if "discriminator" in value:
        return [_resolved(each, definitions) for each in value["oneOf"]]
    return [variant for each in value.get("anyOf", ()) for variant in _variants(each, definitions)]


def words(value: Schema, definitions: Schema) -> str:
    """Return what may stand in a setting's place, in words.

    Args:
        value: The setting's JSON schema.
        definitions: The schema's ``$defs``.
    """
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return "a component" if name in SECTIONS else words(definitions[name], definitions)
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{each}`" for each in value["enum"])
    if "oneOf" in value or "properties" in value:
        return "a mapping"
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(words(each, definitions) for each in value["anyOf"]))
    if value.get("type") == "array":
        return _list(value, definitions)
    if value.get("type") == "object":
        inner = value.get("additionalProperties")
        return f"a mapping of names to {words(inner, definitions)}" if isinstance(inner, Mapping) else "a mapping"
    plain = {"string": "a path" if value.get("format") == "path" else "text", "boolean": "true or false",
             "null": "null", "integer": "an integer", "number": "a number"}  # fmt: skip
    return plain.get(str(value.get("type")), "anything") + _range(value)


def _list(value: Schema, definitions: Schema) -> str:
    if "prefixItems" in value:
        each = dict.fromkeys(words(item, definitions) for item in value["prefixItems"])
        return f"a list of {len(value['prefixItems'])}: {', '.join(each)}"
    items = words(value["items"], definitions) if "items" in value else "anything"
    return f"a list: {items}"


def _range(value: Schema) -> str:
    bounds = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
    limits = [f"{sign} {value[key]:g}" for key, sign in bounds if key in value]
    if "multipleOf" in value:
        limits.append(f"a multiple of {value['multipleOf']:g}")
    return f" {', '.join(limits)}" if limits else ""


def _resolved(value: Schema, definitions: Schema) -> Schema:
    while "$ref" in value:
        value = definitions[value["$ref"].rpartition("/")[2]]
    return value


def _shown(default: Any) -> str:
    if default is None:
        return "null"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, Mapping):
        inner = ", ".join(f"{key}: {_shown(value)}" for key, value in default.items())
        return f"{{{inner}}}"
    if isinstance(default, (list, tuple)):
        return f"[{', '.join(map(_shown, default))}]"
    return str(default)


def _sentence(text: str) -> str:
    """Return the first paragraph of a docstring or description on one line."""
    return " ".join(text.split("\n\n")[0].split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
