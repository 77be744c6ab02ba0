"""Simulate torch's restricted unpickler to measure the cost of a pickle without building anything.

`PickleSimulator` runs a pickle instruction by instruction on placeholder values. It raises `OverLimit` if the pickle
needs more time or memory than any checkpoint does, and `NotSupportedByTorch` if torch itself refuses it.
"""

from collections.abc import Iterator, Sequence
from pickletools import OpcodeInfo
from typing import NoReturn

from graftcli.models.loading.file_bounds import MAX_DEPTH

_MAX_STEPS = 2_000_000  # instructions; a checkpoint of 10,000 tensors with optimizer state has 1,400,000
_MAX_WORK = 5_000_000  # values hashed or copied while loading

_PUTS, _GETS = ("BINPUT", "LONG_BINPUT"), ("BINGET", "LONG_BINGET")
# all constants that torch's restricted unpickler supports
_CONSTANTS = frozenset({"NONE", "NEWFALSE", "NEWTRUE", "BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1"})
_CONSTANTS |= {"BINUNICODE", "SHORT_BINSTRING"}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "TUPLE": None}
_REBUILDS = (
    *("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter"),
    *("_rebuild_parameter_with_state", "_rebuild_qtensor", "_rebuild_sparse_tensor", "_rebuild_meta_tensor_no_storage"),
)


class OverLimit(Exception):
    """The pickle exceeds a limit that no checkpoint reaches."""


class NotSupportedByTorch(Exception):
    """An instruction that torch's restricted unpickler does not support."""


class _Placeholder:
    """A placeholder for a container or object: its nesting depth and its size."""

    __slots__ = ("depth", "items", "weight")

    def __init__(self, items: Sequence[object] = ()) -> None:
        self.depth, self.weight = 0, 1
        self.items = tuple(items[:8])
        self.extend(items)

    def extend(self, more: Sequence[object]) -> None:
        """Add values to the container."""
        for value in more:
            self.weight = min(self.weight + _weight(value), _MAX_WORK + 1)
            if isinstance(value, _Placeholder) and value.depth >= self.depth:
                self.depth = value.depth + 1
        if self.depth > MAX_DEPTH:
            raise OverLimit(f"its containers are nested more than {MAX_DEPTH:,} deep")


class _GlobalName(str):
    """The name of a function or class in a pickle."""


def _weight(value: object) -> int:
    """The cost of hashing or copying a value."""
    if isinstance(value, _Placeholder):
        return value.weight
    return 1 + len(value) // 64 if isinstance(value, str | bytes) else 1


class PickleSimulator:
    """torch's restricted unpickler on placeholder values."""

    def __init__(self) -> None:
        self.steps = self.work = 0
        self.storages: set[str] = set()  # the keys of all tensor storages

    def run(self, steps: Iterator[tuple[OpcodeInfo, object, int | None]]) -> object:
        """Run one pickle and return its placeholder value."""
        self.stack: list[object] = []
        self.outer_stacks: list[list[object]] = []
        memo: dict[object, object] = {}
        for op, argument, _ in steps:
            self.steps += 1
            if self.steps > _MAX_STEPS:
                raise OverLimit(f"its pickle has more than {_MAX_STEPS:,} instructions")
            name = op.name
            if name in _PUTS:
                memo[argument] = self.stack[-1]
            elif name in _GETS:
                self.stack.append(memo[argument])
            elif name in _CONSTANTS:
                self.stack.append(argument)
            elif name in _TUPLES:
                self._tuple(_TUPLES[name])
            elif name == "GLOBAL":
                self.stack.append(_GlobalName(str(argument).replace(" ", ".").replace("__builtin__", "builtins")))
            elif name == "STOP":
                return self.stack.pop()
            elif name != "PROTO":
                getattr(self, f"_{name.lower()}", self._unknown)()
        raise EOFError("its pickle has no end")

    def _unknown(self) -> NoReturn:
        raise NotSupportedByTorch

    def _pop_items(self) -> list[object]:
        items, self.stack = self.stack, self.outer_stacks.pop()
        return items

    def _add_work(self, weight: int) -> None:
        self.work += weight
        if self.work > _MAX_WORK:
            raise OverLimit("its pickle copies or compares its values far more often than a checkpoint does")

    def _mark(self) -> None:
        self.outer_stacks.append(self.stack)
        self.stack = []

    def _tuple(self, count: int | None = None) -> None:
        items = self._pop_items() if count is None else [self.stack.pop() for _ in range(count)][::-1]
        self.stack.append(_Placeholder(items))

    def _empty_list(self) -> None:
        self.stack.append(_Placeholder())

    _empty_dict = _empty_set = _empty_list

    def _append(self) -> None:
        item = self.stack.pop()
        self._container().extend([item])

    def _appends(self) -> None:
        items = self._pop_items()
        self._container().extend(items)

    def _setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._add_work(_weight(key))
        self._container().extend((key, value))

    def _setitems(self) -> None:
        items = self._pop_items()
        for key in items[::2]:
            self._add_work(_weight(key))
        self._container().extend(items)

    def _container(self) -> _Placeholder:
        if not isinstance(self.stack[-1], _Placeholder):
            raise NotSupportedByTorch
        return self.stack[-1]

    def _binpersid(self) -> None:
        storage_id = self.stack.pop()
        if isinstance(storage_id, _Placeholder) and len(storage_id.items) > 2:
            self.storages.add(str(storage_id.items[2]))
        self.stack.append(_Placeholder())

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack.append(self._call(self.stack.pop(), arguments))

    _newobj = _reduce

    def _build(self) -> None:
        self._add_work(_weight(self.stack.pop()))

    def _call(self, function: object, arguments: object) -> _Placeholder:
        if not isinstance(function, _GlobalName) or not isinstance(arguments, _Placeholder):
            raise NotSupportedByTorch
        self._add_work(_weight(arguments))
        items = arguments.items
        if function == "builtins.bytearray" and items and isinstance(items[0], int):
            self._add_work(abs(items[0]) // 64)
        if not _is_harmless(function, items):
            raise OverLimit(f"its pickle calls {function} in a way that no checkpoint needs")
        return _Placeholder([arguments])


def _is_harmless(function: str, items: tuple[object, ...]) -> bool:
    """Whether a call needs no more memory or time than its arguments; torch refuses names it does not allow."""
    module, _, name = function.rpartition(".")
    if module.startswith("numpy"):
        return _is_harmless_array(module, name, items)
    if function == "_codecs.encode":
        return len(items) == 1 or items[1] in ("latin1", "utf-8")
    if name == "_rebuild_from_type_v2":
        return isinstance(items[0], _GlobalName) and items[0].rpartition(".")[2] in _REBUILDS
    if name.endswith(("Tensor", "Storage")):
        return not items
    return module != "torch._utils" or name in _REBUILDS


def _is_harmless_array(module: str, name: str, items: tuple[object, ...]) -> bool:
    if name == "_reconstruct":
        return len(items) > 1 and isinstance(items[1], _Placeholder) and items[1].items == (0,)
    if name == "scalar":
        return len(items) == 2
    return module == "numpy.dtypes" or (name == "dtype" and isinstance(items[0], str) and len(items[0]) < 64)
