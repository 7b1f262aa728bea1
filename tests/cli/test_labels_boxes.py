from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

from selftrain.main import main
from selftrain_core.config import load_config
from selftrain_core.index import Index, build_sources, write_index
from selftrain_core.labels import BoxLabels
from selftrain_core.store import PseudoLabelStore

POOL = [f"deep/pool-{number}" for number in range(5)]


def labels(*arguments: Any, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["labels", *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture
def exported(finished_box_run: Path, tmp_path: Path) -> Path:
    labels("export", finished_box_run, "-o", tmp_path / "exported")
    return tmp_path / "exported"


def change(folder: Path, how: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "boxes/instances.json"
    content = json.loads(path.read_text())
    how(content)
    path.write_text(json.dumps(content))


def boxes_of(content: dict[str, Any], id_: str) -> list[dict[str, Any]]:
    (image,) = (each["id"] for each in content["images"] if each["file_name"].startswith(id_))
    return [each for each in content["annotations"] if each["image_id"] == image]


def as_a_tool_writes(content: dict[str, Any]) -> None:
    """Give everything another id and order, and drop what COCO does not know; round as tools do."""
    content["images"].reverse()
    content["annotations"].reverse()
    images = {each["id"]: 1000 + n for n, each in enumerate(content["images"])}
    classes = {each["id"]: 50 + each["id"] for each in content["categories"]}
    content["images"] = [{"id": images[i["id"]], "file_name": i["file_name"]} for i in content["images"]]
    content["categories"] = [
        {"id": classes[c["id"]], "name": c["name"], "supercategory": ""} for c in reversed(content["categories"])
    ]
    content["annotations"] = [
        {
            "id": 7 * n,
            "image_id": images[each["image_id"]],
            "category_id": classes[each["category_id"]],
            "bbox": [round(value, 1) for value in each["bbox"]],
            "segmentation": [],
            "attributes": {"occluded": False},
        }
        for n, each in enumerate(content["annotations"])
    ]


def test_stats_count_boxes(finished_box_run: Path) -> None:
    shown = labels("stats", finished_box_run).stdout
    assert "5 labelled\npolicy core/fixed (threshold 0.0)" in shown and "boxes per image: predicted" in shown
    found = json.loads(labels("stats", finished_box_run, "--json").stdout)
    assert sum(each["density"] for each in found["classes"]) == pytest.approx(6), "six boxes an image"
    assert [each["labelled"] for each in found["classes"]] == [1, 0]


def test_export_writes_one_coco_file(finished_box_run: Path, exported: Path) -> None:
    content = json.loads((exported / "boxes/instances.json").read_text())
    assert [each["file_name"] for each in content["images"]] == [f"{id_}.png" for id_ in POOL]
    assert [each["name"] for each in content["categories"]] == ["square", "circle"]
    store = PseudoLabelStore(finished_box_run / "round-1/pseudo-labels", ("square", "circle"))
    for id_ in POOL:
        stored, written = store.row(id_), boxes_of(content, id_)
        corners = [[x, y, x + width, y + height] for x, y, width, height in (each["bbox"] for each in written)]
        np.testing.assert_array_equal(np.array(corners, np.float32), np.array(stored["boxes"], np.float32))
        assert [each["category_id"] - 1 for each in written] == stored["labels"]
    text = (exported / "README.txt").read_text()
    assert "instances.json: COCO instances of all images" in text and "COCO 1.0" in text
    assert f"put that file in the place of {exported / 'boxes'}/instances.json" in text
    assert "masks" not in text and "{" not in text


def test_export_leaves_out_and_ignores_what_the_policy_says(finished_box_run: Path, tmp_path: Path) -> None:
    policy = "{name: core/fixed, threshold: 1, ignore_above: 0}"
    labels("export", finished_box_run, "-o", tmp_path / "a", "--policy", policy)
    content = json.loads((tmp_path / "a/boxes/instances.json").read_text())
    assert content["annotations"] == [] and all(len(each["ignore_regions"]) == 6 for each in content["images"])
    labels("export", finished_box_run, "-o", tmp_path / "b", "--policy", "{name: core/fixed, threshold: 1}")
    content = json.loads((tmp_path / "b/boxes/instances.json").read_text())
    assert content["annotations"] == [] and not any("ignore_regions" in each for each in content["images"])


def test_a_region_that_people_took_out_is_a_change(finished_box_run: Path, tmp_path: Path) -> None:
    policy = "{name: core/fixed, threshold: 1, ignore_above: 0}"
    labels("export", finished_box_run, "-o", tmp_path / "a", "--policy", policy)
    path = tmp_path / "a/boxes/instances.json"
    content = json.loads(path.read_text())
    del content["images"][0]["ignore_regions"][0]
    path.write_text(json.dumps(content))
    found = json.loads(labels("import", tmp_path / "a", "-o", tmp_path / "set", "--json").stdout)
    assert (found["imported"], found["unchanged"]) == (1, 4)
    for image in content["images"]:
        del image["ignore_regions"]
    path.write_text(json.dumps(content))
    said = labels("import", tmp_path / "a", "-o", tmp_path / "other", code=2).stderr
    assert "has been changed since it was exported (5 labels)" in said


def test_nothing_changed_whatever_a_tool_does_to_the_file(exported: Path, tmp_path: Path) -> None:
    change(exported, as_a_tool_writes)
    said = labels("import", exported, "-o", tmp_path / "set", code=2).stderr
    assert "has been changed since it was exported (5 labels); --all imports them as they are" in said
    found = json.loads(labels("import", exported, "-o", tmp_path / "set", "--all", "--json").stdout)
    assert (found["imported"], found["unchanged"], found["deleted"]) == (5, 0, 0)


def test_corrected_boxes_become_a_labelled_set(finished_box_run: Path, exported: Path, tmp_path: Path) -> None:
    def correct(content: dict[str, Any]) -> None:
        moved, *others = boxes_of(content, POOL[2])
        moved["bbox"] = [8, 8, 16, 16]
        content["annotations"] = [each for each in content["annotations"] if each not in others]
        gone = boxes_of(content, POOL[0])
        content["annotations"] = [each for each in content["annotations"] if each not in gone]
        content["images"] = [each for each in content["images"] if not each["file_name"].startswith(POOL[0])]
        boxes_of(content, POOL[3])[0]["category_id"] = 3 - boxes_of(content, POOL[3])[0]["category_id"]
        content["annotations"] = [each for each in content["annotations"] if each not in boxes_of(content, POOL[4])]
        as_a_tool_writes(content)

    change(exported, correct)
    store = finished_box_run / "round-1/pseudo-labels"
    sealed = {path.name: path.read_bytes() for path in store.iterdir()}
    out = tmp_path / "set"
    shown = labels("import", exported, "-o", out).stdout
    assert f"# 3 imported into {out}, 1 not changed, 1 deleted" in shown
    assert (out / "list.txt").read_text().split() == POOL[2:]
    assert sealed == {path.name: path.read_bytes() for path in store.iterdir()}

    changed = yaml.safe_load(shown)["data"]
    assert changed["sources"]["corrected"]["name"] == "detection/coco"
    raw = yaml.safe_load((finished_box_run / "config.yaml").read_text())
    raw["data"] = {**raw["data"], **changed, "sources": {**raw["data"]["sources"], **changed["sources"]}}
    (tmp_path / "next.yaml").write_text(yaml.safe_dump(raw))
    data = load_config(tmp_path / "next.yaml").data
    write_index(tmp_path / "index", data, sources := build_sources(data, data.class_names()))
    index = Index(tmp_path / "index")
    assert index.counts() == {"labelled": 7, "unlabelled": 2, "validation": 2, "test": 2}
    entries = {entry.id: entry for entry in (index.entry(row)[1] for row in index.rows("labelled"))}
    found = sources["corrected"].read_labels(entries[POOL[2]])
    assert isinstance(found, BoxLabels) and found.boxes_N4.tolist() == [[8, 8, 24, 24]]
    nothing = sources["corrected"].read_labels(entries[POOL[4]])
    assert isinstance(nothing, BoxLabels) and len(nothing) == 0, "a picture that shows none of the classes"


@pytest.mark.parametrize("name", ["images/1a2b3c4d-pool-{}.png", "pool-{}.png", "data/deep/pool-{}.png"])
def test_images_are_found_by_the_end_of_their_names(exported: Path, tmp_path: Path, name: str) -> None:
    def rename(content: dict[str, Any]) -> None:
        boxes_of(content, POOL[2])[0]["bbox"] = [8, 8, 16, 16]
        for each in content["images"]:
            each["file_name"] = name.format(each["file_name"][-5])

    change(exported, rename)
    found = json.loads(labels("import", exported, "-o", tmp_path / "set", "--json").stdout)
    assert (found["imported"], found["unchanged"], found["deleted"]) == (1, 4, 0)
    content = json.loads((tmp_path / "set/boxes/instances.json").read_text())
    assert [each["file_name"] for each in content["images"]] == [f"{POOL[2]}.png"]


def test_every_problem_of_boxes_is_listed(exported: Path, tmp_path: Path) -> None:
    def spoil(content: dict[str, Any]) -> None:
        boxes_of(content, POOL[0])[0]["bbox"] = [5, 5, 0, 3]
        boxes_of(content, POOL[1])[0]["bbox"] = [500, 5, 9, 3]
        content["images"].append({"id": 99, "file_name": "deep/pool-33.png"})

    change(exported, spoil)
    said = labels("import", exported, "-o", tmp_path / "set", code=2).stderr
    assert f"3 labels in {exported} cannot be imported; nothing was written. Mend or delete:" in said
    assert "the image 'deep/pool-33' is none that was exported (did you mean 'deep/pool-3'?)" in said
    assert "of 'deep/pool-0' has no area" in said and "of 'deep/pool-1' lies outside of the image" in said
    assert not (tmp_path / "set").exists()


def test_names_that_may_be_two_images_are_explained(exported: Path, tmp_path: Path) -> None:
    record = json.loads((exported / "export.json").read_text())
    record["images"]["other/pool-2"] = {**record["images"][POOL[2]], "image": str(tmp_path / "other/pool-2.png")}
    (exported / "export.json").write_text(json.dumps(record))
    change(exported, lambda content: content["images"][2].update(file_name="pool-2.png"))
    said = labels("import", exported, "-o", tmp_path / "set", code=2).stderr
    assert "the image 'pool-2' may be 'deep/pool-2' or 'other/pool-2'; write which" in said


def test_files_that_are_no_boxes_are_explained(exported: Path, tmp_path: Path) -> None:
    def said(text: str, code: int = 2) -> str:
        (exported / "boxes/instances.json").write_text(text)
        return labels("import", exported, "-o", tmp_path / "set", code=code).stderr

    good = (exported / "boxes/instances.json").read_text()
    assert "it is a list, as a file of results is" in said("[]")
    assert said("{").count("instances.json cannot be read: it is no JSON") == 1
    assert "of the class 'dog', not among data.classes" in said(good.replace('"square"', '"dog"'))
    (exported / "boxes/instances.json").unlink()
    assert (
        "instances.json cannot be read: No such file" in labels("import", exported, "-o", tmp_path / "x", code=2).stderr
    )
    record = json.loads((exported / "export.json").read_text())
    record["images"][POOL[0]]["said"] = {"no": "boxes"}
    (exported / "export.json").write_text(json.dumps(record))
    assert "export.json is damaged" in said(good, code=3)
