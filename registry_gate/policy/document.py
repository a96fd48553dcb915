"""Load the files of a policy set as one set with one digest, or refuse them with every problem of every file.

A policy set is never half loaded: what is dropped silently is a rule that nobody enforces. What the policies decide is
`rules`; whether they make sense beside their batteries is `lint`.

    policies/
      policy-set.yaml      kind PolicySet, required
      *.yaml               kind PromotionPolicy, one or several documents each
      batteries/*.yaml     kind Battery, optional, beside the batteries that come with the program
      signers/*.pem        public keys
      controls/*.yaml      kind ControlCatalogue, optional: what control ids mean; not part of the digest
      calibrations/*.json  what graders were shown to do, signed (`registry-gate grader calibrate`), optional
      cases/               kind PolicyTest, read by `cases`, not part of the set or its digest
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from registry_gate.battery import Battery, load_batteries
from registry_gate.documents import DocumentError, Problem, RawDocument, refuse_empty_keys, validate
from registry_gate.errors import PolicyError
from registry_gate.form import canonical_json
from registry_gate.policy.controls import Control, take_catalogue
from registry_gate.policy.files import (
    BATTERIES_DIRECTORY,
    CALIBRATIONS_DIRECTORY,
    CASES_DIRECTORY,
    CONTROLS_DIRECTORY,
    POLICY_SET_FILE,
    SUB_DIRECTORIES,
    PolicyFiles,
    UnreachableError,
)
from registry_gate.policy.lint import LintProblem, lint_overlaps, lint_policy, lint_set
from registry_gate.policy.names import matches
from registry_gate.policy.places import read_place
from registry_gate.policy.schema import BreakGlassSpec, PersonSpec, Policy, PolicySetFile, SignerSpec
from registry_gate.promotion import Target, TargetKind


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
        files: What it was read from, cases and all.
        document: `policy-set.yaml`.
        policies: By name.
        batteries: By id.
        signers: Public keys (PEM), by signer's name.
        people: Public keys (PEM) of people who may sign waivers, approvals and break-glass, by name.
        controls: The control catalogue, by control id.
        calibrations: Envelopes by the name of their file; nothing is verified yet.
        digest: `sha256:` over the names and bytes of all files and the digests of the batteries.
        warnings: What lint found beside errors.
    """

    files: PolicyFiles
    document: PolicySetFile
    policies: Mapping[str, Policy]
    batteries: Mapping[str, Battery]
    signers: Mapping[str, bytes]
    digest: str
    people: Mapping[str, bytes] = field(default_factory=dict)
    controls: Mapping[str, Control] = field(default_factory=dict)
    calibrations: Mapping[str, bytes] = field(default_factory=dict)
    warnings: tuple[LintProblem, ...] = ()

    @property
    def name(self) -> str:
        """Name of the set."""
        return self.document.metadata.name

    @property
    def break_glass(self) -> BreakGlassSpec | None:
        """Who may override every policy for a short time; None where nobody may."""
        return self.document.spec.break_glass

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
        files: What was read; None where nothing could be.
    """

    policy_set: PolicySet | None
    errors: tuple[Problem, ...]
    warnings: tuple[LintProblem, ...]
    files: PolicyFiles | None = None


def load_policy_set(place: Path | str, battery_dirs: Sequence[Path], *, keys: bool = True) -> PolicySet:
    """The policy set of a place.

    Args:
        place: A directory, or an address that `places` knows.
        battery_dirs: Directories of batteries, beside the set's own.
        keys: Whether to read the signers' public keys. A set without them can be compared, never decide.

    Raises:
        DocumentError: Anything is wrong anywhere; it lists all of it.
        UnreachableError: The place does not answer.
    """
    return _of(check_policy_set(place, battery_dirs, keys=keys))


def load_policy_files(files: PolicyFiles, battery_dirs: Sequence[Path]) -> PolicySet:
    """The policy set of files that were read already. See `load_policy_set`."""
    return _of(check_policy_files(files, battery_dirs))


def _of(checked: Checked) -> PolicySet:
    if checked.policy_set is None:
        raise DocumentError(checked.errors)
    return checked.policy_set


def check_policy_set(place: Path | str, battery_dirs: Sequence[Path], *, keys: bool = True) -> Checked:
    """Read a policy set and report everything, errors and warnings alike; what `policy lint` prints.

    Args:
        place: A directory, or an address that `places` knows.
        battery_dirs: Directories of batteries, beside the set's own.
        keys: Whether to read the signers' public keys.

    Raises:
        UnreachableError: The place does not answer.
    """
    try:
        files = read_place(place)
    except UnreachableError:
        raise
    except PolicyError as err:
        problem = Problem(file=str(place), line=0, key="", message=str(err).removeprefix(f"{place}: "))
        return Checked(policy_set=None, errors=(problem,), warnings=())
    return check_policy_files(files, battery_dirs, keys=keys)


def check_policy_files(files: PolicyFiles, battery_dirs: Sequence[Path], *, keys: bool = True) -> Checked:
    """Report everything about the files of a policy set, wherever they came from. See `check_policy_set`."""
    reading = _Reading(files)
    # (1) Policies: which there are, and what they say.
    reading.read_policies()
    # (2) Batteries.
    reading.read_batteries(battery_dirs)
    # (3) What the controls are that rules name.
    reading.read_controls()
    # (4) What graders were shown to do.
    reading.read_calibrations()
    # (5) Signers.
    if keys:
        reading.read_keys()
    # (6) Whether it all makes sense together.
    reading.lint()
    return reading.outcome()


class _Reading:
    """One pass over the files of a set. Collects problems instead of stopping at the first."""

    def __init__(self, files: PolicyFiles) -> None:
        self.files = files
        self.errors: list[Problem] = []
        self.warnings: list[LintProblem] = []
        self.digests: dict[str, str] = {}
        self.policies: dict[str, tuple[Policy, RawDocument]] = {}
        self.set: tuple[PolicySetFile, RawDocument] | None = None
        self.batteries: dict[str, Battery] | None = None
        self.signers: dict[str, bytes] = {}
        self.people: dict[str, bytes] = {}
        self.keys: set[bytes] = set()
        self.controls: dict[str, Control] = {}
        self.calibrations: dict[str, bytes] = {}

    def refuse(self, name: str, message: str) -> None:
        self.errors.append(Problem(file=self.files.shown(name), line=0, key="", message=message))

    def outcome(self) -> Checked:
        def order(problem: Problem) -> tuple[str, int, str]:
            return (problem.file, problem.line, problem.message)

        errors, warnings = tuple(sorted(self.errors, key=order)), tuple(sorted(self.warnings, key=order))
        if errors or self.set is None or self.batteries is None:
            return Checked(policy_set=None, errors=errors, warnings=warnings, files=self.files)
        body = {
            "files": sorted(self.digests.items()),
            "batteries": sorted((name, battery.digest) for name, battery in self.batteries.items()),
        }
        policy_set = PolicySet(
            files=self.files,
            document=self.set[0],
            policies=MappingProxyType({name: self.policies[name][0] for name in sorted(self.policies)}),
            batteries=MappingProxyType(dict(sorted(self.batteries.items()))),
            signers=MappingProxyType(dict(sorted(self.signers.items()))),
            people=MappingProxyType(dict(sorted(self.people.items()))),
            controls=MappingProxyType(dict(sorted(self.controls.items()))),
            calibrations=MappingProxyType(dict(sorted(self.calibrations.items()))),
            digest="sha256:" + hashlib.sha256(canonical_json(body)).hexdigest(),
            warnings=warnings,
        )
        return Checked(policy_set=policy_set, errors=(), warnings=warnings, files=self.files)

    def read_policies(self) -> None:
        """Every policy file; what looks like one but would not be read is refused, never skipped."""
        for name in self.files.names:
            top, _, inside = name.partition("/")
            ending = PurePosixPath(name).suffix
            if top == CASES_DIRECTORY and inside:
                continue
            if name.endswith("/"):
                # A directory that nobody may look into could hold policies.
                self.refuse(name, self.files.refused[name])
            elif name in SUB_DIRECTORIES:
                self.refuse(name, "expected a directory, got a file")
            elif ending.lower() not in (".yaml", ".yml"):
                continue
            elif inside and (top not in SUB_DIRECTORIES or "/" in inside):
                self.refuse(
                    name,
                    "policies lie at the top of the directory and cases under cases/: here it would not be enforced",
                )
            elif ending != ".yaml":
                self.refuse(name, f"expected the ending .yaml, got {ending}: rename it, or it would not be enforced")
            elif not inside:
                self._read_file(name)
        # A missing file is one problem; a file that is there but refused has said so already.
        if self.set is None and POLICY_SET_FILE not in self.files.names:
            message = "expected this file (kind PolicySet: free aliases, unmatched, signers), got none: add it"
            self.refuse(POLICY_SET_FILE, message)
        if not self.policies and not self.errors:
            message = "expected at least one policy (kind PromotionPolicy), got none"
            self.errors.append(Problem(file=self.files.place, line=0, key="", message=message))

    def _read_file(self, name: str) -> None:
        for raw in self._documents(name):
            try:
                self._take(name, raw)
            except DocumentError as err:
                self.errors.extend(err.problems)
        self._note(name)

    def _documents(self, name: str) -> list[RawDocument]:
        """The documents of a file; none when it was refused, which is noted."""
        try:
            return self.files.documents(name)
        except DocumentError as err:
            self.errors.extend(err.problems)
            return []

    def _note(self, name: str) -> None:
        """Let the bytes of a file count for the digest."""
        if name in self.files.contents:
            self.digests[name] = hashlib.sha256(self.files.contents[name]).hexdigest()

    def _take(self, name: str, raw: RawDocument) -> None:
        if name == POLICY_SET_FILE:
            if self.set is not None:
                raise DocumentError([raw.problem(("kind",), "expected one policy set in this file, got a second one")])
            self.set = (validate(raw, PolicySetFile, "PolicySet"), raw)
            refuse_empty_keys(raw)
            return
        if raw.kind != "PromotionPolicy":
            hints = {
                "PolicySet": f"; it belongs into {POLICY_SET_FILE}",
                "PolicyTest": f"; it belongs under {CASES_DIRECTORY}/",
                "Battery": f"; it belongs under {BATTERIES_DIRECTORY}/",
                "ControlCatalogue": f"; it belongs under {CONTROLS_DIRECTORY}/",
            }
            got = repr(raw.data.get("kind")) + hints.get(raw.kind, "")
            raise DocumentError([raw.problem(("kind",), f"expected kind PromotionPolicy, got {got}")])
        policy = validate(raw, Policy, "PromotionPolicy")
        refuse_empty_keys(raw)
        if policy.name in self.policies:
            other = self.policies[policy.name][1]
            message = f"expected every policy to have its own name, got {policy.name!r}, which {other.file} has too"
            raise DocumentError([raw.problem(("metadata", "name"), message)])
        self.policies[policy.name] = (policy, raw)

    def read_batteries(self, directories: Sequence[Path]) -> None:
        """Batteries of the program, and those that lie beside the policies."""
        before = len(self.errors)
        own = [
            raw
            for name in self.files.names
            if name.startswith(f"{BATTERIES_DIRECTORY}/") and name.count("/") == 1 and name.endswith(".yaml")
            for raw in self._documents(name)
        ]
        if len(self.errors) > before:
            return
        try:
            self.batteries = load_batteries(directories, own)
        except DocumentError as err:
            self.errors.extend(err.problems)

    def read_controls(self) -> None:
        """The control catalogue. It changes no decision, so its bytes do not count for the digest."""
        for name in self.files.names:
            if name.startswith(f"{CONTROLS_DIRECTORY}/") and name.count("/") == 1 and name.endswith(".yaml"):
                for raw in self._documents(name):
                    try:
                        take_catalogue(raw, self.controls)
                    except DocumentError as err:
                        self.errors.extend(err.problems)

    def read_calibrations(self) -> None:
        """Signed calibrations of graders. Whether they verify is for whoever decides."""
        for name in self.files.names:
            if not name.startswith(f"{CALIBRATIONS_DIRECTORY}/") or name.endswith((".md", "/")):
                continue
            if name in self.files.refused:
                self.refuse(name, self.files.refused[name])
            elif not name.endswith(".json") or name.count("/") != 1:
                self.refuse(
                    name,
                    "expected a calibration (*.json) right here, as `registry-gate grader calibrate --out` writes it",
                )
            else:
                self.calibrations[name] = self.files.contents[name]
                self._note(name)

    def read_keys(self) -> None:
        """Public keys of signers and of people."""
        if self.set is None:
            return
        document, raw = self.set
        for number, signer in enumerate(document.spec.signers):
            self._read_key(raw, ("spec", "signers", number), f"signer {signer.name!r}", signer, self.signers)
        for number, person in enumerate(document.spec.people):
            self._read_key(raw, ("spec", "people", number), f"{person.name!r}", person, self.people)

    def _read_key(
        self,
        raw: RawDocument,
        place: tuple[str | int, ...],
        whose: str,
        owner: SignerSpec | PersonSpec,
        into: dict[str, bytes],
    ) -> None:
        try:
            into[owner.name] = self._public_key(owner.public_key, whose)
        except PolicyError as err:
            self.errors.append(raw.problem((*place, "publicKey"), str(err)))

    def _public_key(self, public_key: str, whose: str) -> bytes:
        """The PEM of a signer or a person.

        Raises:
            PolicyError: There is none, something else, or that of another.
        """
        path = PurePosixPath(public_key)
        if path.is_absolute() or ".." in path.parts:
            raise PolicyError(f"expected a path inside the policy directory, got {public_key!r}")
        name = path.as_posix()
        shown = self.files.shown(name)
        if name in self.files.refused:
            raise PolicyError(f"{self.files.refused[name]} ({shown})")
        data = self.files.contents.get(name)
        if data is None:
            if any(other.startswith(f"{name}/") for other in self.files.names):
                raise PolicyError(f"expected a regular file, got a directory ({shown})")
            maker = "init` makes a key pair and writes it" if whose.startswith("signer") else "waiver key` makes a pair"
            raise PolicyError(
                f"expected the public key of {whose} in {shown}, got no such file; `registry-gate {maker}"
            )
        if b"PRIVATE KEY" in data:
            raise PolicyError(f"expected a public key in {shown}, got a private key: take it away and make a new pair")
        if b"-----BEGIN PUBLIC KEY-----" not in data:
            raise PolicyError(f"expected a public key in PEM format in {shown}, got something else")
        try:
            key = load_pem_public_key(data)
        except (ValueError, UnsupportedAlgorithm) as err:
            raise PolicyError(f"expected a public key in {shown}, got one that is damaged: copy it again") from err
        if not isinstance(key, Ed25519PublicKey):
            kind = type(key).__name__.lstrip("_").removesuffix("PublicKey")
            raise PolicyError(
                f"expected a public key of type Ed25519 in {shown}, got {kind}: `registry-gate` makes such"
            )
        # The key counts, not the file: another line end does not make a second person.
        if key.public_bytes_raw() in self.keys:
            raise PolicyError(f"expected a key that is nobody else's, got one in {shown} that stands for another")
        self.keys.add(key.public_bytes_raw())
        self._note(name)
        return data

    def lint(self) -> None:
        problems: list[LintProblem] = []
        # A policy set or batteries that were refused would make every policy look wrong.
        if self.set is not None and self.batteries is not None:
            names = [signer.name for signer in self.set[0].spec.signers]
            people = [person.name for person in self.set[0].spec.people]
            for policy, raw in self.policies.values():
                problems += lint_policy(policy, raw, self.batteries, names, people, self.controls)
            problems += lint_set(*self.set, [policy for policy, _ in self.policies.values()])
            problems += lint_overlaps(self.set[0], list(self.policies.values()))
        self.errors.extend(problem for problem in problems if problem.level == "error")
        self.warnings.extend(problem for problem in problems if problem.level == "warning")
