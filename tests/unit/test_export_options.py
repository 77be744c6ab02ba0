"""Options of an export: which go together, how the file is named, how near it must be to its network."""

from typing import Any

import pytest
import torch

from graftcli.errors import GateError, UsageError
from graftcli.formats.graph import FromPixels
from graftcli.formats.match import Match
from graftcli.formats.options import ExportOptions, source_facts
from graftcli.formats.parity import TOLERANCE, check_match
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
    ("wishes", "expected"),
    [
        ({"format": "tflite"}, "--format tflite is unknown.*onnx, pt2, safetensors"),
        ({"precision": "int4"}, "--precision int4 is unknown.*fp32, fp16, int8"),
        ({"pixels": "hwcn"}, "--bake-preprocess hwcn is unknown.*nhwc, nchw"),
        ({"format": "pt2", "precision": "int8"}, "--precision int8 is supported by ONNX"),
        ({"format": "pt2", "opset": 20}, "--opset 20 is supported by ONNX"),
        ({"format": "safetensors", "static": True}, "Remove --static"),
        ({"static": True, "dynamic_size": True}, "contradict"),
        ({"opset": 17}, "--opset 17 is older"),
    ],
)
def test_options_that_exclude_each_other_are_refused(wishes: dict[str, Any], expected: str) -> None:
    with pytest.raises(UsageError, match=f"(?s){expected}"):
        ExportOptions(**wishes)


@pytest.mark.parametrize("order", ["nhwc", "nchw"])
def test_baked_preprocessing_is_that_of_the_images(order: Any) -> None:
    images = pixels(3, 8)
    shown = images.permute(0, 2, 3, 1) if order == "nhwc" else images
    torch.testing.assert_close(
        FromPixels(torch.nn.Identity(), preprocess(8), order)(shown), normalise(images, preprocess(8))
    )


def test_only_known_facts_are_written() -> None:
    assert source_facts(None, "small") == {"student": "small"}
    assert source_facts("big", "small", ["teacher", "student"], "ab", ["cat", "grün"]) == {
        "teacher": "big",
        "student": "small",
        "blocks": '["teacher", "student"]',
        "images_sha256": "ab",
        "classes": '["cat", "grün"]',
    }


FAR, NEAR = 10 * TOLERANCE, TOLERANCE / 10


@pytest.mark.parametrize(
    ("form", "error", "agreement", "fix"),
    [
        (ExportOptions(), FAR, 1.0, "Try another --opset."),
        (ExportOptions(), NEAR, 0.99, "Try another --opset."),
        (ExportOptions(min_agreement=0.9), FAR, 1.0, "Try another --opset."),
        (ExportOptions(min_agreement=0.9), NEAR, 0.8, "Lower --min-agreement."),
        (ExportOptions(format="pt2"), FAR, 1.0, "Use --format onnx."),
        (ExportOptions(precision="int8"), FAR, 0.9, "Lower --min-agreement, or use a higher --precision."),
    ],
)
def test_the_fix_for_a_failed_parity_check_can_help(
    form: ExportOptions, error: float, agreement: float, fix: str
) -> None:
    with pytest.raises(GateError) as refused:
        check_match(Match(error, agreement, 100), form, False)
    assert refused.value.fix == f"Nothing was written. {fix}"


@pytest.mark.parametrize(
    ("form", "error"), [(ExportOptions(), NEAR), (ExportOptions(precision="int8", min_agreement=0.9), FAR)]
)
def test_a_file_that_is_near_enough_passes(form: ExportOptions, error: float) -> None:
    check_match(Match(error, 1.0 if form.precision == "fp32" else 0.9, 100), form, False)
