"""Fetch graders and the classifiers that graders are made of, and hold them to what was fetched first.

What was pulled stands in `graders.lock` beside it: where from, at which commit, size and sha256 of each file. It is
trusted the first time and refused when it changes, when it is pulled again and when it is loaded. Code and pickled
weights are never fetched.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML

from evaluators.graders.interface import Axis
from registry_gate.errors import AssessmentError

LOCK_FILE = "graders.lock"
LOCK_FORMAT = "registry-gate/graders-lock@1"

_WANTED = (
    *("*.safetensors", "*.safetensors.index.json", "*.onnx", "*.onnx_data", "config.json", "tokenizer*.json"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt", "*.model"),
    *("grader.yaml", "parity.json", "*.md", "LICENSE*", "NOTICE*"),
)
_HUB = re.compile(r"hf://(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?")
_S3 = re.compile(r"s3://(?P<bucket>[^/]+)/(?P<prefix>.+)")

Progress = Callable[[int, int], None]
"""Called with (files fetched, files in all)."""


class CatalogueEntry(BaseModel):
    """A published classifier that is known to be of use.

    Args:
        source: `hf://OWNER/NAME`.
        axis: What a grader of it may grade; None for what no axis covers yet.
        labels: What `grader export --labels` needs; None where its own labels say nothing about the axis alone.
        size: Weights, in words.
        licence: As its card states it.
        note: What to know of it before relying on it.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    source: Annotated[str, Field(pattern=_HUB.pattern)]
    axis: Literal["refusal", "harm", "caveat", "toxicity"] | None = None
    labels: str | None = None
    size: str
    licence: str
    note: str


def catalogue() -> dict[str, CatalogueEntry]:
    """Classifiers that are worth a try, by the name that `grader pull` knows; their figures are their makers'."""
    text = (Path(__file__).parent / "catalogue.yaml").read_text(encoding="utf-8")
    return {
        name: CatalogueEntry.model_validate(entry) for name, entry in YAML(typ="safe", pure=True).load(text).items()
    }


class LockedFile(BaseModel):
    """One file as it was fetched first."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class LockedGrader(BaseModel):
    """One pulled directory.

    Args:
        source: Where it came from.
        revision: Commit of the hub; empty elsewhere.
        pulled_at: When first.
        files: By name.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    source: str
    revision: str
    pulled_at: str
    files: Annotated[dict[str, LockedFile], Field(min_length=1)]


class _Lock(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    format: Literal["registry-gate/graders-lock@1"]
    graders: dict[str, LockedGrader]


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """What a pull brought.

    Args:
        name: Name of the directory.
        directory: Where it lies.
        locked: What the lock says of it.
        known: Whether it was locked before, and is the same.
        skipped: Files of the source that were not fetched.
        axis: What the catalogue says that it may grade.
    """

    name: str
    directory: Path
    locked: LockedGrader
    known: bool
    skipped: tuple[str, ...]
    axis: Axis | None


def pull(source: str, into: Path, *, name: str | None, progress: Progress) -> Pulled:
    """Fetch one grader or classifier into a directory of its name.

    Args:
        source: A name of the catalogue, `hf://OWNER/NAME@COMMIT`, `s3://BUCKET/PREFIX` or a directory.
        into: The directory that holds graders and `graders.lock`.
        name: Name of its directory; from the source when None.
        progress: Told after each file.

    Raises:
        AssessmentError: It cannot be fetched, holds no model, or differs from what was fetched before; then what is
            there stays as it is.
    """
    entry = catalogue().get(source)
    place = source if entry is None else entry.source
    name = name or (source if entry is not None else _name_of(place))
    locked = read_lock(into).get(name)
    if locked is not None and locked.source != place:
        raise AssessmentError(
            f"{into / name}: expected {locked.source}, which {LOCK_FILE} names, got {place}: choose another --name, or "
            "remove the directory and its entry"
        )
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into, prefix=".pull-") as folder:
        fetched = Path(folder) / name
        fetched.mkdir()
        revision, skipped = _fetch(place, fetched, progress)
        files = {path.name: _locked_file(path) for path in sorted(fetched.iterdir())}
        if not {"config.json", "grader.yaml"} & files.keys():
            raise AssessmentError(
                f"{place}: expected config.json of a classifier or grader.yaml of a grader, got neither among "
                f"{', '.join(files) or 'no files'}: is it the right place?"
            )
        if locked is not None:
            _require_same(into / name, locked.files, files, place)
        elif (into / name).exists():
            raise AssessmentError(
                f"expected no directory {into / name}, got one that {LOCK_FILE} does not know: choose another --name, "
                "or remove it"
            )
        now = datetime.now(UTC).isoformat(timespec="seconds")
        fresh = locked or LockedGrader(source=place, revision=revision, pulled_at=now, files=files)
        # First, so that what is there is never unlocked.
        _write_lock(into, name, fresh)
        if (into / name).exists():
            shutil.rmtree(into / name)
        fetched.rename(into / name)
    return Pulled(
        name=name,
        directory=into / name,
        locked=fresh,
        known=locked is not None,
        skipped=skipped,
        axis=None if entry is None else entry.axis,
    )


def require_unchanged(directory: Path) -> None:
    """Refuse a pulled directory that is not as it was fetched. One that was never pulled passes.

    Raises:
        AssessmentError: A file was changed, added or removed, or the lock cannot be read.
    """
    # Under the name that it is called by and under its own: `.` has no name, and a link has another.
    for place in (directory.absolute(), directory.resolve()):
        if (locked := read_lock(place.parent).get(place.name)) is not None:
            there = sorted(place.iterdir()) if place.is_dir() else []
            found = {path.name: _locked_file(path) for path in there if path.is_file()}
            _require_same(directory, locked.files, found, str(directory))


def read_lock(directory: Path) -> Mapping[str, LockedGrader]:
    """What `graders.lock` of a directory says; nothing where there is none.

    Raises:
        AssessmentError: It is there and cannot be read.
    """
    path = directory / LOCK_FILE
    try:
        return _Lock.model_validate_json(path.read_bytes()).graders
    except FileNotFoundError:
        return {}
    except (OSError, ValidationError) as err:
        details = (
            "; ".join(
                f"{'.'.join(map(str, fault['loc'])) or 'document'}: {fault['msg']}"
                for fault in err.errors(include_url=False, include_input=False)[:3]
            )
            if isinstance(err, ValidationError)
            else str(err.strerror)
        )
        raise AssessmentError(
            f"{path}: expected what `registry-gate grader pull` writes ({LOCK_FORMAT}), got: {details}. Restore it; "
            "without it nobody knows what was trusted."
        ) from err


def _write_lock(directory: Path, name: str, locked: LockedGrader) -> None:
    graders = {**read_lock(directory), name: locked}
    body = {
        "format": LOCK_FORMAT,
        "graders": {key: graders[key].model_dump(mode="json") for key in sorted(graders)},
    }
    fresh = directory / f".{LOCK_FILE}.new"
    fresh.write_text(json.dumps(body, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    fresh.replace(directory / LOCK_FILE)


def _require_same(where: Path, locked: Mapping[str, LockedFile], found: Mapping[str, LockedFile], place: str) -> None:
    changed = sorted(name for name in {*locked, *found} if locked.get(name) != found.get(name))
    if not changed:
        return
    name = changed[0]
    was, now = locked.get(name), found.get(name)
    expected = "no such file" if was is None else f"sha256 {was.sha256} ({was.size} bytes)"
    got = "none" if now is None else f"{now.sha256} ({now.size} bytes)"
    more = "" if len(changed) == 1 else f", and {len(changed) - 1} more files differ"
    raise AssessmentError(
        f"{place}: expected {name} to be what was pulled first, {expected}, got {got}{more}. Nothing was replaced. "
        f"If the new one is meant, pull it under another --name; {where} stays what it was.",
        code="grader_changed",
    )


def _locked_file(path: Path) -> LockedFile:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            size += len(block)
    return LockedFile(size=size, sha256=digest.hexdigest())


def _name_of(place: str) -> str:
    last = place.rstrip("/").rsplit("/", 1)[-1].partition("@")[0].lower()
    name = re.sub(r"[^a-z0-9._-]+", "-", last).strip("-._")
    if not name:
        raise AssessmentError(f"expected a source that ends in a name, got {place!r}: give --name")
    return name


def _wanted(names: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """Files at the top that are fetched, and all others."""
    wanted = [n for n in names if "/" not in n and any(fnmatch.fnmatchcase(n, pattern) for pattern in _WANTED)]
    return sorted(wanted), tuple(sorted(set(names) - set(wanted)))


def _fetch(place: str, into: Path, progress: Progress) -> tuple[str, tuple[str, ...]]:
    """Revision of what was fetched, and the files that were left where they are."""
    try:
        if place.startswith("hf://"):
            return _from_hub(place, into, progress)
        if place.startswith("s3://"):
            return "", _from_s3(place, into, progress)
        return "", _from_directory(Path(place), into, progress)
    except AssessmentError:
        raise
    except Exception as err:  # clients raise errors of several libraries
        first = (str(err).strip().splitlines() or [""])[0][:200]
        raise AssessmentError(
            f"expected to fetch {place}, got {type(err).__name__}: {first}. Check the address, the credentials and the "
            "network, or fetch it by hand and give its directory."
        ) from err


def _from_hub(place: str, into: Path, progress: Progress) -> tuple[str, tuple[str, ...]]:
    from huggingface_hub import HfApi, hf_hub_download

    match = _HUB.fullmatch(place)
    if match is None:
        raise AssessmentError(f"expected hf://OWNER/NAME or hf://OWNER/NAME@COMMIT, got {place!r}")
    # The commit that a branch means now, so that all files are of one commit.
    info = HfApi().model_info(match["repo"], revision=match["revision"])
    wanted, skipped = _wanted([sibling.rfilename for sibling in info.siblings or []])
    for number, name in enumerate(wanted, 1):
        kept = hf_hub_download(match["repo"], name, revision=info.sha)
        shutil.copyfile(kept, into / name)
        progress(number, len(wanted))
    return str(info.sha), skipped


def _from_s3(place: str, into: Path, progress: Progress) -> tuple[str, ...]:
    import boto3

    match = _S3.fullmatch(place)
    if match is None:
        raise AssessmentError(f"expected s3://BUCKET/PREFIX, got {place!r}")
    client: Any = boto3.client("s3")
    prefix = match["prefix"].rstrip("/") + "/"
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=match["bucket"], Prefix=prefix)
    names = [item["Key"][len(prefix) :] for page in pages for item in page.get("Contents", [])]
    wanted, skipped = _wanted([name for name in names if name])
    for number, name in enumerate(wanted, 1):
        client.download_file(match["bucket"], prefix + name, str(into / name))
        progress(number, len(wanted))
    return skipped


def _from_directory(source: Path, into: Path, progress: Progress) -> tuple[str, ...]:
    if not source.is_dir():
        known = ", ".join(catalogue())
        raise AssessmentError(
            f"expected a name of the catalogue ({known}), hf://OWNER/NAME, s3://BUCKET/PREFIX or a directory, got "
            f"{str(source)!r}"
        )
    names = [path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()]
    wanted, skipped = _wanted(names)
    for number, name in enumerate(wanted, 1):
        shutil.copyfile(source / name, into / name)
        progress(number, len(wanted))
    return skipped
