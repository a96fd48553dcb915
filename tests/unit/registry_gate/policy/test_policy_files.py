"""The files of a policy set: all of one moment, and a sentence for each that was not read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from registry_gate.errors import PolicyError
from registry_gate.policy import files as policy_files
from registry_gate.policy.files import MAX_FILES, fingerprint, read_directory


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in ("a.yaml", "signers/k.pem", "cases/x/one.yaml", ".hidden/z.yaml", ".swp"):
        path = tmp_path / "p" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "p"


def test_the_files_of_a_directory(directory: Path) -> None:
    files = read_directory(directory)
    assert dict(files.contents) == {name: name.encode() for name in ("a.yaml", "signers/k.pem", "cases/x/one.yaml")}
    assert files.refused == {}
    assert files.shown("a.yaml") == f"{directory}/a.yaml"
    below = files.below("cases")
    assert (below.names, below.shown("x/one.yaml")) == (["x/one.yaml"], f"{directory}/cases/x/one.yaml")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: path.symlink_to("/etc/passwd"), "expected a file inside the policy directory, got a link out"),
        (lambda path: path.symlink_to("gone.yaml"), "expected a file, got a link to none"),
        (lambda path: path.symlink_to(path.name), "expected a readable file, got "),
        (os.mkfifo, "expected a regular file"),
        (lambda path: path.write_bytes(b"x" * 10_000_000), "expected at most 100000 bytes, got 10000000"),
    ],
)
def test_what_is_no_file_of_ours_is_not_read(directory: Path, make: Callable[[Path], None], sentence: str) -> None:
    make(directory / "b.yaml")
    files = read_directory(directory)
    assert "b.yaml" not in files.contents
    assert files.refused["b.yaml"].startswith(sentence)


def test_a_link_to_where_it_lies_is_not_followed_for_ever(directory: Path) -> None:
    (directory / "cases" / "again").symlink_to(directory)
    assert read_directory(directory).refused == {
        "cases/again/": "expected a directory, got a link to one that it lies in"
    }


def test_a_name_that_is_no_utf8_is_refused(directory: Path) -> None:
    Path(os.fsdecode(os.fsencode(directory) + b"/\xff.yaml")).write_text("")
    (sentence,) = read_directory(directory).refused.values()
    assert sentence == "expected a name in UTF-8: rename it"


def test_a_directory_of_everything_is_refused(directory: Path) -> None:
    for number in range(MAX_FILES + 1):
        (directory / f"{number}.txt").touch()
    for read in (read_directory, fingerprint):
        with pytest.raises(PolicyError, match=f"expected at most {MAX_FILES} files in "):
            read(directory)


@pytest.mark.parametrize("writes", [1, 4, 5])
def test_a_directory_that_is_being_written_is_never_read_half(
    directory: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    (directory / "z.yaml").write_text("0")
    read, left = policy_files._read, iter(range(writes))

    def read_while_somebody_writes(path: Path) -> bytes | str:
        data = read(path)
        # After one file was read and before the other is.
        if path.name == "a.yaml" and (number := next(left, None)) is not None:
            (directory / "a.yaml").write_text(f"{number + 1} ")
            (directory / "z.yaml").write_text(f"{number + 1} ")
        return data

    monkeypatch.setattr(policy_files, "_read", read_while_somebody_writes)
    if writes == 5:
        with pytest.raises(PolicyError, match="expected files that hold still while they are read"):
            read_directory(directory)
    else:
        contents = read_directory(directory).contents
        assert contents["a.yaml"] == contents["z.yaml"] == f"{writes} ".encode()


@pytest.mark.parametrize(
    "change",
    [
        lambda directory: (directory / "a.yaml").write_text("b.yaml"),
        lambda directory: (directory / "b.yml").touch(),
        lambda directory: (directory / "signers" / "k.pem").unlink(),
        lambda directory: (directory / "batteries").mkdir(),
        lambda directory: os.replace(directory / "signers" / "k.pem", directory / "a.yaml"),
    ],
)
def test_every_change_changes_the_fingerprint(directory: Path, change: Callable[[Path], None]) -> None:
    before = fingerprint(directory)
    assert fingerprint(directory) == before
    change(directory)
    assert fingerprint(directory) != before


def test_what_is_skipped_changes_nothing(directory: Path) -> None:
    before = fingerprint(directory, skip=("cases",))
    (directory / "cases" / "x" / "two.yaml").touch()
    assert fingerprint(directory, skip=("cases",)) == before
    assert fingerprint(directory / "gone") == ((str(directory / "gone"), 0, 0, 0, 0),)
