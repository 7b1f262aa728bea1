"""The configuration: strict, helpful about mistakes, the same after a round trip."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import Field, ValidationError

from selftrain_core.backbones.config import FpnConfig
from selftrain_core.config import RunConfig, dump_config, load_config, parse_config
from selftrain_core.config_model import NOT_IDENTITY, BackboneChoice, PolicyChoice, StrictModel, identity
from selftrain_core.errors import ConfigError, UnknownComponentError
from selftrain_core.sources import ImageFolderConfig

BASE: dict[str, Any] = {
    "data": {
        "sources": {"photos": {"name": "core/images", "images": "photos", "list": "lists/photos.txt"}},
        "labelled": "photos",
        "unlabelled": "photos",
        "validation": "photos",
        "test": "photos",
        "classes": ["ground", "sky"],
    },
    "task": "segmentation/semantic",
    "augmentation": "core/none",
}
BASE_DIR = Path("/somewhere/else")


def changed(**values: Any) -> dict[str, Any]:
    return {**BASE, **values}


def parse(**values: Any) -> RunConfig:
    return parse_config(changed(**values), BASE_DIR)


def written(tmp_path: Path, raw: Any) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(raw if isinstance(raw, str) else yaml.safe_dump(raw))
    return path


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"objektive": {}}, r"\(top level\): has no key 'objektive' \(did you mean 'objective'\?\); keys: seed, "),
        ({"objective": {"alhpa": 1}}, r"  objective: has no key 'alhpa' \(did you mean 'alpha'\?\); keys: alpha, "),
        ({"objective": {"alpha": -1}}, r"  objective\.alpha: .*greater than or equal to 0 \(given -1\)"),
        ({"objective": {"alpha": float("nan")}}, r"objective\.alpha: .*\(given nan\)"),
        ({"objective": {"decay": 1.0}}, r"objective\.decay: .*less than 1 \(given 1\.0\)"),
        ({"policy": {"name": "core/fixed", "threshold": 2}}, r"policy\.threshold: .*or equal to 1 \(given 2\)"),
        (
            {"policy": {"name": "core/fixed", "threshold": 0.3, "ignore_above": 0.5}},
            r"policy: ignore_above \(0\.5\) lies above threshold \(0\.3\)",
        ),
        ({"policy": {"name": "core/fixed", "treshold": 1}}, r"policy: has no key 'treshold' \(did you mean 'thresh"),
        ({"task": {"decoder": "fpn"}}, r"task: give the component's name, or a mapping with the key 'name'"),
        ({"policy": {"share": 1.5}}, r"policy\.share: .*or equal to 1 \(given 1\.5\)"),
        ({"policy": "core/fixd"}, r"no policy is called 'core/fixd' \(did you mean 'core/fixed'\?\)"),
        ({"canvas": [100, 320]}, r"canvas: .* multiples of 32; the nearest is \[96, 320\] \(given \[100, 320\]\)"),
        ({"canvas": [0, 320]}, r"canvas\.0: .*greater than 0 \(given 0\)"),
        ({"teacher": {"steps": 0}}, r"teacher\.steps: .*greater than 0 \(given 0\)"),
        ({"teacher": {"optimizer": {"lr": "fast"}}}, r"teacher\.optimizer\.lr: .* \(given 'fast'\)"),
        ({"student": {"start": "scratch"}}, r"student\.start: .*'teacher' or 'init' \(given 'scratch'\)"),
    ],
)  # fmt: skip
def test_mistakes_are_explained(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"the configuration is wrong:\n(.|\n)*{message}"):
        parse(**values)


def test_every_wrong_value_is_named() -> None:
    with pytest.raises(ConfigError) as error:
        parse(objective={"alpha": -1}, rounds=0, seed=-3)
    assert len(str(error.value).splitlines()) == 4


def test_a_missing_section_is_named() -> None:
    with pytest.raises(ConfigError, match=r"  data: is missing, and has no default\n  task: is missing, and"):
        parse_config({"augmentation": "core/none"}, BASE_DIR)


def test_an_unknown_source_in_a_set_is_explained() -> None:
    data = {**BASE["data"], "unlabelled": "photos - photo"}
    with pytest.raises(ConfigError, match=r"names the source 'photo'.*\(did you mean 'photos'\?\); sources: photos"):
        parse(data=data)


def test_a_component_is_a_name_or_a_mapping() -> None:
    assert parse(policy="core/fixed").policy == parse(policy={"name": "core/fixed", "threshold": 0.5}).policy
    assert parse(backbone="timm/resnet18").backbone.member == "resnet18"


def test_a_component_can_hold_a_component() -> None:
    config = parse(backbone={"name": "core/fpn", "body": {"name": "timm/resnet18", "init": "random"}})
    options = config.backbone.options
    assert isinstance(options, FpnConfig)
    assert (options.body.member, options.init, options.channels) == ("resnet18", "random", 256)


def test_round_trip(tmp_path: Path) -> None:
    config = parse(
        backbone={"name": "core/fpn", "body": "timm/resnet18"}, policy={"name": "core/fixed", "threshold": 0.75}
    )
    path = written(tmp_path, dump_config(config))
    again = load_config(path)
    assert again == config
    assert dump_config(again) == dump_config(config)
    assert yaml.safe_load(path.read_text())["student"]["optimizer"]["lr"] == 0.001, "defaults are written out"


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        parse().seed = 3  # type: ignore[misc]


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    raw = changed(data={**BASE["data"], "classes": "classes.json"})
    config = load_config(written(tmp_path, raw))
    options = config.data.sources["photos"].options
    assert isinstance(options, ImageFolderConfig)
    assert (options.images, options.list) == (tmp_path / "photos", tmp_path / "lists/photos.txt")
    assert config.data.classes == tmp_path / "classes.json"


def test_absolute_and_home_paths_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/of/someone")
    context = {"base_dir": BASE_DIR}
    config = ImageFolderConfig.model_validate({"images": "/photos", "list": "~/list.txt"}, context=context)
    assert (config.images, config.list) == (Path("/photos"), Path("/home/of/someone/list.txt"))


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("seed=7", lambda c: c.seed == 7),
        ("objective.alpha=0.25", lambda c: c.objective.alpha == 0.25),
        ("canvas=[64, 96]", lambda c: c.canvas == (64, 96)),
        ("policy.threshold=0.9", lambda c: c.policy.options.threshold == 0.9),
        ("task.decoder.dropout=0.5", lambda c: c.task.options.decoder.dropout == 0.5),
        ("teacher.ema_decay=null", lambda c: c.teacher.ema_decay is None),
        ("backbone=timm/resnet18", lambda c: c.backbone.member == "resnet18"),
        ("student.optimizer.name=sgd", lambda c: c.student.optimizer.name == "sgd"),
    ],
)
def test_overrides(tmp_path: Path, override: str, read: Any) -> None:
    assert read(load_config(written(tmp_path, changed(policy="core/fixed")), [override]))


def test_the_last_override_wins(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, BASE), ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", r"--set seed: expected the form a\.b=value"),
        ("=3", r"--set =3: expected the form a\.b=value"),
        ("seed.x=3", r"--set seed\.x=3: 'seed' holds 5, not settings"),
        ("seed=[", r"--set seed=\[: the value is no valid YAML"),
        ("seeed=3", r"has no key 'seeed' \(did you mean 'seed'\?\)"),
    ],
)
def test_wrong_overrides_are_explained(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(written(tmp_path, changed(seed=5)), [override])


@pytest.mark.parametrize(
    ("text", "message"), [("[1, 2]", "holds no settings"), ("", "holds no settings"), ("a: [", "is no valid YAML")]
)
def test_unusable_files_are_explained(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"the configuration .*config\.yaml {message}"):
        load_config(written(tmp_path, text))


def test_a_missing_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml cannot be read: No such file or directory"):
        load_config(tmp_path / "none.yaml")


def test_yaml_anchors_have_a_place(tmp_path: Path) -> None:
    text = "anchors:\n  alpha: &a 0.5\n" + yaml.safe_dump(BASE) + "objective:\n  alpha: *a\n"
    assert load_config(written(tmp_path, text)).objective.alpha == 0.5


# --- identity ---


class Inner(StrictModel):
    kept: int = 1
    left_out: int = Field(default=2, json_schema_extra=NOT_IDENTITY)


class Outer(StrictModel):
    inner: Inner = Inner()
    policy: PolicyChoice = Field(default={"name": "core/fixed"}, validate_default=True)
    left_out: Inner = Field(default=Inner(), json_schema_extra=NOT_IDENTITY)


def test_identity_leaves_out_what_changes_no_result() -> None:
    policy = {"name": "core/fixed", "numerics": 1, "threshold": 0.5, "ignore_above": None}
    assert identity(Outer()) == {"inner": {"kept": 1}, "policy": policy}


def test_identity_of_a_run_knows_neither_device_nor_places() -> None:
    found = identity(parse(device={"workers": 7}))
    assert found == identity(parse(device={"workers": 1, "micro_batches": 4}))
    assert "device" not in found
    assert set(found["data"]) == {"classes", "allow_missing_classes"}
    assert found["backbone"]["numerics"] == 2
    assert identity(parse(seed=1)) != identity(parse(seed=2))


def test_identity_of_a_component_holds_those_within() -> None:
    choice = BackboneChoice.of("core/fpn", body={"name": "timm/resnet18", "init": "random"}, channels=8)
    norms = {"batch_norm_momentum": None, "batch_norm_epsilon": None}
    body = {"name": "timm/resnet18", "numerics": 2, "init": "random", "drop_path": 0.0, **norms}
    assert choice.identity() == {"name": "core/fpn", "numerics": 1, "body": body, "channels": 8}


def test_a_choice_made_in_python() -> None:
    assert PolicyChoice.of("core/fixed", threshold=0.7).model_dump() == {
        "name": "core/fixed",
        "threshold": 0.7,
        "ignore_above": None,
    }
    with pytest.raises(UnknownComponentError, match="no policy is called 'core/none'"):
        PolicyChoice.of("core/none")


# --- classes ---


@pytest.mark.parametrize("text", ['["a", "b"]', '{"classes": ["a", "b"], "more": 1}'])
def test_class_names_from_a_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "classes.json").write_text(text)
    raw = changed(data={**BASE["data"], "classes": "classes.json"})
    assert parse_config(raw, tmp_path).data.class_names() == ("a", "b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: .*No such file"),
        ("{", "cannot be read"),
        ('{"names": ["a"]}', "holds no list of class names"),
        ("[1, 2]", "holds no list of class names"),
        ('"ab"', "holds no list of class names"),
        ('["a", "a"]', r"names must be distinct and at least one, given \['a', 'a'\]"),
        ("[]", r"names must be distinct and at least one, given \[\]"),
    ],
)
def test_unusable_class_files_are_explained(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "classes.json").write_text(text)
    config = parse_config(changed(data={**BASE["data"], "classes": "classes.json"}), tmp_path)
    with pytest.raises(ConfigError, match=f"data.classes: .*{message}"):
        config.data.class_names()


def test_settings_of_an_unnamed_component_are_the_default_ones(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, BASE), ["policy.share=0.75", "backbone.init=random"])
    assert (config.policy.name, config.policy.model_dump()["share"]) == ("core/adaptive", 0.75)
    assert (config.backbone.name, config.backbone.model_dump()["init"]) == ("timm/tf_efficientnet_lite0", "random")
