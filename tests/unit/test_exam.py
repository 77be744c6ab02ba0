"""Whether a file is near enough to its network, and what can be done where it is not."""

import pytest

from graftcli.errors import GateError
from graftcli.formats.options import ExportOptions
from graftcli.formats.parity import TOLERANCE, Match, check_match

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
def test_what_can_be_done_about_a_file_that_fails_is_something_that_helps(
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
