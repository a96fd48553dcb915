"""Read a probe file: the bytes that a battery pins, as text, as rows.

Messages name files, lines and columns; they never quote a probe.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluators.instruments.fetch import fetch, is_remote
from registry_gate.battery import ProbeSource
from registry_gate.errors import AssessmentError

FORMATS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".json": "json"}
"""Format by the end of a file's name."""

_FIELD_LIMIT = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of an external file. `place` is what messages say, `number` counts rows from 1."""

    place: str
    number: int
    values: Mapping[str, Any]


def rows_of(source: ProbeSource, probe_dirs: Sequence[Path]) -> tuple[str, list[Row]]:
    """The name of an external file and those of its rows that the source keeps.

    Raises:
        AssessmentError: The file is missing, has another sha256, cannot be decoded or parsed, lacks a column that
            `where` names, or no row is kept.
    """
    # (1) Exactly the bytes that the battery pins.
    given = str(source.path)
    if is_remote(given):
        name, data = given, fetch(given, source.sha256)
        check_sha256(data, source.sha256, name)
    else:
        path = _find(Path(given), probe_dirs)
        name, data = str(path), read_bytes(path, source.sha256)
    text = decode(data, source.encoding, name)

    # (2) Rows by column name.
    rows = parsed(text, name, source.format or FORMATS.get(Path(given).suffix.lower()), header=source.header)

    # (3) Of these the ones that the source asks for.
    return name, list(kept(rows, source, name))


def parsed(text: str, name: str, kind: str | None, *, header: bool = True) -> Iterator[Row]:
    """Rows of a text of one of `FORMATS`.

    Raises:
        AssessmentError: The format is unknown, or the text is not in it.
    """
    if kind is None:
        raise AssessmentError(
            f"{name}: expected a name that ends in .csv, .tsv, .jsonl or .json, or `format` in the battery, got "
            f"{Path(name).suffix!r}",
            code="probes_format",
        )
    if not text.strip():
        raise AssessmentError(f"{name}: expected rows, got an empty file", code="probes_size")
    if kind == "jsonl":
        return jsonl(text, name)
    if kind == "json":
        return _json_list(text, name)
    return _table(text, name, delimiter="\t" if kind == "tsv" else ",", header=header)


def _find(path: Path, probe_dirs: Sequence[Path]) -> Path:
    tried = [path] if path.is_absolute() else [directory / path for directory in probe_dirs]
    for candidate in tried:
        if candidate.is_file():
            return candidate
    places = ", ".join(str(candidate) for candidate in tried) or "nowhere: the worker was given no probe directory"
    raise AssessmentError(
        f"expected the probe file {str(path)!r}, got none; looked for it at {places}. Put the file there, or give the "
        "worker the directory that holds it.",
        code="probes_missing",
    )


def read_bytes(path: Path, sha256: str | None) -> bytes:
    """The bytes of a file, which must be those that the battery pins.

    Raises:
        AssessmentError: The file cannot be read or has another sha256.
    """
    try:
        data = path.read_bytes()
    except OSError as err:
        raise AssessmentError(f"{path}: expected a readable file, got: {err.strerror}", code="probes_missing") from err
    check_sha256(data, sha256, str(path))
    return data


def check_sha256(data: bytes, sha256: str | None, name: str) -> None:
    """Refuse other bytes than those that the battery pins.

    Raises:
        AssessmentError: The sha256 is another.
    """
    got = hashlib.sha256(data).hexdigest()
    if sha256 is not None and got != sha256:
        raise AssessmentError(
            f"{name}: expected sha256 {sha256}, got {got}. Fetch the file that the battery was written for, or write a "
            "new version of the battery.",
            code="probes_digest",
        )


def decode(
    data: bytes,
    encoding: str,
    path: str,
    *,
    advice: str = "say the file's `encoding` in the battery",
    code: str = "probes_encoding",
) -> str:
    """Bytes as text, without a byte order mark.

    Args:
        data: The bytes.
        encoding: What they should be.
        path: What messages call the file.
        advice: What to do where they are something else.
        code: Of the error.

    Raises:
        AssessmentError: They are no text of this encoding, or there is no such encoding.
    """
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as err:
        line = data[: err.start].count(b"\n") + 1
        raise AssessmentError(
            f"{path}, line {line}: expected {encoding} text, got byte 0x{data[err.start]:02x}; {advice}",
            code=code,
        ) from err
    except (LookupError, ValueError) as err:
        raise AssessmentError(f"{path}: expected a known encoding, got {encoding!r}", code=code) from err
    # A byte order mark would become part of the first column's name.
    return text.removeprefix("\ufeff")


def _table(text: str, path: str, *, delimiter: str, header: bool) -> Iterator[Row]:
    names: list[str] | None = None
    number = 0
    for line, cells in _cells(text, path, delimiter):
        if not cells:
            continue
        if names is None:
            names = cells if header else [str(index) for index in range(len(cells))]
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated:
                raise AssessmentError(
                    f"{path}: expected each column name once, got {', '.join(map(repr, repeated))} more than once",
                    code="probes_format",
                )
            if header:
                continue
        place = f"{path}, line {line}"
        if len(cells) != len(names):
            raise AssessmentError(f"{place}: expected {len(names)} columns, got {len(cells)}", code="probes_format")
        number += 1
        yield Row(place=place, number=number, values=dict(zip(names, cells, strict=True)))


def _cells(text: str, path: str, delimiter: str) -> list[tuple[int, list[str]]]:
    """Each row with the line that it ends on."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    # Python refuses fields of over 131,072 characters, and answers may be longer. The limit is one for all of the
    # process, so it is put back, and all rows are read at once: a generator would keep it for as long as its reader
    # likes.
    with _FIELD_LIMIT:
        before = csv.field_size_limit(max(csv.field_size_limit(), len(text)))
        try:
            return [(reader.line_num, cells) for cells in reader]
        except csv.Error as err:
            raise AssessmentError(
                f"{path}, line {reader.line_num}: expected well-formed rows, got: {err}", code="probes_format"
            ) from err
        finally:
            csv.field_size_limit(before)


def jsonl(text: str, path: str) -> Iterator[Row]:
    """Rows of a file with one JSON object a line.

    Raises:
        AssessmentError: A line is none.
    """
    number = 0
    # Not splitlines(): JSON strings may hold U+2028 and its like, which end no line here.
    for line_number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path}, line {line_number}"
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as err:
            raise AssessmentError(
                f"{place}: expected a JSON object, got none that parses", code="probes_format"
            ) from err
        if not isinstance(values, dict):
            raise AssessmentError(
                f"{place}: expected a JSON object, got a {type(values).__name__}", code="probes_format"
            )
        number += 1
        yield Row(place=place, number=number, values=values)


def _json_list(text: str, path: str) -> Iterator[Row]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise AssessmentError(f"{path}: expected a JSON list of objects, got no JSON", code="probes_format") from err
    if not isinstance(document, list) or not all(isinstance(item, dict) for item in document):
        raise AssessmentError(
            f"{path}: expected a JSON list of objects, got a {type(document).__name__}; a file with one object a "
            "line is .jsonl, or `format: jsonl` in a battery",
            code="probes_format",
        )
    for number, values in enumerate(document, start=1):
        yield Row(place=f"{path}, item {number}", number=number, values=values)


def kept(rows: Iterator[Row], source: ProbeSource, path: str) -> Iterator[Row]:
    """The rows that `where` asks for.

    Raises:
        AssessmentError: There is none.
    """
    any_kept = False
    for row in rows:
        if all(value(row, column) in values for column, values in source.where.items()):
            any_kept = True
            yield row
    if not any_kept:
        wanted = " and ".join(f"{column} in ({', '.join(values)})" for column, values in source.where.items())
        raise AssessmentError(
            f"{path}: expected rows{' where ' + wanted if wanted else ''}, got none", code="probes_size"
        )


def raw_value(row: Row, column: str) -> Any:
    """What stands in a column; `a.b` is the key `b` inside the object `a`, unless there is a key `a.b`.

    Raises:
        AssessmentError: There is no such column.
    """
    if column in row.values:
        return row.values[column]
    inner: Any = row.values
    for step in column.split("."):
        if not isinstance(inner, Mapping) or step not in inner:
            raise AssessmentError(
                f"{row.place}: expected a column {column!r}, got {', '.join(map(repr, row.values)) or 'none'}",
                code="probes_column",
            )
        inner = inner[step]
    return inner


def value(row: Row, column: str) -> str:
    """What stands in a column, as text.

    Raises:
        AssessmentError: There is no such column, or it holds neither text nor a number.
    """
    found = raw_value(row, column)
    if found is None:
        return ""
    if isinstance(found, bool) or not isinstance(found, str | int | float):
        raise AssessmentError(
            f"{row.place}: expected text or a number in column {column!r}, got a {type(found).__name__}",
            code="probes_format",
        )
    return str(found)
