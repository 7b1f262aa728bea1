"""What each kind of stage does. Runs in a stage's own process, with torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from selftrain_core import labelling, pictures
from selftrain_core.checking import CHECKED, ROLES_WITH_LABELS, check_joint, check_labels, unless_checked
from selftrain_core.components import build_policy_for
from selftrain_core.distributed import several_ranks
from selftrain_core.errors import DataError, RunError
from selftrain_core.files import write_json
from selftrain_core.interfaces import Policy
from selftrain_core.labels import ScoreStatistics
from selftrain_core.pretraining import check_pretraining, pretrain
from selftrain_core.samples import HumanLabels, PseudoLabels, Stream, rows_with_labels
from selftrain_core.stage_context import StageContext, made_again, views_of
from selftrain_core.stage_training import human_stream, train
from selftrain_core.store import USABLE, PseudoLabelStore, usable_rows
from selftrain_core.weights import read_description
from selftrain_core.workshop import TEACHER

STATISTICS = "labelled-statistics.json"


def teach(context: StageContext) -> dict[str, Any]:
    """Train on human labels alone: the teacher."""
    config = context.config
    check_pretraining(context)
    # A training that goes on need not look at all of them again, unless some are others by now.
    with unless_checked(context.folder / CHECKED, _images(context)) as is_to_do:
        if is_to_do:
            labelled = _check(context)
            # A policy finds its mistakes when it is fitted: here, rather than once the teacher is trained.
            build_policy_for(context.task, config.policy).fit(labelled, labelled)
            write_json(context.folder / STATISTICS, labelled.to_json())
    return train(context, config.teacher, [human_stream(context)], context.new_model(with_init=True), alpha=0.0)


def _images(context: StageContext) -> dict[str, Any]:
    parts = {role: context.index.fingerprint(role) for role in ROLES_WITH_LABELS}
    return parts | {f"joint.{name}": part.labels.index.fingerprint("labelled") for name, part in context.joint.items()}


def _check(context: StageContext) -> ScoreStatistics:
    """Return what people labelled, once all images with labels have been read."""
    config = context.config
    labelled = check_labels(
        HumanLabels(context.index, context.sources),
        context.task,
        config.canvas,
        allow_missing_classes=config.data.allow_missing_classes,
        progress=partial(context.tell_progress, "checking images and labels"),
        remark=context.note,
    )
    for name, part in context.joint.items():
        check_joint(
            name,
            part.labels,
            part.task,
            config.joint[name].canvas,
            context.index,
            progress=partial(context.tell_progress, f"checking images and labels of joint.{name}"),
            remark=context.note,
        )
    return labelled


def baseline(context: StageContext) -> dict[str, Any]:
    """Train on human labels alone with the student's settings and everybody's budget of images."""
    return train(context, context.config.student, [human_stream(context)], context.new_model(with_init=True), alpha=0.0)


def learn(context: StageContext) -> dict[str, Any]:
    """Train the student on human and pseudo labels jointly (paper §3.2, Appendix B)."""
    config = context.config
    store = PseudoLabelStore(context.input("labels"), context.classes)
    rows = context.index.rows("unlabelled")
    usable = usable_rows(store, context.index.ids(rows), rows)
    policy = _fitted_policy(context, store)
    labeller = PseudoLabels(context.index, store, context.task, policy)
    if not config.student.negatives:
        usable = rows_with_labels(usable, labeller)
    pseudo = Stream("pseudo", usable, config.student.pseudo, labeller)
    goes_on = config.student.start == "teacher"
    teacher = context.input("teacher")
    model = context.trained_model(teacher) if goes_on else context.new_model(with_init=True)
    is_kept_C = labelling.kept_shares(policy, store.statistics) > 0
    nothing_kept = [name for name, is_kept in zip(context.classes, is_kept_C, strict=True) if not is_kept]
    report = train(
        context, config.student, [human_stream(context), pseudo], model,
        alpha=config.objective.alpha, heads=teacher if goes_on else None,
    )  # fmt: skip
    return {**report, "nothing_kept": nothing_kept}


def label(context: StageContext) -> dict[str, Any]:
    """Let the teacher predict on every unlabelled image, and keep its scores."""
    device = context.config.device
    settings = context.config.labelling
    teacher = context.input("teacher")
    model = context.trained_model(teacher).to(context.accelerator.device()).eval()
    with several_ranks(context.accelerator, device.devices):
        labelling.write_shards(
            context.folder,
            model,
            context.task,
            context.index,
            canvas=context.config.canvas,
            device=context.accelerator.device(),
            batch=device.predict_batch,
            workers=device.workers,
            views=views_of(settings),
            top_k=settings.top_k,
            precision=device.precision,
            reporter=context.reporter,
        )
    if not context.is_main_rank:
        return {}
    facts = {
        "teacher": read_description(teacher),
        "canvas": list(context.config.canvas),
        "labelling": settings.model_dump(mode="json"),
    }
    manifest = labelling.seal_store(context.folder, context.task, context.index, facts)
    _refuse_useless(context.folder, manifest)
    return {"states": manifest["states"], "images": sum(manifest["shards"])}


def _refuse_useless(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Check that there is an image to learn from.

    Raises:
        DataError: All are unreadable or leaks.
    """
    if not set(manifest["states"]).isdisjoint(USABLE):
        return
    # It holds nothing that is worth keeping; with it, a mended pool would be refused as changed.
    for path in [folder / "manifest.json", *folder.glob("shard-*")]:
        path.unlink()
    states = ", ".join(f"{count:,} {state}" for state, count in manifest["states"].items())
    first = manifest["failures"][0]
    raise DataError(
        f"none of the {sum(manifest['shards']):,} images of data.unlabelled can be used: {states}\n"
        f"  the first is '{first['id']}': {first['reason']}\n"
        "  mend the images, or give others, and run the same command: the teacher is kept"
    )


def evaluate(context: StageContext) -> dict[str, Any]:
    """Read validation and test with the last and the selected weights of a model."""
    folder = context.input("model")
    # The models may have been trained before the test images were what they are: none may have been learnt from.
    check_pretraining(context)
    with unless_checked(context.run / TEACHER / CHECKED, _images(context)) as is_to_do:
        if is_to_do:
            _check(context)
    roles = ("validation", "test")
    result: dict[str, Any] = {}
    with made_again(folder):
        last, selected = read_description(folder), read_description(folder, "selected")
    for name, weights in (("last", "model"), ("selected", "selected")):
        if name == "selected" and selected["step"] == last["step"]:
            result["selected"] = {**result["last"]}
            continue
        model = context.trained_model(folder, weights).to(context.accelerator.device())
        result[name] = {"images_seen": read_description(folder, weights)["images_seen"]}
        for role in roles:
            tell = partial(context.tell_progress, f"{name} weights, {role}")
            result[name][role] = context.scores(model, role, views_of(context.config.evaluation), tell)
    context.reporter.tell(
        "score", values={f"test {context.task.metric_name}": result["last"]["test"][context.task.metric_name]}
    )
    return result


def draw(context: StageContext) -> dict[str, Any]:
    """Draw what the models see on a few validation images, and their validation curves."""
    names = list(context.request["settings"]["models"])
    models = {name: context.trained_model(context.run / name) for name in names}
    policy = _fitted_policy(context, PseudoLabelStore(context.input("labels"), context.classes))
    pictures.draw_validation(
        context.folder / "validation.png", context.task, context.index, context.sources, models, policy,
        context.config.canvas,
    )  # fmt: skip
    pictures.draw_curves(context.folder / "curves.png", {name: context.run / name for name in names}, context.task)
    return {"pictures": ["validation.png", "curves.png"]}


STAGES: dict[str, Callable[[StageContext], dict[str, Any]]] = {
    "pretrain": pretrain,
    "teach": teach,
    "label": label,
    "learn": learn,
    "baseline": baseline,
    "evaluate": evaluate,
    "draw": draw,
}


def _fitted_policy(context: StageContext, store: PseudoLabelStore) -> Policy:
    path = context.input("first") / STATISTICS
    with made_again(path.parent):
        try:
            labelled = ScoreStatistics.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} cannot be read: {error}") from error
    return build_policy_for(context.task, context.config.policy).fit(store.statistics, labelled)
