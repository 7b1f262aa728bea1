"""``selftrain split``: lists of labelled fractions, stratified by class and nested, and of validation and test."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from selftrain.summary_table import format_table
from selftrain_core.config import DataConfig, load_config
from selftrain_core.errors import ConfigError, DataError, RunError, did_you_mean
from selftrain_core.files import write_text
from selftrain_core.index import build_source
from selftrain_core.labels import ClassLabels, Labels, MaskLabels, ScoreStatistics
from selftrain_core.stratification import draw_order, stratify


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--source", metavar="NAME", required=True, help="The labelled source, a name under data.sources.")
@click.option("--count", "counts", metavar="N", multiple=True, type=click.IntRange(min=1), help="Images in a list.")
@click.option(
    "--fraction",
    "fractions",
    metavar="F",
    multiple=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="Images in a list, as a fraction of those to train on.",
)
@click.option(
    "--seed", "seeds", metavar="K", multiple=True, type=click.IntRange(min=0), default=(0,), help="Of the lists drawn."
)
@click.option(
    "--validation", metavar="F", type=click.FloatRange(0, 1, max_open=True), default=0.0, help="Set apart for val.txt."
)
@click.option(
    "--test", metavar="F", type=click.FloatRange(0, 1, max_open=True), default=0.0, help="Set apart for test.txt."
)
@click.option(
    "-o", "--output", "folder", metavar="DIR", required=True, type=click.Path(path_type=Path), help="For the lists."
)
@click.option(
    "--set", "overrides", metavar="A.B=VALUE", multiple=True, help="A setting that replaces that of the file."
)
@click.option("--force", is_flag=True, help="Replace lists that are already there.")
def split(
    config: Path,
    source: str,
    counts: tuple[int, ...],
    fractions: tuple[float, ...],
    seeds: tuple[int, ...],
    validation: float,
    test: float,
    folder: Path,
    overrides: tuple[str, ...],
    *,
    force: bool,
) -> None:
    """Write lists of the images of a labelled source, in which every class is as frequent as in the whole.

    For each number of images and each seed K there is labelled-N-seedK.txt; of one seed the shorter list is part of
    the longer. --validation and --test set images apart first, the same for all seeds. The source is one of the YAML
    file CONFIG, so that images of every task and in every form can be split.
    """
    if not (counts or fractions or validation or test):
        raise click.UsageError("nothing to write: give --count, --fraction, --validation or --test, each as a number")
    labelled = _read(load_config(config, overrides).data, source)
    lists = _draw(labelled, counts, fractions, seeds, validation, test)
    _write(labelled, lists, folder, force=force)
    _show(labelled, lists)
    click.echo(f"written to {folder}: {', '.join(f'{name}.txt' for name in lists)}")


@dataclass(frozen=True, slots=True)
class Labelled:
    """What a source's images show: ids, class names, and pixels, boxes or images of each class, int64 [N,C]."""

    ids: list[str]
    classes: tuple[str, ...]
    amount_NC: NDArray[np.int64]

    @property
    def shows_NC(self) -> NDArray[np.bool_]:
        """Which classes each image shows."""
        return self.amount_NC > 0


def _read(data: DataConfig, name: str) -> Labelled:
    if name not in data.sources:
        raise ConfigError(
            f"--source {name}: data.sources has no such name{did_you_mean(name, data.sources)}; sources: "
            f"{', '.join(data.sources)}"
        )
    classes = data.class_names()
    source = build_source(data.sources[name], classes)
    entries = sorted(source.scan(), key=lambda entry: entry.id)
    amount_NC = np.zeros((len(entries), len(classes)), np.int64)
    with click.progressbar(
        enumerate(entries), length=len(entries), label="reading labels", file=sys.stderr
    ) as progress:
        for number, entry in progress:
            if entry.id != entry.id.strip() or len(entry.id.splitlines()) != 1:
                raise DataError(f"{entry.id!r} cannot stand in a list, which has one id per line; rename {entry.path}")
            amount_NC[number] = _amounts(source.read_labels(entry), len(classes))
    return Labelled([entry.id for entry in entries], classes, amount_NC)


def _amounts(labels: Labels, num_classes: int) -> NDArray[np.int64]:
    if isinstance(labels, MaskLabels):
        values: NDArray[Any] = labels.classes_HW
    elif isinstance(labels, ClassLabels):
        values = labels.class_1
    else:
        # Nothing is learnt from a crowd.
        values = labels.labels_N if labels.crowds_N is None else labels.labels_N[~labels.crowds_N]
    amount_C: NDArray[np.int64] = ScoreStatistics.of(values, None, num_classes).histogram_CS.sum(1)
    return amount_C


def _draw(
    labelled: Labelled,
    counts: Sequence[int],
    fractions: Sequence[float],
    seeds: Sequence[int],
    validation: float,
    test: float,
) -> dict[str, NDArray[np.int64]]:
    """Return the places of each list's images, by the list's name."""
    total = len(labelled.ids)
    held_out = [round(total * validation), round(total * test)]
    if sum(held_out) >= total:
        raise ConfigError(f"--validation {validation} and --test {test} leave none of {total} images to train on")
    share_N = stratify(labelled.shows_NC, [total - sum(held_out), *held_out], draw_order(labelled.ids, "split"))
    train = np.flatnonzero(share_N == 0)
    sizes = sorted({*counts, *(max(1, round(fraction * len(train))) for fraction in fractions)}, reverse=True)
    if sizes and sizes[0] > len(train):
        raise ConfigError(f"--count {sizes[0]}: there are {len(train)} images to draw from")
    lists: dict[str, NDArray[np.int64]] = {}
    for seed in sorted(set(seeds)):
        pool = train
        for size in sizes:
            order = draw_order([labelled.ids[place] for place in pool], f"labelled {seed}")
            share = stratify(labelled.shows_NC[pool], [size, len(pool) - size], order)
            pool = pool[share == 0]
            lists[f"labelled-{size}-seed{seed}"] = pool
    if any(held_out):
        parts = {"train": train, "val": np.flatnonzero(share_N == 1), "test": np.flatnonzero(share_N == 2)}
        lists |= {name: places for name, places in parts.items() if len(places)}
    return lists


def _write(labelled: Labelled, lists: Mapping[str, NDArray[np.int64]], folder: Path, *, force: bool) -> None:
    there = [name for name in lists if (folder / f"{name}.txt").exists()]
    if there and not force:
        raise RunError(
            f"{folder} already holds {', '.join(f'{name}.txt' for name in there)}; results that were made with these "
            "lists could not be made again. Give another folder, or --force to replace them"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror}") from error
    for name, places in lists.items():
        write_text(folder / f"{name}.txt", "".join(f"{labelled.ids[place]}\n" for place in places))


def _show(labelled: Labelled, lists: Mapping[str, NDArray[np.int64]]) -> None:
    every = {"all": np.arange(len(labelled.ids)), **lists}
    cells = {name: _cells(labelled.amount_NC[places]) for name, places in every.items()}
    click.echo("images that show a class, and its share of all that is labelled\n")
    for names in _blocks(cells, shutil.get_terminal_size().columns - max(map(len, labelled.classes)) - 2):
        header = ("class", *(name.removeprefix("labelled-") for name in names))
        rows = [(name, *(cells[each][1 + c] for each in names)) for c, name in enumerate(labelled.classes)]
        totals = ("(images)", *(cells[each][0] for each in names))
        click.echo(format_table([header, totals, *rows], right=range(1, len(header))) + "\n")
    shown_C = labelled.shows_NC.any(0)
    for name, places in lists.items():
        absent = np.flatnonzero(shown_C & ~labelled.shows_NC[places].any(0))
        if len(absent):
            missing = ", ".join(labelled.classes[c] for c in absent)
            click.echo(f"warning: no image of {name}.txt shows: {missing}", err=True)
    if not shown_C.all():
        missing = ", ".join(labelled.classes[c] for c in np.flatnonzero(~shown_C))
        click.echo(f"warning: no image of the source shows: {missing}", err=True)


def _cells(amount_NC: NDArray[np.int64]) -> list[str]:
    share_C = amount_NC.sum(0) / max(1, int(amount_NC.sum()))
    images_C = (amount_NC > 0).sum(0)
    shown = [f"{images} {share:6.1%}" for images, share in zip(images_C, share_C, strict=True)]
    return [f"{len(amount_NC)}", *shown]


def _blocks(cells: Mapping[str, Sequence[str]], width: int) -> Iterator[list[str]]:
    """Yield the names of the lists whose columns fit beside each other."""
    block: list[str] = []
    used = 0
    for name, column in cells.items():
        wide = 2 + max(len(name.removeprefix("labelled-")), *map(len, column))
        if block and used + wide > width:
            yield block
            block, used = [], 0
        block.append(name)
        used += wide
    yield block
