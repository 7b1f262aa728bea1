"""The list of a run's images."""

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from selftrain_core.config import DataConfig
from selftrain_core.data_source import DataSource, Entry
from selftrain_core.errors import ContractError, DataError, RunError
from selftrain_core.index import ROLES, Index, build_sources, write_index
from selftrain_core.labels import Labels
from selftrain_core.scanning import Rows
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
        r"'a-0' is both in data\.labelled and in data\.unlabelled \(2 images are\); every image plays one part\n"
        r"  Take them out of unlabelled, for example: unlabelled: 'a - few'"
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


def broken(folder: Path, id_: str) -> None:
    (folder / f"images/{id_}.png").unlink()
    (folder / f"images/{id_}.png").symlink_to(folder / "nowhere.png")


def test_a_vanished_image_with_human_labels_is_explained(make: Make, tmp_path: Path) -> None:
    broken(tmp_path, "a-0")
    with pytest.raises(DataError, match=r"a-0\.png cannot be read: No such file"):
        make()


def test_a_vanished_image_of_the_pool_is_left_to_the_reading(make: Make, tmp_path: Path) -> None:
    before = Index(make()[1]).fingerprint("unlabelled")
    broken(tmp_path, "a-1")
    broken(tmp_path, "a-3")
    index = Index(make()[1])
    assert ids_of(index, "unlabelled") == ["a-1", "a-3"]
    assert index.fingerprint("unlabelled") != before


@pytest.mark.parametrize("linked", ["file", "folder"])
def test_one_file_under_two_names_is_explained(make: Make, tmp_path: Path, linked: str) -> None:
    if linked == "file":
        (tmp_path / "images/twin.png").symlink_to(tmp_path / "images/b-0.png")
        (tmp_path / "few.txt").write_text("a-0\ntwin\n")
    else:
        (tmp_path / "more").mkdir()
        (tmp_path / "more/b-0.png").symlink_to(tmp_path / "images/b-0.png")
        (tmp_path / "images/linked").symlink_to(tmp_path / "more")
        (tmp_path / "few.txt").write_text("a-0\nlinked/b-0\n")
    with pytest.raises(
        DataError, match=r"the file .*images/b-0\.png is two images, '(twin|linked/b-0)' and 'b-0' of data\.validation"
    ):
        make()


def test_hard_links_are_several_files(make: Make, tmp_path: Path) -> None:
    for number in range(1, 4):
        (tmp_path / f"images/b-{number}.png").unlink()
        (tmp_path / f"images/b-{number}.png").hardlink_to(tmp_path / "images/b-0.png")
    assert Index(make()[1]).counts()["validation"] == 4


def test_odd_names_are_indexed(make: Make, tmp_path: Path) -> None:
    names = ["new\nline", "größe", "x" * 240, "it's, [odd]", "deep er/ä"]
    write_images(tmp_path / "odd", names)
    data, path = make()
    sources = {name: choice.model_dump() for name, choice in data.sources.items()}
    sources["odd"] = {"name": "core/images", "images": str(tmp_path / "odd")}
    data = DataConfig.model_validate({**data.model_dump(), "sources": sources, "unlabelled": "odd"})
    write_index(path, data, build_sources(data, ("x", "y")))
    index = Index(path)
    assert ids_of(index, "unlabelled") == sorted(names)
    assert all(index.entry(int(row))[1].path.is_file() for row in index.rows("unlabelled"))


class Fixed(DataSource):
    """Yields what it is given."""

    def scan(self) -> Iterator[Entry]:
        yield from self.config

    def read_labels(self, entry: Entry) -> Labels:
        raise NotImplementedError


def fixed_index(folder: Path, ids: Sequence[str]) -> Index:
    """Return an index whose unlabelled images have the given ids and one file each."""
    names = ["l", "v", "t"]
    write_images(folder / "images", [*names, *map(str, range(len(ids)))])
    parts = {"labelled": "l", "validation": "v", "test": "t", "unlabelled": "pool"}
    common = {"name": "core/images", "images": str(folder / "images")}
    data = DataConfig.model_validate({"sources": dict.fromkeys([*names, "pool"], common), "classes": ["x"], **parts})
    for path in (folder / "images").iterdir():
        os.utime(path, ns=(1, 1))
    sources: dict[str, DataSource] = {n: Fixed([Entry(n, folder / f"images/{n}.png")], ()) for n in names}
    pool = [Entry(id_, folder / f"images/{number}.png") for number, id_ in enumerate(ids)]
    write_index(folder / "index.arrow", data, {**sources, "pool": Fixed(pool, ())})
    return Index(folder / "index.arrow")


def test_fingerprints_of_other_ids_differ(tmp_path: Path) -> None:
    """Ids that look alike when they are strung together: commas, quotes, line ends, boundaries."""
    lists = [["a", "b"], ["ab", ""], ["a, b", "c"], ["a', 'b", "c"], ["a\nb", "c"], ["a\\nb", "c"], ["a", "\nbc"]]
    found = [fixed_index(tmp_path, ids).fingerprint("unlabelled")["digest"] for ids in lists]
    assert len(set(found)) == len(lists)
    assert fixed_index(tmp_path, lists[0]).fingerprint("unlabelled")["digest"] == found[0]


def test_a_source_that_yields_an_id_twice_breaks_its_contract(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"the data source 'pool' \(Fixed\) yields the id 'a' twice"):
        fixed_index(tmp_path, ["a", "b", "a"])


def test_a_source_that_cannot_be_scanned_is_explained(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def scan(self: DataSource) -> Iterator[Entry]:
        yield Entry("a", Path("nowhere").resolve(strict=True))

    monkeypatch.setattr("selftrain_segmentation.sources.IndexMasks.scan", scan)
    with pytest.raises(DataError, match=r"data\.sources\.all cannot be scanned: .*No such file"):
        make()


def test_an_unwritable_folder_is_explained(make: Make, tmp_path: Path) -> None:
    data, _ = make()
    with pytest.raises(RunError, match=r"none/index\.arrow cannot be written: No such file"):
        write_index(tmp_path / "none/index.arrow", data, build_sources(data, ("x", "y")))


def test_rows_are_taken_in_any_order_across_batches() -> None:
    batches = [pa.record_batch({"n": np.arange(first, last)}) for first, last in ((0, 5), (5, 5), (5, 6), (6, 13))]
    rows = np.array([12, 0, 5, 5, 4, 6, 0])
    assert Rows(pa.Table.from_batches(batches)).take(rows, ["n"]).column("n").to_pylist() == rows.tolist()


MEASURE = """
import resource, sys
from pathlib import Path
from selftrain_core.config import DataConfig
from selftrain_core.index import ROLES, Index, build_sources, write_index

folder = Path(sys.argv[1])
def source(list_):
    listed = {} if list_ is None else {"list": str(folder / list_)}
    return {"name": "core/images", "images": str(folder / "images"), **listed}
lists = {name: source(f"{name}.txt") for name in ("labelled", "validation", "test")}
parts = {**{name: name for name in lists}, "unlabelled": "every - labelled - validation - test"}
data = DataConfig.model_validate({"sources": {"every": source(None), **lists}, "classes": ["x"], **parts})
write_index(folder / "index.arrow", data, build_sources(data, ("x",)))
index = Index(folder / "index.arrow")
for role in ROLES:
    index.fingerprint(role)
assert sum(index.counts().values()) == int(sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_the_memory_of_indexing_hardly_grows_with_the_images(tmp_path: Path) -> None:
    def peak_kib(number: int) -> int:
        folder = tmp_path / str(number)
        ids = [f"folder-{n % 40}/a rather long name of a photo {n}" for n in range(number)]
        for id_ in ids:
            path = folder / f"images/{id_}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        for name, id_ in zip(("labelled", "validation", "test"), ids, strict=False):
            (folder / f"{name}.txt").write_text(id_)
        command = [sys.executable, "-c", MEASURE, str(folder), str(number)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert peak_kib(20_000) - peak_kib(1_000) < 16 * 1024


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
