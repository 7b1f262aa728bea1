"""``selftrain plugins``: which plugins are installed, which of them are broken and why, and what they offer."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, metadata
from typing import Any

import click

from selftrain.summary_table import format_table
from selftrain_core.plugins import KINDS, SINGULAR, PluginInfo, Registry, registry


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plugins(*, as_json: bool) -> None:
    """List the installed plugins and the components they offer.

    A component's name is what a configuration gives as its 'name'; a name that ends in /* stands for a family.
    """
    found = registry()
    listing = describe(found)
    click.echo(json.dumps(listing, indent=2, ensure_ascii=False) if as_json else _as_text(listing))


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
