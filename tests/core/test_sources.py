"""Finding images."""

import os
from pathlib import Path

import pytest

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
    with pytest.raises(DataError, match=r"the folder .* holds no image \(\.bmp, \.gif, \.jpeg, \.jpg, \.png, "):
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


def listed(folder: Path, *lines: str) -> list[tuple[str, Path]]:
    (folder.parent / "list.txt").write_text("\n".join(lines), encoding="utf-8")
    return list(find_images(folder, folder.parent / "list.txt"))


def test_a_list_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["one"])
    (tmp_path / "names.txt").write_bytes(b"\xef\xbb\xbfone\r\n")
    assert [id_ for id_, _ in find_images(tmp_path / "images", tmp_path / "names.txt")] == ["one"]


def test_a_list_may_name_files_with_their_endings(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    write_images(folder, ["one", "deep/two", "v1.2", "both", "odd.jpg"])
    write_images(folder, ["both", "odd"], suffix=".jpg")
    assert listed(folder, "one.png", "deep/two.png", "v1.2", "both.jpg") == [
        ("one", folder / "one.png"),
        ("deep/two", folder / "deep/two.png"),
        ("v1.2", folder / "v1.2.png"),
        ("both", folder / "both.jpg"),
    ]
    assert listed(folder, "odd.jpg", "odd") == [("odd.jpg", folder / "odd.jpg.png"), ("odd", folder / "odd.jpg")]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["one", "one.png"], r"list\.txt names 'one' twice, once as 'one\.png'"),
        (["one.jpg"], r"names 'one\.jpg', but .*images holds no such image; 'one' is there as one\.png"),
        (["deep/twoo"], r"names 'deep/twoo', but .* no such image \(did you mean 'two'\?\)"),
        (["nowhere/one"], r"no such image; names are paths below .*images, such as 'folder/name'"),
        (["./one"], r"no such image; names are paths below"),
        (["../images/one"], r"no such image; names are paths below"),
        (["deep//two"], r"no such image; names are paths below"),
        (["deep"], r"names 'deep', but .* no such image"),
        (["zürich"], r"there is one whose name looks the same, but is written with other Unicode characters"),
        (
            ["both"],
            r"both\.jpg and .*both\.png share the id 'both'; rename one, or name the one that is meant, with its",
        ),
    ],
)
def test_lines_that_name_no_image_are_explained(tmp_path: Path, lines: list[str], message: str) -> None:
    folder = tmp_path / "images"
    write_images(folder, ["one", "deep/two", "both", "zu\u0308rich"])
    write_images(folder, ["both"], suffix=".jpg")
    with pytest.raises(DataError, match=message):
        listed(folder, *lines)


def test_ids_come_in_their_order(tmp_path: Path) -> None:
    names = ["a", "a-b", "a/b", "a.b", "a b", "a/b/c", "B", "ab", "ä", "a0"]
    write_images(tmp_path, names)
    assert [id_ for id_, _ in find_images(tmp_path, None)] == sorted(names)


@pytest.mark.parametrize("name", ["with space", "Über größe", "new\nline", "x" * 251, " ends with a dot."])
def test_odd_names_are_found(tmp_path: Path, name: str) -> None:
    write_images(tmp_path, [name, f"folder {name}/{name}"] if len(name) < 100 else [name])
    found = dict(find_images(tmp_path, None))
    assert found[name] == tmp_path / f"{name}.png"
    assert found[name].is_file()
    assert all(path.is_file() for path in found.values())


def test_what_is_no_file_is_found_all_the_same(tmp_path: Path) -> None:
    """A broken link or a pipe is an image that cannot be read; a folder with an image's ending is a folder."""
    write_images(tmp_path, ["folder.jpg/a"])
    (tmp_path / "broken.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "circle.jpg").symlink_to("circle.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert [id_ for id_, _ in find_images(tmp_path, None)] == ["broken", "circle", "folder.jpg/a", "pipe"]


def test_linked_folders_are_followed_and_circles_left(tmp_path: Path) -> None:
    write_images(tmp_path / "elsewhere", ["a", "deep/b"])
    write_images(tmp_path / "images", ["c"])
    (tmp_path / "images/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/deep/circle").symlink_to(tmp_path / "images")
    assert [id_ for id_, _ in find_images(tmp_path / "images", None)] == ["c", "link/a", "link/deep/b"]


def test_hidden_folders_are_passed_over(tmp_path: Path) -> None:
    write_images(tmp_path, ["a", ".thumbnails/a"])
    assert [id_ for id_, _ in find_images(tmp_path, None)] == ["a"]


def test_a_name_that_is_no_text_is_explained(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / os.fsdecode(b"\xff.jpg")).touch()
    with pytest.raises(DataError, match=r"holds a file whose name is not valid UTF-8, b'\\xff\.jpg'; rename it"):
        list(find_images(tmp_path / "images", None))


def test_a_folder_without_permission_is_explained(tmp_path: Path) -> None:
    write_images(tmp_path, ["open/a", "closed/b"])
    (tmp_path / "closed").chmod(0)
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(0o755)
    user = os.geteuid()
    try:
        if user == 0:  # to whom permissions do not apply
            os.seteuid(65534)
        with pytest.raises(DataError, match=r"the folder .*closed cannot be read: Permission denied"):
            list(find_images(tmp_path, None))
    finally:
        os.seteuid(user)
        (tmp_path / "closed").chmod(0o755)
