"""A reader of pickles that runs nothing: it walks the opcodes, and builds values, arrays and inert records.

`pickle.load` imports and calls whatever a file names. Here a class is a name (`Name`), an object of it a record of its
attributes (`Record`), and of what would be called only the list in `_CALLS` is, by functions of this module. The
opcodes are those of protocols 0 to 5 (PEP 3154, PEP 574, and the comments of CPython's pickletools.py).

`str` of Python 2 is read as latin-1, which loses nothing: words are text in such files, and numpy's bytes come back
whole.
"""

from __future__ import annotations

import codecs
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from captionkit.adopt.errors import AdoptError


class PickleError(AdoptError):
    """A pickle that cannot be read. `at` is the byte where reading stopped."""

    def __init__(self, message: str, at: int = 0) -> None:
        super().__init__(message)
        self.at = at


class CutError(PickleError):
    """The pickle ends before its end."""


class CallError(PickleError):
    """The pickle would call what captionkit does not."""


class Unordered(list[Any]):
    """A set or frozenset: its values are in no order that means anything."""


@dataclass(frozen=True)
class PickleLimits:
    """What one pickle may cost."""

    objects: int = 4_000_000
    """Values made. A vocabulary has some 20,000; each takes at most some 250 bytes."""
    seconds: float = 60.0
    """Time to read it."""
    depth: int = 200
    """Containers within containers. A network of modules has some 40."""
    nbytes: int = 2**30
    """Bytes of all arrays together."""


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle names; it is never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Record:
    """An object of a class that is not imported: its attributes, and what it holds as a list or dictionary."""

    kind: Name
    attributes: dict[Any, Any] = field(default_factory=dict)
    items: list[Any] = field(default_factory=list)
    entries: dict[Any, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Persistent:
    """What a pickle names and keeps elsewhere: a storage of PyTorch."""

    key: Any


@dataclass(eq=False)
class StoredTensor:
    """A tensor of PyTorch by its storage: `offset`, `size` and `stride` count elements."""

    storage: Persistent
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(eq=False)
class _Array:
    """numpy's array in the making: `_reconstruct` gives it, BUILD fills it."""

    value: Any = None


@dataclass(eq=False)
class _DType:
    """numpy's dtype in the making."""

    code: str
    order: str = "|"

    def numpy(self) -> np.dtype[Any]:
        if self.code[:1] not in tuple("fiubcSUO") or len(self.code) > 12:
            raise PickleError(f"an array of the type {self.code!r:.40} cannot be read")
        made: np.dtype[Any] = np.dtype(self.code)
        return made.newbyteorder(">") if self.order == ">" else made


_MARK = object()
_KEYS = (str, bytes, int, float, bool, type(None), Name, Record, Persistent, StoredTensor)
_LARGEST_KEY = 2**53
"""Of numbers as keys: Python's hash tables are slow to fill with larger ones that were chosen for it."""
_LONGEST_NUMBER = 1024


def read_pickle(data: bytes | memoryview, start: int = 0, limits: PickleLimits | None = None) -> tuple[Any, int]:
    """The value of the pickle that begins at a byte, and the byte after its end.

    Raises:
        CutError: the data end before the pickle does.
        PickleError: it is damaged, too large, too deep, or would call what is not on the list; the message names that.
    """
    reader = _Reader(data, start, limits or PickleLimits())
    try:
        value = reader.run()
    except PickleError as err:
        err.at = err.at or reader.at
        raise
    except CALL_FAULTS as err:
        raise PickleError(f"a damaged pickle: byte {reader.at} cannot be what it is ({type(err).__name__})") from err
    return value, reader.at


CALL_FAULTS = (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, struct.error, MemoryError)
"""What damaged opcodes and arguments raise."""


class _Reader:
    def __init__(self, data: bytes | memoryview, start: int, limits: PickleLimits) -> None:
        self.data, self.at, self.limits = memoryview(data), start, limits
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.objects = self.nbytes = 0
        self.end = time.monotonic() + limits.seconds

    def run(self) -> Any:
        data, opcodes, stack = self.data, _OPCODES, self.stack
        size = len(data)
        steps = 0
        while True:
            if self.at >= size:
                raise CutError(f"the pickle is cut: it has no end within {size:,} bytes", self.at)
            opcode = data[self.at]
            self.at += 1
            steps += 1
            if opcode == 0x2E:  # STOP
                if len(stack) != 1:
                    raise PickleError(f"a damaged pickle: it ends at byte {self.at} with {len(stack)} values")
                value = self.finish(stack[0])
                self.check_depth(value)
                return value
            run = opcodes.get(opcode)
            if run is None:
                raise PickleError(f"not a pickle, or a damaged one: byte {self.at - 1} is {opcode:#04x}, no opcode")
            run(self)
            self.spend(1)
            if steps % 4096 == 0:
                self.check_time()

    # reading

    def take(self, count: int) -> memoryview:
        if count < 0 or count > len(self.data) - self.at:
            raise CutError(
                f"the pickle is cut: it needs at least {self.at + max(count, 0):,} bytes and has {len(self.data):,}",
                self.at,
            )
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form: str) -> int:
        return int(struct.unpack(form, self.take(struct.calcsize(form)))[0])

    def line(self) -> bytes:
        end = self.at
        step = 4096
        while True:  # a memoryview cannot search
            length = bytes(self.data[end : end + step]).find(b"\n")
            if length >= 0:
                return bytes(self.take(end + length + 1 - self.at)[:-1])
            if end >= len(self.data):
                raise CutError("the pickle is cut within a line", self.at)
            end += step

    def spend(self, objects: int, nbytes: int = 0) -> None:
        """Count what was made, copies too: a few bytes of a pickle can copy what it has kept, again and again."""
        self.objects += objects
        self.nbytes += nbytes
        if self.objects > self.limits.objects:
            raise PickleError(f"the pickle makes more than {self.limits.objects:,} values")
        if self.nbytes > self.limits.nbytes:
            raise PickleError(f"the pickle's arrays have more than {self.limits.nbytes:,} bytes")

    def check_time(self) -> None:
        if time.monotonic() > self.end:
            raise PickleError(f"the pickle takes longer than {self.limits.seconds:g} s to read")

    def check_depth(self, value: Any) -> None:
        """Level by level, each container once: shared and circular ones cost no more."""
        seen, level = {id(value)}, [value]
        for _ in range(self.limits.depth):
            self.check_time()
            after = []
            for one in level:
                for child in children(one):
                    if id(child) not in seen and isinstance(child, (list, tuple, dict, Record)):
                        seen.add(id(child))
                        after.append(child)
            if not after:
                return
            level = after
        raise PickleError(f"the pickle is nested more than {self.limits.depth} deep")

    # the stack

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise PickleError(f"a damaged pickle: byte {self.at - 1} wants a value that is not there")
        return self.stack.pop()

    def top(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise PickleError(f"a damaged pickle: byte {self.at - 1} wants a value that is not there")
        return self.stack[-1]

    def pop_mark(self) -> list[Any]:
        stack = self.stack
        for place in range(len(stack) - 1, -1, -1):
            if stack[place] is _MARK:
                values = [self.finish(value) for value in stack[place + 1 :]]
                del stack[place:]
                return values
        raise PickleError(f"a damaged pickle: byte {self.at - 1} wants a mark that is not there")

    def finish(self, value: Any) -> Any:
        """The value for one that was in the making."""
        return value.value if isinstance(value, _Array) else value

    def get(self, key: int) -> None:
        if key not in self.memo:
            raise PickleError(f"a damaged pickle: byte {self.at - 1} wants value {key}, which was not kept")
        self.stack.append(self.memo[key])

    def pop_finished(self) -> Any:
        return self.finish(self.pop())

    # containers

    def set_items(self, pairs: list[Any]) -> None:
        target = self.top()
        into = target.entries if isinstance(target, Record) else target
        if not isinstance(into, dict) or len(pairs) % 2:
            raise PickleError(f"a damaged pickle: byte {self.at - 1} sets items of what has none")
        for place in range(0, len(pairs), 2):
            into[self.key(pairs[place])] = pairs[place + 1]
            if place % 1024 == 0:
                self.check_time()

    def key(self, key: Any) -> Any:
        if isinstance(key, tuple) and len(key) < 10 and all(isinstance(one, _KEYS) for one in key):
            return key
        if not isinstance(key, _KEYS):
            raise PickleError(f"a damaged pickle: a {type(key).__name__} as a key, before byte {self.at}")
        if isinstance(key, (int, float)) and not abs(key) < _LARGEST_KEY:
            raise PickleError(f"a key of the pickle is too large a number, before byte {self.at}")
        return key

    def append(self, values: list[Any]) -> None:
        target = self.top()
        into = target.items if isinstance(target, Record) else target
        if not isinstance(into, list):
            raise PickleError(f"a damaged pickle: byte {self.at - 1} appends to what is no list")
        into.extend(values)

    # objects

    def make_object(self, kind: Any, args: Any) -> Any:
        """`kind.__new__(kind, *args)`: a record, or what a name of `_CALLS` makes."""
        if not isinstance(kind, Name) or not isinstance(args, tuple):
            raise PickleError(f"a damaged pickle: byte {self.at - 1} makes an object of no class")
        if (call := _CALLS.get(canonical(kind))) is not None:
            return call(self, args)
        return Record(kind)

    def reduce(self) -> None:
        args, function = self.pop_finished(), self.pop()
        if not isinstance(function, Name) or not isinstance(args, tuple):
            raise PickleError(f"a damaged pickle: byte {self.at - 1} calls what is no function")
        call = _CALLS.get(canonical(function))
        self.spend(sum(len(one) for one in args if isinstance(one, (list, tuple, dict))))
        if call is None:
            raise CallError(
                f"the pickle would call {function}, which captionkit does not do: it reads vocabularies and weights; "
                "save those alone (a dictionary or JSON of words, a state_dict), and give that"
            )
        self.stack.append(call(self, args))

    def instance(self, kind: Any, args: list[Any]) -> None:
        if args and not (isinstance(kind, Name) and canonical(kind) in _CALLS):
            raise CallError(f"the pickle would call {kind} with arguments, which captionkit does not do")
        self.stack.append(self.make_object(kind, tuple(args)))

    def build(self) -> None:
        state, target = self.pop_finished(), self.top()
        if isinstance(target, Record):
            slots = None
            if isinstance(state, tuple) and len(state) == 2:
                state, slots = state
            for part in (state, slots):
                if isinstance(part, dict):
                    self.spend(len(part))
                    target.attributes.update(part)
                elif part is not None:
                    target.attributes["state"] = part
        elif isinstance(target, _Array):
            target.value = self.array(state)
        elif isinstance(target, _DType):
            if isinstance(state, tuple) and len(state) > 4 and state[3] is None and state[4] is None:
                target.order = str(state[1])
            else:
                raise PickleError("an array of records cannot be read")
        elif isinstance(target, StoredTensor) or (isinstance(target, dict) and isinstance(state, dict)):
            pass  # attributes of a tensor, or of an OrderedDict (a state dict's _metadata)
        else:
            raise PickleError(f"a damaged pickle: byte {self.at - 1} sets attributes of a {type(target).__name__}")

    def array(self, state: Any) -> Any:
        """numpy's (version, shape, dtype, is Fortran order, data)."""
        _, shape, dtype, fortran, data = state
        if isinstance(data, list):  # of objects
            return data
        return self.make_array(data, dtype, shape, "F" if fortran else "C")

    def make_array(self, data: Any, dtype: Any, shape: Any, order: str) -> Any:
        if isinstance(data, str):
            data = data.encode("latin-1")
        if isinstance(data, list) or not isinstance(dtype, _DType):
            raise PickleError("an array that cannot be read")
        kind = dtype.numpy()
        if kind.hasobject:
            raise PickleError("an array of objects cannot be read")
        self.spend(0, len(data))
        if order not in ("C", "F") or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise PickleError("an array that cannot be read")
        return np.frombuffer(data, kind).reshape(shape, order="F" if order == "F" else "C")


def children(value: Any) -> list[Any]:
    """The values in a container; of dictionaries the keys too."""
    if isinstance(value, dict):
        return [*value, *value.values()]
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, Record):
        return [value.attributes, value.items, value.entries]
    return []


def canonical(name: Name) -> str:
    """One spelling for the names that Python 2 and numpy 2 spell otherwise."""
    module = {"__builtin__": "builtins", "copy_reg": "copyreg", "UserDict": "collections"}.get(name.module, name.module)
    return f"{module}.{name.name}".replace("numpy._core.", "numpy.core.")


# what is called: each of these is a function of this module


def _dictionary(reader: _Reader, args: tuple[Any, ...]) -> dict[Any, Any]:
    """OrderedDict, Counter: () or (pairs or dictionary,)."""
    made: dict[Any, Any] = {}
    if args:
        pairs = args[0].items() if isinstance(args[0], dict) else args[0]
        for key, value in pairs:
            made[reader.key(key)] = value
    return made


def _default_dictionary(reader: _Reader, args: tuple[Any, ...]) -> dict[Any, Any]:
    """defaultdict: its first argument, what makes missing values, is never called."""
    return _dictionary(reader, args[1:])


def _set(reader: _Reader, args: tuple[Any, ...]) -> Unordered:
    """set, frozenset. PyTorch's modules hold some."""
    return Unordered(args[0]) if args else Unordered()


def _reconstructor(reader: _Reader, args: tuple[Any, ...]) -> Record:
    """copyreg._reconstructor(class, base, state): how protocols 0 and 1 make an object."""
    kind, base, state = args
    if not isinstance(kind, Name):
        raise PickleError("a damaged pickle: an object of no class")
    record = Record(kind)
    if isinstance(base, Name) and isinstance(state, dict):
        record.entries.update(state)
    elif isinstance(base, Name) and isinstance(state, list):
        record.items.extend(state)
    return record


def _newobj(reader: _Reader, args: tuple[Any, ...]) -> Any:
    return reader.make_object(args[0], tuple(args[1:]))


def _namespace(reader: _Reader, args: tuple[Any, ...]) -> Record:
    return Record(Name("argparse", "Namespace"))


def _encode(reader: _Reader, args: tuple[Any, ...]) -> bytes:
    """_codecs.encode(text, "latin1"): how protocol 2 of Python 3 writes bytes."""
    text, encoding = args if len(args) == 2 else (*args, "utf-8")
    if encoding not in ("latin1", "latin-1", "utf-8") or not isinstance(text, str):
        raise PickleError("a damaged pickle: bytes in no known encoding")
    reader.spend(0, 2 * len(text))
    return text.encode(encoding)


def _bytes(reader: _Reader, args: tuple[Any, ...]) -> bytes:
    """bytes(): how protocol 2 writes empty ones."""
    if args:
        raise CallError("the pickle would call bytes with arguments, which captionkit does not do")
    return b""


def _new_array(reader: _Reader, args: tuple[Any, ...]) -> _Array:
    return _Array()


def _new_dtype(reader: _Reader, args: tuple[Any, ...]) -> _DType:
    return _DType(str(args[0]))


def _scalar(reader: _Reader, args: tuple[Any, ...]) -> Any:
    """numpy's scalar(dtype, bytes), as Python's own value."""
    dtype, data = args
    if not isinstance(dtype, _DType):
        raise PickleError("a damaged pickle: a number of no type")
    return reader.make_array(data, dtype, (), "C").item()


def _from_buffer(reader: _Reader, args: tuple[Any, ...]) -> Any:
    """numpy's _frombuffer(bytes, dtype, shape, order), of protocol 5."""
    data, dtype, shape, order = args
    return reader.make_array(data, dtype, shape, order)


def _tensor(reader: _Reader, args: tuple[Any, ...]) -> StoredTensor:
    """torch._utils._rebuild_tensor_v2(storage, offset, size, stride, …)."""
    storage, offset, size, stride = args[:4]
    numbers = [offset, *size, *stride]
    if not isinstance(storage, Persistent) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise PickleError("a damaged pickle: a tensor without a storage")
    if len(size) != len(stride) or len(size) > 16:
        raise PickleError("a damaged pickle: a tensor's size and stride differ in length")
    return StoredTensor(storage, offset, tuple(size), tuple(stride))


def _parameter(reader: _Reader, args: tuple[Any, ...]) -> Any:
    return args[0]


def _size(reader: _Reader, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(args[0])


_CALLS: dict[str, Callable[[_Reader, tuple[Any, ...]], Any]] = {
    "collections.OrderedDict": _dictionary,
    "collections.Counter": _dictionary,
    "collections.defaultdict": _default_dictionary,
    "builtins.set": _set,
    "builtins.frozenset": _set,
    "builtins.bytes": _bytes,
    "copyreg._reconstructor": _reconstructor,
    "copyreg.__newobj__": _newobj,
    "argparse.Namespace": _namespace,
    "_codecs.encode": _encode,
    "numpy.core.multiarray._reconstruct": _new_array,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "numpy.dtype": _new_dtype,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": _size,
}
"""The functions that pickles of captioners call, and what stands in for each."""


# opcodes


def _text(reader: _Reader, data: memoryview | bytes) -> str:
    try:
        return str(data, "utf-8", "surrogatepass")
    except UnicodeDecodeError as err:
        raise PickleError(f"a damaged pickle: text that is not UTF-8, before byte {reader.at}") from err


def _push(value: Callable[[_Reader], Any]) -> Callable[[_Reader], None]:
    def run(reader: _Reader) -> None:
        reader.stack.append(value(reader))

    return run


def _whole_number(line: bytes) -> int | bool:
    if line == b"00":
        return False
    if line == b"01":
        return True
    if len(line) > _LONGEST_NUMBER:
        raise PickleError("a damaged pickle: a number of more than a thousand digits")
    return int(line.rstrip(b"L"))


def _long(reader: _Reader, count: int) -> int:
    if not 0 <= count <= _LONGEST_NUMBER:
        raise PickleError("a damaged pickle: a number of more than a thousand bytes")
    return int.from_bytes(reader.take(count), "little", signed=True)


def _quoted(line: bytes) -> str:
    """A `str` of Python 2 as its repr."""
    line = line.strip()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise PickleError("a damaged pickle: text without quotes")
    return codecs.escape_decode(line[1:-1])[0].decode("latin-1")


def _tuple_of(count: int) -> Callable[[_Reader], None]:
    def run(reader: _Reader) -> None:
        values = [reader.pop_finished() for _ in range(count)]
        reader.stack.append(tuple(reversed(values)))

    return run


def _stack_global(reader: _Reader) -> Name:
    name, module = reader.pop(), reader.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise PickleError("a damaged pickle: a name that is no text")
    return Name(module, name)


def _global(reader: _Reader) -> Name:
    return Name(_text(reader, reader.line()), _text(reader, reader.line()))


def _set_item(reader: _Reader) -> None:
    value, key = reader.pop_finished(), reader.pop_finished()
    reader.set_items([key, value])


def _append(reader: _Reader) -> None:
    value = reader.pop_finished()
    reader.append([value])


def _put(key: int, reader: _Reader) -> None:
    reader.memo[key] = reader.top()


def _instance(reader: _Reader) -> None:
    kind = _global(reader)
    reader.instance(kind, reader.pop_mark())


def _object(reader: _Reader) -> None:
    kind, *args = reader.pop_mark()
    reader.instance(kind, args)


def _new_object(reader: _Reader) -> None:
    args, kind = reader.pop_finished(), reader.pop()
    reader.stack.append(reader.make_object(kind, args))


def _new_object_by_name(reader: _Reader) -> None:
    named, args, kind = reader.pop_finished(), reader.pop_finished(), reader.pop()
    if named:
        raise PickleError(f"the pickle would make a {kind} with named arguments, which captionkit does not do")
    reader.stack.append(reader.make_object(kind, args))


def _pop(reader: _Reader) -> None:
    if not reader.stack:
        raise PickleError("a damaged pickle: it drops a value that is not there")
    reader.stack.pop()


def _persistent(reader: _Reader) -> Persistent | Name:
    key = reader.pop_finished()
    if isinstance(key, tuple) and len(key) > 1 and key[0] == "module" and isinstance(key[1], Name):
        return key[1]  # PyTorch's old format keeps the source of a module's class beside its name
    return Persistent(key)


def _refuse(what: str) -> Callable[[_Reader], None]:
    def run(reader: _Reader) -> None:
        raise PickleError(f"the pickle uses {what}, which no file of a captioner does")

    return run


_OPCODES: dict[int, Callable[[_Reader], None]] = {
    code[0]: run
    for code, run in {
        b"\x80": lambda r: _check_protocol(r.number("<B")),
        b"\x95": lambda r: _ignore([r.take(8)]),  # FRAME: a length, of no use to one who has the whole
        b"(": _push(lambda r: _MARK),
        b"0": _pop,
        b"1": lambda r: _ignore(r.pop_mark()),
        b"2": _push(lambda r: r.top()),
        b"N": _push(lambda r: None),
        b"\x88": _push(lambda r: True),
        b"\x89": _push(lambda r: False),
        b"I": _push(lambda r: _whole_number(r.line())),
        b"L": _push(lambda r: _whole_number(r.line())),
        b"F": _push(lambda r: float(r.line())),
        b"J": _push(lambda r: r.number("<i")),
        b"K": _push(lambda r: r.number("<B")),
        b"M": _push(lambda r: r.number("<H")),
        b"G": _push(lambda r: struct.unpack(">d", r.take(8))[0]),
        b"\x8a": _push(lambda r: _long(r, r.number("<B"))),
        b"\x8b": _push(lambda r: _long(r, r.number("<i"))),
        b"S": _push(lambda r: _quoted(r.line())),
        b"T": _push(lambda r: str(r.take(r.number("<i")), "latin-1")),
        b"U": _push(lambda r: str(r.take(r.number("<B")), "latin-1")),
        b"V": _push(lambda r: r.line().decode("raw-unicode-escape")),
        b"X": _push(lambda r: _text(r, r.take(r.number("<I")))),
        b"\x8c": _push(lambda r: _text(r, r.take(r.number("<B")))),
        b"\x8d": _push(lambda r: _text(r, r.take(r.number("<Q")))),
        b"B": _push(lambda r: bytes(r.take(r.number("<I")))),
        b"C": _push(lambda r: bytes(r.take(r.number("<B")))),
        b"\x8e": _push(lambda r: bytes(r.take(r.number("<Q")))),
        b"\x96": _push(lambda r: bytes(r.take(r.number("<Q")))),
        b"]": _push(lambda r: []),
        b"}": _push(lambda r: {}),
        b")": _push(lambda r: ()),
        b"\x8f": _push(lambda r: Unordered()),
        b"l": _push(lambda r: r.pop_mark()),
        b"t": _push(lambda r: tuple(r.pop_mark())),
        b"d": lambda r: _make_dictionary(r),
        b"\x91": _push(lambda r: Unordered(r.pop_mark())),
        b"\x85": _tuple_of(1),
        b"\x86": _tuple_of(2),
        b"\x87": _tuple_of(3),
        b"a": _append,
        b"e": lambda r: r.append(r.pop_mark()),
        b"\x90": lambda r: r.append(r.pop_mark()),
        b"s": _set_item,
        b"u": lambda r: r.set_items(r.pop_mark()),
        b"g": lambda r: r.get(int(r.line())),
        b"h": lambda r: r.get(r.number("<B")),
        b"j": lambda r: r.get(r.number("<I")),
        b"p": lambda r: _put(int(r.line()), r),
        b"q": lambda r: _put(r.number("<B"), r),
        b"r": lambda r: _put(r.number("<I"), r),
        b"\x94": lambda r: _put(len(r.memo), r),
        b"c": _push(_global),
        b"\x93": _push(_stack_global),
        b"R": lambda r: r.reduce(),
        b"b": lambda r: r.build(),
        b"i": _instance,
        b"o": _object,
        b"\x81": _new_object,
        b"\x92": _new_object_by_name,
        b"Q": _push(_persistent),
        b"P": _push(lambda r: Persistent(_text(r, r.line()))),
        b"\x82": _refuse("the registry of extensions"),
        b"\x83": _refuse("the registry of extensions"),
        b"\x84": _refuse("the registry of extensions"),
        b"\x97": _refuse("a buffer outside of itself"),
        b"\x98": _refuse("a buffer outside of itself"),
    }.items()
}


def _check_protocol(protocol: int) -> None:
    if protocol > 5:
        raise PickleError(f"a pickle of protocol {protocol}; captionkit reads 0 to 5")


def _ignore(values: list[Any]) -> None:
    """POP_MARK drops them."""


def _make_dictionary(reader: _Reader) -> None:
    pairs = reader.pop_mark()
    reader.stack.append({})
    reader.set_items(pairs)
