"""The paper's models as sections of a configuration (§3.2; released code for what the paper leaves out).

What the paper does not state of them, and what is done otherwise here, is in `selftrain.recipes.remarks`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

Section = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model, and how it is trained.

    Attributes:
        canvas: Side in pixels.
        classes: ``coco`` or ``voc``.
        batch: Labelled images in a step without self-training.
        taught: Labelled, and pseudo-labelled, images in a step with it.
        optimizer: Of teacher and student.
        task: The task.
        backbone: Takes the backbone's init, and returns the backbone.
        inits: By the paper's names: timm's, or another one.
        precision: What it is trained in.
    """

    canvas: int
    classes: str
    batch: int
    taught: int
    optimizer: Section
    task: Section
    backbone: Callable[[Any], Section]
    inits: Mapping[str, Any]
    precision: str

    def init(self, name: str) -> Any:
        """Return the backbone's init of one of the paper's names."""
        return "random" if name == "random" else self.inits[name]


_NORMS = {"batch_norm_momentum": 0.003, "batch_norm_epsilon": 1e-3}
_RETINANET_NORMS = {"batch_norm_momentum": 0.003, "batch_norm_epsilon": 1e-4}
SIMCLR_CHECKPOINT = "checkpoints/simclr-resnet50.pth"
_SIMCLR = {"name": "simclr", "checkpoint": SIMCLR_CHECKPOINT}


def _retinanet(channels: int = 256, num_convs: int = 4, **more: Any) -> Section:
    head = {"channels": channels, "num_convs": num_convs, **_RETINANET_NORMS}
    return {"name": "detection/retinanet", "head": head, "loss": {"mask_zero_targets": True}, **more}


def _sgd(lr: float, weight_decay: float, clip: float | None, warmup: tuple[int, float], **more: Any) -> Section:
    """Return stochastic gradient descent.

    Args:
        lr: Highest rate.
        weight_decay: Of kernels.
        clip: Largest norm of the gradient.
        warmup: Steps of the warm-up, and the rate that it starts from.
        **more: Further settings.
    """
    steps, start = warmup
    return {
        "name": "sgd",
        "lr": lr,
        "momentum": 0.9,
        "weight_decay": weight_decay,
        "warmup_steps": steps,
        "warmup_start": round(start / lr, 4),
        "final_lr": 0.0,
        "gradient_clip": clip,
        **more,
    }


def _timm(name: str, **settings: Any) -> Callable[[Any], Section]:
    return lambda init: {"name": f"timm/{name}", "init": init, **settings}


def _efficientnet(size: str) -> Callable[[Any], Section]:
    return _timm(f"tf_efficientnet_{size}", drop_path=0.2, batch_norm_momentum=0.01)


def _nas_fpn(size: str) -> Callable[[Any], Section]:
    return lambda init: {
        "name": "core/nas-fpn",
        "body": _efficientnet(size)(init),
        "repeats": 7,
        "separable": True,
        **_NORMS,
    }


def _spinenet(size: str) -> Callable[[Any], Section]:
    return lambda init: {"name": f"spinenet/{size}", "init": init, **_RETINANET_NORMS}


def _spinenet_model(size: str, lr: float, drops: tuple[float, float], **head: int) -> Model:
    """Return a SpineNet with half the released rate, as the paper halves it with the batch."""
    task = _retinanet(**head, neck={"kind": "none"}, prediction={"suppression": "soft_nms_tensorflow", "sigma": 0.3})
    task["head"]["activation"] = "swish"
    return Model(
        canvas=1280,
        classes="coco",
        batch=128,
        taught=128,
        optimizer=_sgd(lr, 4e-5, 10.0, (2000, 0.0067 / 2), drops=list(drops)),
        task=task,
        backbone=_spinenet(size),
        inits={},
        precision="bf16",
    )


_B7 = {"imagenet": "aa_in1k", "imagenet++": "ns_jft_in1k"}
_L2 = {"imagenet++": "ns_jft_in1k"}
_RESNET = {"imagenet": "tv_in1k", "simclr": _SIMCLR}

_WARM_COCO = (1000, 0.0032)
_B7_RETINANET = Model(
    canvas=640,
    classes="coco",
    batch=256,
    taught=256,
    optimizer=_sgd(0.32, 1e-4, None, _WARM_COCO),
    task=_retinanet(),
    backbone=_efficientnet("b7"),
    inits=_B7,
    precision="bf16",
)
_WARM_VOC = (500, 0.001)
_B7_NAS_FPN = Model(
    canvas=512,
    classes="voc",
    batch=256,
    taught=256,
    optimizer=_sgd(0.08, 1e-5, 10.0, _WARM_VOC),
    task={"name": "segmentation/semantic", "decoder": {"name": "fusion", **_NORMS}, "loss_stride": 4},
    backbone=_nas_fpn("b7"),
    inits=_B7,
    precision="bf16",
)

MODELS: dict[str, Model] = {
    "b7-retinanet": _B7_RETINANET,
    "r50-retinanet": replace(_B7_RETINANET, backbone=_timm("resnet50", **_RETINANET_NORMS), inits=_RESNET),
    "r101-retinanet": replace(
        _B7_RETINANET,
        optimizer=_sgd(0.32, 1e-4, None, _WARM_COCO, decay_norms=True),
        backbone=_timm("resnet101", **_RETINANET_NORMS),
        inits=_RESNET,
        precision="float32",
    ),
    "spinenet-143": _spinenet_model("143", 0.14, (0.94, 0.98)),
    "spinenet-190": _spinenet_model("190", 0.15, (0.925, 0.975), channels=512, num_convs=7),
    "b7-nas-fpn": _B7_NAS_FPN,
    "l2-nas-fpn": replace(
        _B7_NAS_FPN, taught=128, optimizer=_sgd(0.2, 1e-5, 10.0, _WARM_VOC), backbone=_nas_fpn("l2"), inits=_L2
    ),
}
