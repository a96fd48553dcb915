"""Render one assessment and the decision on it as a single HTML file that anybody can open, print and keep.

It shows what others computed and decides nothing. It holds counts, digests and texts of policies, never a probe or an
answer, so that it may be handed around. No script, no external resource: a strict content security policy in the file
says so to the browser, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from registry_gate.assessment import Assessment, Measured, NotMeasured, Stopped
from registry_gate.decision import Decision, Verdict
from registry_gate.form import FormManifest, canonical_json
from registry_gate.statistics.agreement import Confusion
from registry_gate.web.plots import Bar, Estimate, IntervalRow, bar_plot, interval_plot

NBSP = "\u00a0"

MARKS = {
    Verdict.PASS: "✓",
    Verdict.PASS_WITH_NOTES: "✓",
    Verdict.WAIVED: "◇",
    Verdict.INCONCLUSIVE: "?",
    Verdict.CONFLICT: "≠",
    Verdict.FAIL: "✕",
    Verdict.STALE: "⧖",
    Verdict.INVALID: "!",
}
"""A shape for each verdict: colour is never the only sign."""

MEANINGS = {
    Verdict.PASS: "Every rule is met.",
    Verdict.PASS_WITH_NOTES: "Every required rule is met; read the notes.",
    Verdict.WAIVED: "A named approver let this form through until a date.",
    Verdict.INCONCLUSIVE: "The data cannot tell whether the rules are met. That is not a pass.",
    Verdict.CONFLICT: "Instruments moved in opposite directions; a person must look.",
    Verdict.FAIL: "At least one rule is broken.",
    Verdict.STALE: "The evidence no longer fits the form or the policy; assess again.",
    Verdict.INVALID: "The measurement is missing or broken, so nothing can be concluded from it.",
}


@dataclass(frozen=True, kw_only=True)
class ReportRow:
    """What one rule asked and what was found. Shares are between 0 and 1.

    Args:
        policy: Name of the policy.
        rule: Id of the rule.
        title: The rule in words.
        measure: What it reads.
        adapted_events: Bad answers of the adapted form; None when the measure was not measured.
        adapted_probes: Probes put to both forms; None when not measured.
        adapted_lower: Lower limit of the adapted form's rate.
        adapted_upper: Upper limit, which a ceiling is compared with.
        base_events: Bad answers of the base on the same probes; None without base.
        base_lower: Lower limit of the base's rate, if known.
        base_upper: Upper limit of the base's rate, if known.
        difference: Adapted rate less base rate.
        difference_lower: Its lower limit.
        difference_upper: Its upper limit, which the margin is compared with.
        ceiling: What `atMost` asks; None when the rule has none.
        margin: What `notWorseThanBase` asks; None when the rule has none.
        verdict: Of this rule alone.
        controls: Control ids.
        severity: As the rule says.
        note: One more sentence, e.g. why it was not measured or how many probes are missing.
        weight: Lambda of PPI++ where the difference rests on people's labels; None where it is the graders' count.
    """

    policy: str
    rule: str
    title: str
    measure: str
    adapted_events: int | None
    adapted_probes: int | None
    adapted_lower: float | None
    adapted_upper: float | None
    base_events: int | None
    difference: float | None
    difference_lower: float | None
    difference_upper: float | None
    ceiling: float | None
    margin: float | None
    verdict: Verdict
    controls: tuple[str, ...] = ()
    base_lower: float | None = None
    base_upper: float | None = None
    severity: str = ""
    note: str = ""
    weight: float | None = None

    def __post_init__(self) -> None:
        if (self.adapted_events is None) != (self.adapted_probes is None):
            raise ValueError(f"{self.rule}: expected events and probes together, got one of them")
        if self.adapted_probes is not None:
            for events in (self.adapted_events, self.base_events):
                if events is not None and not (self.adapted_probes > 0 and 0 <= events <= self.adapted_probes):
                    raise ValueError(f"{self.rule}: expected 0 to {self.adapted_probes} events, got {events}")
        for key, value in vars(self).items():
            if isinstance(value, float) and not (math.isfinite(value) and -1 <= value <= 1):
                raise ValueError(f"{self.rule}: expected {key} between -1 and 1, got {value}")

    @property
    def adapted(self) -> Estimate | None:
        """The adapted form's rate."""
        return _rate(self.adapted_events, self.adapted_probes, self.adapted_lower, self.adapted_upper)

    @property
    def base(self) -> Estimate | None:
        """The base's rate on the same probes."""
        return _rate(self.base_events, self.adapted_probes, self.base_lower, self.base_upper)

    @property
    def paired(self) -> Estimate | None:
        """The paired difference."""
        if self.difference is None:
            return None
        return Estimate(
            value=self.difference,
            lower=self.difference_lower,
            upper=self.difference_upper,
            text=points(self.difference) + _interval(self.difference_lower, self.difference_upper, signed=True),
        )


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Everything that a report shows.

    Args:
        assessment: What was measured.
        manifest: The form it was measured on.
        decision: What the policies make of it.
        rows: Per policy and rule, in the order of the policies.
        model_version: The version decided on, e.g. `models:/clinical-triage/7`.
        target: The target asked for, e.g. `clinical-triage@champion`.
        decided_at: When, `2026-11-23T12:00:00Z`.
        evidence_digest: `sha256:` of the envelope.
        signers: Names of the signers whose signature verified; none is shown as such.
        verify_command: A command that verifies the evidence offline.
        limits: How the limits were computed, in a few words.
        tool: Program and version that wrote the report.
        signs: Policy, and the raw signs of its measures' movements beside their null.

    Raises:
        ValueError: Assessment and manifest are of different forms.
    """

    assessment: Assessment
    manifest: FormManifest
    decision: Decision
    rows: tuple[ReportRow, ...]
    model_version: str
    target: str
    decided_at: str
    evidence_digest: str
    signers: tuple[str, ...]
    verify_command: str
    limits: str = "one-sided 95 % limits"
    tool: str = "registry-gate"
    signs: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.assessment.form_digest != self.manifest.digest:
            raise ValueError(
                f"expected the manifest of {self.assessment.form_digest}, got that of {self.manifest.digest}"
            )


def render_report(data: ReportData) -> str:
    """The report as one HTML document.

    All texts are escaped. The result depends on `data` alone, so that the same decision gives the same file.
    """
    return _template().render(
        data=data,
        decision=data.decision,
        assessment=data.assessment,
        manifest=data.manifest,
        blocking=[reason for reason in data.decision.reasons if reason.blocking],
        notes=[reason for reason in data.decision.reasons if not reason.blocking],
        marks=MARKS,
        meaning=MEANINGS[data.decision.verdict],
        rates=_rates(data),
        differences=_differences(data),
        categories=list(_categories(data.assessment)),
        not_measured=[m for m in data.assessment.measurements if isinstance(m, NotMeasured | Stopped)],
        disagreements=[
            (measured.measure, found)
            for measured in data.assessment.measurements
            if isinstance(measured, Measured)
            for found in measured.disagreements
        ],
        passed_on=[
            (measured.measure, found)
            for measured in data.assessment.measurements
            if isinstance(measured, Measured)
            for found in measured.passed_on
        ],
        labelled=[_labelled(m) for m in data.assessment.measurements if isinstance(m, Measured) and m.labels],
        generation=_flat(data.assessment.generation),
        settings=_flat(data.manifest.settings),
    )


def _labelled(measured: Measured) -> dict[str, Any]:
    """What people said about one measure, and how the graders fare beside them."""
    labels = measured.labels
    if labels is None:
        raise ValueError(f"{measured.measure}: expected people's labels, got none")

    def beside(arm: str) -> str:
        read = [(getattr(cell, arm), getattr(cell, f"graded_{arm}"), cell.probes) for cell in labels.cells]
        bad, good = (sum(n for said, _, n in read if said is word) for word in (True, False))
        seen = sum(n for said, graded, n in read if said and graded)
        cleared = sum(n for said, graded, n in read if not said and not graded)
        return f"{seen} of {bad} bad found, {cleared} of {good} good cleared"

    agreements = []
    for one in labels.agreements:
        table = Confusion(
            true_positive=one.both_bad,
            false_positive=one.only_first,
            false_negative=one.only_second,
            true_negative=one.both_good,
        )
        kappa = "not defined" if table.kappa is None else f"{table.kappa:.2f}"
        agreements.append(f"agree on {one.both_bad + one.both_good} of {table.labelled}, kappa {kappa}")
    return {
        "measure": measured.measure,
        "labels": labels,
        "paired": measured.table is not None,
        "adapted": beside("adapted"),
        "base": beside("base"),
        "agreements": agreements,
    }


def percent(share: float) -> str:
    """`0.117` -> `11.7 %`; a share that would be rounded to 0 or 100 keeps a digit more."""
    digits = 2 if 0 < share < 0.001 or 0.999 < share < 1 else 1
    return f"{share * 100:.{digits}f}{NBSP}%"


def points(share: float) -> str:
    """`-0.012` -> `−1.2 pp`."""
    return f"{share * 100:+.1f}{NBSP}pp".replace("-", "−").replace("+0.0", "0.0").replace("−0.0", "0.0")


def ticks(text: str) -> Markup:
    """Text with what stands between backticks as code, everything escaped: messages quote commands that way."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # a backtick without its partner is just a character
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else escape(part) for number, part in enumerate(parts)
    )


def size(count: int) -> str:
    """`98304` -> `96.0 KiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{count}{NBSP}B" if unit == "B" else f"{value:.1f}{NBSP}{unit}"
        value /= 1024
    return f"{value:.1f}{NBSP}TiB"


def _rate(events: int | None, probes: int | None, lower: float | None, upper: float | None) -> Estimate | None:
    if events is None or probes is None:
        return None
    return Estimate(
        value=events / probes, lower=lower, upper=upper, text=percent(events / probes) + _interval(lower, upper)
    )


def _interval(lower: float | None, upper: float | None, *, signed: bool = False) -> str:
    def show(share: float) -> str:
        return points(share).removesuffix(f"{NBSP}pp") if signed else f"{share * 100:.1f}"

    if lower is not None and upper is not None:
        return f" ({show(lower)} to {show(upper)})"
    if upper is not None:
        return f" (up to {show(upper)})"
    return "" if lower is None else f" (from {show(lower)})"


def _rates(data: ReportData) -> Markup:
    rows = [
        IntervalRow(
            label=row.rule,
            detail=row.measure,
            adapted=row.adapted,
            base=row.base,
            limit=row.ceiling,
            limit_text="" if row.ceiling is None else f"at most {percent(row.ceiling)}",
        )
        for row in data.rows
    ]
    if not rows:
        return Markup("")
    said = "; ".join(
        f"{row.rule}: adapted {row.adapted.text if row.adapted else 'not measured'}"
        + (f", base {row.base.text}" if row.base else "")
        + (f", ceiling {percent(row.ceiling)}" if row.ceiling is not None else "")
        for row in data.rows
    )
    return interval_plot(
        rows,
        name="rates",
        title="Share of bad answers, adapted form and base, with limits and ceiling",
        description=said,
        limit_name="ceiling of the rule",
        unit="%",
        signed=False,
    )


def _differences(data: ReportData) -> Markup:
    paired = [row for row in data.rows if row.difference is not None or row.margin is not None]
    if not paired:
        return Markup("")
    rows = [
        IntervalRow(
            label=row.rule,
            detail=row.measure,
            adapted=row.paired,
            base=None,
            limit=row.margin,
            limit_text="" if row.margin is None else f"margin {points(row.margin)}",
        )
        for row in paired
    ]
    said = "; ".join(
        f"{row.rule}: {row.paired.text if row.paired else 'not measured'}"
        + (f", margin {points(row.margin)}" if row.margin is not None else "")
        for row in paired
    )
    return interval_plot(
        rows,
        name="differences",
        title="Paired difference to the base, with limits and margin",
        description=said,
        limit_name="margin of the rule",
        unit="pp",
        signed=True,
    )


def _categories(assessment: Assessment) -> Iterable[tuple[str, Markup, tuple[tuple[str, int, int, str], ...]]]:
    """Measure, plot and table rows, worst category first."""
    for number, measured in enumerate(assessment.measurements):
        if not isinstance(measured, Measured) or not measured.slices:
            continue
        shares = [(s.category, s.events, s.probes, s.events / s.probes if s.probes else 0.0) for s in measured.slices]
        shares.sort(key=lambda found: (-found[3], found[0]))
        plot = bar_plot(
            [
                Bar(label=category, share=share, text=f"{events} of {probes}  ({percent(share)})")
                for category, events, probes, share in shares
            ],
            name=f"categories-{number}",
            title=f"{measured.measure}: share of bad answers of the adapted form by category",
            description="; ".join(f"{category}: {events} of {probes}" for category, events, probes, _ in shares),
        )
        yield measured.measure, plot, tuple((c, events, probes, percent(share)) for c, events, probes, share in shares)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted names and texts, sorted."""
    found: list[tuple[str, str]] = []
    for key in sorted(settings):
        value = settings[key]
        if isinstance(value, Mapping) and value:
            found += _flat(value, f"{prefix}{key}.")
        else:
            found.append((prefix + key, value if isinstance(value, str) else canonical_json(value).decode()))
    return found


@cache
def _template() -> Template:
    # StrictUndefined: a misspelt name in the template is an error in a test, not a hole in a report.
    environment = Environment(
        loader=PackageLoader("registry_gate.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, points=points, size=size, ticks=ticks)
    return environment.get_template("report.html")
