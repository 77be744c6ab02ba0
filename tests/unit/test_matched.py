"""Which of the teacher's channels a student's stand for, on channels written down by hand."""

from graftcli.graft.initialize.channel_matching import even, fill_unmatched, match_channels
from graftcli.models.channel_selection import ChannelSelection
from graftcli.models.channels.groups import IMAGES, ChannelGroups

LAYERS = {"a": "a", "b": "b"}


def chain(width: int, lost: bool = False) -> ChannelGroups:
    """Layer `b` reads what `a` makes of the images."""
    inner = tuple(range(2, 2 + width))
    out = (2 + width,)
    return ChannelGroups({IMAGES: (1,), "a": inner, "b": out}, {"a": (1,), "b": inner}, {}, {}, frozenset(inner * lost))


def test_a_reader_takes_what_the_maker_took_the_most_important_in_order() -> None:
    found = match_channels(chain(4), chain(2), LAYERS, {2: 0.1, 3: 0.4, 4: 0.2, 5: 0.3})
    assert found == (ChannelSelection("a", "a", (1, 3), (0,)), ChannelSelection("b", "b", (0,), (1, 3)))


def test_among_equals_the_first_stay() -> None:
    assert match_channels(chain(4), chain(2), LAYERS, {})[0].outputs == (0, 1)


def test_what_also_goes_where_nobody_follows_is_the_first() -> None:
    found = match_channels(chain(4, lost=True), chain(2), LAYERS, {2: 0.1, 3: 0.4, 4: 0.2, 5: 0.3})
    assert found[0].outputs == found[1].inputs == (0, 1)


def test_a_wider_student_is_given_nothing_there() -> None:
    assert match_channels(chain(2), chain(4), LAYERS, {}) == ()


def test_places_that_are_not_known_are_the_first_ones_left() -> None:
    assert fill_unmatched([None, 0, None, 3], 5) == (1, 0, 2, 3)


def test_units_lie_at_even_distance() -> None:
    assert [even(i, 3, 9) for i in range(3)] == [0, 4, 8]
    assert even(0, 1, 4) == 0
