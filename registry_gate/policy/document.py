"""Load a directory of policies as one policy set with one digest, or refuse it with every problem of every file.

A policy set is never half loaded: what is dropped silently is a rule that nobody enforces. What the policies decide is
`rules`; whether they make sense beside their batteries is `lint`.

    policies/
      policy-set.yaml      kind PolicySet, required
      *.yaml               kind PromotionPolicy, one or several documents each
      batteries/*.yaml     kind Battery, optional, beside the batteries that come with the program
      signers/*.pem        public keys
      cases/               kind PolicyTest, read by `cases`, not part of the set or its digest
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from registry_gate.battery import Battery, load_batteries
from registry_gate.documents import MAX_DOCUMENT_BYTES, DocumentError, Problem, RawDocument, parse_documents, validate
from registry_gate.form import canonical_json
from registry_gate.policy.lint import LintProblem, lint_policy, lint_set
from registry_gate.policy.schema import Policy, PolicySetFile, matches
from registry_gate.promotion import Target, TargetKind

POLICY_SET_FILE = "policy-set.yaml"
CASES_DIRECTORY = "cases"
BATTERIES_DIRECTORY = "batteries"


@dataclass(frozen=True, kw_only=True)
class Governance:
    """Who has a say on a target.

    Args:
        free: The pattern under which an alias moves freely; None when it does not.
        policies: Every policy that governs the target; all must allow. Empty when free or unmatched.
        unmatched: What happens because no policy governs it; None when one does or the alias is free.
    """

    free: str | None
    policies: tuple[Policy, ...]
    unmatched: Literal["deny", "allow"] | None


@dataclass(frozen=True, kw_only=True)
class PolicySet:
    """Everything that decisions rest on, loaded as a whole.

    Args:
        directory: Where it came from.
        document: `policy-set.yaml`.
        policies: By name.
        batteries: By id.
        signers: Public keys (PEM), by signer's name.
        digest: `sha256:` over the names and bytes of all files and the digests of the batteries.
        warnings: What lint found beside errors.
    """

    directory: Path
    document: PolicySetFile
    policies: Mapping[str, Policy]
    batteries: Mapping[str, Battery]
    signers: Mapping[str, bytes]
    digest: str
    warnings: tuple[LintProblem, ...] = ()

    @property
    def name(self) -> str:
        """Name of the set."""
        return self.document.metadata.name

    def governing(self, target: Target) -> Governance:
        """Who has a say on a target. A free alias is free whatever policies match, so list only names nobody uses."""
        if target.kind is TargetKind.ALIAS:
            for pattern in self.document.spec.free_aliases:
                if matches(target.name, (pattern,)):
                    return Governance(free=pattern, policies=(), unmatched=None)
        found = tuple(policy for _, policy in sorted(self.policies.items()) if policy.governs(target))
        return Governance(free=None, policies=found, unmatched=None if found else self.document.spec.unmatched)


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What reading a directory found.

    Args:
        policy_set: The set; None when there is any error.
        errors: Every error, by file and line.
        warnings: Every warning, by file and line.
    """

    policy_set: PolicySet | None
    errors: tuple[Problem, ...]
    warnings: tuple[LintProblem, ...]


def load_policy_set(directory: Path, battery_dirs: Sequence[Path]) -> PolicySet:
    """The policy set of a directory.

    Args:
        directory: Holds `policy-set.yaml` and the policies.
        battery_dirs: Directories of batteries, beside the set's own.

    Raises:
        DocumentError: Anything is wrong anywhere; it lists all of it.
    """
    checked = check_policy_directory(directory, battery_dirs)
    if checked.policy_set is None:
        raise DocumentError(checked.errors)
    return checked.policy_set


def check_policy_directory(directory: Path, battery_dirs: Sequence[Path]) -> Checked:
    """Read a directory and report everything, errors and warnings alike; what `policy lint` prints.

    Args:
        directory: Holds `policy-set.yaml` and the policies.
        battery_dirs: Directories of batteries, beside the set's own.
    """
    reading = _Reading(directory)
    if not directory.is_dir():
        reading.refuse(directory, "expected a directory of policies, got none; `registry-gate init` makes one")
        return reading.outcome()
    # (1) Files: which there are, and what they hold.
    reading.read_files()
    # (2) Batteries.
    own = directory / BATTERIES_DIRECTORY
    reading.read_batteries([*battery_dirs, *([own] if own.is_dir() else [])])
    # (3) Signers.
    reading.read_signers()
    # (4) Whether it all makes sense together.
    reading.lint()
    return reading.outcome()


class _Reading:
    """One pass over a directory. Collects problems instead of stopping at the first."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = directory.resolve()
        self.errors: list[Problem] = []
        self.warnings: list[LintProblem] = []
        self.files: dict[str, str] = {}
        self.policies: dict[str, tuple[Policy, RawDocument]] = {}
        self.set: tuple[PolicySetFile, RawDocument] | None = None
        self.batteries: dict[str, Battery] | None = None
        self.signers: dict[str, bytes] = {}

    def refuse(self, path: Path, message: str) -> None:
        self.errors.append(Problem(file=str(path), line=0, key="", message=message))

    def outcome(self) -> Checked:
        def order(problem: Problem) -> tuple[str, int, str]:
            return (problem.file, problem.line, problem.message)

        errors, warnings = tuple(sorted(self.errors, key=order)), tuple(sorted(self.warnings, key=order))
        if errors or self.set is None or self.batteries is None:
            return Checked(policy_set=None, errors=errors, warnings=warnings)
        body = {
            "files": sorted(self.files.items()),
            "batteries": sorted((name, battery.digest) for name, battery in self.batteries.items()),
        }
        policy_set = PolicySet(
            directory=self.directory,
            document=self.set[0],
            policies=MappingProxyType({name: self.policies[name][0] for name in sorted(self.policies)}),
            batteries=MappingProxyType(dict(sorted(self.batteries.items()))),
            signers=MappingProxyType(dict(sorted(self.signers.items()))),
            digest="sha256:" + hashlib.sha256(canonical_json(body)).hexdigest(),
            warnings=warnings,
        )
        return Checked(policy_set=policy_set, errors=(), warnings=warnings)

    def read_files(self) -> None:
        """Every policy file; what looks like one but would not be read is refused, never skipped."""
        for path in sorted(self.directory.iterdir()):
            # Names with a dot in front are how mounts and editors keep their own files.
            if path.name.startswith("."):
                continue
            if path.is_dir():
                if path.name not in (CASES_DIRECTORY, BATTERIES_DIRECTORY):
                    self._refuse_strays(path)
            elif path.suffix == ".yaml":
                self._read_file(path)
            elif path.suffix.lower() in (".yml", ".yaml"):
                self.refuse(
                    path, f"expected the ending .yaml, got {path.suffix}: rename it, or it would not be enforced"
                )
        # A missing file is one problem; a file that is there but refused has said so already.
        if self.set is None and not (self.directory / POLICY_SET_FILE).exists():
            message = "expected this file (kind PolicySet: free aliases, unmatched, signers), got none: add it"
            self.refuse(self.directory / POLICY_SET_FILE, message)
        if not self.policies and not self.errors:
            self.refuse(self.directory, "expected at least one policy (kind PromotionPolicy), got none")

    def _refuse_strays(self, directory: Path) -> None:
        for path in sorted(directory.rglob("*")):
            if path.suffix.lower() in (".yaml", ".yml"):
                message = (
                    "policies lie at the top of the directory and cases under cases/: here it would not be enforced"
                )
                self.refuse(path, message)

    def _read_file(self, path: Path) -> None:
        data = self._bytes_of(path)
        if data is None:
            return
        try:
            documents = parse_documents(data, str(path))
        except DocumentError as err:
            self.errors.extend(err.problems)
            return
        for raw in documents:
            try:
                self._take(path, raw)
            except DocumentError as err:
                self.errors.extend(err.problems)

    def _take(self, path: Path, raw: RawDocument) -> None:
        if path.name == POLICY_SET_FILE:
            if self.set is not None:
                raise DocumentError([raw.problem(("kind",), "expected one policy set in this file, got a second one")])
            self.set = (validate(raw, PolicySetFile, "PolicySet"), raw)
            return
        if raw.kind != "PromotionPolicy":
            hints = {
                "PolicySet": f"; it belongs into {POLICY_SET_FILE}",
                "PolicyTest": f"; it belongs under {CASES_DIRECTORY}/",
                "Battery": f"; it belongs under {BATTERIES_DIRECTORY}/",
            }
            got = repr(raw.data.get("kind")) + hints.get(raw.kind, "")
            raise DocumentError([raw.problem(("kind",), f"expected kind PromotionPolicy, got {got}")])
        policy = validate(raw, Policy, "PromotionPolicy")
        if policy.name in self.policies:
            other = self.policies[policy.name][1]
            message = f"expected every policy to have its own name, got {policy.name!r}, which {other.file} has too"
            raise DocumentError([raw.problem(("metadata", "name"), message)])
        self.policies[policy.name] = (policy, raw)

    def _bytes_of(self, path: Path) -> bytes | None:
        """The bytes of a file of this directory, noted for the digest; None when it was refused."""
        if not path.resolve().is_relative_to(self.root):
            self.refuse(path, "expected a file inside the policy directory, got a link out of it")
            return None
        try:
            if not path.is_file():
                self.refuse(path, "expected a file, got none" if not path.exists() else "expected a regular file")
                return None
            if path.stat().st_size > MAX_DOCUMENT_BYTES:
                self.refuse(path, f"expected at most {MAX_DOCUMENT_BYTES} bytes, got {path.stat().st_size}")
                return None
            data = path.read_bytes()
        except OSError as err:
            self.refuse(path, f"expected a readable file, got {err.strerror or err}")
            return None
        # The name as written, not the resolved one: a mount may resolve to another place at every start.
        self.files[path.relative_to(self.directory).as_posix()] = hashlib.sha256(data).hexdigest()
        return data

    def read_batteries(self, directories: Sequence[Path]) -> None:
        try:
            self.batteries = load_batteries(directories)
        except DocumentError as err:
            self.errors.extend(err.problems)

    def read_signers(self) -> None:
        if self.set is None:
            return
        document, raw = self.set
        for number, signer in enumerate(document.spec.signers):
            place = ("spec", "signers", number, "publicKey")
            if Path(signer.public_key).is_absolute() or ".." in Path(signer.public_key).parts:
                message = f"expected a path inside the policy directory, got {signer.public_key!r}"
                self.errors.append(raw.problem(place, message))
                continue
            path = self.directory / signer.public_key
            if not path.exists():
                message = (
                    f"expected the public key of signer {signer.name!r} in {path}, got no such file; "
                    "`registry-gate init` makes a key pair and writes it"
                )
                self.errors.append(raw.problem(place, message))
                continue
            data = self._bytes_of(path)
            if data is None:
                continue
            if b"PRIVATE KEY" in data:
                message = f"expected a public key in {path}, got a private key: take it away and make a new pair"
                self.errors.append(raw.problem(place, message))
            elif b"-----BEGIN PUBLIC KEY-----" not in data:
                message = f"expected a public key in PEM format in {path}, got something else"
                self.errors.append(raw.problem(place, message))
            else:
                self.signers[signer.name] = data

    def lint(self) -> None:
        problems: list[LintProblem] = []
        # A policy set or batteries that were refused would make every policy look wrong.
        if self.set is not None and self.batteries is not None:
            names = [signer.name for signer in self.set[0].spec.signers]
            for policy, raw in self.policies.values():
                problems += lint_policy(policy, raw, self.batteries, names)
            problems += lint_set(*self.set, [policy for policy, _ in self.policies.values()])
        self.errors.extend(problem for problem in problems if problem.level == "error")
        self.warnings.extend(problem for problem in problems if problem.level == "warning")
