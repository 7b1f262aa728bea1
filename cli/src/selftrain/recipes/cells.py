"""What the paper says of each cell: Tables 2 to 8 and 10 to 14, with the steps and α of Appendix H.

Rows of other authors are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

LEVELS = ("S1", "S2", "S3", "S4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One number of a table, and how it was trained.

    Attributes:
        table: The paper's number of it.
        row: What the table calls the row, shortened.
        model: One of `selftrain.recipes.models.MODELS`.
        init: ``random``, ``imagenet``, ``imagenet++`` or ``simclr``.
        level: Augmentation, ``S1`` to ``S4``, or ``own``, SpineNet's.
        labelled: What is labelled: ``coco-20``, ``coco-50``, ``coco``, ``voc``, ``voc-aug`` or ``voc-trainval``.
        unlabelled: What the teacher labels: ``imagenet``, ``oid``, ``coco-all`` or ``voc-aug``; None: no self-training.
        result: AP or mIoU in percent, on validation; of ``voc-trainval`` on the test set.
        test_result: The same model's on COCO's test-dev, where the table has it.
        steps: Of the model; of the student where there is one. None where the paper gives none.
        teacher_steps: Of its teacher.
        teacher_level: Augmentation of its teacher, where it is another.
        alpha: Of the objective.
        start: What a student starts from.
        joint: Weight of ImageNet's classification beside it; None: no joint training.
    """

    table: int
    row: str
    model: str
    init: str
    level: str
    labelled: str
    unlabelled: str | None = None
    result: float
    test_result: float | None = None
    steps: int | None
    teacher_steps: int | None = None
    teacher_level: str | None = None
    alpha: float | None = None
    start: str = "teacher"
    joint: float | None = None

    @property
    def name(self) -> str:
        """Such as ``table3-b7-imagenet-s4-coco20-self-imagenet``."""
        parts = [f"table{self.table}", self.model, self.init.replace("++", "pp"), self.level.lower()]
        parts.append(self.labelled.replace("-", ""))
        if self.unlabelled:
            parts += ["self", self.unlabelled.replace("-", "")]
        if self.start != "teacher":
            parts.append("fresh")
        if self.joint:
            parts.append("joint")
        return "-".join(parts)

    @property
    def label(self) -> str:
        """The cell in words."""
        return f"{self.row}, {self.level}, {self.labelled}"


Numbers = tuple[float, int | None]
"""Result and steps of a supervised cell."""
Taught = tuple[float, int, float]
"""Result, steps and α of a cell with self-training."""


def _taught(base: Cell, source: str, taught: Taught, row: str) -> Cell:
    """Return the cell of the student whose teacher is `base`."""
    result, steps, alpha = taught
    return replace(base, row=row, unlabelled=source, result=result, steps=steps, alpha=alpha, teacher_steps=base.steps)


_B7 = Cell(
    table=2, row="Rand Init", model="b7-retinanet", init="random", level="S1", labelled="coco", result=0, steps=None
)

_RANDOM_100: dict[str, Numbers] = {
    "S1": (39.2, 45_000),
    "S2": (41.5, 90_000),
    "S3": (43.9, 90_000),
    "S4": (44.3, 120_000),
}
_RANDOM_100_TAUGHT: dict[str, Taught] = {
    "S1": (40.9, 45_000, 1.0),
    "S2": (43.0, 90_000, 1.0),
    "S3": (45.4, 90_000, 0.5),
    "S4": (45.6, 90_000, 0.5),
}


def _random(table: int, level: str) -> Cell:
    result, steps = _RANDOM_100[level]
    return replace(_B7, table=table, level=level, result=result, steps=steps)


def _table_2() -> Iterator[Cell]:
    imagenet: dict[str, Numbers] = {
        "S1": (39.5, 22_500),
        "S2": (40.7, 45_000),
        "S3": (43.2, 90_000),
        "S4": (43.3, 90_000),
    }
    yield from (_random(2, level) for level in LEVELS)
    for level, (result, steps) in imagenet.items():
        yield replace(_B7, row="ImageNet Init", init="imagenet", level=level, result=result, steps=steps)
    for level, taught in _RANDOM_100_TAUGHT.items():
        yield _taught(_random(2, level), "imagenet", taught, "Rand Init with ImageNet self-training")


_TABLE_3: dict[str, dict[str, tuple[Numbers, Taught]]] = {
    "random": {
        "coco-20": ((30.7, 45_000), (34.1, 90_000, 3.0)),
        "coco-50": ((39.6, 90_000), (41.4, 90_000, 1.0)),
        "coco": ((44.3, 120_000), (45.6, 90_000, 0.5)),
    },
    "imagenet": {
        "coco-20": ((33.3, 5_625), (36.0, 90_000, 3.0)),
        "coco-50": ((38.8, 22_500), (40.5, 45_000, 1.0)),
        "coco": ((43.3, 90_000), (44.6, 90_000, 1.0)),
    },
    "imagenet++": {
        "coco-20": ((35.9, 5_625), (37.2, 90_000, 3.0)),
        "coco-50": ((39.9, 11_250), (41.5, 45_000, 1.0)),
        "coco": ((43.8, 45_000), (44.6, 45_000, 0.25)),
    },
}
ROWS = {
    "random": "Rand Init",
    "imagenet": "ImageNet Init",
    "imagenet++": "ImageNet++ Init",
    "simclr": "ImageNet Init SimCLR",
}


def _pairs(table: int, init: str, labelled: str) -> Iterator[Cell]:
    """Yield the supervised cell and the taught one of Table 3, which other tables repeat."""
    (result, steps), taught = _TABLE_3[init][labelled]
    supervised = replace(
        _B7, table=table, row=ROWS[init], init=init, level="S4", labelled=labelled, result=result, steps=steps
    )
    yield supervised
    yield _taught(supervised, "imagenet", taught, f"{ROWS[init]} with ImageNet self-training")


def _table_3() -> Iterator[Cell]:
    for init, fractions in _TABLE_3.items():
        for labelled in fractions:
            yield from _pairs(3, init, labelled)


def _table_4() -> Iterator[Cell]:
    base = replace(_B7, table=4, model="r50-retinanet", level="S4", result=41.1, steps=200_000)
    yield base
    yield replace(base, row="ImageNet Init supervised", init="imagenet", result=40.4, steps=160_000)
    yield replace(base, row=ROWS["simclr"], init="simclr", result=40.4, steps=160_000)
    yield _taught(base, "imagenet", (41.9, 120_000, 0.25), "Rand Init with self-training")


def _table_5() -> Iterator[Cell]:
    sizes: tuple[tuple[int, int, tuple[float, float], tuple[float, float], float], ...] = (
        (143, 472_000, (50.9, 51.0), (52.4, 52.6), 0.25),
        (190, 370_000, (52.6, 52.8), (54.2, 54.3), 0.5),
    )
    for size, steps, (alone, alone_test), (taught, taught_test), alpha in sizes:
        row = f"SpineNet-{size}"
        base = replace(_B7, table=5, row=row, model=f"spinenet-{size}", level="own", steps=steps)
        base = replace(base, result=alone, test_result=alone_test)
        yield base
        student = _taught(base, "oid", (taught, steps, alpha), f"{row} with self-training")
        yield replace(student, level="S3", teacher_level="own", test_result=taught_test)


_VOC = replace(_B7, table=6, model="b7-nas-fpn", init="imagenet++", level="S4", labelled="voc", steps=40_000)


def _table_6() -> Iterator[Cell]:
    for model, row, steps, alone, taught in (
        ("b7-nas-fpn", "Eff-B7", 40_000, 85.2, 86.7),
        ("l2-nas-fpn", "Eff-L2", 20_000, 88.7, 90.0),
    ):
        base = replace(_VOC, model=model, row=row, steps=steps, result=alone)
        student = _taught(base, "voc-aug", (taught, steps, 1.0), f"{row} with self-training")
        yield base
        yield student
    yield replace(student, row=f"{row} with self-training, on the test set", labelled="voc-trainval", result=90.5)


def _table_7() -> Iterator[Cell]:
    joint: dict[str, tuple[tuple[float, int, float], tuple[Taught, float]]] = {
        "random": ((33.6, 45_000, 0.5), ((35.1, 90_000, 2.0), 0.2)),
        "imagenet": ((34.0, 90_000, 0.5), ((36.6, 90_000, 2.0), 0.2)),
    }
    for init, ((result, steps, weight), (taught, taught_weight)) in joint.items():
        supervised, with_labels = _pairs(7, init, "coco-20")
        yield supervised
        yield with_labels
        yield replace(supervised, row=f"{ROWS[init]} with joint training", result=result, steps=steps, joint=weight)
        both = _taught(supervised, "imagenet", taught, f"{ROWS[init]} with self-training and joint training")
        yield replace(both, joint=taught_weight)


def _table_8() -> Iterator[Cell]:
    for level, train, more, taught in (("S1", 83.9, 84.7, 85.6), ("S4", 85.2, 84.8, 86.7)):
        base = replace(_VOC, table=8, row="train", level=level, result=train)
        yield base
        yield replace(base, row="train and aug, labelled", labelled="voc-aug", result=more)
        yield _taught(base, "voc-aug", (taught, 40_000, 1.0), "train, and aug pseudo-labelled")


def _table_10() -> Iterator[Cell]:
    fresh: dict[str, Numbers] = {
        "S1": (41.0, 180_000),
        "S2": (42.7, 135_000),
        "S3": (45.0, 180_000),
        "S4": (45.2, 135_000),
    }
    for level in LEVELS:
        base = _random(10, level)
        from_teacher = _taught(base, "imagenet", _RANDOM_100_TAUGHT[level], "student from the teacher")
        result, steps = fresh[level]
        yield replace(base, row="no self-training")
        yield from_teacher
        # Of the student from random weights Appendix H gives the steps alone: α is that of its neighbour.
        yield replace(from_teacher, row="student from random weights", result=result, steps=steps, start="init")


def _table_11() -> Iterator[Cell]:
    for init, s1, s4 in (("random", 28.4, 41.5), ("imagenet", 80.2, 81.4), ("imagenet++", 83.9, 85.2)):
        for level, result in (("S1", s1), ("S4", s4)):
            yield replace(_VOC, table=11, row=ROWS[init], init=init, level=level, result=result)


def _table_12() -> Iterator[Cell]:
    table: dict[str, tuple[Numbers, Taught, Taught]] = {
        "S1": ((37.0, 45_000), (39.0, 90_000, 1.0), (39.5, 90_000, 2.0)),
        "S2": ((39.5, 90_000), (41.3, 90_000, 1.0), (41.9, 90_000, 2.0)),
        "S3": ((41.9, 90_000), (42.8, 90_000, 0.5), (43.4, 90_000, 0.5)),
        "S4": ((42.6, 180_000), (43.6, 180_000, 0.25), (43.9, 180_000, 0.5)),
    }
    for level, ((result, steps), imagenet, oid) in table.items():
        base = replace(_B7, table=12, row="supervised", model="r101-retinanet", level=level, result=result, steps=steps)
        yield base
        yield _taught(base, "imagenet", imagenet, "with ImageNet")
        yield _taught(base, "oid", oid, "with OID")


def _table_13() -> Iterator[Cell]:
    oid: dict[str, Taught] = {
        "S1": (41.2, 90_000, 3.0),
        "S2": (43.6, 90_000, 2.0),
        "S3": (45.5, 90_000, 0.5),
        "S4": (46.0, 120_000, 0.5),
    }
    for level in LEVELS:
        base = _random(13, level)
        yield replace(base, row="supervised")
        yield _taught(base, "imagenet", _RANDOM_100_TAUGHT[level], "with ImageNet")
        yield _taught(base, "oid", oid[level], "with OID")


def _table_14() -> Iterator[Cell]:
    for level, alone, results in (("S1", 83.9, (85.0, 85.3, 85.6)), ("S4", 85.2, (86.0, 86.6, 86.7))):
        base = replace(_VOC, table=14, row="supervised", level=level, result=alone)
        yield base
        for source, result in zip(("imagenet", "coco-all", "voc-aug"), results, strict=True):
            yield _taught(base, source, (result, 40_000, 1.0), f"with {source}")


def all_cells() -> dict[str, Cell]:
    """Return the cells by name, in the order of the tables."""
    tables = (
        _table_2,
        _table_3,
        _table_4,
        _table_5,
        _table_6,
        _table_7,
        _table_8,
        _table_10,
        _table_11,
        _table_12,
        _table_13,
        _table_14,
    )
    return {cell.name: cell for table in tables for cell in table()}
