"""Read the policy sets that commands compare: directories, and directories as a git revision holds them."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from registry_gate.config import Settings
from registry_gate.errors import PolicyError
from registry_gate.policy.document import PolicySet, load_policy_set
from registry_gate.policy.places import is_address


def two_places(first: str, second: str | None, settings: Settings) -> tuple[str, str]:
    """The two places that a command was given: `OLD NEW`, or `REV..REV` for two revisions of the policy directory.

    Raises:
        PolicyError: One place without `..` in it.
        ConfigError: Revisions, and the policy set of the settings is no directory.
    """
    if second is not None:
        return first, second
    old, dots, new = first.partition("..")
    if not dots:
        raise PolicyError(f"expected two places, OLD NEW, or two git revisions, REV..REV, got only {first!r}")
    directory = settings.require_policy_directory()
    return f"{old or 'HEAD'}:{directory}", f"{new or 'HEAD'}:{directory}"


@contextmanager
def policy_set_at(place: str, battery_dirs: Sequence[Path]) -> Iterator[PolicySet]:
    """The policy set at a place, without the signers' keys: to be compared, not to decide by.

    Args:
        place: A directory, the address of a policy set, or `REV:DIRECTORY` for one inside a git repository.
        battery_dirs: Directories of batteries, beside the set's own.

    Raises:
        PolicyError: There is no such place, or it holds no valid policy set.
    """
    if is_address(place):
        yield load_policy_set(place, battery_dirs, keys=False)
        return
    directory = Path(place)
    if directory.is_dir():
        yield load_policy_set(directory, battery_dirs, keys=False)
        return
    revision, colon, inside = place.partition(":")
    if not colon or not revision:
        raise PolicyError(f"{place}: expected a directory of policies, or REV:DIRECTORY in a git repository, got none")
    with tempfile.TemporaryDirectory(prefix="registry-gate-policies-") as folder:
        _extract(revision, Path(inside or "."), Path(folder))
        try:
            yield load_policy_set(Path(folder), battery_dirs, keys=False)
        except PolicyError as err:
            # The copy is gone when somebody reads this; the place is what they gave.
            raise PolicyError(str(err).replace(folder, place), code=err.code) from err


def _extract(revision: str, directory: Path, to: Path) -> None:
    start = directory if directory.is_dir() else Path.cwd()
    top = Path(_git(start, "rev-parse", "--show-toplevel").decode().strip())
    inside = (directory if directory.is_absolute() else Path.cwd() / directory).resolve()
    if not inside.is_relative_to(top):
        raise PolicyError(f"{directory}: expected a directory inside the git repository {top}, got one outside of it")
    # Resolved first: what begins with a dash would be an option to git.
    commit = _git(top, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}").decode().strip()
    path = inside.relative_to(top).as_posix()
    tree = commit if path == "." else f"{commit}:{path}"
    archive = _git(top, "archive", "--format=tar", tree)
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(to, filter="data")


def _git(directory: Path, *arguments: str) -> bytes:
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *arguments],
            capture_output=True,
            check=False,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired) as err:
        raise PolicyError(f"expected git to read a revision, got: {err}; give two directories instead") from err
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise PolicyError(
            f"git {' '.join(arguments[:1])}: expected a revision and a directory that it holds, got: "
            f"{said[-1] if said else f'exit code {done.returncode}'}"
        )
    return done.stdout
