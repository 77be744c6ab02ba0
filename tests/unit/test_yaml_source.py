"""YAML with line and column of each node, and what is refused."""

import pytest

from graftcli.recipe.yaml_source import YamlSource, read, scalar


def source(text: str) -> YamlSource:
    return read(text, lambda line: f"f:{line}")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("2.5E-4", 2.5e-4),
        ("1e+3", 1e3),
        (".5", 0.5),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("-7", -7),
        ("+7", 7),
        ("007", 7),
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("yes", "yes"),
        ("on", "on"),
        ("True", "True"),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("12:30", "12:30"),
        ("2020-01-01", "2020-01-01"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        (".", "."),
        ("e3", "e3"),
        ("1e", "1e"),
        ("9" * 5000, float("inf")),
    ],
)
def test_a_scalar_means_what_it_looks_like(text: str, value: object) -> None:
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


def test_quoted_text_stays_text() -> None:
    assert source("a: '1e-3'\nb: \"true\"\nc: |\n  12\n").data == {"a": "1e-3", "b": "true", "c": "12\n"}


def test_each_piece_knows_its_line() -> None:
    read_ = source("# head\na: 1\nb:\n  - c: 2\n    d:\n      [3,\n       4]\n")
    assert read_.data == {"a": 1, "b": [{"c": 2, "d": [3, 4]}]}
    assert {loc: int(where[2:]) for loc, where in read_.where.items()} == {
        (): 1,
        ("a",): 2,
        ("b",): 3,
        ("b", 0): 4,
        ("b", 0, "c"): 4,
        ("b", 0, "d"): 5,
        ("b", 0, "d", 0): 6,
        ("b", 0, "d", 1): 7,
    }
    assert read_.place(("b", 0, "absent", "below")) == "f:4"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: 1\nb: 2\na: 3", "f:3: `a` is given twice, first at f:1"),
        ("x:\n  - {b: 1, b: 2}", "f:2: `x.0.b` is given twice, first at f:2"),
        ("a: &x 1\nb: *x", "f:1: `b` is an alias (&, *), which recipes do not support: write the value out"),
        ("a: &x [*x]", "f:1: `a.0` is an alias (&, *), which recipes do not support: write the value out"),
        (
            "a: !!python/object/apply:os.system [ls]",
            "f:1: `a` has the tag tag:yaml.org,2002:python/object/apply:os.system",
        ),
        ("? [1, 2]\n: 3", "f:1: the recipe has a key that is not a word"),
        ("a:\n\t- 1", "f:2: the recipe cannot be read: while scanning"),
        (
            "a: 1\nb: [1,\nc: 2\nd: 3",
            "f:4: the recipe cannot be read: while parsing a flow sequence that starts at f:2",
        ),
        ("a: 1\n---\nb: 2", "f:2: the recipe cannot be read: expected a single document"),
        ("a: *nobody", "f:1: the recipe cannot be read: found undefined alias 'nobody'"),
        ("a: 1\nb: \x01", "f:2: the recipe has the character '\\x01': remove it"),
        ("[" * 20_000, "f:1: the recipe is nested too deeply"),
    ],
)
def test_what_is_not_read_is_one_fault_with_its_line(text: str, fault: str) -> None:
    found = source(text).faults
    assert len(found) == 1
    assert str(found[0]).startswith(fault)


def test_all_faults_are_found_at_once() -> None:
    assert [fault.where for fault in source("a: !x 1\na: 2\nb: &y 3\nc: *y").faults] == ["f:1", "f:2", "f:3"]


def test_a_yaml_anchor_bomb_is_read_in_linear_time() -> None:
    lines = ["a0: &a0 [1, 1]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    assert len(source("\n".join(lines)).faults) == 29 * 9


def test_put_replaces_what_is_there_with_its_places_and_makes_the_maps_on_the_way() -> None:
    read_ = source("a: {b: [1, 2]}\nc:\n")
    read_.put(("a", "b"), read("[3]", lambda _: "--set a.b=[3]"))
    read_.put(("c", "d", "e"), read("4", lambda _: "--set c.d.e=4"))
    assert read_.data == {"a": {"b": [3]}, "c": {"d": {"e": 4}}}
    assert read_.place(("a", "b", 0)) == "--set a.b=[3]"
    assert ("a", "b", 1) not in read_.where
    assert (read_.place(("c",)), read_.place(("c", "d")), read_.place(("a",))) == ("f:2", "--set c.d.e=4", "f:1")
