"""What the benchmarks share: medians of alternating measurements, the configuration, and the table they print."""

from __future__ import annotations

import datetime as dt
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from selftrain_core.config import RunConfig, parse_config
from selftrain_core.environment import environment


def seconds(function: Callable[[], object]) -> float:
    """Return how long a call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def alternating(functions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median seconds of each function, called in turn `repeats` times after one call that is not counted."""
    found: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(repeats + 1):
        for name, function in functions.items():
            taken = seconds(function)
            if number:
                found[name].append(taken)
    return {name: statistics.median(values) for name, values in found.items()}


def print_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a Markdown table with where and when it was measured."""
    versions = ", ".join(f"{name} {version}" for name, version in environment().items() if name != "machine")
    print(f"## {title} ({dt.date.today().isoformat()})\n")
    print(f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads; {versions}.\n")
    print("| " + " | ".join(heads) + " |")
    print("|" + "---|" * len(heads))
    for row in rows:
        print("| " + " | ".join(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row) + " |")


def lite0_config(data: Path, sources: Mapping[str, object], unlabelled: str, base_dir: Path) -> RunConfig:
    """Return what is measured: lite0 with FPN on photos of ccp10 at 160×96.

    Args:
        data: The folder of ccp10.
        sources: Its sources, among them train, val and test.
        unlabelled: The one that is the pool.
        base_dir: What relative paths are relative to.
    """
    roles = {"labelled": "train", "unlabelled": unlabelled, "validation": "val", "test": "test"}
    return parse_config(
        {
            "canvas": [160, 96],
            "data": {"classes": str(data / "classes.json"), "sources": sources, **roles},
            "task": "segmentation/semantic",
            "backbone": {"name": "timm/tf_efficientnet_lite0", "init": "imagenet"},
        },
        base_dir=base_dir,
    )


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
