"""``selftrain augment``: what an augmentation does to people's images, for them to look at."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from selftrain.options import json_option
from selftrain.preview_data import PreviewData, find_preview_data, is_config
from selftrain_core.config import RunConfig
from selftrain_core.config_model import AugmentationChoice
from selftrain_core.config_text import explain_errors, read_yaml
from selftrain_core.errors import ConfigError, RunError
from selftrain_core.files import writing
from selftrain_core.plugins import registry

_KIND = AugmentationChoice.kind


@click.group()
def augment() -> None:
    """Look at what an augmentation does."""


def _canvas(_: click.Context, __: click.Parameter, text: str | None) -> tuple[int, int] | None:  # click's signature
    if text is None:
        return None
    try:
        height, width = map(int, text.split(","))
    except ValueError:
        raise click.BadParameter(f"'{text}': expected height and width in pixels, such as 320,320") from None
    if min(height, width) < 1 or height % 32 or width % 32:
        raise click.BadParameter(f"'{text}': height and width must be multiples of 32, such as 320,320")
    return height, width


@augment.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", "path", metavar="FILE", required=True, type=click.Path(path_type=Path), help="The PNG to write."
)
@click.option(
    "--policy",
    metavar="NAME",
    help="An augmentation from `selftrain plugins`; the part behind the / suffices where one alone is called so. By "
    "default that of the configuration.",
)
@click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="A setting of the augmentation, such as scale_max=3; may be given again.",
)
@click.option(
    "--images",
    metavar="N",
    type=click.IntRange(1, 100),
    default=4,
    show_default=True,
    help="Images to show, a row each.",
)
@click.option(
    "--draws",
    metavar="N",
    type=click.IntRange(1, 100),
    default=5,
    show_default=True,
    help="Draws to show of each image.",
)
@click.option(
    "--seed", metavar="K", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of the draws."
)
@click.option(
    "--canvas",
    metavar="H,W",
    callback=_canvas,
    help="Height and width to which images are fitted; by default those of the configuration, else those that a "
    "configuration has by default.",
)
@click.option("--overwrite", is_flag=True, help="Write over FILE.")
@json_option("Print what was drawn, or the error, as JSON on stdout.")
def preview(
    *,
    data: Path,
    path: Path,
    policy: str | None,
    settings: tuple[str, ...],
    images: int,
    draws: int,
    seed: int,
    canvas: tuple[int, int] | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Draw images of DATA as an augmentation changes them, with their boxes or masks, on one sheet.

    DATA is the configuration of a run, of which labelled images are shown; a folder with images and labels, as
    `selftrain init` takes it; or images without labels: a folder, an image, or a .txt file with a path in each line.

    Each row is an image, as it lies on the canvas without augmentation and then as each draw changes it. Draws are
    made as in training: the same command draws the same sheet. Over each cell stands what was drawn. What is ignored
    of a picture, in masks and boxes, is hatched in grey; beyond the picture no label is drawn.
    """
    _refuse_output(path, overwrite=overwrite)
    if policy is None and not is_config(data):
        raise ConfigError(
            f"{data} is no configuration, so nothing says which augmentation is meant: give --policy NAME\n"
            f"  available: {', '.join(sorted(registry().components[_KIND]))}"
        )
    named = None if policy is None else _choice({"name": _full_name(policy)}, settings)
    found = find_preview_data(data, images, path)
    choice = named or _choice(found.augmentation, settings)
    for warning in found.warnings:
        click.echo(f"warning: {warning}", err=True)
    size = canvas or found.canvas or RunConfig.model_fields["canvas"].default
    # Torch takes seconds to import; whatever is wrong with the command line is said before.
    from selftrain.preview_grid import draw_preview

    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    remarks, drawn = draw_preview(path, found, choice, size, seed, draws)
    for remark in remarks:
        click.echo(f"note: {remark}", err=True)
    if as_json:
        more = {"canvas": list(size), "seed": seed, "draws": draws, "drawn": drawn, "remarks": remarks}
        shown = _as_json(path, found, choice, more)
        click.echo(json.dumps(shown, indent=2, ensure_ascii=False))
        return
    click.echo(f"{path}: {len(found.images):,} images, {draws} draws of {choice.name} each")


def _refuse_output(path: Path, *, overwrite: bool) -> None:
    if path.suffix.lower() != ".png":
        raise ConfigError(f"-o {path}: what is written is a PNG; give a name that ends in .png")
    if path.is_dir():
        raise RunError(f"{path} is a folder; give the name of a file with -o")
    if path.exists() and not overwrite:
        raise RunError(f"{path} is there already; nothing was written\n  give another file with -o, or --overwrite")


def _full_name(name: str) -> str:
    """Return the augmentation's name with its provider, which may be left out where one alone is called so."""
    known = registry().components[_KIND]
    meant = [each for each in known if each.partition("/")[2] == name]
    return registry().find(_KIND, meant[0] if len(meant) == 1 else name).spec.name


def _choice(base: Mapping[str, Any], settings: Sequence[str]) -> AugmentationChoice:
    """Return the augmentation that `base` describes, with other settings.

    Raises:
        ConfigError: It has no such setting, or a value is wrong.
    """
    changed = dict(base)
    for setting in settings:
        key, equals, text = setting.partition("=")
        key = key.removeprefix("augmentation.")  # as --set has it elsewhere
        if not equals or not key:
            raise ConfigError(f"--set {setting}: expected the form key=value, such as scale_max=3")
        try:
            changed[key] = read_yaml(text)
        except ConfigError as error:
            raise ConfigError(f"--set {setting}: the value is {error}") from error
    try:
        return AugmentationChoice.model_validate(changed)
    except ValidationError as error:
        raise ConfigError(
            "\n".join([f"the settings of {base['name']} are wrong:", *explain_errors(error.errors())])
        ) from error


def _as_json(path: Path, found: PreviewData, choice: AugmentationChoice, more: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "schema": 1,
        "path": str(path),
        "augmentation": choice.model_dump(mode="json"),
        "task": None if found.task is None else found.task.name,
        "images": [{"id": each.entry.id, "file": str(each.entry.path)} for each in found.images],
        "warnings": found.warnings,
        **more,
    }
