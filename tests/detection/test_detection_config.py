"""The settings: what they refuse, and in which words."""

import subprocess
import sys
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from selftrain_detection.config import AnchorConfig, BoxPredictionConfig, DetectionConfig


def test_the_paper_is_a_setting() -> None:
    paper = DetectionConfig.model_validate(
        {"anchors": {"size": 3.0}, "head": {"num_convs": 7, "channels": 512, "activation": "swish"}}
    )
    assert (paper.anchors.size, paper.head.num_convs, paper.head.channels) == (3.0, 7, 512)
    assert (paper.matching.positive_iou, paper.matching.negative_iou) == (0.5, 0.5)
    loss = paper.loss
    assert (loss.focal_alpha, loss.focal_gamma, loss.huber_delta, loss.box_weight) == (0.25, 1.5, 0.1, 50)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"matching": {"positive_iou": 0.4}},
            "negative_iou is 0.5 and positive_iou 0.4: .* negative; give a negative_iou of at most positive_iou",
        ),
        (
            {"prediction": {"candidates": 50}},
            "candidates is 50 and max_detections 100: .*as many; raise candidates or lower max_detections",
        ),
        (
            {"anchors": {"ratios": [1, 0.5, 1]}},
            r"ratios are \[1.0, 0.5, 1.0\]; each is wanted once, for two are the same anchors twice",
        ),
        (
            {"max_boxes": 60, "prediction": {"max_detections": 61}},
            "max_detections is 61 and max_boxes 60: .* taught; lower prediction.max_detections or raise max_boxes",
        ),
        ({"max_boxes": 99}, "prediction.max_detections is 100 and max_boxes 99"),
        ({"head": {"batch_norm_momentum": 0}}, "greater than 0"),
        ({"anchors": {"ratios": []}}, "at least 1 item"),
        ({"head": {"chanels": 3}}, r"has no key 'chanels' \(did you mean 'channels'\?\)"),
        ({"head": {"prior": 0}}, "greater than 0"),
        ({"neck": {"kind": "pan"}}, "'fpn' or 'none'"),
        ({"matching": {"negative_iou": 0}}, "greater than 0"),
        ({"max_boxes": 0}, "greater than 0"),
        ({"loss": {"focal_gamma": float("nan")}}, "finite number"),
    ],
)
def test_what_cannot_be_is_explained(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DetectionConfig.model_validate(settings)


@pytest.mark.parametrize(
    ("settings", "iou"),
    [
        ({}, 0.5),
        ({"suppression": "soft_nms_tensorflow"}, 1.0),
        ({"suppression": "soft_nms_tensorflow", "iou_threshold": 0.7}, 0.7),
        ({"iou_threshold": 0.6}, 0.6),
    ],
)
def test_the_threshold_hangs_on_the_suppression(settings: dict[str, Any], iou: float) -> None:
    assert BoxPredictionConfig.model_validate(settings).hard_iou == iou


def test_as_many_detections_as_boxes_are_allowed() -> None:
    assert DetectionConfig.model_validate({"max_boxes": 7, "prediction": {"max_detections": 7}}).max_boxes == 7


def test_anchors_are_counted() -> None:
    assert AnchorConfig().per_location == 9
    assert AnchorConfig(num_scales=2, ratios=(1.0,)).per_location == 2


def test_every_setting_is_described() -> None:
    def undescribed(model: type[BaseModel]) -> list[str]:
        found = [name for name, field in model.model_fields.items() if not field.description]
        inner = [field.annotation for field in model.model_fields.values() if isinstance(field.annotation, type)]
        return found + [name for each in inner if issubclass(each, BaseModel) for name in undescribed(each)]

    assert undescribed(DetectionConfig) == []
    assert "focal_gamma" in str(DetectionConfig.model_json_schema())


def test_settings_need_no_torch() -> None:
    code = "import sys, selftrain_detection.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
