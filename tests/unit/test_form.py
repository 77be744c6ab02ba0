"""The forms of a file: which wishes go together, how its name ends, what it tells."""

from typing import Any

import pytest
import torch

from graftcli.errors import UsageError
from graftcli.formats.options import ExportOptions, FromPixels, source_facts
from graftcli.images.pixels import normalise
from tests.exports import pixels, preprocess


@pytest.mark.parametrize(
    ("form", "suffix", "required"),
    [
        (ExportOptions(), ".onnx", 1.0),
        (ExportOptions(precision="fp16"), "-fp16.onnx", 0.99),
        (ExportOptions(precision="int8"), "-int8.onnx", 0.95),
        (ExportOptions(precision="int8", min_agreement=0.9), "-int8.onnx", 0.9),
        (ExportOptions(format="pt2"), ".pt2", 1.0),
        (ExportOptions(format="safetensors"), ".safetensors", 1.0),
    ],
)
def test_the_name_ends_with_what_the_file_is(form: ExportOptions, suffix: str, required: float) -> None:
    assert (form.suffix, form.required_agreement) == (suffix, required)


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        ({"format": "tflite"}, "--format tflite is unknown.*onnx, pt2, safetensors"),
        ({"precision": "int4"}, "--precision int4 is unknown.*fp32, fp16, int8"),
        ({"pixels": "hwcn"}, "--bake-preprocess hwcn is unknown.*nhwc, nchw"),
        ({"format": "pt2", "precision": "int8"}, "--precision int8 is for ONNX"),
        ({"format": "pt2", "opset": 20}, "--opset 20 is for ONNX"),
        ({"format": "safetensors", "static": True}, "Remove --static"),
        ({"static": True, "dynamic_size": True}, "contradict"),
        ({"opset": 17}, "--opset 17 is older"),
    ],
)
def test_wishes_that_do_not_go_together_are_refused(wishes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=f"(?s){said}"):
        ExportOptions(**wishes)


@pytest.mark.parametrize("order", ["nhwc", "nchw"])
def test_baked_preprocessing_is_that_of_the_images(order: Any) -> None:
    images = pixels(3, 8)
    shown = images.permute(0, 2, 3, 1) if order == "nhwc" else images
    torch.testing.assert_close(
        FromPixels(torch.nn.Identity(), preprocess(8), order)(shown), normalise(images, preprocess(8))
    )


def test_only_what_is_known_is_told() -> None:
    assert source_facts(None, "small") == {"student": "small"}
    assert source_facts("big", "small", ["teacher", "student"], "ab", ["cat", "grün"]) == {
        "teacher": "big",
        "student": "small",
        "blocks": '["teacher", "student"]',
        "images_sha256": "ab",
        "classes": '["cat", "grün"]',
    }
