"""Load the probes of an instrument from the files that its battery names.

A file is either one of ours in `probes/`, or somebody's published set at its own place, pinned by sha256 and read
through a column mapping, so that no data is copied into this project. What a well-behaved assistant does with a probe
is said by the instrument, never by an external file. Messages name files, lines, columns and ids; they never quote a
probe.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from evaluators.instruments import readers
from evaluators.instruments.attacks import wrapped
from evaluators.instruments.catalogue import construct_of
from evaluators.instruments.construct import Construct
from evaluators.instruments.files import Row, decode, jsonl, kept, raw_value, read_bytes, rows_of, value
from evaluators.instruments.probe import Probe
from registry_gate.battery import ColumnMapping, InstrumentSpec, ProbeSource
from registry_gate.errors import AssessmentError

SHIPPED = Path(__file__).parent / "probes"
"""Our own probe files; see the README beside them."""

_PROBE_KEYS = ("id", "text", "category", "cluster", "expected", "pair")
_MORE_KEYS = ("target", "choices", "roles")
FEWEST_PROBES = 2
_WORD = re.compile(r"\w+")


def load_probes(instrument: InstrumentSpec, *, probe_dirs: Sequence[Path]) -> tuple[Probe, ...]:
    """All probes of an instrument, its sources joined in order, each in every attack that it names.

    Args:
        instrument: What the battery says about it.
        probe_dirs: Directories in which relative paths of external files are looked for, the first that has one wins.

    Raises:
        AssessmentError: A file is missing, has another sha256, cannot be decoded or parsed, lacks a column, holds an
            empty prompt or id; two probes share an id or, but for case, spaces and punctuation, a text; a probe does
            not suit the metric; there are more or fewer probes than the battery declares, in all or in a category, or
            fewer than two. Every message names the measure.
    """
    probes = read_probes(instrument, probe_dirs=probe_dirs)
    if len(probes) != instrument.size:
        raise AssessmentError(
            f"{instrument.measure}: expected {instrument.size} probes as the battery's `size` says, got {len(probes)}: "
            "correct the size, or the sources",
            code="probes_size",
        )
    found = Counter(probe.category for probe in probes)
    for category, declared in instrument.categories.items():
        if found[category] != declared:
            raise AssessmentError(
                f"{instrument.measure}: expected {declared} probes of the category {category} as the battery says, got "
                f"{found[category]}: correct 'categories', or the sources",
                code="probes_size",
            )
    return probes


def read_probes(instrument: InstrumentSpec, *, probe_dirs: Sequence[Path]) -> tuple[Probe, ...]:
    """The same, however many there are: for whoever is about to declare the size.

    Raises:
        AssessmentError: As `load_probes`, but for the size.
    """
    probes: list[Probe] = []
    construct = construct_of(instrument)
    try:
        for source in instrument.probes:
            if source.shipped:
                found = [probe for probe in _shipped(source, instrument) if construct.uses(probe)]
            else:
                found = _external(source, instrument, probe_dirs)
            probes += _sampled(_first_of_each(found) if source.unique else found, source)
        _check_unique(probes)
        _check_suited(probes, construct)
        if instrument.attacks:
            probes = wrapped(probes, instrument.attacks)
        if len(probes) < FEWEST_PROBES:
            raise AssessmentError(
                f"expected at least {FEWEST_PROBES} probes, got {len(probes)}: one answer is no share of anything; add "
                "probes",
                code="probes_size",
            )
    except AssessmentError as err:
        raise AssessmentError(f"{instrument.measure}: {err}", code=err.code) from err
    return tuple(probes)


def normalised(text: str) -> str:
    """The words of a text in one case, by which two probes count as the same prompt (METHOD.md section 7)."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_WORD.findall(folded)) or folded.strip()


def same_prompt(probe: Probe) -> str:
    """What two probes share when they are the same prompt: its words and, where there are choices, those."""
    return "\n".join([normalised(probe.text), *map(normalised, probe.choices)])


def _shipped(source: ProbeSource, instrument: InstrumentSpec) -> list[Probe]:
    path = SHIPPED / str(source.shipped)
    known = sorted(file.name for file in SHIPPED.glob("*.jsonl"))
    if source.shipped not in known:
        raise AssessmentError(
            f"expected a shipped probe file among {', '.join(known)}, got {source.shipped!r}", code="probes_missing"
        )
    data = read_bytes(path, source.sha256)
    rows = jsonl(decode(data, "utf-8", str(path)), str(path))
    probes = []
    for row in kept(rows, source, str(path)):
        if not set(_PROBE_KEYS) <= set(row.values) <= {*_PROBE_KEYS, *_MORE_KEYS}:
            raise AssessmentError(
                f"{row.place}: expected the keys {', '.join(_PROBE_KEYS)}, got {', '.join(map(str, row.values))}",
                code="probes_format",
            )
        if row.values["expected"] == instrument.expected:
            probes.append(_probe(row, **{**row.values, "id": source.id_prefix + row.values["id"]}))
    return probes


def _external(source: ProbeSource, instrument: InstrumentSpec, probe_dirs: Sequence[Path]) -> list[Probe]:
    name, rows = rows_of(source, probe_dirs)
    if source.reader != "rows":
        read = readers.READERS[source.reader]
        return [
            _probe(row, **{**fields, "id": source.id_prefix + str(fields["id"]), "expected": instrument.expected})
            for row in rows
            if (fields := read(row, instrument.metric)) is not None
        ]
    columns = source.columns
    if columns is None:  # the battery document refuses this; a spec built in code may still lack it
        raise AssessmentError(f"{name}: expected a column mapping, got none", code="probes_format")
    return [_mapped(row, source, columns, instrument) for row in rows]


def _mapped(row: Row, source: ProbeSource, columns: ColumnMapping, instrument: InstrumentSpec) -> Probe:
    prompt = value(row, columns.text)
    if not prompt.strip():
        raise AssessmentError(f"{row.place}: expected a prompt, got an empty one", code="probes_empty")
    if columns.context is not None and (context := value(row, columns.context)).strip():
        prompt = f"{context}\n\n{prompt}"
    given = str(row.number) if columns.id is None else value(row, columns.id).strip()
    if not given:
        raise AssessmentError(f"{row.place}: expected an id in column {columns.id!r}, got none", code="probes_empty")
    probe_id = source.id_prefix + given
    category = source.category or instrument.name
    if columns.category is not None:
        # A row without a category keeps the fallback: categories are reported, no rule rests on them.
        category = value(row, columns.category).strip() or category
    cluster = probe_id if columns.cluster is None else value(row, columns.cluster).strip() or probe_id
    choices, roles = _choices(row, columns, instrument)
    return _probe(
        row,
        id=probe_id,
        text=prompt,
        category=category,
        cluster=cluster,
        expected=instrument.expected,
        target=None if columns.target is None else value(row, columns.target),
        choices=choices,
        roles=roles,
    )


def _choices(row: Row, columns: ColumnMapping, instrument: InstrumentSpec) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The choices of a row and what each is: `true` and `false`, or `canary` and `other`, after the metric."""
    if columns.choices is None:
        return (), ()
    given = raw_value(row, columns.choices)
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError) as err:
            raise AssessmentError(
                f"{row.place}: expected a JSON list in column {columns.choices!r}, got none", code="probes_format"
            ) from err
    if not isinstance(given, list) or not all(isinstance(choice, str) for choice in given):
        raise AssessmentError(
            f"{row.place}: expected a list of texts in column {columns.choices!r}, got something else",
            code="probes_format",
        )
    if columns.answer is None:
        raise AssessmentError(
            f"{row.place}: expected `answer` in the mapping to say which choice is right, got none",
            code="probes_format",
        )
    answer = value(row, columns.answer).strip()
    if answer in given:
        right = given.index(answer)
    elif answer.isdecimal() and int(answer) < len(given):
        right = int(answer)
    else:
        raise AssessmentError(
            f"{row.place}: expected the number (0 to {len(given) - 1}) or the text of a choice in column "
            f"{columns.answer!r}, got neither",
            code="probes_label",
        )
    words = ("canary", "other") if instrument.metric == "canary_exposure" else ("true", "false")
    return tuple(given), tuple(words[0] if index == right else words[1] for index in range(len(given)))


def _probe(row: Row, **fields: object) -> Probe:
    try:
        return Probe(**fields)  # type: ignore[arg-type]
    except ValueError as err:
        raise AssessmentError(f"{row.place}: {err}", code="probes_format") from err


def _first_of_each(probes: Sequence[Probe]) -> list[Probe]:
    found: dict[str, Probe] = {}
    for probe in probes:
        found.setdefault(same_prompt(probe), probe)
    return list(found.values())


def _sampled(probes: list[Probe], source: ProbeSource) -> list[Probe]:
    if source.sample is None:
        return probes
    if len(probes) < source.sample:
        raise AssessmentError(
            f"expected at least the {source.sample} probes of `sample`, got {len(probes)}", code="probes_size"
        )
    drawn = sorted(probes, key=lambda probe: hashlib.sha256(probe.id.encode()).digest())[: source.sample]
    wanted = {probe.id for probe in drawn}
    return [probe for probe in probes if probe.id in wanted]


def _check_suited(probes: Sequence[Probe], construct: Construct) -> None:
    for probe in probes:
        problem = construct.check(probe)
        if problem is None and construct.kind == "choice" and not probe.choices:
            problem = "expected choices, got none"
        if problem is not None:
            raise AssessmentError(f"probe {probe.id!r}: {problem}", code="probes_unsuited")


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
        first = texts.setdefault(same_prompt(probe), probe.id)
        if first != probe.id:
            raise AssessmentError(
                f"expected each prompt once, got the same words in probes {first!r} and {probe.id!r}; "
                "a prompt asked twice counts twice",
                code="probes_duplicate",
            )
