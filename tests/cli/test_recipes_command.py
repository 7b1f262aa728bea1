"""The paper's experiments as configurations, and what a plan says of them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner

from selftrain.main import main
from selftrain.recipes import build
from selftrain.recipes.build import images_seen, recipe_config, same_as, to_count
from selftrain.recipes.cells import Cell, all_cells
from selftrain.recipes.datasets import CLASSES, HELD_OUT
from selftrain.recipes.models import MODELS
from selftrain.recipes.remarks import differs, ours
from selftrain_core.components import build_model, build_task
from selftrain_core.config import load_config
from selftrain_core.config_model import BackboneChoice, TaskChoice

CELLS = all_cells()
parsed = cache(build.parsed)  # several tests look at each
BY_TABLE = {2: 12, 3: 18, 4: 4, 5: 4, 6: 5, 7: 8, 8: 6, 10: 12, 11: 6, 12: 12, 13: 12, 14: 8}


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == code, result.output
    return result.output if code else result.stdout


def find(**wanted: Any) -> Cell:
    found = [cell for cell in CELLS.values() if all(getattr(cell, key) == value for key, value in wanted.items())]
    assert len(found) == 1, wanted
    return found[0]


def test_there_is_one_for_each_cell() -> None:
    assert {table: sum(cell.table == table for cell in CELLS.values()) for table in BY_TABLE} == BY_TABLE
    assert len(CELLS) == sum(BY_TABLE.values())


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        ({"table": 2, "init": "random", "level": "S4", "unlabelled": "imagenet"}, (45.6, 90_000, 120_000, 0.5)),
        ({"table": 3, "init": "imagenet++", "labelled": "coco-20", "unlabelled": None}, (35.9, 5_625, None, None)),
        (
            {"table": 3, "init": "imagenet", "labelled": "coco-50", "unlabelled": "imagenet"},
            (40.5, 45_000, 22_500, 1.0),
        ),
        ({"table": 4, "init": "simclr"}, (40.4, 160_000, None, None)),
        ({"table": 5, "model": "spinenet-190", "unlabelled": "oid"}, (54.2, 370_000, 370_000, 0.5)),
        ({"table": 6, "labelled": "voc", "model": "l2-nas-fpn", "unlabelled": "voc-aug"}, (90.0, 20_000, 20_000, 1.0)),
        ({"table": 6, "labelled": "voc-trainval"}, (90.5, 20_000, 20_000, 1.0)),
        ({"table": 7, "init": "imagenet", "unlabelled": "imagenet", "joint": None}, (36.0, 90_000, 5_625, 3.0)),
        ({"table": 7, "init": "imagenet", "joint": 0.2}, (36.6, 90_000, 5_625, 2.0)),
        ({"table": 7, "init": "random", "joint": 0.5}, (33.6, 45_000, None, None)),
        ({"table": 8, "level": "S4", "labelled": "voc-aug"}, (84.8, 40_000, None, None)),
        ({"table": 10, "level": "S2", "start": "init"}, (42.7, 135_000, 90_000, 1.0)),
        ({"table": 11, "init": "random", "level": "S4"}, (41.5, 40_000, None, None)),
        ({"table": 12, "level": "S4", "unlabelled": "oid"}, (43.9, 180_000, 180_000, 0.5)),
        ({"table": 13, "level": "S4", "unlabelled": "oid"}, (46.0, 120_000, 120_000, 0.5)),
        ({"table": 14, "level": "S1", "unlabelled": "coco-all"}, (85.3, 40_000, 40_000, 1.0)),
    ],
)
def test_numbers_are_the_papers(wanted: dict[str, Any], numbers: tuple[float, int, int | None, float | None]) -> None:
    cell = find(**wanted)
    assert (cell.result, cell.steps, cell.teacher_steps, cell.alpha) == numbers


@pytest.mark.parametrize("name", CELLS)
def test_a_recipe_is_a_configuration(name: str) -> None:
    cell = CELLS[name]
    config = parsed(cell)
    model = MODELS[cell.model]
    assert config.data.class_names() == tuple(CLASSES[model.classes])
    assert config.teacher.steps == (cell.teacher_steps or cell.steps)
    if cell.level != "own":
        assert config.augmentation.name == f"augment/{cell.level.lower()}"
    assert config.policy.name == "core/fixed" and config.teacher.ema_decay is None and not config.baseline
    if cell.unlabelled:
        assert (config.student.steps, config.objective.alpha, config.student.start) == (
            cell.steps,
            cell.alpha,
            cell.start,
        )
        assert images_seen(cell) == config.student.steps * (config.student.human + config.student.pseudo)
    else:
        assert images_seen(cell) == config.teacher.steps * config.teacher.human
    assert not any(key.startswith("student") for key in ours(cell)) or cell.unlabelled
    if cell.init not in ("random",):
        assert "random" not in str(recipe_config(cell)["backbone"]), "the init is the paper's"


@pytest.mark.parametrize("name", CELLS)
def test_what_is_said_of_a_recipe_is_said_of_its_keys(name: str) -> None:
    config = parsed(CELLS[name]).model_dump(mode="json")
    said = [*ours(CELLS[name]), *differs(CELLS[name])]
    assert len(said) == len(set(said))
    for key in said:
        value: Any = config
        for part in key.split("."):
            assert part in value, key
            value = value[part]


STATED = {
    "coco": """
        canvas rounds task.name backbone.name backbone.init augmentation.name augmentation.flip_probability
        augmentation.scale_min augmentation.scale_max augmentation.magnitude policy.name teacher.steps teacher.human
        teacher.optimizer.lr teacher.optimizer.weight_decay teacher.optimizer.warmup_steps
        teacher.optimizer.warmup_start teacher.optimizer.drops device.precision student.steps student.start
        student.human student.pseudo objective.alpha objective.decay labelling.top_k baseline pretraining
        teacher.augmentation student.augmentation
    """,
    "voc": """
        rounds task.name task.decoder.name task.decoder.num_convs backbone.name backbone.body.name
        backbone.body.init backbone.repeats backbone.separable augmentation.name augmentation.flip_probability
        augmentation.scale_min augmentation.scale_max augmentation.magnitude policy.name teacher.steps teacher.human
        teacher.optimizer.lr teacher.optimizer.weight_decay teacher.optimizer.drops student.steps student.start
        student.human student.pseudo objective.alpha objective.decay labelling.scales labelling.top_k
        evaluation.scales baseline pretraining teacher.augmentation student.augmentation
    """,
}
"""What the paper states of its models (§3, Appendices B, E and H); `teacher.optimizer.drops` as none: a cosine."""
ALSO_STATED = {
    "r101-retinanet": "teacher.optimizer.decay_norms",  # Table 12
    "spinenet-143": "task.prediction.suppression task.prediction.sigma",  # §3.2: Soft-NMS, σ = 0.3
    "spinenet-190": "task.prediction.suppression task.prediction.sigma",
}
NOT_STATED = {
    "r50-retinanet": "canvas teacher.human teacher.optimizer device.precision student.human student.pseudo",
    "spinenet-143": "teacher.optimizer teacher.optimizer.lr device.precision student.human student.pseudo",
    "spinenet-190": "teacher.optimizer teacher.optimizer.lr device.precision student.human student.pseudo",
}


def leaves(section: dict[str, Any], before: str = "") -> list[str]:
    found = []
    for key, value in section.items():
        found += leaves(value, f"{before}{key}.") if isinstance(value, dict) and value else [f"{before}{key}"]
    return found


def is_within(key: str, keys: list[str]) -> bool:
    return any(key == each or key.startswith(f"{each}.") for each in keys)


@pytest.mark.parametrize("name", CELLS)
def test_every_setting_is_the_papers_or_explained(name: str) -> None:
    """All of the configuration that can change a result, defaults included."""
    cell = CELLS[name]
    model = MODELS[cell.model]
    config = parsed(cell).model_dump(mode="json")
    for key in ("data", "device", "logging", "seed"):  # where things lie, and which of all draws are made
        del config[key]
    config["device"] = {"precision": model.precision}
    if not cell.joint:
        del config["joint"]
    config["task"].pop("metric", None)  # of two programs that give the same numbers
    if not cell.unlabelled:
        for key in ("student", "objective", "labelling", "policy"):
            del config[key]
    stated = [*STATED[model.classes].split(), *ALSO_STATED.get(cell.model, "").split()]
    stated = [key for key in stated if not is_within(key, NOT_STATED.get(cell.model, "").split())]
    explained = [*ours(cell), *differs(cell)]
    unexplained = []
    for key in leaves(config):
        # §3.2: the student is trained as the teacher is.
        forms = [key, key.replace("student.", "teacher.", 1)] if key.startswith("student.") else [key]
        if not any(is_within(form, [*stated, *explained]) for form in forms):
            unexplained.append(key)
    assert unexplained == []


def test_models_with_settings_of_their_own() -> None:
    r101 = parsed(find(table=12, level="S4", unlabelled=None))
    assert r101.teacher.optimizer.decay_norms and r101.device.precision == "float32"
    assert r101.augmentation.model_dump()["magnitude"] == 15
    b7 = parsed(find(table=2, init="imagenet", level="S1")).teacher.optimizer
    assert b7.lr * b7.warmup_start == pytest.approx(0.0032) and b7.warmup_steps == 1000 and not b7.decay_norms
    for size, step, drops in ((143, 231_500, (217_610, 226_870)), (190, 185_200, (171_310, 180_570))):
        spinenet = parsed(find(table=5, model=f"spinenet-{size}", unlabelled="oid"))
        assert [round(drop * step) for drop in spinenet.teacher.optimizer.drops] == list(drops), "of released steps"
        own = spinenet.teacher.augmentation
        assert own is not None and own.name == "augment/s1"
        assert {"scale_min": 0.1, "scale_max": 1.9}.items() <= own.model_dump().items()
        assert spinenet.augmentation.name == "augment/s3" and spinenet.student.augmentation is None
        alone = parsed(find(table=5, model=f"spinenet-{size}", unlabelled=None))
        assert alone.augmentation == own and alone.teacher.optimizer == spinenet.student.optimizer
    voc = parsed(find(table=6, model="b7-nas-fpn", unlabelled=None))
    assert voc.teacher.optimizer.lr * voc.teacher.optimizer.warmup_start == pytest.approx(0.001)
    assert voc.task.model_dump()["loss_stride"] == 4
    assert voc.backbone.model_dump()["body"]["batch_norm_momentum"] == 0.01


def test_recipes_that_repeat_others_say_so() -> None:
    cell = find(table=13, level="S4", unlabelled="imagenet")
    twins = [find(table=table, labelled="coco", init="random", level="S4", unlabelled="imagenet", start="teacher")
             for table in (2, 3, 10)]  # fmt: skip
    assert same_as(cell) == [each.name for each in twins]
    assert f"# The same as {twins[0].name}." in run("recipes", "show", cell.name)
    assert len({json.dumps(recipe_config(each), sort_keys=True) for each in CELLS.values()}) == 76


KINDS = {(cell.model, cell.joint is not None, cell.unlabelled is not None): cell.name for cell in CELLS.values()}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_each_kind_is_planned_and_shown(kind: tuple[str, bool, bool]) -> None:
    """Nothing that a recipe names need be there, not even the file with the classes of joint training."""
    name = KINDS[kind]
    found = json.loads(run("plan", name, "--json", "--activation-checkpointing"))
    shown = json.loads(run("recipes", "show", name, "--json"))
    assert shown["params"] == found["params"] > 20_000_000 and shown["macs"] == found["macs"]
    assert list(found["steps"]) == ["teacher", "student"][: 1 + kind[2]]
    assert {each: cost["params"] for each, cost in found["joint"].items()} == ({"imagenet": 641_000} if kind[1] else {})
    assert all(step["joint_images"] == ({"imagenet": 256} if kind[1] else {}) for step in found["steps"].values())
    assert all(step["micro_batch"] > 0 for step in found["steps"].values()), "it fits 80 GB, in parts"


@pytest.mark.parametrize("name", CELLS)
def test_validating_costs_less_than_training(name: str) -> None:
    cell = CELLS[name]
    config = parsed(cell)
    largest = {"coco": 118_287, "voc": 10_582}[MODELS[cell.model].classes]
    trainings = [config.teacher.steps * config.teacher.human]
    if cell.unlabelled:
        trainings.append(config.student.steps * (config.student.human + config.student.pseudo))
    for seen in trainings:
        validations = seen / config.validate_every_images
        assert validations >= 20 and validations * HELD_OUT * largest < 0.5 * seen


def test_classes_are_the_sets() -> None:
    assert len(CLASSES["coco"]) == len(set(CLASSES["coco"])) == 80
    assert len(CLASSES["voc"]) == len(set(CLASSES["voc"])) == 21


BUILT = {(cell.model, cell.init, cell.joint is not None): cell for cell in CELLS.values()}
"""A recipe of each model, init and kind of training: others build the same."""


@pytest.mark.parametrize("built", BUILT, ids=str)
def test_each_builds(built: tuple[str, str, bool]) -> None:
    """On the meta device, with an init that the backbone knows, and with the head of joint training."""
    cell = BUILT[built]
    config = to_count(cell)
    with torch.device("meta"):
        model, backbone = build_model(build_task(config.task, config.data.class_names()), config.backbone)
        for stream in config.joint.values():
            head = build_task(stream.task, stream.class_names()).build_model(backbone)
            assert sum(parameter.numel() for parameter in head.parameters()) > 1000 * 640
    assert sum(parameter.numel() for parameter in model.parameters()) > 20_000_000
    init = MODELS[cell.model].init(cell.init)
    assert not isinstance(init, str) or init in {each.name for each in backbone.inits()}


@pytest.mark.slow
@pytest.mark.parametrize("model", ["b7-retinanet", "r50-retinanet", "spinenet-143", "b7-nas-fpn"])
def test_each_kind_trains_at_a_smaller_size(model: str) -> None:
    """Two steps of the recipe's own kinds of layers, with a body and widths that a processor bears."""
    config = recipe_config(next(cell for cell in CELLS.values() if cell.model == model))
    backbone, task = dict(config["backbone"]), dict(config["task"])
    small = {"name": "timm/test_efficientnet" if "b7" in model else "timm/test_resnet", "init": "random"}
    if backbone["name"].startswith("spinenet"):
        backbone["name"] = "spinenet/49s"
    elif "body" in backbone:
        backbone |= {"body": small, "repeats": 2, "channels": 16}
    else:
        backbone = small
    classes = CLASSES["voc" if "nas" in model else "coco"][:3]
    torch.manual_seed(0)
    built, _ = build_model(
        build_task(TaskChoice.model_validate(task), classes), BackboneChoice.model_validate(backbone)
    )
    optimizer = torch.optim.SGD(built.parameters(), 1e-3)
    images = torch.rand(2, 3, 256, 256)
    for _ in range(2):
        optimizer.zero_grad()
        outputs = built(images)
        tensors = [outputs] if isinstance(outputs, torch.Tensor) else [outputs.logits_BAC, outputs.deltas_BA4]
        torch.stack([tensor.square().mean() for tensor in tensors]).sum().backward()
        for name, parameter in built.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        optimizer.step()


def test_list_groups_by_table() -> None:
    text = run("recipes", "list")
    assert text.startswith("Table 2\n") and "\nTable 14\n" in text
    listed = json.loads(run("recipes", "list", "--json"))["recipes"]
    assert [each["name"] for each in listed] == list(CELLS)


def test_show_prints_a_configuration_that_can_be_read(tmp_path: Path) -> None:
    name = find(table=5, model="spinenet-143", unlabelled="oid").name
    text = run("recipes", "show", name)
    assert (
        "There 52.4 % AP (52.6 on test-dev); not run by us" in text
        and "student.human, student.pseudo: the share of a step is not stated" in text
    )
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    config = load_config(tmp_path / "recipe.yaml")
    assert config.canvas == (1280, 1280) and config.backbone.name == "spinenet/143"
    assert yaml.safe_load(text) == recipe_config(CELLS[name])


def test_show_tells_what_is_known() -> None:
    shown = json.loads(run("recipes", "show", find(table=6, model="b7-nas-fpn", unlabelled=None).name, "--json"))
    wanted = {"name", "table", "cell", "params", "macs", "paper_result", "alpha", "steps", "images_seen", "ours"}
    assert wanted <= set(shown)
    assert shown["params"] == 67_527_317 and shown["macs"] == pytest.approx(59.35e9, rel=1e-3)
    assert shown["images_seen"] == 40_000 * 256


def test_an_unknown_recipe_is_refused() -> None:
    assert "did you mean 'table2-b7-retinanet-random-s1-coco'" in run(
        "recipes", "show", "table2-b7-retinanet-random-s1-cocoo", code=2
    )
    assert "these begin so: table4-r50-" in run("recipes", "show", "table4", code=2)
    assert "there is neither a file nor a recipe 'table99'" in run("plan", "table99", code=2)


def test_plan_of_a_recipe() -> None:
    name = find(table=5, model="spinenet-143", unlabelled="oid").name
    found = json.loads(run("plan", name, "--gpu-memory", "80GB", "--json"))
    assert found["params"] == 66_731_316  # 80 classes; with the released 91 logits 66,959,511
    teacher, student = found["steps"]["teacher"], found["steps"]["student"]
    assert (teacher["images"], student["images"]) == (128, 256)
    for step in (teacher, student):
        assert step["used_bytes"] <= 80e9 and step["micro_batch"] * step["micro_batches"] >= step["images"]
    text = run("plan", name, "--gpu-memory", "2GB")
    assert "66,731,316 parameters" in text and "too many" in text


def test_plan_of_a_file(tmp_path: Path) -> None:
    config = recipe_config(find(table=4, init="random", unlabelled=None))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    text = run("plan", str(tmp_path / "run.yaml"), "--set", "canvas=[320,320]", "--set", "device.devices=4")
    assert "detection/retinanet on timm/resnet50, 320 × 320, bf16" in text
    assert "--set works on a file" in run("plan", next(iter(CELLS)), "--set", "seed=1", code=2)


def test_plan_counts_joint_streams_and_pretraining(tmp_path: Path) -> None:
    config = {**recipe_config(find(table=4, init="random", unlabelled=None)), "canvas": [64, 64]}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    options = (str(tmp_path / "run.yaml"), "--json", "--gpu-memory", "1TB")
    plain = json.loads(run("plan", *options))
    assert list(plain["steps"]) == ["teacher"] and plain["memory_bytes"] == 10**12, "there is no pool"
    source = {"name": "core/class-folders", "images": "digits"}
    joint = {"classes": ["a", "b", "c"], "sources": {"all": source}, "labelled": "all", "images": 6, "canvas": [32, 32]}
    config |= {"joint": {"letters": joint}, "pretraining": {"images": "labelled", "images_per_step": 48}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    found = json.loads(run("plan", *options))
    assert found["joint"]["letters"]["params"] == 3 * 2049, "a linear layer over the coarsest map"
    before, after = plain["steps"]["teacher"], found["steps"]["teacher"]
    assert after["joint_images"] == {"letters": 6}
    added = after["used_bytes"] - before["used_bytes"]
    per_weight = before["state_bytes"] / plain["params"]
    assert added >= 6 * found["joint"]["letters"]["activation_bytes"] + 3 * 2049 * per_weight
    assert found["steps"]["pretraining"]["micro_batches"] == 1
    text = run("plan", str(tmp_path / "run.yaml"), "--gpu-memory", "300MB")
    assert "joint.letters, core/classification, 32 × 32" in text and "too many" in text


@pytest.mark.parametrize("text", ["80 cows", "0GB", "-1GB", "", "24"])
def test_a_size_that_is_none(text: str) -> None:
    assert "expected a size with its unit, such as 80GB or 24GiB" in run(
        "plan", next(iter(CELLS)), "--gpu-memory", text, code=2
    )
