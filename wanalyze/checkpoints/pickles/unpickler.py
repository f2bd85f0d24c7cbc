"""A pickle carried out by hand: no name in it is looked up in a module, no class made, no function of it called.

Python's own unpickler is not used even with its names restricted. It hashes and sets attributes on what the file says:
a key of tuples that each hold the one before twice is never done, one nested deeply enough ends the process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from wanalyze.checkpoints.pickles.opcodes import FORGED, MOST, Argument, Refused, instructions
from wanalyze.checkpoints.pickles.refusals import refuse_name

_DEEPEST = 500  # containers in one another; Python's own pickler gives up at about as many
_LARGEST_KEY = 2**60  # larger whole numbers can be made to collide in a dict
_KEYS = (str, int, float, bool, bytes, type(None))

Arguments: TypeAlias = tuple[object, ...]


@dataclass(frozen=True, eq=False)
class Maker:
    """What a name stands for that the pickle may call, with a function of ours instead.

    `is_record`: a class of which the pickle may make an object; it gets a `Record` of what it puts into it.
    """

    name: str
    make: Callable[[Arguments], object] | None = None
    is_record: bool = False


@dataclass(eq=False)
class Record:
    """An object of a class called `name`, as a heap of fields."""

    name: str
    fields: Mapping[object, object] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Other:
    """A value that is known to do no harm and of no interest."""

    name: str


Names: TypeAlias = Mapping[str, object]
Persistent: TypeAlias = Callable[[object], object]


def no_storage(_: object) -> object:
    """For pickles that have no storages beside them."""
    raise Refused(f"its pickle refers to a storage, of which it has none; {FORGED}")


def load(data: bytes, names: Names, persistent: Persistent = no_storage, *, most: int = MOST) -> object:
    """The value of a pickle; Refused where it wants more than dicts, lists, tuples, plain values and `names`.

    `names` maps "module.name" to what it stands for, a `Maker` where it may be called. `persistent` turns the
    pickle's own references, such as those to storages, into values. OrderedDicts become dicts, sets lists.
    """
    machine = _Machine(names, persistent)
    try:
        for name, argument in instructions(data, most):
            _HANDLERS[name](machine, argument)
        return machine.pop()
    except (IndexError, KeyError):  # of its own stack and memo
        raise Refused(f"its pickle takes what it never put down; {FORGED}") from None


class _Machine:
    def __init__(self, names: Names, persistent: Persistent) -> None:
        self.names, self.persistent = names, persistent
        self.stack: list[object] = []
        self.marked: list[list[object]] = []
        self.memo: dict[int, object] = {}

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self) -> object:
        return self.stack.pop()

    def mark(self) -> None:
        if len(self.marked) >= _DEEPEST:
            raise Refused(f"its pickle nests more than {_DEEPEST} containers; {FORGED}")
        self.marked.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[object]:
        found, self.stack = self.stack, self.marked.pop()
        return found

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def extend(self, items: list[object]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise Refused(f"its pickle appends to what is no list; {FORGED}")
        target.extend(items)

    def set_items(self, items: list[object]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise Refused(f"its pickle sets items of what is no dict; {FORGED}")
        for key in items[::2]:
            if type(key) not in (*_KEYS, Record) or (type(key) is int and abs(key) > _LARGEST_KEY):
                raise Refused(f"its pickle has a key that is no text and no plain number; {FORGED}")
        target.update(zip(items[::2], items[1::2], strict=True))

    def remember(self, index: int) -> None:
        if index > len(self.memo):
            raise Refused(f"its pickle numbers a value {index}, though it has {len(self.memo)} so far; {FORGED}")
        self.memo[index] = self.stack[-1]

    def look_up(self, module: object, name: object) -> None:
        if type(module) is not str or type(name) is not str:
            raise Refused(f"its pickle refers to a name that is no text; {FORGED}")
        full = f"{module}.{name}"
        if full not in self.names:
            refuse_name(full)
        self.push(self.names[full])

    def call(self) -> None:
        arguments, maker = self.pop(), self.pop()
        if type(maker) is not Maker or maker.make is None or type(arguments) is not tuple:
            raise Refused(f"its pickle calls {_called(maker)}, which no state dict does; {FORGED}")
        self.push(maker.make(arguments))

    def new(self) -> None:
        arguments, maker = self.pop(), self.pop()
        if type(maker) is not Maker or not maker.is_record or arguments != ():
            raise Refused(f"its pickle makes an object of {_called(maker)}, which no state dict does; {FORGED}")
        self.push(Record(maker.name))

    def build(self) -> None:
        """Set the attributes of an object: kept of records, dropped of a dict (an OrderedDict's `_metadata`)."""
        state, target = self.pop(), self.stack[-1]
        if type(target) is Record:
            # Not copied: one dict of many items can be the state of every object.
            target.fields = state if type(state) is dict else {"state": state}
        elif type(target) not in (dict, Other):
            raise Refused(f"its pickle sets attributes of {_called(target)}, which no state dict does; {FORGED}")


def _called(value: object) -> str:
    return value.name if isinstance(value, (Maker, Record, Other)) else f"a {type(value).__name__}"


_HANDLERS: dict[str, Callable[[_Machine, Argument], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, _: None),
    **dict.fromkeys(
        (
            *("BININT1", "BININT2", "BININT", "LONG1", "BINFLOAT"),
            *("BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES"),
        ),
        lambda machine, value: machine.push(value),
    ),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "MARK": lambda machine, _: machine.mark(),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_SET": lambda machine, _: machine.push([]),  # hashing what the file holds may never end
    "APPEND": lambda machine, _: machine.extend([machine.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "ADDITEMS": lambda machine, _: machine.extend(machine.since_mark()),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "SETITEM": lambda machine, _: machine.set_items([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
    "BINPUT": lambda machine, index: machine.remember(index),
    "LONG_BINPUT": lambda machine, index: machine.remember(index),
    "BINGET": lambda machine, index: machine.push(machine.memo[index]),
    "LONG_BINGET": lambda machine, index: machine.push(machine.memo[index]),
    "GLOBAL": lambda machine, pair: machine.look_up(*pair),
    "STACK_GLOBAL": lambda machine, _: machine.look_up(*[machine.pop(), machine.pop()][::-1]),
    "BINPERSID": lambda machine, _: machine.push(machine.persistent(machine.pop())),
    "REDUCE": lambda machine, _: machine.call(),
    "NEWOBJ": lambda machine, _: machine.new(),
    "BUILD": lambda machine, _: machine.build(),
}
