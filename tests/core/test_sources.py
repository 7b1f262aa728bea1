"""Finding images."""

from pathlib import Path

import pytest
from PIL import Image

from selftrain_core.data_source import Entry
from selftrain_core.errors import DataError
from selftrain_core.sources import ImageFolder, ImageFolderConfig, find_images, read_list
from selftrain_core.testing.samples import write_images


def test_images_are_found_in_order_and_in_depth(tmp_path: Path) -> None:
    write_images(tmp_path, ["b", "a", "deep/er/c", "v1.2"])
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_text("no image")
    (tmp_path / "UPPER.JPG").write_bytes(b"")
    found = dict(find_images(tmp_path, None))
    assert sorted(found) == ["UPPER", "a", "b", "deep/er/c", "v1.2"]
    assert found["deep/er/c"] == tmp_path / "deep/er/c.png"
    assert list(dict(find_images(tmp_path, None))) == list(found)


def test_a_list_chooses_and_orders(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["a", "b", "c"])
    (tmp_path / "list.txt").write_text("c\n\n  a  \n")
    config = ImageFolderConfig(images=tmp_path / "images", list=tmp_path / "list.txt")
    entries = list(ImageFolder(config, ()).scan())
    assert [entry.id for entry in entries] == ["c", "a"]
    assert entries[0] == Entry("c", tmp_path / "images/c.png")


def test_a_missing_folder_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the image folder .*none does not exist"):
        list(find_images(tmp_path / "none", None))


def test_a_folder_without_images_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the folder .* holds no image \(\.bmp, \.jpeg, \.jpg, \.png, "):
        list(find_images(tmp_path, None))


def test_two_files_of_one_id_are_explained(tmp_path: Path) -> None:
    write_images(tmp_path, ["a"])
    write_images(tmp_path, ["a"], suffix=".jpg")
    with pytest.raises(DataError, match=r"a\.jpg and .*a\.png share the id 'a'; rename one"):
        list(find_images(tmp_path, None))


def test_a_listed_image_that_is_missing_is_explained(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["a"])
    (tmp_path / "list.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match=r"list\.txt names 'b', but .*images holds no such image"):
        list(find_images(tmp_path / "images", tmp_path / "list.txt"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"the list .*list\.txt cannot be read: .*No such file"),
        ("", r"the list .*list\.txt is empty"),
        (" \n\n", r"the list .*list\.txt is empty"),
        ("a\nb\na\n", r"list\.txt names 'a' twice"),
    ],
)
def test_unusable_lists_are_explained(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "list.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_list(tmp_path / "list.txt")


def test_a_folder_without_labels_says_so(tmp_path: Path) -> None:
    source = ImageFolder(ImageFolderConfig(images=tmp_path), ())
    message = "'a' comes from a 'core/images' source, which has no labels; use it for data.unlabelled only"
    with pytest.raises(DataError, match=message):
        source.read_labels(Entry("a", tmp_path / "a.png"))


def test_a_list_with_endings_or_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "one.png")
    names = tmp_path / "names.txt"
    names.write_bytes(b"\xef\xbb\xbfone\r\n")
    assert [id_ for id_, _ in find_images(tmp_path / "images", names)] == ["one"]
    names.write_text("one.png\n")
    with pytest.raises(DataError, match=r"names 'one\.png', but .* no such image; names are written without"):
        list(find_images(tmp_path / "images", names))
