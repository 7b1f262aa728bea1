"""Peak memory of labelling against the size of the pool: ``labelling_memory.py IMAGES``.

For each size a fresh process labels that many hard links to the pictures of the folder IMAGES (ccp10's ``images``),
with a model of a few hundred weights on a canvas of 32×32: what is left is what labelling itself takes. The list of
images is written by another process.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from selftrain_core.config import DataConfig
from selftrain_core.index import Index, build_sources, write_index

CLASSES = ("ground", "red", "green")
DISTINCT = 50
"""Pictures that are copied; all others are links to them."""


def prepare(images: Path, folder: Path, count: int) -> None:
    """Write `count` images, and the list of them."""
    found = sorted(path for path in images.iterdir() if path.is_file())[: DISTINCT + 3]
    for path, part in zip(found, ("labelled", "validation", "test"), strict=False):
        (folder / part).mkdir(parents=True)
        shutil.copyfile(path, folder / part / path.name)
    pool = folder / "pool"
    pool.mkdir()
    copies = [Path(shutil.copyfile(path, folder / path.name)) for path in found[3:]]
    for number, path in zip(range(count), itertools.cycle(copies), strict=False):
        os.link(path, pool / f"{number:07}{path.suffix}")
    roles = {"labelled": "labelled", "unlabelled": "pool", "validation": "validation", "test": "test"}
    sources = {name: {"name": "core/images", "images": str(folder / name)} for name in roles.values()}
    data = DataConfig.model_validate({"sources": sources, **roles, "classes": list(CLASSES)})
    write_index(folder / "index.arrow", data, build_sources(data, CLASSES))


def label(folder: Path) -> dict[str, float]:
    """Label the pool, and return how much memory that took, in MB: this process, and the largest that reads images."""
    import torch

    from selftrain_core import labelling
    from selftrain_core.config_model import StrictModel
    from selftrain_core.progress import Reporter
    from selftrain_core.testing.fakes import PixelTask, TinyBackbone, TinyBackboneConfig
    from selftrain_core.views import PLAIN_VIEW

    task = PixelTask(StrictModel(), CLASSES)
    model = task.build_model(TinyBackbone(TinyBackboneConfig(), "", task.strides))
    index, store = Index(folder / "index.arrow"), folder / "store"
    store.mkdir()
    labelling.write_shards(
        store, model, task, index, canvas=(32, 32), device=torch.device("cpu"), batch=16, workers=1, views=PLAIN_VIEW,
        top_k=1, reporter=Reporter("label", lambda _: None),
    )  # fmt: skip
    manifest = labelling.seal_store(store, task, index, {})
    usage = {"process": resource.RUSAGE_SELF, "reader": resource.RUSAGE_CHILDREN}
    peaks = {name: resource.getrusage(who).ru_maxrss / 1000 for name, who in usage.items()}  # from 1024 bytes
    return {**peaks, "labelled": manifest["states"]["labelled"]}


def measure(images: Path, count: int) -> dict[str, float]:
    """Return what `label` did for a pool of `count`, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        for step in ("prepare", "label"):
            command = [sys.executable, __file__, str(images), "--step", step, "--folder", folder, "--sizes", str(count)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(done.stderr)
    found: dict[str, float] = json.loads(done.stdout)
    assert found["labelled"] == count
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 20_000])
    parser.add_argument("--step", choices=["prepare", "label"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step == "prepare":
        prepare(given.images, given.folder, given.sizes[0])
    elif given.step == "label":
        print(json.dumps(label(given.folder)))
    else:
        from timing import print_table

        rows = []
        for count in given.sizes:
            found = measure(given.images.resolve(), count)
            rows.append([f"{count:,}", found["process"], found["reader"]])
        print_table("Peak memory of labelling", ["images", "process MB", "process that reads images MB"], rows)


if __name__ == "__main__":
    main()
