"""The places that a policy set can be read from: a directory, a git commit, or a published set in S3.

A directory is a path. The others are addresses, told apart by how they begin:

    git+file:///srv/policies@main#clinic    folder clinic/ at a commit, branch or tag of a git repository
    s3://bucket/prefix                      what `registry-gate policy publish` wrote there

Git's files are read from its object database and never from the working tree. Of S3's, each is read by the sha256 that
one index gives it. So neither is ever a mixture of old and new.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from registry_gate.errors import PolicyError
from registry_gate.policy.files import PolicyFiles, read_directory
from registry_gate.policy.git_place import GitPlace
from registry_gate.policy.s3_place import S3Place

ADDRESSES = ("git+file:///REPOSITORY@COMMIT#FOLDER", "s3://BUCKET/PREFIX")


class Place(Protocol):
    """A place that cannot be watched for changes like a directory, but asked what it holds now."""

    def revision(self) -> str:
        """What the place holds now, e.g. `commit 3f1c...`; cheap.

        Raises:
            PolicyError: It holds no policy set.
            UnreachableError: It does not answer.
        """
        ...

    def read(self, revision: str) -> PolicyFiles:
        """The files of a revision that `revision` gave, all of them.

        Raises:
            PolicyError: They are not what the revision promises.
            UnreachableError: The place does not answer.
        """
        ...


def is_address(text: str) -> bool:
    """Whether a text is the address of a place, and no directory."""
    return text.startswith(("git+", "s3://"))


def place_at(address: str) -> Place:
    """The place at an address.

    Raises:
        PolicyError: It is no address of a place that sets can be read from.
    """
    if address.startswith("s3://"):
        return S3Place.parse(address)
    if address.startswith("git+file://"):
        return GitPlace.parse(address)
    raise PolicyError(
        f"expected a directory or an address such as {' or '.join(ADDRESSES)}, got {address!r}: a repository "
        "on another machine is cloned to this one first, and fetched as often as you like"
    )


def read_place(place: Path | str) -> PolicyFiles:
    """The files of a policy set, now.

    Args:
        place: A directory or an address.

    Raises:
        PolicyError: There is none, or it cannot be read.
    """
    if isinstance(place, Path):
        return read_directory(place)
    there = place_at(place)
    return there.read(there.revision())


def kind_of(files: PolicyFiles) -> str:
    """What kind of place files came from, for those who may not know the place itself: `directory`, `git` or `s3`."""
    return "git" if files.place.startswith("git+") else "s3" if files.place.startswith("s3://") else "directory"
