"""What of a recipe the paper does not state, and what is done otherwise than the paper or the released settings do.

Both are told by keys of the configuration. "Released" is what the paper's authors published: code, and settings of
SpineNet and of PASCAL VOC.
"""

from __future__ import annotations

from collections.abc import Iterator

from selftrain.recipes.cells import Cell
from selftrain.recipes.models import MODELS, Model

Remarks = dict[str, str]

_AS_RELEASED = "not stated; as in the released code"
_SETTINGS = "not stated; of the released settings"
_IMAGENET_IMAGES = 1_281_167


def ours(cell: Cell) -> Remarks:
    """Return what the paper does not state, by key, with the reason for what is there."""
    model = MODELS[cell.model]
    found = _of_every_training(cell)
    found |= _of_detection(cell) if model.classes == "coco" else _of_segmentation()
    for part in (_of_backbone, _of_optimizer, _of_augmentation):
        found |= part(cell, model)
    if cell.unlabelled:
        found |= _of_self_training(cell, model)
    if cell.joint:
        found |= _of_joint_training(cell)
    if cell.labelled in ("coco-20", "coco-50"):
        found["data.labelled"] = "how the fraction was drawn is not described; `selftrain split` draws by class"
    if cell.table == 11:
        found["teacher.steps"] = "not stated for this table; those of the other PASCAL experiments"
    return found


def _of_every_training(cell: Cell) -> Remarks:
    if cell.labelled in ("coco-20", "coco-50"):
        held_out = "2 % of COCO's, set apart before the fraction is drawn, which is trained on whole"
    else:
        held_out = "2 % of the labelled images: 98 % are trained on"
    return {
        "teacher.optimizer.name": _AS_RELEASED,
        "teacher.optimizer.momentum": _AS_RELEASED,
        "teacher.ema_decay": "none is stated, so none",
        "teacher.max_skipped_steps": "not stated; only a training that goes wrong notices",
        "data.validation": f"which images steps were chosen by is not described; {held_out}",
        "validate_every_images": "not stated; 20 times in the shorter training, and as often in the longer, by images",
    }


def _of_detection(cell: Cell) -> Remarks:
    hard = {
        "task.prediction.suppression": _AS_RELEASED,
        "task.prediction.sigma": "of no effect: it is Soft-NMS's",
    }
    return {
        **({} if cell.model.startswith("spinenet") else hard),
        **{f"task.{key}": _AS_RELEASED for key in ("anchors", "matching", "head", "loss", "max_boxes", "neck.kind")},
        "task.neck.batch_norm": _AS_RELEASED,
        "task.prediction.floor": _AS_RELEASED,
        "task.prediction.candidates": _AS_RELEASED,
        "task.prediction.max_detections": _AS_RELEASED,
        "task.prediction.iou_threshold": "not stated; null is 0.5, as in the released code, and none for Soft-NMS",
        "task.prediction.merging": "of no effect: there is one view",
        "task.prediction.fusion_iou": "of no effect: there is one view",
        "augmentation.min_visibility": "not stated; 0: what is left of an object counts, as in the released code",
        "evaluation": "one look, at the size of training; of views nothing is mentioned",
    }


def _of_segmentation() -> Remarks:
    return {
        "canvas": _SETTINGS,
        "device.precision": _SETTINGS,
        "task.decoder.channels": _SETTINGS,
        "task.decoder.batch_norm_momentum": _SETTINGS,
        "task.decoder.batch_norm_epsilon": _SETTINGS,
        "task.loss_stride": "not stated; the released settings, too, bring labels to the size of the logits",
        "backbone.channels": _SETTINGS,
        "backbone.activation": _SETTINGS,
        "backbone.batch_norm_momentum": _SETTINGS,
        "backbone.batch_norm_epsilon": _SETTINGS,
        "augmentation.min_visibility": "of no effect on masks",
        "evaluation.flip": "not mentioned for these models, so not done",
    }


def _of_backbone(cell: Cell, model: Model) -> Remarks:
    if cell.model.startswith("spinenet"):
        keys = ("channels", "drop_connect", "activation", "batch_norm_momentum", "batch_norm_epsilon")
        return {f"backbone.{key}": _SETTINGS for key in keys} | {"device.precision": _SETTINGS}
    body = "backbone.body" if model.classes == "voc" else "backbone"
    found = {
        f"{body}.batch_norm_momentum": _AS_RELEASED,
        f"{body}.batch_norm_epsilon": _AS_RELEASED + "; null is timm's, 0.001" * ("nas" in cell.model),
        f"{body}.drop_path": _AS_RELEASED,
    }
    if cell.model == "b7-retinanet":
        found[f"{body}.batch_norm_epsilon"] = _AS_RELEASED + "; null is timm's, 0.001"
    if cell.model.startswith("r"):
        found[f"{body}.drop_path"] = "none is mentioned for ResNets"
        if cell.init == "imagenet":
            found[f"{body}.init"] = "which checkpoint is not stated; torchvision's"
    if cell.model == "l2-nas-fpn":
        found[f"{body}.init"] = "which of the two published checkpoints is not stated; that of 800 pixels"
    if cell.table == 8:
        found[f"{body}.init"] = "the table says ImageNet Init, but its supervised numbers are ImageNet++'s of Table 11"
    return found


def _of_optimizer(cell: Cell, model: Model) -> Remarks:
    if cell.model == "r50-retinanet":
        return dict.fromkeys(
            ("teacher.optimizer", "teacher.human", "device.precision", "canvas"),
            "of Table 4 nothing is stated; as for EfficientNet-B7",
        )
    found = {
        "teacher.optimizer.final_lr": "not stated; a cosine usually ends at 0",
        "teacher.optimizer.decay_norms": "not stated but of ResNet-101; as in the released code",
    }
    if not model.optimizer["gradient_clip"]:
        found["teacher.optimizer.gradient_clip"] = "not stated for this model; null"
    if cell.model == "r101-retinanet":
        del found["teacher.optimizer.decay_norms"]
    if cell.model.startswith("spinenet"):
        found |= {f"teacher.optimizer.{key}": _SETTINGS for key in ("weight_decay", "warmup_steps", "drops")}
        found |= {
            "teacher.optimizer.lr": "half of the released rate, as the paper halves it with the batch",
            "teacher.optimizer.warmup_start": _SETTINGS + ", halved as well",
            "teacher.optimizer.final_lr": "of no effect: the rate drops",
        }
    if model.classes == "voc":
        found |= {f"teacher.optimizer.{key}": _SETTINGS for key in ("warmup_steps", "warmup_start")}
    return found


def _of_augmentation(cell: Cell, model: Model) -> Remarks:
    found = {"augmentation.oversample": "1: the sets' pictures are hardly larger than the canvas"}
    if cell.level == "own":
        for key in ("augmentation.scale_min", "augmentation.scale_max"):
            found[key] = "SpineNet's own, says the paper; from 0.1 to 1.9 in the released settings"
    if cell.teacher_level:
        found["teacher.augmentation"] = (
            "flip, and jitter from 0.1 to 1.9, SpineNet's own: S3 made supervised training unstable (§4.4)"
        )
    if cell.level in ("S2", "S3", "S4"):
        found["augmentation.pixel_reference"] = "not stated; policies were found on COCO, whose long sides have 640"
        found["augmentation.contrast"] = "not stated; as everywhere but in the released code, whose mean overflows"
        found["augmentation.solarize"] = "not stated; as in the released code"
    if cell.level in ("S2", "S3"):
        found["augmentation.policy"] = "not stated; v0 is the one that AutoAugment's paper on detection reports"
    if cell.level == "S4":
        found["augmentation.num_operations"] = "not stated; RandAugment's own experiment on detection takes 1"
        moved = "; how masks are moved is not described: along, and what comes in is ignored" * (model.classes == "voc")
        found["augmentation.operations"] = f"not stated; those of RandAugment's own experiment on detection{moved}"
    return found


def _of_self_training(cell: Cell, model: Model) -> Remarks:
    found = {
        "objective.normalise": "how the averages start, and over what, is not stated; here as in core's objective.py",
        "labelling.flip": "not mentioned, so not done",
        "student.negatives": "whether images in which nothing is found are learnt from is not stated; they are",
    }
    if model.classes == "coco":
        found["policy.threshold"] = "of the score behind suppression; the paper does not say"
        found["policy.ignore_above"] = "no region to ignore is mentioned"
        found["labelling.scales"] = "not stated for detection; one look, at the size of training"
    else:
        found["policy.threshold"] = "a pixel's score is taken for the largest probability; the paper does not say"
        found["policy.ignore_above"] = "of no effect on pixels: what is not kept is ignored"
    if cell.model.startswith("spinenet"):
        for key in ("student.human", "student.pseudo"):
            found[key] = "the share of a step is not stated; as many as without self-training"
        found["task.prediction.suppression"] = (
            "whether pseudo labels, too, are made with Soft-NMS is not stated; they are"
        )
    if cell.model == "r50-retinanet":
        for key in ("student.human", "student.pseudo"):
            found[key] = "of Table 4 nothing is stated; as for EfficientNet-B7"
    if cell.start == "init":
        found["objective.alpha"] = "not stated for a student from random weights; that of the one from the teacher"
    return found


def _of_joint_training(cell: Cell) -> Remarks:
    assert cell.steps is not None
    found = {
        "joint.imagenet.task": "where the classifier stands is not described; on the mean of the coarsest map",
        "joint.imagenet.images": "not described; as many as labelled ones without self-training: "
        f"{cell.steps * MODELS[cell.model].batch / _IMAGENET_IMAGES:.1f} epochs, where the paper tells of 19",
        "joint.imagenet.canvas": "'the exact setup' of self-training may mean 640; 224, as ImageNet is classified",
        "joint.imagenet.augmentation": "'the exact setup' may mean S4, too; flip, and jitter from 0.8 to 1.2",
        "joint.imagenet": "batch norm's running averages are of COCO's images alone; of the paper's it is not said",
        "joint.imagenet.classes": "the names of the folders, as a JSON list",
    }
    if cell.unlabelled:
        found["joint"] = "here the teacher, too, is trained jointly; of the paper's that is not said"
    return found


def differs(cell: Cell) -> Remarks:
    """Return what the paper or the released settings state and is done otherwise here, by key."""
    return dict(_differing(cell, MODELS[cell.model]))


def _differing(cell: Cell, model: Model) -> Iterator[tuple[str, str]]:
    of_all = "losses are divided by the counts of the whole step; in the released code by those of each core's share"
    if model.classes == "coco":
        yield "task.name", f"{of_all}; and boxes are decoded as they were encoded, without its pixel more"
        yield "data.classes", "80, where the released head has 91 logits, 11 of which no object has"
    else:
        yield "task.name", of_all
        yield (
            "augmentation.scale_min",
            f"as the paper's {cell.level}; the released settings have jitter from 0.2 to 1.5, and no policy",
        )
        yield "evaluation.scales", "at each image's own size; the released code scales images and labels to 512"
        if cell.model == "b7-nas-fpn" and cell.table != 11:
            yield "teacher.steps", "40,000, as the paper; 20,000 in the released settings"
    groups = (
        "" if cell.model.startswith(("spinenet", "r")) else "; EfficientNet's own, as released, is over groups of cores"
    )
    yield (
        "device.sync_batch_norm",
        f"batch norm is over what all devices have at once, of a step that is cut its parts one by one{groups}",
    )
    if model.optimizer["gradient_clip"]:
        yield (
            "teacher.optimizer.gradient_clip",
            "as in the released settings, but of the whole step's gradient; in the released code of each core's",
        )
    if cell.model.startswith("spinenet") and cell.unlabelled:
        yield "task.head.batch_norm_epsilon", "0.0001 for both; in the released settings 0.001 for the student"
    if cell.labelled == "voc-trainval":
        yield "data.test", "2 % of train and val: VOC's server alone knows the labels of the test set, of which 90.5 is"
