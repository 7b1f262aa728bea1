"""What every data source must do (`selftrain_core.data_source.DataSource`)."""

from __future__ import annotations

import pickle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np

from selftrain_core.data_source import DataSource, Entry
from selftrain_core.errors import DataError
from selftrain_core.images import read_image
from selftrain_core.labels import IGNORE, IGNORE_LABEL, BoxLabels, ClassLabels, MaskLabels
from selftrain_core.testing.component import ComponentContract, raises


class DataSourceContract(ComponentContract):
    """Inherit, name the source, and write a small data set for it.

    Example::

        class TestFolder(DataSourceContract):
            spec_name = "core/images"
            is_labelled = False

            def write(self, folder):
                write_images(folder, ["b", "a", "deep/c"])
                return {"images": str(folder)}
    """

    kind = "data_sources"
    interface = DataSource
    classes: ClassVar[tuple[str, ...]] = ("background", "thing", "other")
    is_labelled: ClassVar[bool] = True
    """Whether the source has labels."""

    def write(self, folder: Path) -> dict[str, Any]:
        """Write a data set of at least two images of different sizes below `folder`, and return the settings."""
        raise NotImplementedError

    def settings(self) -> Any:
        """Return the settings of a data set that is not there: what reading settings needs no files for."""
        with TemporaryDirectory() as folder:
            return self.settings_model().model_validate(self.write(Path(folder)))

    def source(self, folder: Path) -> DataSource:
        """Return the source over a data set below `folder`."""
        settings = self.settings_model().model_validate(self.write(folder))
        source: DataSource = self.load()(settings, self.classes)
        return source

    def test_scan(self) -> None:
        """Every image comes once, under a name, and exists."""
        with TemporaryDirectory() as folder:
            entries = list(self.source(Path(folder)).scan())
            assert len(entries) >= 2, f"scan yields {len(entries)} images; write at least two"
            assert all(isinstance(entry, Entry) for entry in entries), f"scan yields {type(entries[0]).__name__}"
            ids = [entry.id for entry in entries]
            assert len(set(ids)) == len(ids), f"scan yields an id twice: {sorted(ids)}"
            assert all(ids), "an id is empty"
            missing = [entry.path for entry in entries if not entry.path.is_file()]
            assert not missing, f"scan yields images that do not exist: {missing}"

    def test_scan_has_one_order(self) -> None:
        """A second scan, and another instance's, yields the same entries in the same order."""
        with TemporaryDirectory() as folder:
            source, other = self.source(Path(folder)), self.source(Path(folder))
            first = list(source.scan())
            assert list(source.scan()) == first, "a second scan yields another list"
            assert list(other.scan()) == first, "another instance yields another list"

    def test_scan_opens_no_image(self) -> None:
        """Scanning a million files must not read them."""
        with TemporaryDirectory() as folder:
            source = self.source(Path(folder))
            with patch("PIL.Image.open", side_effect=AssertionError("scan opens an image")):
                list(source.scan())

    def test_labels_fit_their_image(self) -> None:
        """Labels have the image's own size, and classes that exist; a source without labels says so."""
        with TemporaryDirectory() as folder:
            source = self.source(Path(folder))
            for entry in source.scan():
                if not self.is_labelled:
                    with raises(DataError, "labels of a source without labels") as text:
                        source.read_labels(entry)
                    assert entry.id in text[0], f"the error does not name the image: {text[0]}"
                    continue
                height, width = read_image(entry.path).shape[:2]
                self._assert_fits(source.read_labels(entry), height, width, entry.id)

    def test_remarks(self) -> None:
        """Remarks on images, and on none in particular, are lines for people, the same each time."""
        if not self.is_labelled:
            return
        with TemporaryDirectory() as folder:
            source = self.source(Path(folder))
            for entry in (None, *source.scan()):
                found = source.remarks(entry)
                assert isinstance(found, list) and all(
                    isinstance(line, str) and line and "\n" not in line for line in found
                ), f"remarks on {entry} are no lines of text: {found!r}"
                again = source.remarks(entry)
                assert again == found, f"remarks on {entry} change: {found}, then {again}"

    def test_reading_twice(self) -> None:
        """Labels that a caller changed are not changed for the next reader."""
        if not self.is_labelled:
            return
        with TemporaryDirectory() as folder:
            source = self.source(Path(folder))
            entry = next(iter(source.scan()))
            for name in type(source.read_labels(entry)).__slots__:
                first = getattr(source.read_labels(entry), name)
                if isinstance(first, np.ndarray):
                    copy = first.copy()
                    if first.flags.writeable:
                        first[...] = 0
                    again = getattr(source.read_labels(entry), name)
                    assert np.array_equal(again, copy), f"{name} read a second time is not as the first"

    def test_is_sent_to_worker_processes(self) -> None:
        """The source pickles, and yields the same afterwards."""
        with TemporaryDirectory() as folder:
            source = self.source(Path(folder))
            again = pickle.loads(pickle.dumps(source))  # noqa: S301  # pickled on this line
            assert list(again.scan()) == list(source.scan()), "another process sees another list"

    def _assert_fits(self, labels: object, height: int, width: int, id_: str) -> None:
        if isinstance(labels, MaskLabels):
            assert labels.classes_HW.dtype == np.uint8, f"'{id_}': the mask is {labels.classes_HW.dtype}"
            assert labels.classes_HW.shape == (height, width), (
                f"'{id_}': the mask is {labels.classes_HW.shape}, its image {(height, width)}"
            )
            known = labels.classes_HW[labels.classes_HW != IGNORE]
            assert (known < len(self.classes)).all(), f"'{id_}': a class is out of range"
            return
        if isinstance(labels, ClassLabels):
            self._assert_class(labels, id_)
            return
        assert isinstance(labels, BoxLabels), f"'{id_}': labels are {type(labels).__name__}"
        self._assert_boxes(labels, id_)
        low, high = labels.boxes_N4.min(initial=0), (labels.boxes_N4 - [width, height] * 2).max(initial=0)
        assert low >= 0 and high <= 0, f"'{id_}': boxes leave the image: {labels.boxes_N4.tolist()}"
        assert (labels.boxes_N4[:, 2:] > labels.boxes_N4[:, :2]).all(), f"'{id_}': boxes without area"
        classes_N = labels.labels_N[labels.labels_N != IGNORE_LABEL]
        assert ((classes_N >= 0) & (classes_N < len(self.classes))).all(), f"'{id_}': a class is out of range"

    def _assert_class(self, labels: ClassLabels, id_: str) -> None:
        class_1 = labels.class_1
        assert class_1.dtype == np.int64 and class_1.shape == (1,), (
            f"'{id_}': the class is {class_1.dtype} {class_1.shape}, expected int64 (1,)"
        )
        assert labels.score_1 is None, f"'{id_}': a person's class has a score"
        index = int(class_1[0])
        assert index == IGNORE_LABEL or 0 <= index < len(self.classes), f"'{id_}': a class is out of range"

    def _assert_boxes(self, labels: BoxLabels, id_: str) -> None:
        """Check types and shapes; a person's boxes have no scores."""
        count = len(labels.labels_N)
        columns: dict[str, tuple[Any, Any, tuple[int, ...]]] = {
            "boxes": (labels.boxes_N4, np.float32, (count, 4)),
            "labels": (labels.labels_N, np.int64, (count,)),
            "crowds": (labels.crowds_N, np.bool_, (count,)),
            "areas": (labels.areas_N, np.float32, (count,)),
        }
        for name, (values, dtype, shape) in columns.items():
            if values is not None:
                assert (values.dtype, values.shape) == (dtype, shape), (
                    f"'{id_}': {name} are {values.dtype} {values.shape}, expected {np.dtype(dtype)} {shape}"
                )
        assert labels.scores_N is None, f"'{id_}': a person's boxes have scores"
        if labels.areas_N is not None:
            assert (np.isfinite(labels.areas_N) & (labels.areas_N > 0)).all(), f"'{id_}': areas are {labels.areas_N}"
