"""Labels the images of an index with a tiny model into a sealed store: ``INDEX FOLDER DEVICES``.

Run by `test_labelling.py`. With several devices Lightning starts this script again for each further rank.
"""

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from selftrain_core import labelling
from selftrain_core.accelerators import CpuAccelerator
from selftrain_core.config_model import StrictModel
from selftrain_core.distributed import rank, several_ranks
from selftrain_core.index import Index
from selftrain_core.progress import Event, Reporter
from selftrain_core.testing.fakes import PixelTask, TinyBackbone, TinyBackboneConfig
from selftrain_core.views import PLAIN_VIEW

CLASSES = ("ground", "red", "green")


def label(index_path: Path, folder: Path, devices: int = 1, workers: int = 0) -> list[Event]:
    """Label, and return what was told of it on this rank."""
    labelling.ROWS_PER_SHARD = 4
    task = PixelTask(StrictModel(), CLASSES)
    torch.manual_seed(0)
    model: Any = task.build_model(TinyBackbone(TinyBackboneConfig(width=4), "", task.strides))
    index, events = Index(index_path), list[Event]()
    with several_ranks(CpuAccelerator(), devices):
        labelling.write_shards(
            folder, model, task, index, canvas=(32, 32), device=torch.device("cpu"), batch=3, workers=workers,
            views=PLAIN_VIEW, top_k=1, reporter=Reporter("round-1/pseudo-labels", events.append),
        )  # fmt: skip
        if rank() == 0:
            labelling.seal_store(folder, task, index, {"teacher": "drawn"})
    return events


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    told = label(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
    if os.environ["LOCAL_RANK"] == "0":  # the process group is gone: every process is rank 0 by now
        (Path(sys.argv[2]) / "told.txt").write_text("\n".join(str(event.done) for event in told))
