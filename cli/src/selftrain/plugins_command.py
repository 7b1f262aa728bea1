"""``selftrain plugins``: which plugins are installed, which of them are broken and why, and what they offer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, metadata
from typing import Any

import click
from pydantic import TypeAdapter

from selftrain.summary_table import format_table
from selftrain_core.errors import UnknownComponentError, did_you_mean
from selftrain_core.plugins import KINDS, SINGULAR, Found, Kind, PluginInfo, Registry, config_model, registry


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plugins(*, name: str | None, as_json: bool) -> None:
    """List the installed plugins and the components they offer.

    A component's name is what a configuration gives as its 'name'; a name that ends in /* stands for a family.

    With NAME, show that component: its settings with their defaults and, of a backbone such as timm/resnet18, what it
    can start from, with the licence of the weights.
    """
    found = registry()
    listing = describe(found) if name is None else describe_component(found, name)
    if as_json:
        click.echo(json.dumps(listing, indent=2, ensure_ascii=False))
    else:
        click.echo(_as_text(listing) if name is None else _component_as_text(listing))


def describe_component(registry: Registry, name: str) -> dict[str, Any]:
    """Return one component with its settings and, of a backbone, its inits, as JSON values.

    Args:
        registry: The registry.
        name: As in a configuration, or a family's own name.

    Raises:
        UnknownComponentError: No plugin offers it, or its settings cannot be imported.
        ConfigError: A family has no such member.
    """
    kind, found = _find(registry, name)
    try:
        fields = config_model(found).model_fields
    except (ImportError, AttributeError) as error:
        raise UnknownComponentError(f"the settings of '{name}' cannot be imported: {error}") from error
    component: dict[str, Any] = {
        "kind": SINGULAR[kind],
        "name": name,
        "summary": found.spec.summary,
        "distribution": found.plugin.distribution,
        "licence": found.spec.licence or _distribution(found.plugin)["licence"],
        "numerics": found.spec.numerics,
        "settings": [
            {
                "name": key,
                "required": field.is_required(),
                "default": None
                if field.is_required()
                else TypeAdapter(Any).dump_python(field.get_default(call_default_factory=True), mode="json"),
                "description": field.description or "",
            }
            for key, field in fields.items()
        ],
    }
    needs_settings = any(setting["required"] for setting in component["settings"])
    if kind == "backbones" and not name.endswith("/*") and not needs_settings:
        from selftrain_core.backbones.listing import inits_of  # it needs torch, the others do not

        component["inits"] = [
            {key: getattr(init, key) for key in ("name", "origin", "licence", "mean", "std")} for init in inits_of(name)
        ]
    return component


def _find(registry: Registry, name: str) -> tuple[Kind, Found]:
    for kind in KINDS:
        known = registry.components[kind]
        if name in known:
            return kind, known[name]
    for kind in KINDS:
        if name.partition("/")[2] and f"{name.partition('/')[0]}/*" in registry.components[kind]:
            return kind, registry.find(kind, name)
    every = [known for kind in KINDS for known in registry.components[kind]]
    raise UnknownComponentError(
        f"no component is called '{name}'{did_you_mean(name, every)}; `selftrain plugins` lists them"
    )


def describe(found: Registry) -> dict[str, Any]:
    """Return every plugin and every component as JSON values.

    Args:
        found: The registry.
    """
    distributions = {plugin.name: _distribution(plugin) for plugin in found.plugins}
    licences = {name: facts["licence"] for name, facts in distributions.items()}
    return {
        "plugins": [
            {
                "name": plugin.name,
                "module": plugin.module,
                "distribution": plugin.distribution,
                "version": distributions[plugin.name]["version"],
                "licence": licences[plugin.name],
                "error": plugin.error or None,
            }
            for plugin in found.plugins
        ],
        "components": {
            kind: [
                {
                    "name": name,
                    "summary": component.spec.summary,
                    "distribution": component.plugin.distribution,
                    "licence": component.spec.licence or licences[component.plugin.name],
                    "numerics": component.spec.numerics,
                }
                for name, component in sorted(found.components[kind].items())
            ]
            for kind in KINDS
        },
    }


def _distribution(plugin: PluginInfo) -> dict[str, str]:
    try:
        fields = metadata(plugin.distribution)
    except PackageNotFoundError:  # a plugin that no distribution installed
        return {"version": plugin.version, "licence": ""}
    licence = next((fields[key] for key in ("License-Expression", "License") if key in fields), "")
    return {"version": fields["Version"], "licence": licence}


def _as_text(listing: dict[str, Any]) -> str:
    rows = [
        [p["name"], p["distribution"], p["version"], p["licence"], f"broken: {p['error']}" if p["error"] else "works"]
        for p in listing["plugins"]
    ]
    parts = [format_table([["plugin", "distribution", "version", "licence", "state"], *rows])]
    for kind in KINDS:
        rows = [[c["name"], c["summary"], c["distribution"], c["licence"]] for c in listing["components"][kind]]
        header = [SINGULAR[kind], "summary", "distribution", "licence"]
        parts.append(format_table([header, *(rows or [["none", "", "", ""]])]))
    return "\n\n".join(parts)


def _component_as_text(component: dict[str, Any]) -> str:
    facts = f"{component['distribution']}, licence {component['licence'] or 'not stated'}"
    parts = [f"{component['kind']} {component['name']}: {component['summary']}\n{facts}"]
    rows = [
        [s["name"], "required" if s["required"] else json.dumps(s["default"], ensure_ascii=False), s["description"]]
        for s in component["settings"]
    ]
    parts.append(format_table([["setting", "default", ""], *(rows or [["none", "", ""]])]))
    if "inits" in component:
        rows = [
            [i["name"], i["origin"], i["licence"], _numbers(i["mean"]), _numbers(i["std"])] for i in component["inits"]
        ]
        header = ["init", "weights from", "their licence", "mean of inputs", "deviation"]
        parts.append(format_table([header, *rows]))
    return "\n\n".join(parts)


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)
