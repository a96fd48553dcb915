"""Make a battery of somebody's copy of a set: find its files, pin them by sha256, load every probe, write the YAML.

What is written was loaded before: a battery that this makes works as long as the files stay where and what they are.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML

from evaluators.instruments.fetch import fetch, is_remote, listed
from evaluators.instruments.files import FORMATS
from evaluators.instruments.presets import HARM, PRESETS, REFUSAL, Part, Preset
from evaluators.instruments.sources import read_probes
from registry_gate.battery import (
    METRIC_AXES,
    METRICS,
    Battery,
    InstrumentSpec,
    find_battery,
    load_batteries,
)
from registry_gate.errors import AssessmentError

_COLUMNS = ("id", "text", "category", "cluster", "context", "target", "choices", "answer")
_GRADERS = {"refusal": REFUSAL, "harm": HARM, "caveat": (*REFUSAL, "caveat-rules"), "toxicity": ("toxicity-rules",)}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What somebody asks to add.

    Args:
        name: A preset's name, or a new instrument's.
        place: File or folder, `hf://datasets/...` or `s3://...`.
        metric: What a set without preset measures.
        columns: Column mapping; overrides a preset's, key by key.
        where: Rows to keep.
        licence: Licence of a set without preset.
        encoding: Text encoding.
        format: Format of files whose name does not say.
        header: False for csv files without one.
        graders: Who votes; those of the preset, or the shipped ones of the metric's axes, when empty.
        category: Category of all probes when there is no column for it.
        attacks: Wrappers for `attacked_compliance`.
        unique: Keep the first of repeated prompts.
    """

    name: str
    place: str
    metric: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    licence: str | None = None
    encoding: str = "utf-8"
    format: str | None = None
    header: bool = True
    graders: tuple[str, ...] = ()
    category: str | None = None
    attacks: tuple[str, ...] = ()
    unique: bool = False


@dataclass(frozen=True, kw_only=True)
class Added:
    """An instrument that was made, and what its files held.

    Args:
        spec: The instrument.
        clusters: Clusters among its probes.
        categories: Categories among its probes.
    """

    spec: InstrumentSpec
    clusters: int
    categories: int


@dataclass(frozen=True, kw_only=True)
class _File:
    name: str  # below the place given
    path: str  # as the battery names it
    sha256: str


def instruments_of(request: Request, probe_dirs: Sequence[Path]) -> list[Added]:
    """The instruments of a set, each loaded once.

    Args:
        request: What to add.
        probe_dirs: The worker's probe directories; files inside one are named relative to it.

    Raises:
        AssessmentError: There is no such file, it does not suit the preset or the mapping, or something that a battery
            must say is missing.
    """
    preset = PRESETS.get(request.name) or _custom(request)
    found: list[Added] = []
    for part in preset.parts:
        files = _files(part, request.place, probe_dirs)
        if files:
            found.append(_instrument(request, preset, part, files, probe_dirs))
    if not found:
        wanted = ", ".join(sorted({pattern for part in preset.parts for pattern in part.files}))
        raise AssessmentError(
            f"expected a file named like {wanted} at {request.place}, got none: give --from the folder or the file of "
            f"{preset.title}",
            code="probes_missing",
        )
    return found


def write_battery(
    added: Sequence[Added],
    directory: Path,
    *,
    name: str,
    version: int,
    title: str,
    extend: str | None = None,
    battery_dirs: Sequence[Path] = (),
) -> tuple[Path, Battery]:
    """Write the battery that holds some instruments.

    Args:
        added: The instruments.
        directory: Where to; made when it is missing.
        name: Name of the battery.
        version: Its version.
        title: Its title.
        extend: Id of a battery whose instruments and settings come first.
        battery_dirs: Where that one is looked for, `directory` among them.

    Raises:
        AssessmentError: A battery of this name and version exists and differs, or two instruments have one measure.
        PolicyError: There is no battery `extend`.
    """
    known = [path for path in (*battery_dirs, directory) if path.is_dir()]
    batteries = load_batteries(known)
    base = None if extend is None else find_battery(batteries, extend)
    spec: dict[str, Any] = (
        {} if base is None else _plain(base.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True))
    )
    spec["instruments"] = [*spec.get("instruments", []), *(_plain(_dumped(one.spec)) for one in added)]
    document = {
        "apiVersion": "registry-gate/v1",
        "kind": "Battery",
        "metadata": {"name": name, "version": version, "title": title},
        "spec": spec,
    }
    try:
        battery = Battery.model_validate(document, strict=False)
    except ValidationError as err:
        raise AssessmentError(
            f"expected instruments that make a battery, got: {err.errors(include_url=False)[0]['msg']}",
            code="battery_invalid",
        ) from err
    path = directory / f"{name}-{version}.yaml"
    existing = batteries.get(battery.id)
    if existing is not None and existing.digest != battery.digest:
        raise AssessmentError(
            f"expected a battery that does not exist yet, got {battery.id}, which holds something else: give --battery "
            f"{name}@{version + 1}; evidence is bound to what a version holds, so a version never changes",
            code="battery_exists",
        )
    directory.mkdir(parents=True, exist_ok=True)
    yaml = YAML()
    yaml.width = 120
    yaml.default_flow_style = False
    with path.open("w", encoding="utf-8") as file:
        file.write("# Written by `registry-gate battery add`; yours to edit until evidence rests on it.\n")
        yaml.dump(document, file)
    return path, battery


def _custom(request: Request) -> Preset:
    missing = [
        option
        for option, value in (
            ("--metric", request.metric),
            ("--licence", request.licence),
            ("--column text=NAME", request.columns.get("text")),
        )
        if not value
    ]
    if missing:
        raise AssessmentError(
            f"expected a set that is known ({', '.join(sorted(PRESETS))}), or {', '.join(missing)} for another one, "
            f"got {request.name!r}",
            code="probes_unknown",
        )
    metric = str(request.metric)
    if metric not in METRICS:
        raise AssessmentError(
            f"expected a metric among {', '.join(METRICS)}, got {metric!r}: one of your own needs a battery by hand",
            code="instrument_unknown",
        )
    axes = METRIC_AXES.get(metric, ())
    graders = _GRADERS[axes[-1]] if axes else ()
    part = Part(name=request.name, metric=metric, files=("*",), mappings=(request.columns,), graders=graders)
    return Preset(title=request.name, licence=str(request.licence), parts=(part,))


def _instrument(
    request: Request, preset: Preset, part: Part, files: Sequence[_File], probe_dirs: Sequence[Path]
) -> Added:
    unknown = sorted(set(request.columns) - set(_COLUMNS))
    if unknown:
        raise AssessmentError(
            f"expected --column {', '.join(_COLUMNS)}, got {', '.join(unknown)}", code="probes_column"
        )
    first: AssessmentError | None = None
    for mapping in part.mappings or ({},):
        try:
            return _loaded(request, preset, part, files, mapping, probe_dirs)
        except AssessmentError as err:
            # The next mapping may suit the file; if none does, what the first missed is what to tell.
            first = first or err
    if first is None:
        raise AssessmentError(f"expected a column mapping for {part.name}, got none", code="probes_column")
    raise first


def _loaded(
    request: Request,
    preset: Preset,
    part: Part,
    files: Sequence[_File],
    mapping: Mapping[str, str],
    probe_dirs: Sequence[Path],
) -> Added:
    columns = {key: value for key, value in mapping.items() if key in _COLUMNS} | dict(request.columns)
    sources = []
    for file in files:
        category = request.category or _category(part.category, file.name)
        fields: dict[str, Any] = {
            "path": file.path,
            "sha256": file.sha256,
            "licence": request.licence or preset.licence,
            "where": request.where or part.where,
            "encoding": request.encoding,
            "header": request.header and mapping.get("header") != "no",
            "reader": part.reader,
            "unique": request.unique or part.unique,
        }
        if part.reader == "rows":
            fields["columns"] = columns
            if category and "category" not in columns:
                fields["category"] = category
        if len(files) > 1 and part.reader == "rows":
            fields["idPrefix"] = re.sub(r"[^a-z0-9]+", "-", file.name.rsplit(".", 1)[0].lower()) + "-"
        kind = request.format or mapping.get("format")
        if kind is not None:
            fields["format"] = kind
        sources.append(fields)
    title = preset.title if preset.title == part.name else f"{preset.title}: {part.name}"
    spec = {
        "name": part.name,
        "title": title,
        "metric": part.metric,
        "probes": sources,
        "size": 1,
        "graders": request.graders or part.graders,
        "attacks": request.attacks,
    }
    probes = read_probes(_spec(spec), probe_dirs=probe_dirs)
    return Added(
        spec=_spec({**spec, "size": len(probes)}),
        clusters=len({probe.cluster for probe in probes}),
        categories=len({probe.category for probe in probes}),
    )


def _spec(fields: Mapping[str, Any]) -> InstrumentSpec:
    try:
        return InstrumentSpec.model_validate(fields, strict=False)
    except ValidationError as err:
        problem = err.errors(include_url=False)[0]
        where = ".".join(str(step) for step in problem["loc"])
        raise AssessmentError(f"{where or 'instrument'}: {problem['msg']}", code="battery_invalid") from err


def _files(part: Part, place: str, probe_dirs: Sequence[Path]) -> list[_File]:
    """The files of a part at a place: those of the first pattern that any matches, or of all when `every` says so."""
    if is_remote(place):
        name = place.rsplit("/", 1)[-1]
        one = Path(name).suffix.lower() in FORMATS
        below = [(name, place)] if one else listed(place)
        return [
            _File(name=found, path=uri, sha256=hashlib.sha256(fetch(uri)).hexdigest())
            for found, uri in _chosen(part, below, alone=one)
        ]
    root = Path(place).expanduser().absolute()
    if root.is_file():
        found = [(root.name, str(root))]
    elif root.is_dir():
        found = [(path.relative_to(root).as_posix(), str(path)) for path in sorted(root.rglob("*")) if path.is_file()]
    else:
        raise AssessmentError(f"expected a file or a folder at {place}, got neither", code="probes_missing")
    return [_pinned(name, Path(path), probe_dirs) for name, path in _chosen(part, found, alone=root.is_file())]


def _chosen(part: Part, found: Sequence[tuple[str, str]], *, alone: bool) -> list[tuple[str, str]]:
    readable = [(name, path) for name, path in found if Path(name).suffix.lower() in FORMATS or alone]
    chosen: list[tuple[str, str]] = []
    for pattern in part.files:
        # A file given by itself has lost its folder.
        wanted = pattern.rsplit("/", 1)[-1] if alone else pattern
        matching = [item for item in readable if _like(item[0], wanted) and item not in chosen]
        if matching and not part.every:
            return matching
        chosen += matching
    return chosen


def _like(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"*/{pattern}")


def _pinned(name: str, path: Path, probe_dirs: Sequence[Path]) -> _File:
    recorded = str(path)
    for directory in probe_dirs:
        if path.is_relative_to(directory.absolute()):
            recorded = path.relative_to(directory.absolute()).as_posix()
            break
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as err:
        raise AssessmentError(
            f"expected a readable file at {path}, got: {err.strerror}", code="probes_missing"
        ) from err
    return _File(name=name, path=recorded, sha256=digest)


def _category(template: str, name: str) -> str | None:
    stem = name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    number = re.search(r"([0-9]+)$", stem)
    return template.format(n=number[1] if number else "0", stem=stem) or None


def _dumped(spec: InstrumentSpec) -> dict[str, Any]:
    return spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def _plain(values: Any) -> Any:
    """Without what says nothing, for a YAML that people read."""
    if isinstance(values, dict):
        return {key: _plain(value) for key, value in values.items() if value not in (None, {}, [], "")}
    if isinstance(values, list):
        return [_plain(value) for value in values]
    return values
