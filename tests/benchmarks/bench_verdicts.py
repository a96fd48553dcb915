"""The whole gate on adaptations whose truth is known: how often is what must not pass allowed, or what may denied?

    python tests/benchmarks/bench_verdicts.py --write     # writes the table of evaluators/README.md; minutes, one core

Each adaptation is a set of probes with true labels for both arms, read by two graders that err at given rates; counts,
assessment and `decide` with the shipped policies are the real ones. Seeded.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from registry_gate.assessment import (
    Assessment,
    Disagreement,
    GraderErrors,
    GraderRecord,
    HitCount,
    LabelledCell,
    LabelledCount,
    Measured,
    PairedTable,
    PeopleLabels,
    ValidityCheck,
)
from registry_gate.battery import Battery, InstrumentSpec, load_batteries
from registry_gate.config import PACKAGE_BATTERIES
from registry_gate.documents import read_documents, validate
from registry_gate.form import BaseReference, FileEntry, FormManifest
from registry_gate.policy.inputs import VerifiedEvidence
from registry_gate.policy.rules import decide
from registry_gate.policy.schema import Policy, Rule
from registry_gate.statistics import rates

ROOT = Path(__file__).parents[2]
README = ROOT / "evaluators" / "README.md"
START, END = "<!-- bench_verdicts: start -->", "<!-- bench_verdicts: end -->"
SEED = 20261125
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
CHURN = 0.01
"""Share of probes that turn each way although the rate stays."""

BASE = BaseReference(
    kind="path", name="base", revision=None, digest="sha256:" + "b" * 64, declared_in="MLmodel", required_to_load=False
)
FORM = FormManifest(
    files=(FileEntry(path="model.safetensors", size=1, sha256="a" * 64, role="weights", identity=True),),
    base=BASE,
    formats=("safetensors",),
    flavor="transformers",
)
GRADER = GraderRecord(name="simulated", version="1", family="rule", axis="harm", digest="sha256:0", runtime="none")


@dataclass(frozen=True)
class Truth:
    """True rates of one measure."""

    base: float
    adapted: float


@dataclass(frozen=True)
class Graders:
    """Both graders of a cell.

    Args:
        name: As in the table.
        sensitivity: Share of bad answers that they call bad.
        specificity: Share of good answers that they call good.
        labelled: Bad and good answers of each arm that people labelled; 0 for none.
        pairs: Random probes whose answers people labelled in both arms; 0 for none.
    """

    name: str
    sensitivity: float
    specificity: float
    labelled: int
    pairs: int = 0


def graders_of(policy: str) -> list[Graders]:
    """Perfect, good, and the worst that admission lets in: kappa .6 (general) or .7 on as many bad as good answers."""
    kappa, labels = (0.6, 100) if policy == "general" else (0.7, 150)
    return [
        Graders("perfect", 1.0, 1.0, 0),
        Graders("good, both arms labelled", 0.97, 0.985, 500),
        Graders("at admission, noisy (FPR 10 %), labelled", kappa + 0.1, 0.90, labels),
        Graders("at admission, blind (FPR 2 %), labelled", kappa + 0.02, 0.98, labels),
        Graders("good, not labelled", 0.97, 0.985, 0),
        Graders("at admission, blind (FPR 2 %), *not labelled*", kappa + 0.02, 0.98, 0),
    ]


def kinds_of(policy: Policy) -> dict[str, tuple[bool, Mapping[str, Truth], float]]:
    """Name -> (may it be allowed, true rates by measure, share of degenerate answers)."""
    rules = policy.spec.rules
    calm = {rule.measure: Truth(0.01, 0.01) for rule in rules}
    harm = next(rule for rule in rules if rule.measure.endswith("harmful_compliance"))
    refusal = next(rule for rule in rules if rule.measure.endswith("overrefusal"))

    def worse(rule: Rule, margins: float) -> Truth:
        return Truth(0.01, 0.01 + margins * (rule.not_worse_than_base or 0.1))

    kinds: dict[str, tuple[bool, Mapping[str, Truth], float]] = {"safe": (True, calm, 0.0)}
    for margins in (1, 2, 3):
        kinds[f"harmful by {margins} margin{'s' * (margins > 1)}"] = (
            False,
            {**calm, harm.measure: worse(harm, margins)},
            0,
        )
    kinds["as harmful as its base, at the ceiling"] = (
        False,
        {**calm, harm.measure: Truth(harm.at_most or 0.1, harm.at_most or 0.1)},
        0,
    )
    kinds["mixed: harmful by 2 margins, refuses less"] = (
        False,
        {**calm, harm.measure: worse(harm, 2), refusal.measure: Truth(0.25, 0.02)},
        0,
    )
    kinds["over-refusing by 1 margin"] = (False, {**calm, refusal.measure: worse(refusal, 1)}, 0)
    kinds["over-refusing by 3 margins"] = (False, {**calm, refusal.measure: worse(refusal, 3)}, 0)
    kinds["incoherent (20 % of answers)"] = (False, calm, 0.20)
    return kinds


def measured(instrument: InstrumentSpec, truth: Truth, graders: Graders, generator: np.random.Generator) -> Measured:
    """One measure: true labels of both arms, read twice with errors."""
    n = instrument.size
    difference = truth.adapted - truth.base
    only_base = min(max(0.0, -difference) + CHURN, truth.base)
    only_adapted = only_base + difference
    both = truth.base - only_base
    cell = generator.choice(4, size=n, p=[both, only_adapted, only_base, 1 - both - only_adapted - only_base])
    bad = np.stack([(cell == 0) | (cell == 1), (cell == 0) | (cell == 2)])
    labels = [
        np.where(
            bad, generator.random(bad.shape) < graders.sensitivity, generator.random(bad.shape) > graders.specificity
        )
        for _ in range(2)
    ]
    adapted, base = labels[0]
    errors = None
    if graders.labelled:
        m = graders.labelled
        drawn = [
            LabelledCount(
                detected=int(generator.binomial(m, graders.sensitivity)),
                bad=m,
                cleared=int(generator.binomial(m, graders.specificity)),
                good=m,
            )
            for _ in range(2)
        ]
        errors = GraderErrors(adapted=drawn[0], base=drawn[1])
    people = None
    if graders.pairs:
        # Drawn independently of everything, so the first ones are a random sample.
        counted = Counter(
            tuple(bool(one) for one in four) for four in np.stack([*bad, adapted, base], axis=1)[: graders.pairs]
        )
        people = PeopleLabels(
            cells=tuple(
                LabelledCell(adapted=a, base=b, graded_adapted=c, graded_base=d, probes=count)
                for (a, b, c, d), count in sorted(counted.items())
            ),
            labellers=1,
            labelled_at="2026-11-24T18:00:00Z",
        )
    hits, start = [], 0
    others = n - sum(instrument.categories.values())
    for category, count in {**instrument.categories, **({"other": others} if others else {})}.items():
        # As the shipped batteries grade harm: by one grader, so nothing is confirmed.
        bad_here = int(adapted[start : start + count].sum())
        hits.append(HitCount(category=category, probes=count, confirmed=0, unconfirmed=bad_here))
        start += count
    return Measured(
        measure=instrument.measure,
        labels=people,
        hits=tuple(hits),
        events=int(adapted.sum()),
        probes=n,
        clusters=n,
        table=PairedTable(
            both=int((adapted & base).sum()),
            only_adapted=int((adapted & ~base).sum()),
            only_base=int((~adapted & base).sum()),
            neither=int((~adapted & ~base).sum()),
        ),
        disagreements=(Disagreement(axis="harm", differing=int((labels[0] != labels[1]).sum()), compared=2 * n),),
        grader_errors=errors,
    )


def verdict_of(
    policy: Policy,
    battery: Battery,
    truths: Mapping[str, Truth],
    degenerate: float,
    graders: Graders,
    generator: np.random.Generator,
) -> tuple[bool, str]:
    """Whether one simulated adaptation is allowed, and the verdict."""
    instruments = battery.spec.instruments
    broken = sum(int(generator.binomial(one.size, degenerate)) for one in instruments)
    coherent = broken <= battery.spec.validity.degenerate_at_most * sum(one.size for one in instruments)
    assessment = Assessment(
        form_digest=FORM.digest,
        base_digest=BASE.digest,
        battery=battery.id,
        battery_digest=battery.digest,
        probe_sets={},
        graders=(GRADER,),
        generation={},
        measurements=tuple(
            measured(one, truths.get(one.measure, Truth(0.01, 0.01)), graders, generator) for one in instruments
        ),
        validity=(ValidityCheck(check="coherence", passed=coherent, detail=f"{broken} degenerate answers"),),
        assessed_at="2026-11-24T12:00:00Z",
        tool="simulation",
    )
    evidence = VerifiedEvidence(digest="sha256:1", assessment=assessment, signers=("worker",))
    decision = decide(policies=[policy], batteries={battery.id: battery}, form=FORM, evidence=[evidence], now=NOW)
    return decision.allowed, str(decision.verdict)


def simulate(policy: Policy, battery: Battery, each: int, generator: np.random.Generator) -> tuple[str, list[str]]:
    """The table of one policy, and the cells with labelled or perfect graders that exceed alpha."""
    alpha = 1 - policy.spec.confidence
    graders = graders_of(policy.name)
    lines = [
        "| truth | " + " | ".join(one.name for one in graders) + " |",
        "|---|" + "---|" * len(graders),
    ]
    above = []
    for name, (may, truths, degenerate) in kinds_of(policy).items():
        row = []
        for one in graders:
            verdicts: Counter[str] = Counter()
            allowed = 0
            for _ in range(each):
                passed, verdict = verdict_of(policy, battery, truths, degenerate, one, generator)
                allowed += passed
                verdicts[verdict] += 1
            wrong = each - allowed if may else allowed
            most = ", ".join(f"{v} {100 * k / each:.0f}" for v, k in verdicts.most_common(2))
            # Marked only where chance does not explain it: the lower 99.9 % limit is above alpha.
            over = not may and rates.lower_limit(allowed, each, 0.999) > alpha
            row.append(f"{'**' if over else ''}{100 * wrong / each:.1f}{'**' if over else ''} ({most})")
            if over and (one.labelled or one.name == "perfect"):
                above.append(f"{policy.name}, {name}, graders {one.name}: {100 * wrong / each:.1f} %")
        kind = "false deny" if may else "false allow"
        lines.append(f"| {name}: {kind} | " + " | ".join(row) + " |")
    return "\n".join(lines), above


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the tables into evaluators/README.md")
    parser.add_argument("--each", type=int, default=400, help="adaptations in each cell (400)")
    arguments = parser.parse_args()
    batteries = load_batteries([PACKAGE_BATTERIES])
    parts, above, total = [], [], 0
    for number, file in enumerate(sorted((ROOT / "policies").glob("*.yaml"))):
        for raw in read_documents(file):
            if raw.kind != "PromotionPolicy":
                continue
            policy = validate(raw, Policy, "PromotionPolicy")
            battery = batteries[policy.spec.evidence.battery]
            start = time.perf_counter()
            made, exceeding = simulate(policy, battery, arguments.each, np.random.default_rng(SEED + number))
            cells = len(kinds_of(policy)) * len(graders_of(policy.name))
            total += cells * arguments.each
            parts.append(f"### {policy.name} ({battery.id})\n\n{made}")
            above += exceeding
            print(f"{policy.name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    summary = (
        f"{total:,} simulated adaptations, {arguments.each} in each cell, seed {SEED}: "
        "`python tests/benchmarks/bench_verdicts.py --write"
        + f" --each {arguments.each}`. Percent of adaptations decided "
        "wrongly; in brackets the two commonest verdicts.\n\n"
        + (
            "Where graders are perfect or meet admission and both arms carry labels, no cell allows more than alpha "
            "(5 %): "
            "nowhere is the lower 99.9 % limit of what was allowed above it."
            if not above
            else "Above alpha (5 %) although graders meet admission: " + "; ".join(above) + "."
        )
    )
    document = summary + "\n\n" + "\n\n".join(parts)
    if not arguments.write:
        print(document)
        return
    text = README.read_text(encoding="utf-8")
    head, _, rest = text.partition(START)
    _, _, tail = rest.partition(END)
    new = f"{head}{START}\n{document}\n{END}{tail}"
    README.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
