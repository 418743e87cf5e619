"""Lists and bytes out of a pickle without unpickling: nothing that the file names is imported, called or built.

A pickle is a program for a stack machine, and ``pickle.load`` runs it. Here a machine of our own knows the few instructions that
lists, tuples, bytes and truth values need, and refuses every other. ``pickletools.genops`` (standard library) only cuts the file
into instructions. A restricted ``Unpickler`` would still build objects, and one instruction can make it claim all memory.
"""

from __future__ import annotations

import mmap
import pickletools
from typing import Any

_ENCODE = object()  # stands for _codecs.encode, by which protocols 0 to 2 of Python 3 write bytes as Latin-1 text


def read_plain_pickle(data: bytes | mmap.mmap) -> Any:
    """What a pickle of lists, tuples, bytes, numbers and truth values holds; texts of Python 2 come as bytes.

    Raises ValueError for any other instruction, which is named and not carried out, and for a file that is no pickle.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(data):  # type: ignore[arg-type]  # takes whatever can read()
            machine.step(opcode.name, argument)
        (content,) = machine.stack
    except (ValueError, TypeError, IndexError, KeyError, OverflowError) as error:
        raise ValueError(
            f"expected a pickle of lists and bytes only, got one that asks for more or is damaged ({error})"
        ) from error
    return content


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.encoded: dict[str, bytes] = {}  # so that one text asked for a million times is encoded once

    def step(self, name: str, argument: Any) -> None:
        """Carry out one instruction. Raises ValueError for one that is not known."""
        stack = self.stack
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8" | "BINUNICODE" | "SHORT_BINUNICODE":
                stack.append(argument)
            case "INT" | "BININT" | "BININT1" | "BININT2":
                stack.append(argument)
            case "BINSTRING" | "SHORT_BINSTRING":  # Python 2
                stack.append(argument.encode("latin-1"))
            case "NEWTRUE" | "NEWFALSE":
                stack.append(name == "NEWTRUE")
            case "MARK":
                self.marks.append(len(stack))
            case "EMPTY_LIST":
                stack.append([])
            case "APPEND" | "APPENDS":
                items = self._since_mark() if name == "APPENDS" else [stack.pop()]
                list.extend(stack[-1], items)
            case "LIST":
                stack.append(self._since_mark())
            case "TUPLE":
                stack.append(tuple(self._since_mark()))
            case "TUPLE2":
                stack[-2:] = [(stack[-2], stack[-1])]
            case "BINPUT" | "LONG_BINPUT" | "PUT" | "MEMOIZE":
                self.memo[len(self.memo) if name == "MEMOIZE" else argument] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(self.memo[argument])
            case "GLOBAL" if argument == "_codecs encode":
                stack.append(_ENCODE)
            case "REDUCE" if stack[-2] is _ENCODE:
                (text, coding) = stack.pop()
                if coding != "latin1":
                    raise ValueError(f"bytes encoded as {coding!r}")
                stack[-1] = self.encoded.get(text) or self.encoded.setdefault(text, text.encode("latin-1"))
            case _:
                raise ValueError(f"{name} {argument!r:.60}")

    def _since_mark(self) -> list[Any]:
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items
