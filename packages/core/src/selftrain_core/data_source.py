"""Where images and labels come from. Nothing here imports torch: a source is scanned before any stage starts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selftrain_core.labels import Labels


@dataclass(frozen=True, slots=True)
class Entry:
    """One image that a source holds.

    Attributes:
        id: The image's name everywhere in a run: its path below the source's image folder, without the ending.
        path: The image file.
        label_path: The file that holds its labels, be they of this image alone or of many, if one does. Once it has
            changed, so have the labels.
    """

    id: str
    path: Path
    label_path: Path | None = None


class DataSource(ABC):
    """Finds images (`scan`) and reads what is known of one (`read_labels`).

    Args:
        config: The source's own settings.
        classes: The ordered class names of the run.
    """

    def __init__(self, config: Any, classes: Sequence[str]) -> None:
        self.config = config
        self.classes = tuple(classes)

    @abstractmethod
    def scan(self) -> Iterator[Entry]:
        """Yield every image, each id once. Opens no image.

        Raises:
            DataError: A folder or list is missing, an id is listed twice, or a listed image does not exist.
        """

    @abstractmethod
    def read_labels(self, entry: Entry) -> Labels:
        """Return the human labels of one image, in the pixels of the image after its EXIF rotation.

        Raises:
            DataError: The source has no labels, or those of this image are missing or wrong; the message names the
                file and what would mend it.
        """

    def remarks(self, entry: Entry | None) -> list[str]:
        """Return what `read_labels` left out of an image's labels or changed in them, a line each, for people.

        What the settings ask for by name, as classes that are not wanted, needs no word; what is mended does.

        Args:
            entry: The image; None asks for what belongs to no image in particular.

        Raises:
            DataError: As `read_labels`.
        """
        return []
