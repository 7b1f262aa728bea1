"""From the index to batches."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from selftrain_core.batch import HUMAN, PSEUDO, Batch
from selftrain_core.config import DataConfig
from selftrain_core.config_model import StrictModel
from selftrain_core.errors import DataError
from selftrain_core.index import Index, build_sources, write_index
from selftrain_core.keys import name_key
from selftrain_core.labels import IGNORE, ScoreStatistics
from selftrain_core.plan import Plan, StreamPlan
from selftrain_core.policies import FixedDecision
from selftrain_core.samples import HumanLabels, PseudoLabels, StepDataset, Stream, raised
from selftrain_core.store import LABELLED, PseudoLabelStore, seal, shard_path, write_shard
from selftrain_core.testing import assert_equal
from selftrain_core.testing.fakes import PixelPrediction, PixelTask
from selftrain_core.testing.samples import draws, write_images, write_masks

CLASSES = ("ground", "red", "green")
TASK = PixelTask(StrictModel(), CLASSES)
Make = Callable[..., StepDataset]


def write_run(folder: Path) -> tuple[Index, dict[str, Any], PseudoLabelStore]:
    ids = [f"{name}{n}" for name in "abvt" for n in range(3)]
    write_images(folder / "images", ids)
    write_masks(folder / "masks", ids, 3)
    sources = {}
    for name in "abvt":
        (folder / f"{name}.txt").write_text("\n".join(id_ for id_ in ids if id_[0] == name))
        common = {"images": str(folder / "images"), "list": str(folder / f"{name}.txt")}
        sources[name] = {"name": "segmentation/index-masks", "masks": str(folder / "masks"), **common}
    parts = {"labelled": "a", "unlabelled": "b", "validation": "v", "test": "t"}
    data = DataConfig.model_validate({"sources": sources, "classes": CLASSES, **parts})
    built = build_sources(data, CLASSES)
    write_index(folder / "index.arrow", data, built)
    rows = []
    for number in range(3):
        prediction = PixelPrediction(draws((3, 22, 32), number).softmax(0), (23 + number, 30))
        rows.append({"id": f"b{number}", "state": LABELLED, **TASK.to_row(TASK.as_labels(prediction))})
    (folder / "store").mkdir()
    write_shard(shard_path(folder / "store", 0), TASK.row_schema(), rows)
    seal(folder / "store", 1, ScoreStatistics.empty(3), CLASSES, {})
    return Index(folder / "index.arrow"), dict(built), PseudoLabelStore(folder / "store", CLASSES)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    index, sources, store = write_run(tmp_path)
    streams = [
        Stream("human", index.rows("labelled"), 2, HumanLabels(index, sources)),
        Stream("pseudo", index.rows("unlabelled"), 3, PseudoLabels(index, store, TASK, FixedDecision(0.4, None))),
    ]
    plan = Plan(0, "s", [StreamPlan(s.name, s.ids(index), s.images_per_step) for s in streams])

    def dataset(**parts: Any) -> StepDataset:
        return StepDataset(index, streams, plan, TASK, (32, 32), 4, **parts)

    return dataset


def ids(batch: Batch) -> list[int]:
    return batch.id_B.tolist()


def test_a_step_holds_both_halves(make: Make) -> None:
    (batch,) = raised(make()[0])
    assert batch.source_B.tolist() == [HUMAN, HUMAN, PSEUDO, PSEUDO, PSEUDO]
    assert batch.image_B3HW.shape == (5, 3, 32, 32)
    assert batch.image_B3HW.dtype == torch.uint8
    assert set(ids(batch)[:2]) < {name_key(f"a{n}") for n in range(3)}
    assert set(ids(batch)[2:]) == {name_key(f"b{n}") for n in range(3)}
    assert len(make()) == 4


def test_visits_are_counted(make: Make) -> None:
    dataset = make()
    visits = [raised(dataset[step])[0].visit_B.tolist() for step in range(4)]
    assert [sorted(set(visit[2:])) for visit in visits] == [[0], [1], [2], [3]]
    assert [visit[:2] for visit in visits] == [[0, 0], [0, 1], [1, 1], [2, 2]]


def test_the_policy_decides_when_a_label_is_read(make: Make) -> None:
    (batch,) = raised(make()[0])
    assert batch.targets.mask_BHW is not None
    pseudo_BHW = batch.targets.mask_BHW[2:, :16]
    assert 0 < int((pseudo_BHW == IGNORE).sum()) < pseudo_BHW.numel()


@pytest.mark.parametrize(("ranks", "micro_batches"), [(2, 1), (1, 2)])
def test_parts_make_up_the_step(make: Make, ranks: int, micro_batches: int) -> None:
    (whole,) = raised(make()[1])
    parts = [
        batch for rank in range(ranks) for batch in raised(make(rank=rank, ranks=ranks, micro_batches=micro_batches)[1])
    ]
    assert len(parts) == ranks * micro_batches
    assert sorted(id_ for part in parts for id_ in ids(part)) == sorted(ids(whole))
    for part in parts:
        for place, id_ in enumerate(ids(part)):
            same = ids(whole).index(id_)
            assert_equal(part.image_B3HW[place], whole.image_B3HW[same], "image")


def test_a_worker_process_gives_the_same(make: Make) -> None:
    dataset = make()
    expected = [raised(dataset[step]) for step in range(4)]
    loader: Any = DataLoader(dataset, batch_size=None, num_workers=1, collate_fn=first)
    assert_equal(list(loader), expected, "steps of a worker")


def test_the_dataset_pickles(make: Make) -> None:
    """Workers that are spawned, as on macOS, receive everything that way."""
    dataset = make()
    expected = [raised(dataset[step]) for step in range(4)]
    again = pickle.loads(pickle.dumps(dataset))
    assert_equal([raised(again[step]) for step in range(4)], expected, "steps of a pickled dataset")


def first(item: Any) -> Any:
    return item


def test_an_error_is_an_item_with_the_images_name(make: Make, tmp_path: Path) -> None:
    dataset = make()
    (tmp_path / "images/b1.png").write_bytes(b"")
    item = dataset[0]
    assert isinstance(item, DataError)
    assert str(item).endswith("b1.png cannot be read: it is empty\n  (image 'b1'; take it out of its list, or mend it)")
    with pytest.raises(DataError, match=r"b1\.png cannot be read"):
        raised(item)


def test_a_missing_mask_is_an_item_too(make: Make, tmp_path: Path) -> None:
    for path in (tmp_path / "masks").iterdir():
        path.unlink()
    assert isinstance(make()[0], DataError)
