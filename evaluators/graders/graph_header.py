"""What an ONNX file says of itself before its graph: the versions that it was written in.

Read by hand, as the package `onnx` is no part of a worker, and ONNX Runtime tells the opset of a graph only where it is
too new.
"""

from __future__ import annotations

_OPSET_IMPORT = 8
"""Number of the field in `ModelProto`; each holds a domain (1) and a version (2)."""


def opset_of(model: bytes) -> int | None:
    """The opset of the standard operators that a graph is written in; None where the bytes do not say one."""
    try:
        for number, value in _fields(model):
            if number == _OPSET_IMPORT and isinstance(value, bytes):
                said = dict(_fields(value))
                version = said.get(2)
                if said.get(1, b"") in (b"", b"ai.onnx") and isinstance(version, int):
                    return version
    except (IndexError, ValueError):
        return None  # cut, or no protocol buffer at all: whoever loads it says so
    return None


def _fields(message: bytes) -> list[tuple[int, int | bytes]]:
    """Numbers and values of the fields of a protocol buffer; what is neither number nor bytes is passed over.

    Raises:
        IndexError, ValueError: It ends within a field, or is none.
    """
    found: list[tuple[int, int | bytes]] = []
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(message, at)
            found.append((key >> 3, value))
        elif kind == 2:
            size, at = _varint(message, at)
            if at + size > len(message):
                raise ValueError("cut")
            found.append((key >> 3, message[at : at + size]))
            at += size
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError("no protocol buffer")
    return found


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("no number")
