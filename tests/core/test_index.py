"""The list of a run's images."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from selftrain_core.config import DataConfig
from selftrain_core.errors import DataError
from selftrain_core.index import ROLES, Index, build_sources, write_index
from selftrain_core.testing.samples import write_images, write_masks

IDS = [f"{name}-{n}" for name in ("a", "b", "c") for n in range(4)]
Make = Callable[..., tuple[DataConfig, Path]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a function that writes an index of twelve labelled images, and returns configuration and path."""
    write_images(tmp_path / "images", IDS)
    write_masks(tmp_path / "masks", IDS, 2)
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text("\n".join(id_ for id_ in IDS if id_.startswith(name)))
    (tmp_path / "few.txt").write_text("a-0\na-2\n")

    def source(list_: str | None, folder: str = "images") -> dict[str, Any]:
        listed = {} if list_ is None else {"list": str(tmp_path / list_)}
        common = {"images": str(tmp_path / folder), "masks": str(tmp_path / "masks")}
        return {"name": "segmentation/index-masks", **common, **listed}

    def write(**changes: Any) -> tuple[DataConfig, Path]:
        sources = {"all": source(None), "a": source("a.txt"), "b": source("b.txt"), "c": source("c.txt")}
        sources |= {"few": source("few.txt"), "other": source(None, "other")}
        if not (tmp_path / "other").is_dir():
            del sources["other"]
        parts = {"labelled": "few", "unlabelled": "a - few", "validation": "b", "test": "c", **changes}
        data = DataConfig.model_validate({"sources": sources, "classes": ["x", "y"], **parts})
        path = tmp_path / "index.arrow"
        write_index(path, data, build_sources(data, ("x", "y")))
        return data, path

    return write


def ids_of(index: Index, role: str) -> list[str]:
    return list(index.ids(index.rows(role)))


def test_set_expressions_share_the_images_out(make: Make, tmp_path: Path) -> None:
    index = Index(make()[1])
    assert index.counts() == {"labelled": 2, "unlabelled": 2, "validation": 4, "test": 4}
    assert ids_of(index, "labelled") == ["a-0", "a-2"]
    assert ids_of(index, "unlabelled") == ["a-1", "a-3"]
    source, entry = index.entry(int(index.rows("labelled")[1]))
    assert source == "few"
    assert entry.path == tmp_path / "images/a-2.png"
    assert entry.label_path == tmp_path / "masks/a-2.png"


def test_a_union_holds_a_shared_image_once(make: Make) -> None:
    index = Index(make(unlabelled="a + all - few - b - c")[1])
    assert ids_of(index, "unlabelled") == ["a-1", "a-3"]


def test_rows_come_in_the_order_of_ids(make: Make) -> None:
    index = Index(make(unlabelled="all - few - b - c")[1])
    for role in ROLES:
        assert ids_of(index, role) == sorted(ids_of(index, role))


def test_a_source_without_label_files(make: Make, tmp_path: Path) -> None:
    data, path = make()
    photos = {"name": "core/images", "images": str(tmp_path / "images"), "list": str(tmp_path / "a.txt")}
    sources = {name: choice.model_dump() for name, choice in data.sources.items()} | {"photos": photos}
    data = DataConfig.model_validate({**data.model_dump(), "sources": sources, "unlabelled": "photos - few"})
    write_index(path, data, build_sources(data, ("x", "y")))
    assert Index(path).entry(int(Index(path).rows("unlabelled")[0]))[1].label_path is None


def test_an_image_in_two_parts_is_explained(make: Make) -> None:
    message = (
        r"'a-0' is both in data\.labelled and in data\.unlabelled \(2 images are\); every image plays one part\. "
        r"Take them out of one, for example: unlabelled: '… - labelled'"
    )
    with pytest.raises(DataError, match=message):
        make(unlabelled="a")


def test_an_empty_part_is_explained(make: Make) -> None:
    with pytest.raises(DataError, match=r"data\.unlabelled: 'few - a' holds no image"):
        make(unlabelled="few - a")


@pytest.mark.parametrize("changes", [{"test": "c + other"}, {"test": "other"}])
def test_two_files_of_one_name_are_explained(make: Make, tmp_path: Path, changes: dict[str, str]) -> None:
    write_images(tmp_path / "other", ["c-0", "a-0"])
    with pytest.raises(
        DataError, match=r"two images are called '[ac]-0': .*images/[ac]-0\.png and .*other/[ac]-0\.png; rename"
    ):
        make(**changes)


def test_a_vanished_image_is_explained(make: Make, tmp_path: Path) -> None:
    (tmp_path / "images/a-0.png").unlink()
    (tmp_path / "images/a-0.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match=r"a-0\.png cannot be read: No such file"):
        make()


def test_fingerprints_see_images_and_labels(make: Make, tmp_path: Path) -> None:
    before = {role: Index(make()[1]).fingerprint(role) for role in ROLES}
    assert before["labelled"]["images"] == 2
    assert {role: Index(make()[1]).fingerprint(role) for role in ROLES} == before
    os.utime(tmp_path / "images/a-0.png", ns=(1, 1))
    image = {role: Index(make()[1]).fingerprint(role) for role in ROLES}
    assert [role for role in ROLES if image[role] != before[role]] == ["labelled"]
    (tmp_path / "masks/b-1.png").unlink()
    mask = {role: Index(make()[1]).fingerprint(role) for role in ROLES}
    assert [role for role in ROLES if mask[role] != image[role]] == ["validation"]
    (tmp_path / "masks/a-1.png").unlink()
    assert {role: Index(make()[1]).fingerprint(role) for role in ROLES} == mask, (
        "labels of unlabelled images are not read"
    )


def test_fingerprints_do_not_know_the_folder(make: Make, tmp_path: Path) -> None:
    before = Index(make()[1]).fingerprint("labelled")
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "images", moved)
    shutil.rmtree(tmp_path / "images")
    (tmp_path / "images").symlink_to(moved)
    assert Index(make()[1]).fingerprint("labelled") == before


def test_a_failed_index_leaves_the_old_one(make: Make, tmp_path: Path) -> None:
    path = make()[1]
    content = path.read_bytes()
    with pytest.raises(DataError):
        make(unlabelled="a")
    assert path.read_bytes() == content
    assert [p.name for p in tmp_path.glob(".*")] == []


def test_an_index_maps_its_file_and_pickles_small(make: Make) -> None:
    index = Index(make()[1])
    before = index.entry(0)
    assert index.table.nbytes > 0
    pickled = pickle.dumps(index)
    assert len(pickled) < 500
    assert pickle.loads(pickled).entry(0) == before
    assert index.rows("test").dtype == np.int64
