"""Reading a COCO file into a table, checked as a whole. No torch here.

Shape letters as in `selftrain_detection.coco_table`.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from selftrain_core.errors import DataError
from selftrain_core.image_names import path_below, without_ending
from selftrain_core.json_stream import JsonStream
from selftrain_core.labels import IGNORE_LABEL
from selftrain_detection.annotations import LEFT_OUT, ClassNames
from selftrain_detection.coco_table import REGION, CocoTable, Ids

NEEDED: Mapping[str, tuple[str, ...]] = {
    "images": ("id", "file_name"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}
"""The lists of a file of instances, and what each of their elements has."""

_NAN = float("nan")


def read_coco(path: Path, names: ClassNames, *, drops_bad: bool) -> CocoTable:
    """Return what a COCO file of instances says. No more than a few elements of it are Python objects at a time.

    Args:
        path: The file.
        names: From its categories to the classes of the run.
        drops_bad: Whether annotations of images that it does not list are left out instead of refused.

    Raises:
        DataError: It cannot be read, lacks what such a file has, contradicts itself, or has boxes of classes that the
            run does not have. Boxes are looked at when the labels of their image are read.
    """
    loading = _Loading(path)
    try:
        with path.open(encoding="utf-8-sig") as file:
            loading.read(JsonStream(file))
    except OSError as error:
        raise DataError(f"the annotations {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"the annotations {path} cannot be read: it is no text in UTF-8 ({error.reason})") from error
    except ValueError as error:
        raise DataError(f"the annotations {path} cannot be read: it is no JSON ({error})") from error
    return loading.table(names, drops_bad=drops_bad)


@dataclass
class _Boxes:
    """Boxes as they come."""

    images: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))
    odd: dict[int, str] = field(default_factory=dict)

    def add(self, image: int, box: Any) -> None:
        usable = isinstance(box, list) and len(box) == 4 and all(type(value) in (int, float) for value in box)
        try:
            self.values.extend(map(float, box) if usable else [_NAN] * 4)
        except OverflowError:  # of an integer that no float holds; a part of the box may be there already
            del self.values[4 * len(self.images) :]
            self.values.extend([_NAN] * 4)
            usable = False
        if not usable:
            self.odd[len(self.images)] = repr(box)[:100]
        self.images.append(image)


@dataclass
class _Loading:
    """The columns of a table while the file is read."""

    path: Path
    ids: Ids = field(default_factory=Ids)
    seen: set[str] = field(default_factory=set)
    image_codes: array[int] = field(default_factory=lambda: array("q"))
    files: list[bytes] = field(default_factory=list)
    sizes: array[int] = field(default_factory=lambda: array("i"))
    codes: array[int] = field(default_factory=lambda: array("q"))
    boxes: _Boxes = field(default_factory=_Boxes)
    categories: array[int] = field(default_factory=lambda: array("q"))
    crowds: bytearray = field(default_factory=bytearray)
    areas: array[float] = field(default_factory=lambda: array("d"))
    regions: _Boxes = field(default_factory=_Boxes)
    names: dict[int, str] = field(default_factory=dict)
    knows_regions: bool = False

    def read(self, stream: JsonStream) -> None:
        """Read the file."""
        if stream.peek() == "[":
            self._refuse("it is a list, as a file of results is")
        readers = {"images": self._image, "annotations": self._annotation, "categories": self._category}
        for key in stream.members():
            if key not in readers:
                stream.value()
                continue
            if stream.peek() != "[":
                self._refuse(f"'{key}' is no list")
            self.seen.add(key)
            for number, element in enumerate(stream.items()):
                self._read_element(key, number, element, readers[key])
        missing = [key for key in readers if key not in self.seen]
        if missing:
            self._refuse(f"it lacks {', '.join(map(repr, missing))}")

    def _read_element(self, key: str, number: int, element: Any, reader: Any) -> None:
        if not isinstance(element, dict):
            self._refuse(f"{key}[{number}] is {str(element)[:100]!r}, which is no object")
        called = f"{key}[{number}] (id {element['id']!r})" if "id" in element else f"{key}[{number}]"
        missing = [name for name in NEEDED[key] if name not in element]
        if missing:
            self._refuse(f"{called} lacks {', '.join(map(repr, missing))}")
        try:
            reader(element)
        except (ValueError, OverflowError) as error:
            raise DataError(f"{self.path}: {called} has {error}") from error

    def _refuse(self, what: str) -> NoReturn:
        needed = ", ".join(f"'{key}' ({', '.join(names)})" for key, names in NEEDED.items())
        raise DataError(f"{self.path}: {what}; a COCO file of instances has {needed}")

    def _image(self, image: dict[str, Any]) -> None:
        code = self.ids.code(image["id"])
        name = image["file_name"]
        self.files.append(path_below(name).encode())
        self.image_codes.append(code)
        self.sizes.extend((_side(image, "height"), _side(image, "width")))
        self.knows_regions |= "ignore_regions" in image
        regions = image.get("ignore_regions") or ()
        if not isinstance(regions, (list, tuple)):
            raise ValueError(f"ignore_regions {regions!r}, which is no list of boxes")
        for region in regions:
            self.regions.add(code, region)

    def _annotation(self, annotation: dict[str, Any]) -> None:
        crowd, area = annotation.get("iscrowd"), annotation.get("area")
        if crowd not in (0, 1, None):
            raise ValueError(f"iscrowd {crowd!r}, which is neither 0 nor 1")
        if area is not None and type(area) not in (int, float):
            raise ValueError(f"the area {area!r}, which is no number")
        self.codes.append(self.ids.code(annotation["id"]))
        self.categories.append(self.ids.code(annotation["category_id"]))
        self.boxes.add(self.ids.code(annotation["image_id"]), annotation["bbox"])
        self.crowds.append(bool(crowd))
        self.areas.append(_NAN if area is None else area)

    def _category(self, category: dict[str, Any]) -> None:
        code, name = self.ids.code(category["id"]), category["name"]
        if not isinstance(name, str) or not name:
            raise ValueError(f"the name {name!r}, which is no text")
        if self.names.setdefault(code, name) != name:
            raise ValueError(f"the id of another: it is both '{self.names[code]}' and '{name}'")

    def table(self, names: ClassNames, *, drops_bad: bool) -> CocoTable:
        """Return the table."""
        order_M = self._order()
        codes_M = np.asarray(self.image_codes, np.int64)[order_M]
        files_M = np.array(self.files, np.bytes_)[order_M]
        ids_M = np.array([without_ending(name.decode()).encode() for name in self.files], np.bytes_)[order_M]
        self._refuse_equal_ids(ids_M, files_M, codes_M)
        codes = np.asarray(self.codes, np.int64)
        self._refuse_equal_annotations(codes)
        labels_N = self._labels(names)
        images_N = np.concatenate([np.asarray(each.images, np.int64) for each in (self.boxes, self.regions)])
        rows_N = self._rows(images_N, codes_M)
        remarks = self._orphans(rows_N, drops_bad=drops_bad)
        num_regions = len(self.regions.images)
        labels_N = np.concatenate([labels_N, np.full(num_regions, IGNORE_LABEL)])
        is_kept_N = (rows_N >= 0) & (labels_N != LEFT_OUT)
        order_N = np.argsort(rows_N, kind="stable")
        order_N = order_N[is_kept_N[order_N]]
        boxes_N4 = np.concatenate([np.asarray(each.values, np.float64) for each in (self.boxes, self.regions)])
        odd = {**self.boxes.odd, **{len(codes) + place: text for place, text in self.regions.odd.items()}}
        return CocoTable(
            ids_M=ids_M,
            files_M=files_M,
            sizes_M2=np.asarray(self.sizes, np.int32).reshape(-1, 2)[order_M],
            is_annotated_M=np.bincount(rows_N[rows_N >= 0], minlength=len(ids_M)) > 0,
            first=np.searchsorted(rows_N[order_N], np.arange(len(ids_M) + 1)),
            boxes_N4=boxes_N4.reshape(-1, 4)[order_N],
            labels_N=labels_N[order_N],
            crowds_N=np.concatenate([np.frombuffer(self.crowds, np.bool_), np.zeros(num_regions, np.bool_)])[order_N],
            areas_N=np.concatenate([np.asarray(self.areas, np.float64), np.full(num_regions, _NAN)])[order_N],
            codes_N=np.concatenate([codes, np.full(num_regions, REGION)])[order_N],
            ids=self.ids,
            odd={int(place): odd[int(n)] for place, n in enumerate(order_N) if int(n) in odd} if odd else {},
            remarks=remarks,
            knows_regions=self.knows_regions,
        )

    def _order(self) -> NDArray[np.int64]:
        """Return the images in the order of their ids; where two share one, of their files."""
        names = (name.decode() for name in self.files)
        keys = [(without_ending(name), name) for name in names]  # texts are in the order of their bytes
        return np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)

    def _refuse_equal_ids(
        self, ids_M: NDArray[np.bytes_], files_M: NDArray[np.bytes_], codes_M: NDArray[np.int64]
    ) -> None:
        by_code = np.argsort(codes_M, kind="stable")
        if twice := _first_equal(codes_M[by_code]):
            first, second = (files_M[by_code[place]].decode() for place in twice)
            name = self.ids.name(int(codes_M[by_code[twice[0]]]))
            raise DataError(f"{self.path} has two images of the id {name}, '{first}' and '{second}'; ids are to differ")
        if twice := _first_equal(ids_M):
            first, second = (files_M[place].decode() for place in twice)
            one, other = (self.ids.name(int(codes_M[place])) for place in twice)
            if first == second:
                raise DataError(
                    f"{self.path} has two images with the file_name '{first}', {one} and {other}; join them"
                )
            raise DataError(
                f"{self.path} has the images '{first}' and '{second}', which share the id '{ids_M[twice[0]].decode()}' "
                "(the path without ending); rename one"
            )

    def _refuse_equal_annotations(self, codes: NDArray[np.int64]) -> None:
        order = np.argsort(codes, kind="stable")
        if twice := _first_equal(codes[order]):
            files = dict(zip(self.image_codes, self.files, strict=True))
            first, second = (
                f"one of the image {self.ids.name(image)} ({files.get(image, b'not listed').decode()})"
                for image in (self.boxes.images[order[place]] for place in twice)
            )
            name = self.ids.name(int(codes[order[twice[0]]]))
            raise DataError(f"{self.path} has two annotations of the id {name}, {first}, {second}; ids are to differ")

    def _labels(self, names: ClassNames) -> NDArray[np.int64]:
        """Return the class indices of the annotations."""
        categories = np.asarray(self.categories, np.int64)
        used, first = np.unique(categories, return_index=True)
        for code, place in zip(used.tolist(), first.tolist(), strict=True):
            if code not in self.names:
                known = ", ".join(f"{self.ids.name(each)} ({name})" for each, name in list(self.names.items())[:50])
                raise DataError(
                    f"{self.path}: annotation {self.ids.name(self.codes[place])} has the category_id "
                    f"{self.ids.name(code)}, which is no category's; categories: {known or 'none'}"
                )
        places = [names.index(self.names[code]) for code in used.tolist()]
        unknown = [self.names[code] for code, place in zip(used.tolist(), places, strict=True) if place is None]
        names.refuse_strangers(list(self.names.values()), self.path)
        if unknown:
            place = int(first[places.index(None)])
            what = f"annotation {self.ids.name(self.codes[place])} is"
            raise names.stranger(unknown, self.names.values(), self.path, what)
        known_places = np.array([place for place in places if place is not None], np.int64)
        return known_places[np.searchsorted(used, categories)]

    def _rows(self, images_N: NDArray[np.int64], codes_M: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the row of each box's image, -1 where there is none."""
        if not len(codes_M):
            return np.full(len(images_N), -1)
        by_code = np.argsort(codes_M)
        found_N = by_code[np.minimum(np.searchsorted(codes_M[by_code], images_N), len(codes_M) - 1)]
        return np.where(codes_M[found_N] == images_N, found_N, -1)

    def _orphans(self, rows_N: NDArray[np.int64], *, drops_bad: bool) -> tuple[str, ...]:
        """Return what is to be said of annotations whose images the file does not list."""
        orphans = np.flatnonzero(rows_N < 0)
        if not len(orphans):
            return ()
        first, image = self.codes[orphans[0]], self.ids.name(self.boxes.images[orphans[0]])
        count = f" ({len(orphans):,} annotations are of such images)" if len(orphans) > 1 else ""
        text = f"{self.path}: annotation {self.ids.name(first)} is of the image {image}, which 'images' does not hold"
        if not drops_bad:
            twin = self._twin(image)
            raise DataError(f"{text}{count}{twin}; add the image, or set bad_boxes: drop to leave out such annotations")
        return (f"{text}, and is left out{count}",)

    def _twin(self, image: str) -> str:
        """Return that there is an id of the other kind: 5 is not '5'."""
        other = image[1:-1] if image.startswith("'") else f"'{image}'"
        known = {self.ids.name(code) for code in self.image_codes}
        return f"; there is {other}, which is another id: write both as numbers, or both as texts" * (other in known)


def _first_equal(ordered: NDArray[Any]) -> tuple[int, int] | None:
    same = np.flatnonzero(ordered[1:] == ordered[:-1])
    return (int(same[0]), int(same[0]) + 1) if len(same) else None


def _side(image: dict[str, Any], name: str) -> int:
    """Return a side of an image, -1 where the file does not say."""
    value = image.get(name)
    if value is None:
        return -1
    if type(value) not in (int, float) or value != value or abs(value) > 1 << 30 or value != int(value):
        raise ValueError(f"the {name} {value!r}, which is no whole number")
    return int(value)
