"""``selftrain labels``: what a teacher's labels are like, out of their store as files, and corrected ones back in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from selftrain.options import Decorator, json_option
from selftrain.summary_table import format_table
from selftrain_core.errors import ConfigError

_SHOWN_FAILURES = 10

labels_argument = click.argument("labels", metavar="RUN", type=click.Path(path_type=Path))
policy_option = click.option(
    "--policy",
    metavar="NAME",
    help="Another policy than the run's: a name, or a mapping such as '{name: core/fixed, threshold: 0.7}'.",
)


def output_option(metavar: str) -> Decorator[Any]:
    """Return the option that says where files go."""
    return click.option(
        "-o",
        "--output",
        "folder",
        metavar=metavar,
        required=True,
        type=click.Path(path_type=Path),
        help="A new or an empty folder.",
    )


@click.group()
def labels() -> None:
    """Count a teacher's labels, write them out as files, or make a labelled set of files that were corrected."""


@labels.command()
@labels_argument
@policy_option
@json_option("Print JSON.")
def stats(labels: Path, *, policy: str | None, as_json: bool) -> None:
    """Show, class by class, what the teacher of RUN predicted on the unlabelled images. No model is run.

    RUN is the folder of a run, of which the labels of the newest round are taken, or that of a pseudo-label store.
    'kept' is what the policy keeps of what was predicted of a class; scores are 0 to 1, and exact to 1/64.
    """
    from selftrain_core.stored_labels import StoredLabels, label_statistics

    stored = StoredLabels.find(labels)
    found = label_statistics(stored, stored.policy_choice(policy))
    click.echo(json.dumps(found, indent=2, ensure_ascii=False) if as_json else _as_text(found))


@labels.command()
@labels_argument
@output_option("DIR")
@policy_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["files", "parquet"]),
    default="files",
    show_default=True,
    help="Files that people can correct, masks or boxes, or one table with all scores, to which no policy is applied.",
)
@click.option("--ids", metavar="LIST", type=click.Path(path_type=Path), help="A text file with the ids to take.")
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help="Take at most so many images.")
@json_option("Print what was written, or the error, as JSON.")
def export(
    labels: Path,
    *,
    folder: Path,
    policy: str | None,
    form: str,
    ids: Path | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Write the labels of RUN as files into DIR: what the policy keeps.

    Masks are a file for each image, in which the rest is left open (255); boxes are one COCO file of all images.

    RUN is the folder of a run, of which the labels of the newest round are taken, or that of a store within one.
    """
    from selftrain_core.label_export import export_labels, export_parquet
    from selftrain_core.sources import read_list
    from selftrain_core.stored_labels import StoredLabels

    stored = StoredLabels.find(labels)
    chosen = None if ids is None else read_list(ids)
    if form == "parquet":
        if policy is not None:
            raise ConfigError("--policy has no use with --format parquet, which holds every score and no decision")
        written = export_parquet(stored, folder, chosen, limit)
    else:
        choice = stored.policy_choice(policy)
        if choice is None:
            raise ConfigError(f"{stored.folder} lies in no run whose policy could be taken; give the folder of the run")
        written = export_labels(stored, folder, choice, chosen, limit)
    if as_json:
        click.echo(json.dumps(written, indent=2, ensure_ascii=False))
        return
    click.echo(f"{written['images']:,} images of {stored.folder}: {folder / written['files']}")
    if form != "parquet":
        click.echo(
            f"to correct them: change files there in any tool ({folder / 'README.txt'} says how), then\n"
            f"  selftrain labels import {folder} -o corrected"
        )


@labels.command("import")
@click.argument("exported", metavar="DIR", type=click.Path(path_type=Path))
@output_option("SET")
@click.option("--all", "everything", is_flag=True, help="Take the labels that were not changed too.")
@json_option("Print what was imported, or the error, as JSON.")
def import_(exported: Path, *, folder: Path, everything: bool, as_json: bool) -> None:
    """Make a labelled set in SET of the labels in DIR that were changed since `selftrain labels export` wrote them.

    DIR holds the masks, or the COCO file of the boxes, as any tool wrote it: images are found by their file_name. Each
    is checked against its image first; if anything is wrong with any of them, all of it is said and nothing is
    written. The set goes before the labels of a teacher: what to add to the configuration is printed.
    """
    from selftrain_core.label_import import import_labels

    found = import_labels(exported, folder, everything=everything)
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    click.echo(
        f"# {found['imported']:,} imported into {folder}, {found['unchanged']:,} not changed, "
        f"{found['deleted']:,} deleted\n# Add the source to the configuration, and change the two expressions:\n"
    )
    click.echo(found["config"], nl=False)


def _as_text(found: Mapping[str, Any]) -> str:
    images = sum(count for state, count in found["states"].items() if state in ("labelled", "empty"))
    states = ", ".join(f"{count:,} {state}" for state, count in found["states"].items())
    policy = "" if found["policy"] is None else f"\npolicy {_policy(found['policy'])}"
    quantity = found["quantity"]
    is_share = quantity.startswith("share")
    header = ("class", "images", "", f"{quantity}: predicted", "labelled", "kept", "score: 10 %", "median", "90 %")
    rows = [
        (
            each["name"],
            f"{each['images']:,}",
            _percent(each["images"] / images if images else None),
            _amount(each["density"], is_share=is_share),
            _amount(each["labelled"], is_share=is_share),
            _percent(each["kept"]),
            *(["–"] * 3 if each["scores"] is None else [f"{score:.2f}" for score in each["scores"].values()]),
        )
        for each in found["classes"]
    ]
    parts = [f"{found['store']}: {states}{policy}", format_table([header, *rows], right=range(1, 9))]
    failures = found["failures"]
    if failures:
        lines = [f"  {each['id']} ({each['state']}): {each['reason']}" for each in failures[:_SHOWN_FAILURES]]
        more = [f"  and {len(failures) - _SHOWN_FAILURES:,} more: --json lists all"]
        listed = [*lines, *(more if len(failures) > _SHOWN_FAILURES else [])]
        parts.append("\n".join(["not used:", *listed]))
    return "\n\n".join(parts)


def _policy(policy: Mapping[str, Any]) -> str:
    settings = ", ".join(f"{key} {value}" for key, value in policy.items() if key != "name" and value is not None)
    return f"{policy['name']} ({settings})" if settings else str(policy["name"])


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _amount(density: float | None, *, is_share: bool) -> str:
    if density is None or is_share:
        return _percent(density)
    return f"{density:.2f}"
