"""Labelling from disk to a sealed store, against its three parts, each alone: ``labelling_speed.py DATA``.

The parts are written out plainly: read an image and lay it onto the canvas; run the model; make a row of its output.
1 / (decode + forward + rows) is what one could reach doing one after the other with no cost in between.
DATA is ccp10. The labels of both ways are compared.
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from timing import alternating, lite0_config, print_table
from torch import Tensor, nn
from torch.nn import functional

from selftrain_core import labelling
from selftrain_core.accelerators import CpuAccelerator, prepare_model
from selftrain_core.components import build_model, build_task
from selftrain_core.config import DeviceConfig, RunConfig
from selftrain_core.index import Index, build_sources, write_index
from selftrain_core.interfaces import Task
from selftrain_core.progress import Reporter
from selftrain_core.store import PseudoLabelStore
from selftrain_core.views import View

SCALES = {"single scale": (1.0,), "six scales": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)}
BATCH = 16
FILL = (124, 116, 104)


@dataclass
class Bare:
    """The three parts, each for the whole pool, handing on what the next needs."""

    paths: list[Path]
    canvas: tuple[int, int]
    model: nn.Module
    scales: tuple[float, ...]
    num_classes: int
    images: list[Tensor] = field(default_factory=list)
    valid: list[list[tuple[int, int]]] = field(default_factory=list)
    probabilities: list[Tensor] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def decode(self) -> None:
        """Read all images."""
        self.images, self.valid = [], []
        for start in range(0, len(self.paths), BATCH):
            read = [self._decoded(path) for path in self.paths[start : start + BATCH]]
            self.images.append(torch.from_numpy(np.stack([canvas for canvas, _ in read])).permute(0, 3, 1, 2))
            self.valid.append([size for _, size in read])

    def _decoded(self, path: Path) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file).convert("RGB")
        scale = min(self.canvas[0] / image.height, self.canvas[1] / image.width)
        height, width = (
            min(self.canvas[0], round(image.height * scale)),
            min(self.canvas[1], round(image.width * scale)),
        )
        canvas_HW3 = np.empty((*self.canvas, 3), np.uint8)
        canvas_HW3[:] = FILL
        canvas_HW3[:height, :width] = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
        return canvas_HW3, (height, width)

    def forward(self) -> None:
        """Run the model on all images."""
        self.probabilities = []
        self.model.eval()
        with torch.inference_mode():
            for batch in self.images:
                images = batch.float() / 255
                total = torch.zeros(())
                for scale in self.scales:
                    size = [max(1, round(side * scale / 32)) * 32 for side in self.canvas]
                    is_same = size == list(self.canvas)
                    seen = images if is_same else _resized(images, size)
                    found = self.model(seen).softmax(1)
                    total = total + (found if is_same else _resized(found, list(self.canvas)))
                self.probabilities.append(total / len(self.scales))

    def make_rows(self) -> None:
        """Turn all outputs into rows and count classes and scores."""
        self.rows = []
        counted = np.zeros(self.num_classes * 64, np.int64)
        for batch, sizes in zip(self.probabilities, self.valid, strict=True):
            for probability_CHW, (height, width) in zip(batch, sizes, strict=True):
                score_HW, class_HW = probability_CHW[:, :height, :width].max(0)
                classes = class_HW.to(torch.uint8).numpy()
                scores = torch.floor(score_HW * 64).clamp(0, 64).to(torch.uint8).numpy()
                flat = classes.astype(np.int64) * 64 + np.minimum(scores, 63)
                counted += np.bincount(flat.ravel(), minlength=len(counted))
                self.rows.append({"classes_png": _png(classes), "scores_png": _png(scores)})


def _resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    return functional.interpolate(maps, size=list(size), mode="bilinear", align_corners=False, antialias=True)


def _png(map_HW: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(map_HW).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def configure(data: Path, folder: Path, num_images: int) -> RunConfig:
    """Return the configuration of a run whose pool is `num_images` photos."""
    photos = (data / "splits/unlabelled.txt").read_text().split()[:num_images]
    (folder / "pool.txt").write_text("\n".join(photos))
    lists = {"train": "train", "val": "val", "test": "test"}
    sources = {
        name: {"name": "core/images", "images": str(data / "images"), "list": str(data / f"splits/{file}.txt")}
        for name, file in lists.items()
    }
    sources["pool"] = {**sources["train"], "list": str(folder / "pool.txt")}
    return lite0_config(data, sources, "pool", folder)


def measure(
    config: RunConfig, folder: Path, name: str, repeats: int, workers: int, precision: str
) -> tuple[list[object], int]:
    """Return the line of one set of scales, and the number of images."""
    classes = config.data.class_names()
    task: Task[Any, Any] = build_task(config.task, classes)
    torch.manual_seed(0)
    model, backbone = build_model(task, config.backbone)
    backbone.initialise("imagenet")
    model = prepare_model(model, CpuAccelerator(), DeviceConfig())
    index = Index(folder / "index.arrow")
    rows = index.rows("unlabelled")
    entries = [index.entry(int(row))[1] for row in rows]
    bare = Bare([entry.path for entry in entries], config.canvas, model, SCALES[name], len(classes))
    store = folder / "store"

    def label() -> None:
        shutil.rmtree(store, ignore_errors=True)
        store.mkdir()
        labelling.write_shards(
            store, model, task, index, canvas=config.canvas, device=torch.device("cpu"), batch=BATCH, workers=workers,
            views=tuple(View(scale) for scale in SCALES[name]), top_k=1, precision=precision,
            reporter=Reporter("label", lambda _: None),
        )  # fmt: skip
        labelling.seal_store(store, task, index, {})

    parts = {"decode": bare.decode, "forward": bare.forward, "rows": bare.make_rows, "ours": label}
    taken = alternating(parts, repeats)
    if precision == "float32":
        compare(bare, PseudoLabelStore(store, classes), [entry.id for entry in entries])
    milliseconds = {part: 1000 * each / len(rows) for part, each in taken.items()}
    together = milliseconds["decode"] + milliseconds["forward"] + milliseconds["rows"]
    return [name, *milliseconds.values(), 1000 / milliseconds["ours"], together / milliseconds["ours"]], len(rows)


def compare(bare: Bare, store: PseudoLabelStore, ids: Sequence[str]) -> None:
    """Check that both ways made the same labels."""
    for id_, expected in zip(ids, bare.rows, strict=True):
        row = store.row(id_)
        for column in ("classes_png", "scores_png"):
            ours, theirs = (np.asarray(Image.open(io.BytesIO(each[column]))) for each in (row, expected))
            assert ours.shape == theirs.shape
            # The mean of several scales may be rounded otherwise where two classes tie.
            assert (ours != theirs).mean() < 1e-3, f"{column} of {id_} differs"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=460)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--precision", choices=["float32", "bf16"], default="float32", help="of ours alone")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = configure(given.data.resolve(), folder, given.images)
        write_index(folder / "index.arrow", config.data, build_sources(config.data, config.data.class_names()))
        lines = [measure(config, folder, scales, given.repeats, given.workers, given.precision) for scales in SCALES]
    heads = [
        "", "decode ms", "forward ms", "rows ms", "labelling ms", "images/s", "(decode + forward + rows) / labelling",
    ]  # fmt: skip
    title = (
        f"Labelling: {lines[0][1]} photos of ccp10, 160×96, lite0 + FPN, {given.precision}, workers {given.workers}, "
        f"median of {given.repeats}, per image"
    )
    print_table(title, heads, [line for line, _ in lines])


if __name__ == "__main__":
    main()
