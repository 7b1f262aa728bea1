"""Predicting without leaving a trace."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from selftrain_core.config import DataConfig
from selftrain_core.config_model import StrictModel
from selftrain_core.index import Index, build_sources, write_index
from selftrain_core.prediction import cut, evaluating, predictions
from selftrain_core.samples import IndexPictures, PictureDataset
from selftrain_core.testing import assert_equal
from selftrain_core.testing.fakes import PixelTask, TinyBackbone, TinyBackboneConfig
from selftrain_core.testing.samples import write_images

CPU = torch.device("cpu")
IDS = ["a", "b", "c", "d", "e"]


@pytest.fixture
def dataset(tmp_path: Path) -> PictureDataset:
    write_images(tmp_path / "images", [*IDS, "rest"])
    (tmp_path / "images/c.png").write_bytes(b"")
    for name, ids in (("five", IDS), ("rest", ["rest"])):
        (tmp_path / name).write_text("\n".join(ids))
    sources = {
        n: {"name": "core/images", "images": str(tmp_path / "images"), "list": str(tmp_path / n)}
        for n in ("five", "rest")
    }
    write_images(tmp_path / "val", ["v"])
    write_images(tmp_path / "test", ["t"])
    sources |= {n: {"name": "core/images", "images": str(tmp_path / n)} for n in ("val", "test")}
    data = DataConfig.model_validate(
        {
            "sources": sources,
            "labelled": "rest",
            "unlabelled": "five",
            "validation": "val",
            "test": "test",
            "classes": ["x"],
        }
    )
    write_index(tmp_path / "index.arrow", data, build_sources(data, ("x",)))
    index = Index(tmp_path / "index.arrow")
    return PictureDataset(IndexPictures(index, index.rows("unlabelled")), (32, 32))


@pytest.fixture
def task() -> PixelTask:
    return PixelTask(StrictModel(), ("ground", "sky"))


def model(task: PixelTask) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(task.build_model(TinyBackbone(TinyBackboneConfig())), nn.Dropout(0.5), nn.BatchNorm2d(2))


@pytest.mark.parametrize("workers", [0, 1])
def test_predictions_come_in_order_with_their_failures(dataset: PictureDataset, task: PixelTask, workers: int) -> None:
    found = list(predictions(model(task), task, dataset, cut(range(5), 2), CPU, workers))
    assert [[result.place for result in results] for results in found] == [[0, 1], [2, 3], [4]]
    failed = found[1][0]
    assert failed.prediction is None
    assert failed.failure.endswith("c.png cannot be read: it is empty")
    assert all(
        result.prediction.original == (20 + result.place, 30)
        for results in found
        for result in results
        if not result.failure
    )


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


class Watched(nn.Module):
    """Notes of each forward pass how many images it has, who makes it, and with how many threads."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.calls: list[tuple[int, int, int]] = []
        self.meeting = threading.Barrier(2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls.append((len(images), threading.get_ident(), torch.get_num_threads()))
        if len(images) > 1:
            self.meeting.wait(timeout=60)  # passes only if two threads are here at once
        found: torch.Tensor = self.model(images)
        return found


@pytest.mark.usefixtures("four_threads")
def test_threads_share_out_the_images_of_a_batch(dataset: PictureDataset, task: PixelTask) -> None:
    watched = Watched(model(task).eval())
    batches = [[0, 1, 3, 4] * 2, [4, 3, 1, 0] * 2]
    found = [r for results in predictions(watched, task, dataset, batches, CPU, 0) for r in results]
    assert [r.place for r in found] == [0, 1, 3, 4] * 4
    assert [(images, threads) for images, _, threads in watched.calls] == [(4, 2)] * 4
    assert len({thread for _, thread, _ in watched.calls}) == 2
    assert torch.get_num_threads() == 4, "torch has its threads back"
    alone = predictions(watched.model, task, dataset, cut([0, 1, 3, 4], 1), CPU, 0)
    by_place = {r.place: r.prediction for results in alone for r in results}
    assert_equal([r.prediction for r in found], [by_place[r.place] for r in found], "in threads", atol=1e-5)


@pytest.mark.usefixtures("four_threads")
def test_a_thread_more_is_not_worth_few_images(dataset: PictureDataset, task: PixelTask) -> None:
    watched = Watched(model(task).eval())
    watched.meeting = threading.Barrier(1)
    list(predictions(watched, task, dataset, [[0, 1, 3, 4]], CPU, 0))
    assert watched.calls == [(4, threading.get_ident(), 4)]


@pytest.mark.usefixtures("four_threads")
def test_torch_has_its_threads_back_after_an_error(dataset: PictureDataset, task: PixelTask) -> None:
    class Broken(Watched):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise KeyError(len(images))

    broken = Broken(model(task)).train()
    with pytest.raises(KeyError):
        list(predictions(broken, task, dataset, [[0, 1, 3, 4] * 4], CPU, 0))
    assert torch.get_num_threads() == 4
    assert broken.training


def test_a_batch_without_a_readable_image(dataset: PictureDataset, task: PixelTask) -> None:
    ((only,),) = predictions(model(task), task, dataset, [[2]], CPU, 0)
    assert only.failure


def test_the_batch_size_does_not_matter(dataset: PictureDataset, task: PixelTask) -> None:
    one = [
        r.prediction for results in predictions(model(task), task, dataset, cut(range(5), 1), CPU, 0) for r in results
    ]
    all_ = [
        r.prediction for results in predictions(model(task), task, dataset, [list(range(5))], CPU, 0) for r in results
    ]
    assert_equal([p for p in one if p], [p for p in all_ if p], "predictions one by one", atol=1e-5)


def test_modes_buffers_and_gradient_are_as_before(dataset: PictureDataset, task: PixelTask) -> None:
    module = model(task).train()
    list(module.children())[2].eval()
    modes = [part.training for part in module.modules()]
    state = {name: value.clone() for name, value in module.state_dict().items()}
    for _ in predictions(module, task, dataset, [[0, 1], [3]], CPU, 0):
        assert torch.is_grad_enabled(), "between batches too"
    assert [part.training for part in module.modules()] == modes
    assert_equal(dict(module.state_dict()), state, "state after predicting")


def test_modes_come_back_after_an_error() -> None:
    module = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    seen: list[bool] = []

    def fail() -> None:
        with evaluating(module):
            seen.extend([torch.is_inference_mode_enabled(), *(not part.training for part in module.modules())])
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seen == [True] * 4
    assert [part.training for part in module.modules()] == [True, True, False]


def test_predictions_are_made_in_the_models_type(dataset: PictureDataset, task: PixelTask) -> None:
    (results,) = predictions(model(task).double(), task, dataset, [[0]], CPU, 0)
    assert results[0].prediction.probability_CHW.dtype == torch.float64


def test_cut() -> None:
    assert [list(piece) for piece in cut(range(5), 2)] == [[0, 1], [2, 3], [4]]
    assert cut([], 3) == []
    assert cut(range(5), 2) == [range(2), range(2, 4), range(4, 5)], "no list of a million places"
    assert np.concatenate(cut(range(7), 3)).tolist() == list(range(7))
