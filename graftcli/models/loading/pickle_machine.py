"""A simulation of torch's restricted unpickler: it counts what a pickle would build, and builds nothing.

`Machine` follows a pickle instruction by instruction on imagined values. It raises `TooMuch` where the pickle would
take more time or memory than any checkpoint needs, and `NotTorch` where torch itself refuses the pickle.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from graftcli.models.loading.file_bounds import DEEPEST

_MOST_STEPS = 2_000_000  # instructions of a pickle; a network of 10,000 tensors with its optimiser has 1,400,000
_MOST_WORK = 5_000_000  # values that are hashed or copied while a pickle is loaded

_PUTS, _GETS = ("BINPUT", "LONG_BINPUT"), ("BINGET", "LONG_BINGET")
# all atoms that torch's restricted unpickler knows
_ATOMS = frozenset({"NONE", "NEWFALSE", "NEWTRUE", "BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1"})
_ATOMS |= {"BINUNICODE", "SHORT_BINSTRING"}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "TUPLE": None}
_REBUILDS = (
    *("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter"),
    *("_rebuild_parameter_with_state", "_rebuild_qtensor", "_rebuild_sparse_tensor", "_rebuild_meta_tensor_no_storage"),
)


class TooMuch(Exception):
    """What a pickle would do that no checkpoint needs."""


class NotTorch(Exception):
    """An instruction that torch's restricted unpickler does not have."""


class _Made:
    """A container or an object of a pickle that is only imagined: how deep it is, and how much there is in it."""

    __slots__ = ("depth", "items", "weight")

    def __init__(self, held: Sequence[Any] = ()) -> None:
        self.depth, self.weight = 0, 1
        self.items = tuple(held[:8])
        self.hold(held)

    def hold(self, more: Sequence[Any]) -> None:
        for value in more:
            self.weight = min(self.weight + _weight(value), _MOST_WORK + 1)
            if isinstance(value, _Made) and value.depth >= self.depth:
                self.depth = value.depth + 1
        if self.depth > DEEPEST:
            raise TooMuch(f"its containers are nested more than {DEEPEST:,} deep")


class _Named(str):
    """A function or class that a pickle names."""


def _weight(value: Any) -> int:
    """How much work it is to hash or copy a value."""
    if isinstance(value, _Made):
        return value.weight
    return 1 + len(value) // 64 if isinstance(value, str | bytes) else 1


class Machine:
    """torch's restricted unpickler, instruction by instruction, on imagined values."""

    def __init__(self) -> None:
        self.steps = self.work = 0
        self.storages: set[str] = set()  # the keys of all tensors' data

    def run(self, steps: Iterator[tuple[Any, Any, Any]]) -> Any:
        """The imagined value of one pickle."""
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        memo: dict[int, Any] = {}
        for op, argument, _ in steps:
            self.steps += 1
            if self.steps > _MOST_STEPS:
                raise TooMuch(f"its pickle has more than {_MOST_STEPS:,} instructions")
            name = op.name
            if name in _PUTS:
                memo[argument] = self.stack[-1]
            elif name in _GETS:
                self.stack.append(memo[argument])
            elif name in _ATOMS:
                self.stack.append(argument)
            elif name in _TUPLES:
                self._tuple(_TUPLES[name])
            elif name == "GLOBAL":
                self.stack.append(_Named(argument.replace(" ", ".").replace("__builtin__", "builtins")))
            elif name == "STOP":
                return self.stack.pop()
            elif name != "PROTO":
                getattr(self, f"_{name.lower()}", self._unknown)()
        raise EOFError("its pickle has no end")

    def _unknown(self) -> NoReturn:
        raise NotTorch

    def _marked(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def _did(self, weight: int) -> None:
        self.work += weight
        if self.work > _MOST_WORK:
            raise TooMuch("its pickle copies or compares its own values far more often than a checkpoint does")

    def _mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def _tuple(self, count: int | None = None) -> None:
        items = self._marked() if count is None else [self.stack.pop() for _ in range(count)][::-1]
        self.stack.append(_Made(items))

    def _empty_list(self) -> None:
        self.stack.append(_Made())

    _empty_dict = _empty_set = _empty_list

    def _append(self) -> None:
        item = self.stack.pop()
        self._holder().hold([item])

    def _appends(self) -> None:
        items = self._marked()
        self._holder().hold(items)

    def _setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._did(_weight(key))
        self._holder().hold((key, value))

    def _setitems(self) -> None:
        items = self._marked()
        for key in items[::2]:
            self._did(_weight(key))
        self._holder().hold(items)

    def _holder(self) -> _Made:
        if not isinstance(self.stack[-1], _Made):
            raise NotTorch
        return self.stack[-1]

    def _binpersid(self) -> None:
        given = self.stack.pop()
        if isinstance(given, _Made) and len(given.items) > 2:
            self.storages.add(str(given.items[2]))
        self.stack.append(_Made())

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack.append(self._called(self.stack.pop(), arguments))

    _newobj = _reduce

    def _build(self) -> None:
        self._did(_weight(self.stack.pop()))

    def _called(self, function: Any, arguments: Any) -> _Made:
        if not isinstance(function, _Named) or not isinstance(arguments, _Made):
            raise NotTorch
        self._did(_weight(arguments))
        items = arguments.items
        if function == "builtins.bytearray" and items and isinstance(items[0], int):
            self._did(abs(items[0]) // 64)
        if not _is_harmless(function, items):
            raise TooMuch(f"its pickle calls {function} in a way that no checkpoint needs")
        return _Made([arguments])


def _is_harmless(function: str, items: tuple[Any, ...]) -> bool:
    """Whether a call cannot take more memory or time than its arguments; what torch does not load is left to it."""
    home, _, name = function.rpartition(".")
    if home.startswith("numpy"):
        return _is_harmless_array(home, name, items)
    if function == "_codecs.encode":
        return len(items) == 1 or items[1] in ("latin1", "utf-8")
    if name == "_rebuild_from_type_v2":
        return isinstance(items[0], _Named) and items[0].rpartition(".")[2] in _REBUILDS
    if name.endswith(("Tensor", "Storage")):
        return not items
    return home != "torch._utils" or name in _REBUILDS


def _is_harmless_array(home: str, name: str, items: tuple[Any, ...]) -> bool:
    if name == "_reconstruct":
        return len(items) > 1 and isinstance(items[1], _Made) and items[1].items == (0,)
    if name == "scalar":
        return len(items) == 2
    return home == "numpy.dtypes" or (name == "dtype" and isinstance(items[0], str) and len(items[0]) < 64)
