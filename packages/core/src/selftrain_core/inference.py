"""A model's predictions on any images, as files: masks or boxes, drawings, and a list of what was found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from PIL import Image

from selftrain_core.errors import DataError, RunError
from selftrain_core.files import replacing, writing_in
from selftrain_core.images import read_image
from selftrain_core.interfaces import LabelWriter
from selftrain_core.legend import with_legend
from selftrain_core.policies import FixedDecision
from selftrain_core.prediction import Predicted, cut, predictions
from selftrain_core.progress import Observer, Reporter
from selftrain_core.samples import PictureDataset
from selftrain_core.trained import TrainedModel
from selftrain_core.views import View

RESULT = "predictions.json"
OVERLAYS = "overlays"
UNFINISHED = ".predictions.jsonl"
"""Collects what was found, a line for each image; its presence tells that a folder's predictions are not whole."""

_SCHEMA = 1
_JPEG_QUALITY = 90


class PredictionFolder:
    """Where predictions go. As a context it holds nothing else, and is not whole before `close`.

    Args:
        path: The folder; made, with its parents, if it is not there.
        labels: What the folder of the label files in it is called.
        overwrite: Remove the predictions that are there.

    Raises:
        RunError: It holds something else, or finished predictions, or cannot be written to.
    """

    def __init__(self, path: Path, labels: str, *, overwrite: bool) -> None:
        self.path, self.labels, self.overlays = path, path / labels, path / OVERLAYS
        self._overwrite = overwrite
        self._found: IO[str] | None = None

    def __enter__(self) -> PredictionFolder:
        """Make room."""
        with writing_in(self.path):
            self._refuse_files()
            for folder in (self.labels, self.overlays):
                shutil.rmtree(folder, ignore_errors=not folder.exists())
            self.path.mkdir(parents=True, exist_ok=True)
            self._found = (self.path / UNFINISHED).open("w+", encoding="utf-8")
            (self.path / RESULT).unlink(missing_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave what is there."""
        assert self._found is not None
        self._found.close()

    def _refuse_files(self) -> None:
        names = {each.name for each in self.path.iterdir()} if self.path.exists() else set()
        if not names or UNFINISHED in names:
            return
        if RESULT not in names:
            shown = ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
            raise RunError(
                f"the folder {self.path} holds no predictions, but {shown}; nothing was written there\n"
                "  give a new or an empty folder with -o"
            )
        if not self._overwrite:
            made_by = _maker(self.path / RESULT)
            raise RunError(
                f"the folder {self.path} holds predictions already, of {made_by}; nothing was written there\n"
                "  to keep them: give another folder with -o\n  to remove them and predict again: --overwrite"
            )

    def add(self, found: Mapping[str, Any]) -> None:
        """Write down what was found in one image."""
        assert self._found is not None
        with writing_in(self.path):
            self._found.write(json.dumps(found, ensure_ascii=False) + "\n")

    def close(self, head: Mapping[str, Any], failures: Sequence[Mapping[str, str]]) -> None:
        """Write the list of everything, one image at a time."""
        assert self._found is not None
        with (
            writing_in(self.path),
            replacing(self.path / RESULT) as temporary,
            temporary.open("w", encoding="utf-8") as out,
        ):
            self._found.seek(0)
            opening = json.dumps({**head, "failures": failures}, indent=2, ensure_ascii=False)
            out.write(opening.removesuffix("\n}") + ',\n  "images": [')
            for number, line in enumerate(self._found):
                out.write(f"{',' if number else ''}\n    {line.rstrip()}")
            out.write("\n  ]\n}\n")
        (self.path / UNFINISHED).unlink()


def predict_images(
    model: TrainedModel,
    pictures: Sequence[tuple[str, Path]],
    folder: Path,
    *,
    views: Sequence[View],
    batch: int,
    workers: int,
    threshold: float | None = None,
    overlays: bool = True,
    overwrite: bool = False,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Return what came of it all, and leave label files, drawings and the list of what was found in `folder`.

    No more than a few batches are in memory, however many images there are.

    Args:
        model: Predicts.
        pictures: Id and file of each image.
        folder: Where everything goes.
        views: How the model looks at each image.
        batch: Images in a forward pass.
        workers: Processes that read images.
        threshold: The lowest score that is kept; None keeps all.
        overlays: Whether to draw.
        overwrite: Whether to remove the predictions that are in `folder`.
        observer: Told of the progress.

    Raises:
        DataError: No image could be read.
        RunError: `folder` holds something else, or cannot be written to.
    """
    task, reporter, head = model.task, Reporter("predict", observer), {**_head(model, views), "threshold": threshold}
    failures: list[dict[str, str]] = []
    with PredictionFolder(folder, task.label_files, overwrite=overwrite) as out:
        writer = task.writer(out.labels)
        dataset = PictureDataset(pictures, model.canvas)
        device = next(model.module.parameters()).device
        batches = cut(range(len(pictures)), batch)
        reporter.tell("started", total=len(pictures))
        done = 0
        for results in predictions(model.module, task, dataset, batches, device, workers, views):
            for result in results:
                id_, path = pictures[result.place]
                try:
                    out.add(_write(model, result, id_, path, writer, out, threshold, overlays=overlays))
                except DataError as error:
                    failures.append({"id": id_, "file": str(path), "reason": str(error)})
            done += len(results)
            reporter.tell("progress", done=done, total=len(pictures))
        with writing_in(folder):
            writer.close()
        out.close(head, failures)
    reporter.tell("finished")
    if len(failures) == len(pictures):
        raise DataError(_nothing_read(failures))
    return {**head, "folder": str(folder), "predicted": len(pictures) - len(failures), "failures": failures}


def _head(model: TrainedModel, views: Sequence[View]) -> dict[str, Any]:
    return {
        "schema": _SCHEMA,
        "model": str(model.folder),
        "weights": model.weights,
        "digest": model.description.get("digest"),
        "classes": list(model.task.classes),
        "quantity": model.task.quantity,
        "views": [{"scale": view.scale, "flip": view.flip} for view in views],
    }


def _write(
    model: TrainedModel,
    result: Predicted,
    id_: str,
    path: Path,
    writer: LabelWriter[Any],
    out: PredictionFolder,
    threshold: float | None,
    *,
    overlays: bool,
) -> dict[str, Any]:
    """Write the files of one image, and return what was found in it.

    Raises:
        DataError: The image cannot be read.
    """
    if result.failure:
        raise DataError(result.failure)
    task = model.task
    labels = task.at_original(result.prediction)
    if threshold is not None:
        labels = task.apply(labels, task.decide(labels, FixedDecision(threshold, None)))
    statistics = task.statistics(labels)
    image = read_image(path) if overlays else None
    size: tuple[int, int] = result.prediction.original
    with writing_in(out.path):
        written = writer.write(id_, labels, size, path)
        if image is not None:
            legend = [entry for entry, images in zip(task.legend(), statistics.images_C, strict=True) if images]
            _save(with_legend(task.draw(image, labels), legend), out.overlays / f"{id_}.jpg")
    amounts = statistics.density_CS.sum(1)
    return {
        "id": id_,
        "file": str(path),
        "labels": written and str(written.relative_to(out.path)),
        "height": size[0],
        "width": size[1],
        "classes": {name: float(f"{amount:.6g}") for name, amount in zip(task.classes, amounts, strict=True) if amount},
    }


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        picture.save(temporary, format="JPEG", quality=_JPEG_QUALITY)


def _nothing_read(failures: Sequence[Mapping[str, str]]) -> str:
    shown = "\n".join(f"  {failure['reason']}" for failure in failures[:5])
    more = f"\n  and {len(failures) - 5:,} more" if len(failures) > 5 else ""
    return f"none of the {len(failures):,} images could be read:\n{shown}{more}"


def _maker(result: Path) -> str:
    """Return the model whose predictions a file lists, where the file still says so."""
    try:
        return str(json.loads(result.read_text(encoding="utf-8"))["model"])
    except (OSError, ValueError, LookupError, TypeError):
        return "a model that it does not name"
