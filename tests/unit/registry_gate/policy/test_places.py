"""One set from three places: the same files, the same digest, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback import s3_on_loopback
from place_builders import address, commit, git, write
from test_policy_document import POLICY, SET

from registry_gate.errors import PolicyError
from registry_gate.policy.document import check_policy_set, load_policy_set
from registry_gate.policy.files import PolicyFiles, UnreachableError, read_directory
from registry_gate.policy.places import is_address, kind_of, place_at, read_place
from registry_gate.policy.s3_place import S3Place


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write(tmp_path / "policies")


def refused(place: Path | str) -> str:
    checked = check_policy_set(place, [])
    assert checked.policy_set is None
    return "\n".join(str(problem) for problem in checked.errors)


# -- git --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "a repository"
    write(root / "clinic" / "policies")
    git(root, "init", "--quiet")
    commit(root)
    return root


def test_a_commit_is_the_same_set_as_its_directory(repository: Path) -> None:
    loaded = load_policy_set(address(repository), [])
    assert loaded.digest == load_policy_set(repository / "clinic" / "policies", []).digest
    assert loaded.files.revision == f"commit {git(repository, 'rev-parse', 'HEAD')}"
    assert loaded.files.contents == read_directory(repository / "clinic" / "policies").contents
    assert kind_of(loaded.files) == "git"


def test_the_working_tree_and_the_index_do_not_count(repository: Path) -> None:
    before = load_policy_set(address(repository), []).digest
    (repository / "clinic/policies/one.yaml").write_text("broken")
    git(repository, "add", "--all")
    (repository / "clinic/policies/policy-set.yaml").unlink()
    assert load_policy_set(address(repository), []).digest == before


def test_a_branch_moves_and_a_commit_stays(repository: Path) -> None:
    first = git(repository, "rev-parse", "HEAD")
    before = load_policy_set(address(repository), []).digest
    write(repository / "clinic/policies", **{"one.yaml": POLICY.replace("0.15", "0.14")})
    second = commit(repository)
    git(repository, "tag", "-a", "v2", "-m", "x")
    assert load_policy_set(address(repository), []).digest != before
    assert load_policy_set(address(repository, "v2"), []).files.revision == f"commit {second}"
    assert load_policy_set(address(repository, first), []).digest == before


def test_a_bare_repository_with_the_policies_at_its_top(directory: Path, tmp_path: Path) -> None:
    git(directory, "init", "--quiet")
    commit(directory)
    git(tmp_path, "clone", "--quiet", "--bare", str(directory), "bare.git")
    assert load_policy_set(address(tmp_path / "bare.git", folder=""), []).name == "test"


def test_links_and_submodules_of_a_commit_are_refused(repository: Path, tmp_path: Path) -> None:
    policies = repository / "clinic/policies"
    (policies / "two.yaml").symlink_to("one.yaml")
    (policies / "three.yaml").write_bytes(b"#" * 100_001)
    other = write(tmp_path / "other")
    git(other, "init", "--quiet")
    commit(other)
    git(
        repository, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(other), "clinic/policies/sub"
    )
    commit(repository)
    said = refused(address(repository))
    assert "two.yaml: expected a regular file, got a symbolic link: commit the file itself" in said
    assert "three.yaml: expected at most 100000 bytes, got 100001" in said
    assert "sub/: expected a directory, got a submodule: its files are not in this commit" in said


def test_a_replaced_object_does_not_count(repository: Path) -> None:
    before = load_policy_set(address(repository), []).digest
    first = git(repository, "rev-parse", "HEAD")
    write(repository / "clinic/policies", **{"one.yaml": POLICY.replace("0.15", "0.9")})
    git(repository, "replace", first, commit(repository))
    assert load_policy_set(address(repository, first), []).digest == before


def test_variables_of_a_git_hook_do_not_lead_elsewhere(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load_policy_set(address(repository), []).digest
    monkeypatch.setenv("GIT_DIR", str(tmp_path))
    assert load_policy_set(address(repository), []).digest == before


@pytest.mark.parametrize(
    ("name", "folder", "message"),
    [
        ("gone", "clinic/policies", "expected a commit and its files, got: nothing called 'gone' there"),
        ("--help", "clinic/policies", "expected a commit and its files, got: nothing called '--help' there"),
        ("main", "elsewhere", "expected a commit and its files, got: fatal: "),
        ("main", "clinic/../clinic", "expected git+file:///REPOSITORY@NAME#FOLDER"),
        ("", "clinic", "expected git+file:///REPOSITORY@NAME#FOLDER"),
    ],
)
def test_what_is_not_in_the_repository_is_refused(repository: Path, name: str, folder: str, message: str) -> None:
    assert message in refused(address(repository, name, folder))


def test_what_is_no_repository_is_refused(tmp_path: Path) -> None:
    assert "got no such directory" in refused(address(tmp_path / "gone"))
    assert "not a git repository" in refused(address(tmp_path)) or "nothing called" in refused(address(tmp_path))


@pytest.mark.parametrize("text", ["git+https://example.org/r@main", "git+ssh://x/y@z", "git+x"])
def test_a_repository_elsewhere_is_refused_with_what_to_do(text: str) -> None:
    assert is_address(text)
    with pytest.raises(PolicyError, match="is cloned to this one first"):
        place_at(text)


# -- S3 ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """Buckets on a real S3 server (moto); `kept` keeps versions."""
    with pytest.MonkeyPatch.context() as patch, s3_on_loopback(patch, "plain") as client:
        client.create_bucket(Bucket="kept")
        client.put_bucket_versioning(Bucket="kept", VersioningConfiguration={"Status": "Enabled"})
        yield client


def publish(directory: Path, to: str) -> str:
    return S3Place.parse(to).publish(read_directory(directory))


@pytest.mark.parametrize("bucket", ["kept", "plain"])
def test_a_published_set_is_the_same_set_as_its_directory(s3: Any, directory: Path, bucket: str) -> None:
    to = f"s3://{bucket}/same/set"
    revision = publish(directory, to)
    loaded = load_policy_set(to, [])
    assert loaded.digest == load_policy_set(directory, []).digest
    assert loaded.files.contents == read_directory(directory).contents
    assert loaded.files.revision == revision
    assert revision.startswith("version " if bucket == "kept" else "index sha256:")
    assert kind_of(loaded.files) == "s3"


def test_a_bucket_may_hold_nothing_else(s3: Any, directory: Path) -> None:
    publish(directory, "s3://plain")
    assert load_policy_set("s3://plain/", []).name == "test"


class HalfwayError(Exception):
    """The upload was cut."""


@pytest.mark.parametrize("bucket", ["kept", "plain"])
def test_a_set_that_is_half_uploaded_is_not_there(s3: Any, directory: Path, bucket: str) -> None:
    to = f"s3://{bucket}/half"
    publish(directory, to)
    before = load_policy_set(to, []).digest
    write(directory, **{"one.yaml": POLICY.replace("0.15", "0.14"), "policy-set.yaml": SET.replace("test", "next")})
    for most in range(4):
        place, puts = S3Place.parse(to), iter(range(most))
        put = place._put

        def cut(name: str, data: bytes, puts: Iterator[int] = puts, put: Any = put) -> str | None:
            if next(puts, None) is None:
                raise HalfwayError
            return put(name, data)

        object.__setattr__(place, "_put", cut)
        with pytest.raises(HalfwayError):
            place.publish(read_directory(directory))
        assert load_policy_set(to, []).digest == before
    publish(directory, to)
    assert load_policy_set(to, []).name == "next"


def test_an_older_revision_is_read_whole_while_another_is_published(s3: Any, directory: Path) -> None:
    to = "s3://plain/older"
    publish(directory, to)
    place = place_at(to)
    revision = place.revision()
    write(directory, **{"one.yaml": POLICY.replace("0.15", "0.14")})
    publish(directory, to)
    assert b"atMost: 0.15" in place.read(revision).contents["one.yaml"]
    assert b"atMost: 0.14" in read_place(to).contents["one.yaml"]


def test_bytes_that_somebody_wrote_over_are_refused(s3: Any, directory: Path) -> None:
    publish(directory, "s3://plain/over")
    listed = s3.list_objects_v2(Bucket="plain", Prefix="over/files/")["Contents"]
    s3.put_object(Bucket="plain", Key=listed[0]["Key"], Body=b"other")
    assert "that the index names, got " in refused("s3://plain/over")
    s3.delete_object(Bucket="plain", Key=listed[0]["Key"])
    assert "expected this object, got none (NoSuchKey): publish the set again" in refused("s3://plain/over")


def test_where_versions_are_kept_what_is_written_over_is_read_as_it_was(s3: Any, directory: Path) -> None:
    publish(directory, "s3://kept/over")
    before = load_policy_set("s3://kept/over", []).digest
    for listed in s3.list_objects_v2(Bucket="kept", Prefix="over/files/")["Contents"]:
        s3.put_object(Bucket="kept", Key=listed["Key"], Body=b"other")
        s3.delete_object(Bucket="kept", Key=listed["Key"])
    assert load_policy_set("s3://kept/over", []).digest == before


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (b"not json", "expected an index as `registry-gate policy publish` writes it"),
        (b'{"format": "registry-gate/policy-set-index@1"}', "expected an index as"),
        (b'{"format": "registry-gate/policy-set-index@2", "files": {}}', "expected an index as"),
        (b"\xff\xfe", "expected an index as"),
        (b" " * 1_000_001, "expected at most 1000000 bytes, got 1000001"),
        *(
            (
                b'{"format": "registry-gate/policy-set-index@1", "files": {"%s": {"sha256": "%s"}}}'
                % (name, b"a" * 64),
                "expected names of files below the policy set, got ",
            )
            for name in (b"../x.yaml", b"a/../x.yaml", b"/etc/passwd", b"a//b", b".", b"a\\\\b", b"a\\u0000b", b"")
        ),
    ],
)
def test_an_index_that_is_none_is_refused(s3: Any, index: bytes, message: str) -> None:
    s3.put_object(Bucket="plain", Key="odd/index.json", Body=index)
    assert message in refused("s3://plain/odd")


def test_what_is_not_there_says_how_to_write_it(s3: Any) -> None:
    for bucket in ("plain", "gone"):
        assert f"`registry-gate policy publish DIRECTORY s3://{bucket}/nothing` writes it" in refused(
            f"s3://{bucket}/nothing"
        )


def test_a_place_that_does_not_answer_is_another_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    with pytest.raises(UnreachableError, match=r"s3://b/p/index.json: expected S3 to answer, got: ") as caught:
        load_policy_set("s3://b/p", [])
    assert caught.value.code == "policies_unreachable"


@pytest.mark.parametrize("text", ["s3://", "s3:///x", "s3://b/../x", "s3://b/a//b"])
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(PolicyError, match="expected s3://BUCKET/PREFIX"):
        place_at(text)


def test_a_set_with_a_file_that_was_not_read_is_not_published(s3: Any, directory: Path) -> None:
    (directory / "two.yaml").symlink_to("/etc/passwd")
    with pytest.raises(PolicyError, match=r"two\.yaml: expected a file inside .*: nothing was published"):
        publish(directory, "s3://plain/never")
    assert "Contents" not in s3.list_objects_v2(Bucket="plain", Prefix="never/")


def test_a_directory_has_no_revision(directory: Path) -> None:
    files: PolicyFiles = read_place(directory)
    assert (files.revision, kind_of(files)) == ("", "directory")
