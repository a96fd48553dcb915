"""The files of a policy set as they were at one moment, read whole or not at all.

What they mean is `document`. A place that is being written to while it is read gives an error and never a mixture of
what was there before and after.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from registry_gate.documents import MAX_DOCUMENT_BYTES, DocumentError, Problem, RawDocument, parse_documents
from registry_gate.errors import PolicyError

POLICY_SET_FILE = "policy-set.yaml"
CASES_DIRECTORY = "cases"
BATTERIES_DIRECTORY = "batteries"
CONTROLS_DIRECTORY = "controls"
CALIBRATIONS_DIRECTORY = "calibrations"
SIGNATURE_FILE = "policy-set.dsse.json"
"""Who signed all other files of the set (`registry-gate policy sign`)."""
SUB_DIRECTORIES = (CASES_DIRECTORY, BATTERIES_DIRECTORY, CONTROLS_DIRECTORY, CALIBRATIONS_DIRECTORY)
"""Directories in which YAML files may lie; anywhere else one would be enforced by nobody."""

MAX_FILES = 2_000
"""Most files and directories of a policy set: whoever has more gave another directory than they meant."""

_TRIES, _PAUSE_S = 5, 0.02
"""A directory that changes while it is read is read again, for about as long as copying a few files takes."""


class UnreachableError(PolicyError):
    """A place does not say what it holds: the operator must act, or time must pass."""

    code = "policies_unreachable"


class UnsignedError(PolicyError):
    """A set is not signed by somebody who may, whatever it says."""

    code = "policies_unsigned"


Fingerprint = tuple[tuple[str, int, int, int, int], ...]


@dataclass(frozen=True, kw_only=True)
class PolicyFiles:
    """The files of a policy set.

    Args:
        place: Where they come from, as people write it.
        contents: Bytes by name, relative to the place, with `/` between its parts.
        refused: Why a file that is there was not read, by name; directories end with `/`.
        revision: What the place calls these files, e.g. `commit 3f1c...`; a directory has no word for it.
    """

    place: str
    contents: Mapping[str, bytes]
    refused: Mapping[str, str]
    revision: str = ""

    @property
    def names(self) -> list[str]:
        """Names of all files, read or not."""
        return sorted({*self.contents, *self.refused})

    def shown(self, name: str) -> str:
        """A file as messages name it."""
        return f"{self.place}/{name}"

    def below(self, directory: str) -> PolicyFiles:
        """The files of one directory, with their names inside it."""
        start = f"{directory}/"
        return PolicyFiles(
            place=self.shown(directory),
            contents={name[len(start) :]: data for name, data in self.contents.items() if name.startswith(start)},
            refused={name[len(start) :]: why for name, why in self.refused.items() if name.startswith(start)},
            revision=self.revision,
        )

    def documents(self, name: str) -> list[RawDocument]:
        """The YAML documents of a file.

        Raises:
            DocumentError: It was not read, or is no valid YAML of mappings.
        """
        if name in self.refused:
            raise DocumentError([Problem(file=self.shown(name), line=0, key="", message=self.refused[name])])
        return parse_documents(self.contents[name], self.shown(name))


def read_directory(directory: Path) -> PolicyFiles:
    """The files of a directory. Names that start with a dot are how mounts and editors keep their own files.

    Raises:
        PolicyError: There is no such directory, it holds too many files, or it does not hold still.
    """
    if not directory.is_dir():
        raise PolicyError("expected a directory of policies, got none; `registry-gate init` makes one")
    for _ in range(_TRIES):
        before = fingerprint(directory)
        contents: dict[str, bytes] = {}
        refused: dict[str, str] = {}
        for name, path, problem in _walk(directory):
            data = problem or _read(path)
            if isinstance(data, bytes):
                contents[name] = data
            else:
                refused[name] = data
        if fingerprint(directory) == before:
            return PolicyFiles(
                place=str(directory), contents=MappingProxyType(contents), refused=MappingProxyType(refused)
            )
        time.sleep(_PAUSE_S)
    raise PolicyError(
        "expected files that hold still while they are read, got some that change: somebody is writing them, so try "
        "again; to change several files at once, write a new directory and rename it"
    )


def fingerprint(directory: Path, *, skip: Sequence[str] = ()) -> Fingerprint:
    """What changes whenever a file below a directory is added, removed, written or replaced.

    Args:
        directory: The directory. One that is not there has a fingerprint too.
        skip: Top-level directories that do not matter.

    Raises:
        PolicyError: It holds too many files.
    """
    found = [_status(str(directory), directory)]
    found += [
        _status(name, path) for name, path, _ in _walk(directory, directories=True) if name.split("/")[0] not in skip
    ]
    return tuple(sorted(found))


def _status(name: str, path: Path) -> tuple[str, int, int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return (name, 0, 0, 0, 0)
    return (name, status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)


def _walk(directory: Path, *, directories: bool = False) -> Iterator[tuple[str, Path, str | None]]:
    """(name, path, why it must not be read) of everything below, links inside the directory followed.

    Raises:
        PolicyError: It holds too many files.
    """
    root = directory.resolve()
    waiting: list[tuple[str, Path, tuple[Path, ...]]] = [("", directory, (root,))]
    count = 0
    while waiting:
        prefix, place, above = waiting.pop()
        try:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as err:
            if prefix:
                yield prefix, place, f"expected a readable directory, got {err.strerror or err}"
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            count += 1
            if count > MAX_FILES:
                raise PolicyError(
                    f"expected at most {MAX_FILES} files in {directory}, got more: give the directory of the policies "
                    "alone"
                )
            name, path = prefix + entry.name, Path(entry.path)
            try:
                name.encode("utf-8")
                real = path.resolve()
                is_directory = entry.is_dir()
            except UnicodeEncodeError:
                yield name.encode("utf-8", "backslashreplace").decode(), path, "expected a name in UTF-8: rename it"
                continue
            except (OSError, RuntimeError) as err:
                yield name, path, f"expected a readable file, got {getattr(err, 'strerror', None) or err}"
                continue
            if not real.is_relative_to(root):
                shown = f"{name}/" if is_directory else name
                yield shown, path, "expected a file inside the policy directory, got a link out of it"
            elif not is_directory:
                yield name, path, None
            elif real in above:
                yield f"{name}/", path, "expected a directory, got a link to one that it lies in"
            else:
                if directories:
                    yield name, path, None
                waiting.append((f"{name}/", path, (*above, real)))


def _read(path: Path) -> bytes | str:
    """The bytes of a regular file of a bearable size, or why there are none."""
    try:
        # Without waiting for whoever may write into a pipe, should it be one.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return "expected a file, got a link to none"
    except OSError as err:
        return f"expected a readable file, got {err.strerror or err}"
    with open(handle, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            return "expected a regular file"
        if status.st_size > MAX_DOCUMENT_BYTES:
            return f"expected at most {MAX_DOCUMENT_BYTES} bytes, got {status.st_size}"
        try:
            return file.read(MAX_DOCUMENT_BYTES + 1)
        except OSError as err:
            return f"expected a readable file, got {err.strerror or err}"
