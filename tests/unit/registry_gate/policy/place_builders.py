"""Policy sets in directories and git repositories."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from test_policy_document import BATTERY, KEY, POLICY, SET


def write(root: Path, **changes: str) -> Path:
    files = {
        "policy-set.yaml": SET,
        "one.yaml": POLICY,
        "signers/worker.pem": KEY,
        "batteries/probe.yaml": BATTERY,
        "cases/x/case.yaml": "not: read here",
        "README.md": "# nothing",
    }
    for name, text in {**files, **changes}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def git(repository: Path, *arguments: str) -> str:
    identity = {
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }
    done = subprocess.run(
        ["git", "-C", str(repository), "-c", "init.defaultBranch=main", *arguments],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **identity},
    )
    return done.stdout.strip()


def commit(repository: Path) -> str:
    git(repository, "add", "--all", "--force")
    git(repository, "commit", "--quiet", "--allow-empty", "-m", "x")
    return git(repository, "rev-parse", "HEAD")


def address(repository: Path, name: str = "main", folder: str = "clinic/policies") -> str:
    return f"git+file://{str(repository).replace(' ', '%20')}@{name}#{folder}"
