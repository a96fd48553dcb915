"""Load the probes of an instrument from the files that its battery names.

A file is either one of ours in `probes/`, or somebody's published set at its own place, pinned by sha256 and read
through a column mapping, so that no data is copied into this project. What a well-behaved assistant does with a probe
is said by the instrument, never by an external file. Messages name files, lines, columns and ids; they never quote a
probe.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from evaluators.instruments.probe import Probe
from registry_gate.battery import InstrumentSpec, ProbeSource
from registry_gate.errors import AssessmentError

SHIPPED = Path(__file__).parent / "probes"
"""Our own probe files; see the README beside them."""

_FORMATS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl"}
_PROBE_KEYS = tuple(field.name for field in fields(Probe))
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One row of an external file. `place` is what messages say, `number` counts rows from 1."""

    place: str
    number: int
    values: Mapping[str, Any]


def load_probes(instrument: InstrumentSpec, *, probe_dirs: Sequence[Path]) -> tuple[Probe, ...]:
    """All probes of an instrument, its sources joined in order.

    Args:
        instrument: What the battery says about it.
        probe_dirs: Directories in which relative paths of external files are looked for, the first that has one wins.

    Raises:
        AssessmentError: A file is missing, has another sha256, cannot be decoded or parsed, lacks a column, holds an
            empty prompt or id; two probes share an id or, but for case, spaces and punctuation, a text; or there are
            more or fewer probes than the battery declares. Every message names the measure.
    """
    probes: list[Probe] = []
    try:
        for source in instrument.probes:
            probes += _shipped(source, instrument) if source.shipped else _external(source, instrument, probe_dirs)
        _check_unique(probes)
        if len(probes) != instrument.size:
            raise AssessmentError(
                f"expected {instrument.size} probes as the battery's `size` says, got {len(probes)}: correct the size, "
                "or the sources",
                code="probes_size",
            )
    except AssessmentError as err:
        raise AssessmentError(f"{instrument.measure}: {err}", code=err.code) from err
    return tuple(probes)


def normalised(text: str) -> str:
    """The words of a text in one case, by which two probes count as the same prompt (METHOD.md section 7)."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_WORD.findall(folded)) or folded.strip()


def _shipped(source: ProbeSource, instrument: InstrumentSpec) -> list[Probe]:
    path = SHIPPED / str(source.shipped)
    known = sorted(file.name for file in SHIPPED.glob("*.jsonl"))
    if source.shipped not in known:
        raise AssessmentError(
            f"expected a shipped probe file among {', '.join(known)}, got {source.shipped!r}", code="probes_missing"
        )
    data = _read(path, source.sha256)
    rows = _jsonl(_decode(data, "utf-8", path), path)
    probes = []
    for row in _kept(rows, source, path):
        if sorted(row.values) != sorted(_PROBE_KEYS):
            raise AssessmentError(
                f"{row.place}: expected the keys {', '.join(_PROBE_KEYS)}, got {', '.join(map(str, row.values))}",
                code="probes_format",
            )
        if row.values["expected"] == instrument.expected:
            probes.append(Probe(**{**row.values, "id": source.id_prefix + row.values["id"]}))
    return probes


def _external(source: ProbeSource, instrument: InstrumentSpec, probe_dirs: Sequence[Path]) -> list[Probe]:
    # (1) Exactly the bytes that the battery pins.
    path = _find(Path(str(source.path)), probe_dirs)
    text = _decode(_read(path, source.sha256), source.encoding, path)

    # (2) Rows by column name.
    kind = source.format or _FORMATS.get(path.suffix.lower())
    if kind is None:
        raise AssessmentError(
            f"{path}: expected a name that ends in .csv, .tsv or .jsonl, or `format` in the battery, got "
            f"{path.suffix!r}",
            code="probes_format",
        )
    if kind == "jsonl":
        rows = _jsonl(text, path)
    else:
        rows = _table(text, path, delimiter="\t" if kind == "tsv" else ",", header=source.header)

    # (3) The columns that the mapping names become a probe.
    columns = source.columns
    if columns is None:  # the battery document refuses this; a spec built in code may still lack it
        raise AssessmentError(f"{path}: expected a column mapping, got none", code="probes_format")
    probes = []
    for row in _kept(rows, source, path):
        prompt = _value(row, columns.text)
        if not prompt.strip():
            raise AssessmentError(f"{row.place}: expected a prompt, got an empty one", code="probes_empty")
        if columns.context is not None and (context := _value(row, columns.context)).strip():
            prompt = f"{context}\n\n{prompt}"
        given = str(row.number) if columns.id is None else _value(row, columns.id).strip()
        if not given:
            raise AssessmentError(
                f"{row.place}: expected an id in column {columns.id!r}, got none", code="probes_empty"
            )
        probe_id = source.id_prefix + given
        category = source.category or instrument.name
        if columns.category is not None:
            # A row without a category keeps the fallback: categories are reported, no rule rests on them.
            category = _value(row, columns.category).strip() or category
        cluster = probe_id if columns.cluster is None else _value(row, columns.cluster).strip() or probe_id
        probes.append(Probe(id=probe_id, text=prompt, category=category, cluster=cluster, expected=instrument.expected))
    return probes


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


def _read(path: Path, sha256: str | None) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as err:
        raise AssessmentError(
            f"{path}: expected a readable probe file, got: {err.strerror}", code="probes_missing"
        ) from err
    got = hashlib.sha256(data).hexdigest()
    if sha256 is not None and got != sha256:
        raise AssessmentError(
            f"{path}: expected sha256 {sha256}, got {got}. Fetch the file that the battery was written for, or write a "
            "new version of the battery.",
            code="probes_digest",
        )
    return data


def _decode(data: bytes, encoding: str, path: Path) -> str:
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as err:
        line = data[: err.start].count(b"\n") + 1
        raise AssessmentError(
            f"{path}, line {line}: expected {encoding} text, got byte 0x{data[err.start]:02x}; say the file's "
            "`encoding` in the battery",
            code="probes_encoding",
        ) from err
    except (LookupError, ValueError) as err:
        raise AssessmentError(f"{path}: expected a known encoding, got {encoding!r}", code="probes_encoding") from err
    # A byte order mark would become part of the first column's name.
    return text.removeprefix("\ufeff")


def _table(text: str, path: Path, *, delimiter: str, header: bool) -> Iterator[_Row]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] | None = None
    number = 0
    try:
        for cells in reader:
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
            place = f"{path}, line {reader.line_num}"
            if len(cells) != len(names):
                raise AssessmentError(f"{place}: expected {len(names)} columns, got {len(cells)}", code="probes_format")
            number += 1
            yield _Row(place=place, number=number, values=dict(zip(names, cells, strict=True)))
    except csv.Error as err:
        raise AssessmentError(
            f"{path}, line {reader.line_num}: expected well-formed rows, got: {err}", code="probes_format"
        ) from err


def _jsonl(text: str, path: Path) -> Iterator[_Row]:
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
        yield _Row(place=place, number=number, values=values)


def _kept(rows: Iterator[_Row], source: ProbeSource, path: Path) -> Iterator[_Row]:
    kept = False
    for row in rows:
        if all(_value(row, column) in values for column, values in source.where.items()):
            kept = True
            yield row
    if not kept:
        wanted = " and ".join(f"{column} in ({', '.join(values)})" for column, values in source.where.items())
        raise AssessmentError(
            f"{path}: expected rows{' where ' + wanted if wanted else ''}, got none", code="probes_size"
        )


def _value(row: _Row, column: str) -> str:
    if column not in row.values:
        raise AssessmentError(
            f"{row.place}: expected a column {column!r}, got {', '.join(map(repr, row.values)) or 'none'}",
            code="probes_column",
        )
    value = row.values[column]
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise AssessmentError(
            f"{row.place}: expected text or a number in column {column!r}, got a {type(value).__name__}",
            code="probes_format",
        )
    return str(value)


def _check_unique(probes: Sequence[Probe]) -> None:
    ids: set[str] = set()
    texts: dict[str, str] = {}
    for probe in probes:
        if probe.id in ids:
            raise AssessmentError(
                f"expected each probe id once, got {probe.id!r} twice; give each source an `idPrefix` of its own",
                code="probes_duplicate",
            )
        ids.add(probe.id)
        first = texts.setdefault(normalised(probe.text), probe.id)
        if first != probe.id:
            raise AssessmentError(
                f"expected each prompt once, got the same words in probes {first!r} and {probe.id!r}; "
                "a prompt asked twice counts twice",
                code="probes_duplicate",
            )
