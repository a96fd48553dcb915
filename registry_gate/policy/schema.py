"""What policy files may say: PromotionPolicy, PolicySet and PolicyTest, strictly.

An unknown key, a converted type or a value out of its range stops the load. Whether a policy makes sense beside its
battery is `lint`; what follows from it is `rules`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from registry_gate.documents import Document, EachOnce, Strict
from registry_gate.form import canonical_json
from registry_gate.policy.names import matches, reads_like
from registry_gate.promotion import PROMOTED_STAGES, Target, TargetKind
from registry_gate.statistics.admission import AdmissionLimits
from registry_gate.statistics.correction import FEWEST_LABELS

LONGEST_AGE_DAYS = 3650
"""Evidence older than ten years is no evidence of anything that runs."""

SMALLEST_SHARE = 1e-6
"""To prove less takes millions of probes, and the search for how many as long."""


def _share(value: Any) -> Any:
    # Percent written as 5 is the commonest slip in a threshold, so it gets its own sentence.
    if isinstance(value, int | float) and not isinstance(value, bool) and not 0 < value < 1:
        hint = f"; for {value:g} % write {value / 100:g}" if 1 <= value < 100 else ""
        raise ValueError(f"expected a share between 0 and 1 (both excluded), got {value!r}{hint}")
    if isinstance(value, float) and value < SMALLEST_SHARE:
        raise ValueError(
            f"expected a share of at least {SMALLEST_SHARE:g}, got {value!r}: no battery proves a smaller one"
        )
    return value


def _ceiling(value: Any) -> Any:
    # No number of probes without a bad answer proves that there is none; who writes 0 means zero tolerance.
    if isinstance(value, int | float) and not isinstance(value, bool) and value == 0:
        raise ValueError(
            f"expected a share above 0, got {value!r}: no number of probes proves a rate of 0, so no form could pass; "
            "where no bad answer at all is tolerated write 'zeroTolerance: [CATEGORY]' with categories that the "
            "battery declares (`registry-gate policy explain` lists them), or a ceiling such as 0.01"
        )
    return _share(value)


_QUOTES = "“”„‟«»"
"""Word processors put them where YAML wants plain ones; they would be part of the name."""


def _glob(value: str) -> str:
    # What nobody sees in a name would loosen or miss what a reader thinks it does.
    if not value or value != value.strip() or not value.isprintable():
        raise ValueError(f"expected a name or a pattern such as 'clinical-*', got {value!r}")
    if any(mark in value for mark in _QUOTES):
        raise ValueError(
            f"expected a name or a pattern without typographic quotation marks, got {value!r}: use \" or '"
        )
    if value.count("[") > value.count("]"):
        raise ValueError(f"expected a closing ] after [, which begins a set of letters, got {value!r}")
    return value


def _max_age(value: Any) -> Any:
    number, unit = (value[:-1], value[-1:]) if isinstance(value, str) else ("", "")
    if unit not in ("d", "h") or not (number.isascii() and number.isdigit()) or int(number[:9]) == 0:
        raise ValueError(f"expected an age in days or hours such as '90d' or '12h', got {value!r}")
    if len(number) > 6 or timedelta(**{"days" if unit == "d" else "hours": int(number)}).days > LONGEST_AGE_DAYS:
        raise ValueError(f"expected an age of at most {LONGEST_AGE_DAYS} days, got {value!r}")
    return value


def _duration(age: str) -> timedelta:
    number = int(age[:-1])
    return timedelta(days=number) if age.endswith("d") else timedelta(hours=number)


def _instant(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(
                f"expected a date and time with zone such as 2026-11-23T12:00:00Z, got {value!r}"
            ) from None
    if not isinstance(value, datetime):
        shown = value.isoformat() if isinstance(value, date) else repr(value)
        raise ValueError(f"expected a date and time with zone such as 2026-11-23T12:00:00Z, got {shown}")
    if value.tzinfo is None:
        raise ValueError(f"expected a zone (end with Z for UTC), got {value.isoformat()}")
    # ruamel's subclass of datetime carries marks of its own; a plain one compares and prints as everywhere else.
    return datetime.fromisoformat(value.isoformat())


@dataclass(frozen=True)
class _Worded:
    """Text of a pattern, refused in words: whoever writes policies need not read regular expressions."""

    pattern: str
    words: str

    def check(self, value: str) -> str:
        if re.fullmatch(self.pattern, value) is None:
            raise ValueError(f"expected {self.words}, got {value!r}")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), "pattern": f"^{self.pattern}$"}


# What the validators say better than a schema could is there for editors all the same.
_SHARE_SCHEMA = Field(json_schema_extra={"exclusiveMinimum": 0, "exclusiveMaximum": 1})
Share = Annotated[float, BeforeValidator(_share), _SHARE_SCHEMA]
Ceiling = Annotated[float, BeforeValidator(_ceiling), _SHARE_SCHEMA]
Glob = Annotated[str, AfterValidator(_glob), Field(json_schema_extra={"minLength": 1, "pattern": r"^\S(.*\S)?$"})]
MaxAge = Annotated[str, BeforeValidator(_max_age), Field(json_schema_extra={"pattern": "^[0-9]{1,6}[dh]$"})]
Instant = Annotated[datetime, BeforeValidator(_instant)]
Name = Annotated[str, _Worded(r"[a-z][a-z0-9_-]{0,63}", "a name of small letters, digits, - and _, such as medical")]
BatteryId = Annotated[
    str, _Worded(r"[a-z][a-z0-9_-]{0,63}@[1-9][0-9]{0,5}", "a battery and its version, such as medical@2")
]
RuleId = Annotated[
    str, _Worded(r"[A-Za-z][A-Za-z0-9_.-]{0,31}", "a rule's id of letters, digits, ., - and _, such as MED-1")
]
ControlId = Annotated[
    str,
    _Worded(r"[a-z0-9][a-z0-9.-]*(:[A-Za-z0-9][A-Za-z0-9 ().&/_-]*)?", "a control, such as nist-ai-600-1:MS-2.7-008"),
]
Enforcement = Literal["deny", "warn", "dryrun"]
Severity = Literal["low", "medium", "high", "critical"]


class Metadata(Strict):
    """Who a policy is, and who answers for it.

    Args:
        name: Unique within the policy set.
        title: What people call it.
        owner: Who is asked about it, e.g. an address.
        description: Why it exists.
    """

    name: Name
    title: str = Field(min_length=1)
    owner: str = Field(min_length=1)
    description: str = ""


class Match(Strict):
    """One set of targets. A target is covered when its workspace, its model and its alias or stage all match.

    Other spellings that read the same are covered too (`names.reads_like`).

    Args:
        models: Names of registered models, or patterns.
        aliases: Aliases, or patterns.
        stages: `Staging`, `Production` or `*` for both.
        workspaces: MLflow workspaces, or patterns.
    """

    models: Annotated[tuple[Glob, ...], Field(min_length=1), EachOnce("model")]
    aliases: Annotated[tuple[Glob, ...], EachOnce("alias")] = ()
    stages: Annotated[tuple[str, ...], EachOnce("stage")] = ()
    workspaces: Annotated[tuple[Glob, ...], Field(min_length=1), EachOnce("workspace")] = ("*",)

    @field_validator("stages")
    @classmethod
    def _stages_exist(cls, stages: tuple[str, ...]) -> tuple[str, ...]:
        for stage in stages:
            if stage not in (*PROMOTED_STAGES, "*"):
                meant = next((known for known in PROMOTED_STAGES if known.lower() == stage.lower()), None)
                hint = f"; did you mean {meant!r}?" if meant else " (None and Archived are demotion: never governed)"
                raise ValueError(
                    f"expected one of MLflow's stages {', '.join(PROMOTED_STAGES)} or '*', got {stage!r}{hint}"
                )
        return stages

    @model_validator(mode="after")
    def _has_target(self) -> Match:
        if not self.aliases and not self.stages:
            raise ValueError("expected 'aliases' or 'stages' (or both), got none: the match covers no target")
        return self

    def covers(self, target: Target) -> bool:
        """Whether the target is one of these."""
        names = self.aliases if target.kind is TargetKind.ALIAS else self.stages
        return (
            reads_like(target.workspace, self.workspaces)
            and reads_like(target.model, self.models)
            and reads_like(target.name, names)
        )


class MatchSpec(Strict):
    """What a policy governs: any of the matches."""

    any: tuple[Match, ...] = Field(min_length=1)


class Exclude(Strict):
    """What a policy does not govern although its match covers it, letter by letter. Other policies still may."""

    aliases: Annotated[tuple[Glob, ...], EachOnce("alias")] = ()
    models: Annotated[tuple[Glob, ...], EachOnce("model")] = ()


class SubjectSpec(Strict):
    """What the adapted form must be, before anything is measured.

    Args:
        formats: Formats of weights that are accepted.
        base: Whether the artifact must declare the base that it was adapted from.
        remote_code: Whether loading may run code that the artifact brings along.
    """

    formats: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1), EachOnce("format")] = (
        "safetensors",
    )
    base: Literal["required", "optional"] = "required"
    remote_code: Literal["forbidden", "allowed"] = Field(default="forbidden", alias="remoteCode")


class EvidenceSpec(Strict):
    """Which evidence counts.

    Args:
        battery: The battery that must have been run, e.g. `medical@1`.
        max_age: Oldest evidence that counts, in days or hours.
        signed_by: Names of signers of the policy set; one of them must have signed.
        min_probes: Fewest probes behind every measure that a rule reads.
        grader_errors: `required` counts a measure only when people labelled answers of both arms, so that its limits
            are widened by the errors that graders may make; `reported` uses such labels where there are some.
        stop_early: Whether a worker may end an instrument once a required rule is proved broken. Never for a pass:
            what was stopped blocks until the form is assessed in full.
        labelled_pairs: Probes of each graded measure whose answers people must have labelled in both arms, at most all
            of them; None asks for none.
    """

    battery: BatteryId
    max_age: MaxAge = Field(alias="maxAge")
    signed_by: Annotated[tuple[Name, ...], Field(min_length=1), EachOnce("signer")] = Field(alias="signedBy")
    min_probes: Annotated[int, Field(ge=1)] = Field(default=1, alias="minProbes")
    grader_errors: Literal["reported", "required"] = Field(default="reported", alias="graderErrors")
    stop_early: bool = Field(default=False, alias="stopEarly")
    labelled_pairs: Annotated[int, Field(ge=FEWEST_LABELS)] | None = Field(default=None, alias="labelledPairs")

    @property
    def max_age_delta(self) -> timedelta:
        """`max_age` as a duration."""
        return _duration(self.max_age)


class Rule(Strict):
    """One requirement on one measure.

    Args:
        id: Unique within the policy.
        title: What it demands, in words.
        measure: Measure of the battery, e.g. `medical.harmful_compliance`. Lower is better.
        at_most: Ceiling: the exact one-sided upper limit of the rate must not be above it.
        not_worse_than_base: Margin: the upper limit of the paired difference to the base must not be above it.
        zero_tolerance: Categories in which no bad answer at all is tolerated: a confirmed one fails.
        severity: How bad a breach is.
        controls: Controls that the rule gives evidence for.
        enforcement: Overrides that of the policy.
        required: False makes a breach a note.
        effective_from: Before this moment a breach only warns; overrides that of the policy.
        discordance: Share of probes on which form and base are expected to differ; only lint reads it.
        single_grader: Whether the measure may rest on one grader where `disagreement.graders` asks for two to be
            compared. Only where the battery names no second one, and none was meant to be compared.
    """

    id: RuleId
    title: str = Field(min_length=1)
    measure: str = Field(min_length=1)
    at_most: Ceiling | None = Field(default=None, alias="atMost")
    not_worse_than_base: Share | None = Field(default=None, alias="notWorseThanBase")
    zero_tolerance: Annotated[tuple[Annotated[str, Field(pattern=r"\S")], ...], EachOnce("category")] = Field(
        default=(), alias="zeroTolerance"
    )
    severity: Severity
    controls: Annotated[tuple[ControlId, ...], EachOnce("control")] = ()
    enforcement: Enforcement | None = None
    required: bool = True
    effective_from: Instant | None = Field(default=None, alias="effectiveFrom")
    discordance: Share | None = None
    single_grader: bool = Field(default=False, alias="singleGrader")

    @model_validator(mode="after")
    def _requires_something(self) -> Rule:
        if self.at_most is None and self.not_worse_than_base is None and not self.zero_tolerance:
            raise ValueError(
                "expected 'atMost', 'notWorseThanBase' or 'zeroTolerance' (or several), got none: the rule requires "
                "nothing"
            )
        return self


class GraderDisagreement(Strict):
    """How often two graders may label one answer differently before the measurement cannot be relied on."""

    at_most: Share = Field(alias="atMost")
    otherwise: Literal["inconclusive"] = "inconclusive"


class Disagreement(Strict):
    """What follows when graders or instruments contradict each other.

    Args:
        graders: Limit on disagreeing graders. When given, two graders must have been compared on every measure that
            any grades, unless its rule says `singleGrader`; when absent, one grader may stand alone.
        instruments: Opposite movements beyond the margin are a `conflict`; there is no other choice.
    """

    graders: GraderDisagreement | None = None
    instruments: Literal["conflict"] = "conflict"


class GraderAdmissionSpec(Strict):
    """What graders must have shown on answers that people labelled before their labels count. METHOD.md section 4.6.

    Args:
        kappa_at_least: The lower limit of Cohen's kappa must reach it, in every source of labelled answers.
        false_positives_at_most: The upper limit of the false-positive rate must not be above it.
        false_negatives_at_most: The upper limit of the false-negative rate; None asks nothing of it.
        labelled_at_least: Labelled answers in each source.
        ungraded_at_most: Share of them that the grader may leave ungraded.
        max_age: Oldest calibration that counts, in days or hours.
        signed_by: Names of signers of the policy set; one of them must have signed the calibration.
    """

    kappa_at_least: Share = Field(default=0.6, alias="kappaAtLeast")
    false_positives_at_most: Share = Field(default=0.10, alias="falsePositivesAtMost")
    false_negatives_at_most: Share | None = Field(default=None, alias="falseNegativesAtMost")
    labelled_at_least: Annotated[int, Field(ge=1)] = Field(default=200, alias="labelledAtLeast")
    ungraded_at_most: Share = Field(default=0.10, alias="ungradedAtMost")
    max_age: MaxAge = Field(alias="maxAge")
    signed_by: Annotated[tuple[Name, ...], Field(min_length=1), EachOnce("signer")] = Field(alias="signedBy")

    @property
    def max_age_delta(self) -> timedelta:
        """`max_age` as a duration."""
        return _duration(self.max_age)

    @property
    def limits(self) -> AdmissionLimits:
        """What `admit` judges by."""
        return AdmissionLimits(
            kappa_at_least=self.kappa_at_least,
            false_positive_at_most=self.false_positives_at_most,
            false_negative_at_most=self.false_negatives_at_most,
            labelled_at_least=self.labelled_at_least,
            not_graded_at_most=self.ungraded_at_most,
        )


class WaiversSpec(Strict):
    """Who may let a form through rules that it breaks, for how long and how often. Without it nobody may.

    Args:
        approvers: Names of people of the policy set; one of them signs each waiver, never for themselves.
        longest: Longest time from the grant to the expiry.
        budget: How many waivers of the policy may count at one moment, over all forms; the oldest come first.
    """

    approvers: Annotated[tuple[Name, ...], Field(min_length=1), EachOnce("person")]
    longest: MaxAge
    budget: Annotated[int, Field(ge=1, le=1000)]

    @property
    def longest_delta(self) -> timedelta:
        """`longest` as a duration."""
        return _duration(self.longest)


class ApprovalsSpec(Strict):
    """Who must approve a form on top of what its evidence shows. Without it nobody need.

    Args:
        count: How many different people must, whoever asks for the promotion never counted.
        approvers: Names of people of the policy set.
    """

    count: Annotated[int, Field(ge=1, le=20)]
    approvers: Annotated[tuple[Name, ...], Field(min_length=1), EachOnce("person")] = Field(alias="from")

    @model_validator(mode="after")
    def _enough(self) -> ApprovalsSpec:
        if len(self.approvers) < self.count:
            raise ValueError(
                f"expected at least as many people under 'from' as must approve ({self.count}), got "
                f"{len(self.approvers)}: nothing could ever be promoted"
            )
        return self


class PolicySpec(Strict):
    """The body of a policy.

    Args:
        enforcement: What a breach does: it denies, it is told to whoever asks, or it is only recorded.
        effective_from: Before this moment no rule denies, each only warns; a rule may say another moment.
        confidence: Of each limit, one-sided.
        waivers: Who may waive a rule; nobody where absent.
        approvals: Who must approve a form that passed; nobody where absent.
        grader_admission: What graders must have shown before their labels count; nothing where absent.
        allow_notes: False makes a note deny.
        on_pass: Once the evidence is there, the caller asks again; there is no other choice.
    """

    match: MatchSpec
    exclude: Exclude = Field(default_factory=Exclude)
    enforcement: Enforcement = "deny"
    effective_from: Instant | None = Field(default=None, alias="effectiveFrom")
    subject: SubjectSpec = Field(default_factory=SubjectSpec)
    evidence: EvidenceSpec
    rules: tuple[Rule, ...] = Field(min_length=1)
    confidence: Annotated[float, Field(ge=0.9, lt=1), BeforeValidator(_share)] = 0.95
    disagreement: Disagreement = Field(default_factory=Disagreement)
    waivers: WaiversSpec | None = None
    approvals: ApprovalsSpec | None = None
    grader_admission: GraderAdmissionSpec | None = Field(default=None, alias="graderAdmission")
    allow_notes: bool = Field(default=True, alias="allowNotes")
    on_pass: Literal["allow"] = Field(default="allow", alias="onPass")

    @model_validator(mode="after")
    def _rules_hold_together(self) -> PolicySpec:
        ids = [rule.id for rule in self.rules]
        for rule_id in ids:
            # Case alone does not tell two rules apart for the person who grants a waiver.
            if sum(other.lower() == rule_id.lower() for other in ids) > 1:
                raise ValueError(f"expected every rule to have its own id, got {rule_id!r} more than once")
        if self.enforcement == "deny" and not any(self.enforces(rule) for rule in self.rules):
            raise ValueError(
                "expected at least one required rule that denies, got none: a policy that requires nothing allows "
                "nothing; to try a policy out write 'enforcement: warn' for the whole of it"
            )
        return self

    def enforcement_of(self, rule: Rule) -> Enforcement:
        """The rule's own enforcement, or else the policy's."""
        return rule.enforcement or self.enforcement

    def effective_from_of(self, rule: Rule) -> datetime | None:
        """From when on the rule denies; None where it always did, or never does."""
        if self.enforcement_of(rule) != "deny":
            return None
        return rule.effective_from or self.effective_from

    def enforces(self, rule: Rule) -> bool:
        """Whether a breach of the rule denies."""
        return rule.required and self.enforcement_of(rule) == "deny"


class Policy(Document):
    """A PromotionPolicy: what it governs, which evidence it wants, and its rules."""

    api_version: Literal["registry-gate/v1"] = Field(alias="apiVersion")
    kind: Literal["PromotionPolicy"]
    metadata: Metadata
    spec: PolicySpec

    @property
    def name(self) -> str:
        """Name within the policy set."""
        return self.metadata.name

    @property
    def digest(self) -> str:
        """`sha256:` of what the policy says: comments, order of keys, lists and rules do not count."""
        said = self.model_dump(mode="json", by_alias=True)
        # Keys that came later are left out while they say nothing, so that a policy keeps the digest that older
        # decisions name.
        if not said["spec"]["evidence"]["stopEarly"]:
            del said["spec"]["evidence"]["stopEarly"]
        if said["spec"]["evidence"]["labelledPairs"] is None:
            del said["spec"]["evidence"]["labelledPairs"]
        for key in ("waivers", "approvals", "effectiveFrom", "graderAdmission"):
            if said["spec"][key] is None:
                del said["spec"][key]
        for rule in said["spec"]["rules"]:
            if not rule["zeroTolerance"]:
                del rule["zeroTolerance"]
            if rule["effectiveFrom"] is None:
                del rule["effectiveFrom"]
            if not rule["singleGrader"]:
                del rule["singleGrader"]
        return "sha256:" + hashlib.sha256(canonical_json(_canonical(said))).hexdigest()

    @property
    def enforces(self) -> bool:
        """Whether the policy can deny. False while all of it only warns or runs dry."""
        return any(self.spec.enforces(rule) for rule in self.spec.rules)

    def as_of(self, now: datetime) -> Policy:
        """The policy as it holds at a moment: rules that do not deny yet warn. Its digest is another one.

        Args:
            now: With zone.
        """
        rules = tuple(
            rule.model_copy(update={"enforcement": "warn"}) if (begins or now) > now else rule
            for rule in self.spec.rules
            for begins in (self.spec.effective_from_of(rule),)
        )
        if rules == self.spec.rules:
            return self
        return self.model_copy(update={"spec": self.spec.model_copy(update={"rules": rules})})

    def governs(self, target: Target) -> bool:
        """Whether the policy has a say on this target."""
        excluded = self.spec.exclude
        if matches(target.model, excluded.models):
            return False
        if target.kind is TargetKind.ALIAS and matches(target.name, excluded.aliases):
            return False
        return any(match.covers(target) for match in self.spec.match.any)

    def may_govern(self, model: str) -> bool:
        """Whether the policy has a say on some target of this registered model."""
        if matches(model, self.spec.exclude.models):
            return False
        return any(reads_like(model, match.models) for match in self.spec.match.any)


def _canonical(value: Any) -> Any:
    # No list of a policy has an order that means anything.
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return sorted((_canonical(item) for item in value), key=canonical_json)
    return value


class SignerSpec(Strict):
    """Who may sign evidence.

    Args:
        name: Name that policies use under `signedBy`.
        public_key: PEM file with the public key, relative to the policy directory.
    """

    name: Name
    public_key: Annotated[str, Field(min_length=1)] = Field(alias="publicKey")


class PersonSpec(Strict):
    """Somebody who may sign waivers, approvals and break-glass where a policy or the policy set names them.

    Args:
        name: Name that policies use.
        public_key: PEM file with the public key, relative to the policy directory; the private key is theirs alone.
    """

    name: Name
    public_key: Annotated[str, Field(min_length=1)] = Field(alias="publicKey")


class PolicySetMetadata(Strict):
    """Name of the policy set."""

    name: Name
    title: str = ""
    owner: str = ""


class RoleSpec(Strict):
    """Who may open break-glass in a role.

    Args:
        name: Name of the role.
        people: Names of people of the policy set.
    """

    name: Name
    people: Annotated[tuple[Name, ...], Field(min_length=1), EachOnce("person")]


class BreakGlassSpec(Strict):
    """Who may override every policy for a short time, and how short. Without it nobody may.

    Args:
        roles: The roles, each with its people.
        longest: Longest time from the opening to its end.
    """

    roles: tuple[RoleSpec, ...] = Field(min_length=1)
    longest: MaxAge

    @field_validator("roles")
    @classmethod
    def _unique(cls, roles: tuple[RoleSpec, ...]) -> tuple[RoleSpec, ...]:
        _require_each_once("role", [role.name for role in roles])
        return roles

    @property
    def longest_delta(self) -> timedelta:
        """`longest` as a duration."""
        return _duration(self.longest)

    def people_of(self, role: str) -> tuple[str, ...]:
        """Who may open it in a role; nobody in one that is not there."""
        return next((one.people for one in self.roles if one.name == role), ())


class PolicySetSpec(Strict):
    """What holds for all policies.

    Args:
        free_aliases: Aliases that nobody deploys from. They may move freely; recorded as ungoverned.
        unmatched: What happens to a promotion that no policy governs.
        signers: Who may sign evidence.
        people: Who may sign waivers, approvals and break-glass.
        break_glass: Who may override every policy for a short time; nobody where absent.
    """

    free_aliases: Annotated[tuple[Glob, ...], EachOnce("alias")] = Field(default=(), alias="freeAliases")
    unmatched: Literal["deny", "allow"] = "deny"
    signers: tuple[SignerSpec, ...] = Field(min_length=1)
    people: tuple[PersonSpec, ...] = ()
    break_glass: BreakGlassSpec | None = Field(default=None, alias="breakGlass")

    @field_validator("free_aliases")
    @classmethod
    def _not_everything(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            if not pattern.strip("*?"):
                raise ValueError(
                    f"expected the names of aliases that nobody deploys from, got {pattern!r}, which frees every alias"
                )
        return patterns

    @field_validator("signers")
    @classmethod
    def _unique(cls, signers: tuple[SignerSpec, ...]) -> tuple[SignerSpec, ...]:
        _require_each_once("signer", [signer.name for signer in signers])
        return signers

    @field_validator("people")
    @classmethod
    def _unique_people(cls, people: tuple[PersonSpec, ...]) -> tuple[PersonSpec, ...]:
        _require_each_once("person", [person.name for person in people])
        return people


def _require_each_once(what: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"expected every {what} once, got {name!r} {names.count(name)} times")


class PolicySetFile(Document):
    """`policy-set.yaml`: what holds for the whole directory."""

    api_version: Literal["registry-gate/v1"] = Field(alias="apiVersion")
    kind: Literal["PolicySet"]
    metadata: PolicySetMetadata
    spec: PolicySetSpec


class CaseTarget(Strict):
    """The name that would move in a case."""

    model: str = Field(min_length=1)
    alias: str | None = None
    stage: str | None = None
    workspace: str = "default"

    @model_validator(mode="after")
    def _one(self) -> CaseTarget:
        if (self.alias is None) == (self.stage is None):
            raise ValueError("expected exactly one of 'alias' and 'stage', got " + ("both" if self.alias else "none"))
        if self.stage is not None and self.stage not in PROMOTED_STAGES:
            raise ValueError(
                f"expected one of MLflow's stages {', '.join(PROMOTED_STAGES)}, got {self.stage!r} (None and Archived "
                "are demotion: never governed)"
            )
        return self

    @property
    def value(self) -> Target:
        """As the gate sees it."""
        kind = TargetKind.ALIAS if self.alias is not None else TargetKind.STAGE
        return Target(kind=kind, model=self.model, name=self.alias or self.stage or "", workspace=self.workspace)


class CaseForm(Strict):
    """Facts of the adapted form in a case.

    Args:
        base: Whether it declares a base.
        formats: Formats of its weights; empty for an artifact without weights.
        remote_code: Files by which loading would run the artifact's own code.
        unreadable: Code of the reason for which no manifest could be made, e.g. `form_invalid`.
    """

    base: bool = True
    formats: Annotated[tuple[str, ...], EachOnce("format")] = ("safetensors",)
    remote_code: Annotated[tuple[str, ...], EachOnce("file")] = Field(default=(), alias="remoteCode")
    unreadable: str | None = None


class CaseHits(Strict):
    """Bad answers of one category in a case.

    Args:
        confirmed: By two graders or a person.
        unconfirmed: By one grader alone.
    """

    confirmed: Annotated[int, Field(ge=0)] = 0
    unconfirmed: Annotated[int, Field(ge=0)] = 0


class CaseLabels(Strict):
    """People's labels of a sample of a measure's answers in a case; they agree with the graders.

    Args:
        probes: Labelled probes, in both arms.
        events: Bad answers of the adapted form among them.
        base_events: Bad answers of the base.
        only_adapted: Probes bad in the adapted form alone. The fewest that the two counts allow when absent.
    """

    probes: Annotated[int, Field(ge=1)]
    events: Annotated[int, Field(ge=0)]
    base_events: Annotated[int, Field(ge=0)] = Field(default=0, alias="baseEvents")
    only_adapted: Annotated[int, Field(ge=0)] | None = Field(default=None, alias="onlyAdapted")


class CaseMeasure(Strict):
    """What one instrument found in a case.

    Args:
        events: Bad answers of the adapted form.
        base_events: Bad answers of the base; absent when the base was not measured.
        only_adapted: Probes bad in the adapted form alone. The fewest that the two counts allow when absent.
        probes: Number of probes; the battery's size when absent.
        clusters: Number of clusters; one for each probe when absent.
        graders_differ: Share of answers that two graders labelled differently; None when one graded alone. Left out:
            none differ, where the battery names two that label the same.
        hits: By category that the battery declares, for rules of zero tolerance; none where absent, and null for
            evidence of before they were counted.
        labelled: What people said of a sample of the answers; nothing where absent.
        stopped_after: Probes after which the run was stopped, bad ones first; absent for a full one.
        not_measured: Cause, when there is no value.
    """

    events: Annotated[int, Field(ge=0)] | None = None
    base_events: Annotated[int, Field(ge=0)] | None = Field(default=None, alias="baseEvents")
    only_adapted: Annotated[int, Field(ge=0)] | None = Field(default=None, alias="onlyAdapted")
    probes: Annotated[int, Field(ge=1)] | None = None
    clusters: Annotated[int, Field(ge=1)] | None = None
    graders_differ: Annotated[float, Field(ge=0, le=1)] | None = Field(default=0.0, alias="gradersDiffer")
    hits: dict[str, CaseHits] | None = Field(default_factory=dict)
    labelled: CaseLabels | None = None
    stopped_after: Annotated[int, Field(ge=1)] | None = Field(default=None, alias="stoppedAfter")
    not_measured: str | None = Field(default=None, alias="notMeasured")

    @model_validator(mode="after")
    def _one(self) -> CaseMeasure:
        if (self.events is None) == (self.not_measured is None):
            raise ValueError("expected exactly one of 'events' and 'notMeasured'")
        return self


class CaseEvidence(Strict):
    """One piece of evidence in a case.

    Args:
        battery: Id of the battery that was run.
        assessed_at: When.
        of: Whose evidence it is: this form's, that of its base, or that of another form.
        signed_by: Who signed.
        unverified: Why the signature or digest does not verify; nothing else of the item counts then.
        outdated_battery: True when the battery has changed since.
        failed_checks: Validity checks that failed, with their detail.
        measures: What was found.
    """

    battery: BatteryId
    assessed_at: Instant = Field(alias="assessedAt")
    of: Literal["form", "base", "other"] = "form"
    signed_by: Annotated[tuple[str, ...], EachOnce("signer")] = Field(default=("worker",), alias="signedBy")
    unverified: str | None = None
    outdated_battery: bool = Field(default=False, alias="outdatedBattery")
    failed_checks: dict[str, str] = Field(default_factory=dict, alias="failedChecks")
    measures: dict[str, CaseMeasure] = Field(default_factory=dict)


class CaseWaiver(Strict):
    """A waiver in a case.

    Args:
        policy: Policy whose rules it waives.
        rules: Ids of the rules.
        approver: Who signed it.
        requester: Who asked for it.
        granted_at: When it was signed; a day before `now` when absent.
        expires_at: When it ends.
        other_form: True when it is for another form.
        revoked: True when it was taken back.
        unverified: Why its signature does not verify; nothing else of it counts then.
    """

    policy: Name
    rules: Annotated[tuple[RuleId, ...], Field(min_length=1), EachOnce("rule")]
    approver: str
    requester: str
    granted_at: Instant | None = Field(default=None, alias="grantedAt")
    expires_at: Instant = Field(alias="expiresAt")
    other_form: bool = Field(default=False, alias="otherForm")
    revoked: bool = False
    unverified: str | None = None


class CaseApproval(Strict):
    """An approval in a case.

    Args:
        policy: Policy that it is under.
        approver: Who signed it.
        requester: Who asked for it.
        other_form: True when it is of another form.
        other_policy: True when the policy has changed since.
        revoked: True when it was taken back.
        unverified: Why its signature does not verify; nothing else of it counts then.
    """

    policy: Name
    approver: str
    requester: str = "requester"
    other_form: bool = Field(default=False, alias="otherForm")
    other_policy: bool = Field(default=False, alias="otherPolicy")
    revoked: bool = False
    unverified: str | None = None


class CaseBreakGlass(Strict):
    """An opening of break-glass in a case.

    Args:
        person: Who signed it.
        role: In which role.
        opened_at: When; an hour before `now` when absent.
        expires_at: When it ends.
        models: What it covers.
        closed: True when it was closed.
        unverified: Why its signature does not verify; nothing else of it counts then.
    """

    person: str
    role: str
    opened_at: Instant | None = Field(default=None, alias="openedAt")
    expires_at: Instant = Field(alias="expiresAt")
    models: Annotated[tuple[Glob, ...], EachOnce("model")] = ("*",)
    closed: bool = False
    unverified: str | None = None


class CaseCalibration(Strict):
    """What a grader was shown to do in a case: labels beside those of people on one source.

    Args:
        grader: Name of a grader of the battery.
        calibrated_at: When; a day before `now` when absent.
        signed_by: Who signed.
        positives: Answers that people called positive.
        negatives: Answers that people called negative.
        missed: Positive ones that the grader called negative.
        false_alarms: Negative ones that it called positive.
        not_graded: Answers that it left ungraded.
        kappa_lower: Lower limit of kappa.
        other_grader: True when it is of another grader of this name, one with another digest.
        other_runtime: True when something else ran it.
        unverified: Why the signature does not verify; nothing else of it counts then.
    """

    grader: str = Field(min_length=1)
    calibrated_at: Instant | None = Field(default=None, alias="calibratedAt")
    signed_by: Annotated[tuple[str, ...], EachOnce("signer")] = Field(default=("worker",), alias="signedBy")
    positives: Annotated[int, Field(ge=0)] = 500
    negatives: Annotated[int, Field(ge=0)] = 500
    missed: Annotated[int, Field(ge=0)] = 0
    false_alarms: Annotated[int, Field(ge=0)] = Field(default=0, alias="falseAlarms")
    not_graded: Annotated[int, Field(ge=0)] = Field(default=0, alias="notGraded")
    kappa_lower: Annotated[float, Field(ge=-1, le=1)] | None = Field(default=1.0, alias="kappaLower")
    other_grader: bool = Field(default=False, alias="otherGrader")
    other_runtime: bool = Field(default=False, alias="otherRuntime")
    unverified: str | None = None

    @model_validator(mode="after")
    def _fits(self) -> CaseCalibration:
        if self.missed > self.positives or self.false_alarms > self.negatives:
            raise ValueError(
                f"expected at most {self.positives} 'missed' and {self.negatives} 'falseAlarms', got {self.missed} and "
                f"{self.false_alarms}"
            )
        return self


class Expectation(Strict):
    """What the decision must be.

    Args:
        decision: allowed or denied.
        verdict: The overall verdict.
        reasons: Every blocking reason, as `code`, or `RULE/code` for that of a rule. Exactly these.
        notes: Remarks that must be among the rest, written alike.
    """

    decision: Literal["allowed", "denied"]
    verdict: Literal["pass", "pass_with_notes", "waived", "inconclusive", "conflict", "fail", "stale", "invalid"]
    reasons: Annotated[tuple[str, ...], EachOnce("reason")] = ()
    notes: Annotated[tuple[str, ...], EachOnce("note")] = ()


class CaseSpec(Strict):
    """The body of a case.

    Args:
        calibrations: What graders were shown to do; where absent every grader has shown all that policies ask.
    """

    target: CaseTarget
    now: Instant
    form: CaseForm = Field(default_factory=CaseForm)
    evidence: tuple[CaseEvidence, ...] = ()
    waivers: tuple[CaseWaiver, ...] = ()
    approvals: tuple[CaseApproval, ...] = ()
    break_glass: tuple[CaseBreakGlass, ...] = Field(default=(), alias="breakGlass")
    calibrations: tuple[CaseCalibration, ...] | None = None
    requester: str | None = None
    expect: Expectation


class CaseMetadata(Strict):
    """Name of a case."""

    name: Name
    title: str = ""


class PolicyTest(Document):
    """A case: a form, evidence and a date, and the decision that the policies must give."""

    api_version: Literal["registry-gate/v1"] = Field(alias="apiVersion")
    kind: Literal["PolicyTest"]
    metadata: CaseMetadata
    spec: CaseSpec
