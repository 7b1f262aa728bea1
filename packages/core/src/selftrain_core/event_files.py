"""Copies of ``metrics.jsonl`` for other tools: a table for spreadsheets, event files for TensorBoard.

Both say nothing that ``metrics.jsonl`` does not say, and both are made from it: what an interrupted training takes back
there is gone here too. No torch here until an event file is written.
"""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selftrain_core.config import RunConfig
from selftrain_core.errors import ConfigError, RunError
from selftrain_core.files import explain, write_text

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

Line = Mapping[str, Any]


def require_tensorboard(config: RunConfig) -> None:
    """Let a run begin only if it can write the event files it was asked for.

    Raises:
        ConfigError: They are asked for, and the package is not installed.
    """
    if config.logging.tensorboard and find_spec("tensorboard") is None:
        raise ConfigError(
            "logging.tensorboard is true, but the package tensorboard is not installed\n"
            "  to install it: pip install 'selftrain-core[tensorboard]'\n"
            "  to do without: --set logging.tensorboard=false; metrics.csv holds the same numbers"
        )


def write_csv(path: Path, lines: Iterable[Line]) -> None:
    """Write one row per step, with a column for each number: ``train/loss``, ``validation/miou``.

    Args:
        path: Where to.
        lines: Of ``metrics.jsonl``, in order.

    Raises:
        RunError: The file cannot be written.
    """
    rows: dict[int, dict[str, Any]] = {}
    for line in lines:
        row = rows.setdefault(line["step"], {"step": line["step"], "images_seen": line["images_seen"]})
        row.update(numbers(line))
    columns = sorted({name for row in rows.values() for name in row} - {"step", "images_seen"})
    text = io.StringIO()
    table = csv.DictWriter(text, ["step", "images_seen", *columns], lineterminator="\n")
    table.writeheader()
    table.writerows(rows.values())
    write_text(path, text.getvalue())


def numbers(line: Line) -> dict[str, float]:
    """Return the numbers of a line of ``metrics.jsonl`` by the names that other tools show."""
    return {
        f"{part}/{name}": value
        for part in ("train", "validation")
        for name, value in line.get(part, {}).items()
        if isinstance(value, (int, float))
    }


class EventFiles:
    """TensorBoard's event files of one training. The horizontal axis is images seen, the same for all models.

    Args:
        folder: What TensorBoard shows as one run; what an earlier process left there is made again from `lines`.
        lines: Of ``metrics.jsonl``, up to the step at which the training goes on.

    Raises:
        RunError: The folder cannot be written to.
    """

    def __init__(self, folder: Path, lines: Iterable[Line]) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self.folder = folder
        try:
            if folder.exists():
                shutil.rmtree(folder)
            self._writer: SummaryWriter = SummaryWriter(str(folder))
        except OSError as error:
            raise RunError(f"{folder} cannot be written to: {explain(error)}") from error
        for line in lines:
            self.add(line)

    def add(self, line: Line) -> None:
        """Add a line of ``metrics.jsonl``, and have it on the disk.

        Raises:
            RunError: The disk is full.
        """
        try:
            for name, value in numbers(line).items():
                self._writer.add_scalar(name, value, line["images_seen"])
            self._writer.flush()
        except OSError as error:
            raise RunError(f"{self.folder} cannot be written to: {explain(error)}") from error

    def close(self) -> None:
        """End the thread that writes."""
        self._writer.close()
