"""Wording that messages share."""

import pytest

from graftcli.errors import few


@pytest.mark.parametrize(
    ("names", "said"),
    [([], ""), (["a"], "a"), (["a", "b", "c"], "a, b, c"), (["a", "b", "c", "d", "e"], "a, b, c and 2 more")],
)
def test_many_names_are_told_by_the_first(names: list[str], said: str) -> None:
    assert few(names) == said
    assert few(names, 10) == ", ".join(names)
