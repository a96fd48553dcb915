"""A policy set at a commit of a git repository on this machine.

Read with the git program from the object database: what lies in the working tree, staged or not, does not count, and
neither do filters or replacements that the repository's settings name.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from urllib.parse import unquote

from registry_gate.documents import MAX_DOCUMENT_BYTES
from registry_gate.errors import PolicyError
from registry_gate.policy.files import MAX_FILES, PolicyFiles, UnreachableError

_TIMEOUT_S = 10.0
_LINK, _SUBMODULE = "120000", "160000"


@dataclass(frozen=True, kw_only=True)
class GitPlace:
    """A folder of a repository at what a name in it means now.

    Args:
        address: As it was given.
        repository: The repository, bare or not.
        name: A commit, or a branch or tag whose commit is looked up each time.
        folder: Folder of the policies, `` for the top.
    """

    address: str
    repository: Path
    name: str
    folder: str

    @classmethod
    def parse(cls, address: str) -> GitPlace:
        """Take `git+file:///REPOSITORY@NAME#FOLDER` apart.

        Raises:
            PolicyError: It is none.
        """
        rest, _, folder = address.removeprefix("git+file://").partition("#")
        path, at, name = rest.rpartition("@")
        parts = [part for part in folder.split("/") if part]
        if not at or not name or not path.startswith("/") or "\0" in address or {".", ".."} & set(parts):
            raise PolicyError(
                "expected git+file:///REPOSITORY@NAME#FOLDER with the full path of a repository, the name of a commit, "
                f"branch or tag and, where the policies do not lie at the top, their folder; got {address!r}"
            )
        return cls(address=address, repository=Path(unquote(path)), name=name, folder="/".join(parts))

    def revision(self) -> str:
        """The commit that the name means now. See `Place.revision`."""
        if not self.repository.is_dir():
            raise PolicyError(f"{self.address}: expected a git repository at {self.repository}, got no such directory")
        # Without `--end-of-options` a name that begins with a dash would be an option.
        wanted = f"{self.name}^{{commit}}"
        commit = self._git("rev-parse", "--verify", "--quiet", "--end-of-options", wanted).decode().strip()
        return f"commit {commit}"

    def read(self, revision: str) -> PolicyFiles:
        """The files at a commit. See `Place.read`."""
        commit = revision.removeprefix("commit ")
        listed = self._git("ls-tree", "-r", "-z", "--long", "--full-tree", f"{commit}:{self.folder}")
        found: list[tuple[str, str]] = []
        refused: dict[str, str] = {}
        entries = [entry for entry in listed.split(b"\0") if entry]
        if len(entries) > MAX_FILES:
            raise PolicyError(
                f"{self.address}: expected at most {MAX_FILES} files, got {len(entries)}: name the folder of the "
                "policies after a #"
            )
        for entry in entries:
            about, _, raw = entry.partition(b"\t")
            mode, _, blob, size = about.decode().split()
            try:
                name = raw.decode("utf-8")
            except UnicodeDecodeError:
                refused[raw.decode("utf-8", "backslashreplace")] = "expected a name in UTF-8: rename it"
                continue
            if any(part.startswith(".") for part in name.split("/")):
                continue
            if mode == _SUBMODULE:
                refused[f"{name}/"] = "expected a directory, got a submodule: its files are not in this commit"
            elif mode == _LINK:
                refused[name] = "expected a regular file, got a symbolic link: commit the file itself"
            elif int(size) > MAX_DOCUMENT_BYTES:
                refused[name] = f"expected at most {MAX_DOCUMENT_BYTES} bytes, got {size}"
            else:
                found.append((name, blob))
        contents = dict(zip((name for name, _ in found), self._blobs([blob for _, blob in found]), strict=True))
        return PolicyFiles(
            place=self.address,
            revision=revision,
            contents=MappingProxyType(contents),
            refused=MappingProxyType(refused),
        )

    def _blobs(self, blobs: list[str]) -> list[bytes]:
        answer = self._git("cat-file", "--batch", given="".join(f"{blob}\n" for blob in blobs).encode())
        contents, place = [], 0
        for blob in blobs:
            head_end = answer.index(b"\n", place)
            said = answer[place:head_end].decode().split()
            if said[:2] != [blob, "blob"]:
                raise PolicyError(
                    f"{self.address}: expected the file {blob} in git, got {' '.join(said)}: run git fsck"
                )
            size = int(said[2])
            contents.append(answer[head_end + 1 : head_end + 1 + size])
            place = head_end + 1 + size + 1
        return contents

    def _git(self, *arguments: str, given: bytes = b"") -> bytes:
        # Variables of a caller that runs inside a git hook would point git at another repository.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        environment |= {
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "LC_ALL": "C",
        }
        try:
            done = subprocess.run(
                ["git", "-C", str(self.repository), *arguments],
                input=given,
                env=environment,
                capture_output=True,
                check=False,
                timeout=_TIMEOUT_S,
            )
        except FileNotFoundError as err:
            raise PolicyError(
                f"{self.address}: expected the git program, got none: install git on this machine"
            ) from err
        except (OSError, subprocess.TimeoutExpired) as err:
            raise UnreachableError(f"{self.address}: expected git to answer, got: {err}") from err
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip()
            what = re.split(r"\n", said)[0] if said else f"nothing called {self.name!r} there"
            raise PolicyError(f"{self.address}: expected a commit and its files, got: {what}")
        return done.stdout
