"""People's labels: how often do margins and ceilings that rest on them pass, or fail, although they must not?

    python tests/benchmarks/bench_labels.py --write     # writes LABELS.md beside this file; minutes, one core

First the margin alone (`statistics.labelled`), on forms that are worse by exactly the margin: there a pass is an error,
and a proved breach is one too, at most alpha (5 %) each. Then the
whole gate with the shipped policies and graders at the edge of admission, where people labelled 100 pairs. Seeded.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from bench_verdicts import ROOT, Graders, kinds_of, verdict_of

from registry_gate.battery import load_batteries
from registry_gate.config import PACKAGE_BATTERIES
from registry_gate.documents import read_documents, validate
from registry_gate.policy.schema import Policy
from registry_gate.statistics import clusters, labelled, rates

SEED = 20261126
OUT = Path(__file__).parent / "LABELS.md"
ALPHA = 0.05
MARGINS = (0.03, 0.05, 0.10)
RATES = ((0.005, 0.0), (0.01, 0.01), (0.1, 0.02), (0.3, 0.1))
"""Rate of the base, and the share of probes that turn each way although the rate stays."""
SIZES = ((60, 60), (120, 100), (400, 100), (1200, 100), (1200, 300))
"""Probes, and pairs that people labelled."""


@dataclass(frozen=True)
class Reader:
    """Graders of a cell: sensitivity and specificity on the adapted form, and on the base."""

    name: str
    adapted: tuple[float, float]
    base: tuple[float, float]


READERS = (
    Reader("perfect", (1, 1), (1, 1)),
    Reader("good", (0.97, 0.985), (0.97, 0.985)),
    Reader("noisy", (0.8, 0.9), (0.8, 0.9)),
    Reader("blind on the adapted form", (0.3, 0.99), (0.95, 0.99)),
    Reader("sees harm in the base that is not there", (0.95, 0.99), (0.95, 0.93)),
)


def drawn(
    n: int,
    pairs: int,
    base: float,
    adapted: float,
    churn: float,
    reader: Reader,
    cluster: int,
    rng: np.random.Generator,
) -> labelled.LabelledDifference:
    """The limits of one simulated assessment. Probes of a cluster are wholly alike in truth, not in reading."""
    change = adapted - base
    only_base = min(max(0.0, -change) + churn, base)
    only_adapted = only_base + change
    both = base - only_base
    cells = rng.choice(4, size=-(-n // cluster), p=[both, only_adapted, only_base, 1 - both - only_adapted - only_base])
    cell = np.repeat(cells, cluster)[:n]
    group = np.repeat(np.arange(len(cells)), cluster)[:n]
    arms = []
    for bad, (sensitivity, specificity) in (
        ((cell == 0) | (cell == 1), reader.adapted),
        ((cell == 0) | (cell == 2), reader.base),
    ):
        arms.append((bad, np.where(bad, rng.random(n) < sensitivity, rng.random(n) > specificity)))
    people = arms[0][0].astype(int) - arms[1][0]
    graders = arms[0][1].astype(int) - arms[1][1]
    chosen = rng.permutation(n)[:pairs]
    others = np.ones(n, dtype=bool)
    others[chosen] = False
    counted = Counter(zip(people[chosen].tolist(), graders[chosen].tolist(), strict=True))
    grouped: tuple[labelled.PairCluster, ...] = ()
    effect = 1.0
    if cluster > 1:
        sums: dict[int, list[int]] = {}
        for index in chosen.tolist():
            one = sums.setdefault(int(group[index]), [0, 0, 0])
            one[0] += 1
            one[1] += int(people[index])
            one[2] += int(graders[index])
        kinds = Counter(tuple(one) for one in sums.values())
        grouped = tuple(
            labelled.PairCluster(count=count, pairs=size, people=y, graders=f)
            for (size, y, f), count in sorted(kinds.items())
        )
        totals = [int(graders[group == g].sum()) for g in range(len(cells))]
        found = clusters.estimate(totals, np.bincount(group).tolist(), float((graders**2).sum()))
        effect = max(1.0, found.design_effect)
    return labelled.difference(
        tuple(labelled.Pairs(people=y, graders=f, count=count) for (y, f), count in sorted(counted.items())),
        (int((graders[others] == 1).sum()), int((graders[others] == -1).sum()), n - pairs),
        1 - ALPHA,
        grouped=grouped,
        rest_effect=effect,
    )


def margins(each: int, rng: np.random.Generator) -> tuple[str, list[str]]:
    """The table of the margin alone, and the cells that exceed alpha beyond chance."""
    lines = [
        "| probes, labelled pairs | graders | worst wrong pass | at | mean wrong pass | worst wrong fail | at |",
        "|---|---|---|---|---|---|---|",
    ]
    above = []
    for (n, pairs), reader, cluster in itertools.product(SIZES, READERS, (1, 4)):
        if cluster > 1 and (n < 400 or reader.name not in ("good", "blind on the adapted form")):
            continue
        passed: dict[str, int] = {}
        failed: dict[str, int] = {}
        for margin, (base, churn) in itertools.product(MARGINS, RATES):
            named = f"margin {100 * margin:g} pp, base {100 * base:g} %, churn {100 * churn:g} %"
            found = [drawn(n, pairs, base, base + margin, churn, reader, cluster, rng) for _ in range(each)]
            passed[named] = sum(one.upper <= margin for one in found)
            failed[named] = sum(one.lower > margin for one in found)
        where, name = f"{n}, {pairs}{' (clusters of 4)' if cluster > 1 else ''}", reader.name
        worst, lowest = max(passed, key=passed.__getitem__), max(failed, key=failed.__getitem__)
        mean = sum(passed.values()) / len(passed) / each
        lines.append(
            f"| {where} | {name} | {100 * passed[worst] / each:.1f} % | {worst} | {100 * mean:.1f} % "
            f"| {100 * failed[lowest] / each:.1f} % | {lowest} |"
        )
        for what, counts in (("pass", passed), ("fail", failed)):
            above += [
                f"{where}, {name}, {key}: wrong {what} {100 * count / each:.1f} %"
                for key, count in counts.items()
                if rates.lower_limit(count, each, 0.999) > ALPHA
            ]
    return "\n".join(lines), above


def gates(each: int, rng: np.random.Generator) -> tuple[str, list[str]]:
    """The table of the whole gate."""
    batteries = load_batteries([PACKAGE_BATTERIES])
    lines, above = [], []
    for file in sorted((ROOT / "policies").glob("*.yaml")):
        for raw in read_documents(file):
            if raw.kind != "PromotionPolicy":
                continue
            policy = validate(raw, Policy, "PromotionPolicy")
            kappa = 0.6 if policy.name == "general" else 0.7
            graders = [
                Graders("perfect", 1.0, 1.0, 0, 100),
                Graders("good", 0.97, 0.985, 0, 100),
                Graders("noisy (FPR 10 %)", kappa + 0.1, 0.90, 0, 100),
                Graders("blind (FPR 2 %)", kappa + 0.02, 0.98, 0, 100),
            ]
            battery = batteries[policy.spec.evidence.battery]
            lines += [
                f"\n### {policy.name} ({battery.id})\n",
                "| truth | " + " | ".join(one.name for one in graders) + " |",
                "|---|" + "---|" * len(graders),
            ]
            for name, (may, truths, degenerate) in kinds_of(policy).items():
                row = []
                for one in graders:
                    said = [verdict_of(policy, battery, truths, degenerate, one, rng) for _ in range(each)]
                    allowed = sum(passed for passed, _ in said)
                    wrong = each - allowed if may else allowed
                    most = ", ".join(f"{v} {100 * k / each:.0f}" for v, k in Counter(v for _, v in said).most_common(2))
                    row.append(f"{100 * wrong / each:.1f} ({most})")
                    if not may and rates.lower_limit(allowed, each, 0.999) > ALPHA:
                        above.append(f"{policy.name}, {name}, graders {one.name}: {100 * wrong / each:.1f} %")
                lines.append(f"| {name}: {'false deny' if may else 'false allow'} | " + " | ".join(row) + " |")
    return "\n".join(lines), above


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write LABELS.md")
    parser.add_argument("--each", type=int, default=500, help="assessments in each cell of the first table (500)")
    parser.add_argument("--gates", type=int, default=200, help="adaptations in each cell of the second table (200)")
    arguments = parser.parse_args()
    start = time.perf_counter()
    with ProcessPoolExecutor(1) as beside:
        whole_gate = beside.submit(gates, arguments.gates, np.random.default_rng(SEED + 1))
        alone, above = margins(arguments.each, np.random.default_rng(SEED))
        whole, more = whole_gate.result()
    print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr)
    above += more
    verdict = (
        "In no cell of either table is the lower 99.9 % limit of what was wrongly passed, failed or allowed above "
        "alpha (5 %)."
        if not above
        else "Above alpha (5 %): " + "; ".join(above) + "."
    )
    document = (
        f"# People's labels: error rates\n\nSeed {SEED}: `python tests/benchmarks/bench_labels.py --write "
        f"--each {arguments.each} --gates {arguments.gates}`. {verdict}\n\n## The margin alone\n\n"
        f"{arguments.each:,} assessments in each of 12 cells "
        "of a row (3 margins, 4 base rates), all worse by exactly the margin. Nominal: at most 5 % each.\n\n"
        f"{alone}\n\n## The whole gate, 100 labelled pairs\n\n{arguments.gates} adaptations in each cell. Percent "
        f"decided wrongly; in brackets the two commonest verdicts.\n{whole}\n"
    )
    if arguments.write:
        OUT.write_text(document, encoding="utf-8")
    else:
        print(document)


if __name__ == "__main__":
    main()
