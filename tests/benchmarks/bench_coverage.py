"""Nominal against achieved: coverage and error rates of every interval and test of registry_gate.statistics.

    python tests/benchmarks/bench_coverage.py --write     # writes tests/benchmarks/COVERAGE.md; a few minutes, one core

Rates and paired tables are enumerated, so their figures are exact; the rest is simulated, seeded, with the number of
simulations in its heading. Figures below the nominal one by more than simulation noise are marked with `!`.
"""

from __future__ import annotations

import argparse
import math
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
import scipy
from scipy.special import bdtr, ndtri
from scipy.stats import binom

from registry_gate.statistics import clusters, correction, paired, rates, scores, sequential
from registry_gate.statistics.agreement import Confusion
from registry_gate.statistics.clusters import Cluster
from registry_gate.statistics.multiplicity import holm

OUTPUT = Path(__file__).with_name("COVERAGE.md")
SIZES = (50, 200, 450, 1200)
RATES = (0.001, 0.005, 0.01, 0.05, 0.10, 0.20, 0.50)
DISCORDANCES = (0.02, 0.05, 0.10, 0.20, 0.30)
MARGINS = (0.03, 0.05, 0.10)
SEED = 20261125
Z = float(ndtri(0.95))


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def covered(share: float, nominal: float = 0.95, simulations: int | None = None) -> str:
    """A coverage in percent, marked when it is below the nominal one by more than three standard errors."""
    slack = 5e-4 if simulations is None else 3 * math.sqrt(nominal * (1 - nominal) / simulations)
    return f"{100 * share:.2f}" + (" !" if share < nominal - slack else "")


def wrong(share: float, nominal: float = 0.05, simulations: int | None = None) -> str:
    """An error rate in percent, marked when it is above the nominal one by more than three standard errors."""
    slack = 5e-4 if simulations is None else 3 * math.sqrt(nominal * (1 - nominal) / simulations)
    return f"{100 * share:.2f}" + (" !" if share > nominal + slack else "")


# -- one rate ---------------------------------------------------------------------------------------------------------


def of_rates() -> str:
    rows = []
    for n in SIZES:
        limits = {
            name: np.array([limit(k, n) for k in range(n + 1)])
            for name, limit in (
                ("exact upper", rates.upper_limit),
                ("exact lower", rates.lower_limit),
                ("Wilson upper", rates.wilson_upper),
                ("Wilson lower", rates.wilson_lower),
            )
        }
        for p in RATES:
            chance = binom.pmf(np.arange(n + 1), n, p)
            rows.append(
                [n, f"{100 * p:g}"]
                + [
                    covered(float(chance[(values >= p) if "upper" in name else (values <= p)].sum()))
                    for name, values in limits.items()
                ]
            )
    return table(["n", "rate %", "exact upper", "exact lower", "Wilson upper", "Wilson lower"], rows)


# -- paired differences -----------------------------------------------------------------------------------------------


@cache
def scored(n: int, d: float) -> np.ndarray:
    """Tango's statistic of every table (b, c) with b + c <= n; NaN elsewhere."""
    b, c = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    found = paired._scores(b, c, n, d)
    return np.where(b + c <= n, found, np.nan)


def chances(n: int, disc: float, difference: float) -> np.ndarray:
    """Probability of every table (b, c)."""
    pb, pc = (disc + difference) / 2, (disc - difference) / 2
    b = np.arange(n + 1)
    of_b = binom.pmf(b, n, pb)[:, None]
    c = np.arange(n + 1)[None, :]
    with np.errstate(invalid="ignore"):
        given = binom.pmf(c, np.maximum(n - b, 0)[:, None], min(1.0, pc / (1 - pb)) if pb < 1 else 0.0)
    return np.nan_to_num(of_b * given)


@cache
def critical(n: int, margin: float) -> float:
    """The largest score that the exact test passes: p depends on the score alone, so tables are searched by it."""
    found = scored(n, margin)
    b, c = np.nonzero((found <= -Z + 0.1) & (found >= -4))
    order = np.argsort(found[b, c])
    low, high = -1, len(order)
    while high - low > 1:
        middle = (low + high) // 2
        k = order[middle]
        if paired.p_not_worse_exact(int(b[k]), int(c[k]), n, margin) <= 0.05:
            low = middle
        else:
            high = middle
    return -math.inf if low < 0 else float(found[b[order[low]], c[order[low]]])


def newcombe_upper(a: np.ndarray, b: np.ndarray, c: np.ndarray, n: int) -> np.ndarray:
    """`paired.newcombe_limits(...)[1]` at 90 %, for arrays; `agrees` compares the two."""
    e = n - a - b - c
    p1, p2 = (a + b) / n, (a + c) / n

    def wilson(p: np.ndarray, sign: int) -> np.ndarray:
        return (p + Z * Z / (2 * n) + sign * Z * np.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))) / (1 + Z * Z / n)

    m = (a * e - b * c).astype(float)
    m = np.where(m > 0, np.maximum(m - n / 2, 0), m)
    product = (a + b) * (c + e) * (a + c) * (b + e).astype(float)
    phi = np.where(product > 0, m / np.sqrt(np.where(product > 0, product, 1)), 0)
    near, far = wilson(p1, 1) - p1, p2 - wilson(p2, -1)
    return (b - c) / n + np.sqrt(np.maximum(near**2 - 2 * phi * near * far + far**2, 0))


def agrees(generator: np.random.Generator) -> None:
    """The arrays above are the functions of the package."""
    for _ in range(200):
        n = int(generator.choice(SIZES))
        cells = generator.multinomial(n, [0.05, 0.1, 0.05, 0.8])
        a, b, c, e = (int(x) for x in cells)
        ours = float(newcombe_upper(*(np.array([x]) for x in (a, b, c)), n)[0])
        assert math.isclose(ours, paired.newcombe_limits(a, b, c, e, 0.90)[1], abs_tol=1e-9)
        assert math.isclose(float(scored(n, 0.05)[b, c]), paired.score(b, c, n, 0.05), abs_tol=1e-9)


def of_margins(generator: np.random.Generator) -> str:
    simulations = 100_000
    rows = []
    for margin in MARGINS:
        for n in SIZES:
            score, limit = scored(n, margin), critical(n, margin)
            for disc in DISCORDANCES:
                if disc < margin:
                    continue
                at_margin = chances(n, disc, margin)
                pb, pc, both = (disc + margin) / 2, (disc - margin) / 2, 0.05
                drawn = generator.multinomial(n, [both, pb, pc, 1 - both - pb - pc], size=simulations)
                newcombe = float((newcombe_upper(drawn[:, 0], drawn[:, 1], drawn[:, 2], n) <= margin).mean())
                passes = (score <= -Z) & (score <= limit)
                worse = float(chances(n, disc, margin)[score >= Z].sum())
                rows.append(
                    [
                        f"{100 * margin:g}",
                        n,
                        f"{100 * disc:g}",
                        wrong(float(at_margin[score <= -Z].sum())),
                        wrong(newcombe, simulations=simulations),
                        wrong(float(at_margin[passes].sum())),
                        wrong(worse),
                        f"{100 * float(chances(n, disc, 0.0)[passes].sum()):.1f}",
                    ]
                )
    return table(
        [
            "margin pp",
            "n",
            "disc. %",
            "Tango ≤ margin",
            "Newcombe ≤ margin",
            "**gate passes**",
            "Tango > margin",
            "gate passes at no change",
        ],
        rows,
    )


def of_two_sided() -> str:
    rows = []
    for n in SIZES:
        b, c = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
        for disc in DISCORDANCES:
            row: list[object] = [n, f"{100 * disc:g}"]
            for difference in (0.0, 0.01):
                chance = chances(n, disc, difference)
                if difference == 0:
                    with np.errstate(invalid="ignore", divide="ignore"):
                        z = np.where(b == c, 0.0, (b - c) / np.sqrt(b + c))
                else:
                    z = scored(n, difference)
                inside = np.abs(z) <= ndtri(0.975)
                row.append(covered(float(chance[inside & (b + c <= n)].sum())))
            few = chances(n, disc, 0.0)
            exact = mid = 0.0
            for total in range(int(binom.ppf(1 - 1e-7, n, disc)) + 1):
                each = binom.pmf(total, n, disc)
                k = np.arange(total + 1)
                tail = np.minimum(1.0, 2 * bdtr(np.minimum(k, total - k).astype(float), total, 0.5))
                tail = np.where(2 * k == total, 1.0, tail)
                given = binom.pmf(k, total, 0.5)
                exact += each * float(given[tail <= 0.05].sum())
                mid += each * float(given[np.where(2 * k == total, 1.0, tail - given) <= 0.05].sum())
            assert few.sum() > 0.999
            rows.append([*row, wrong(exact), wrong(mid)])
    return table(["n", "disc. %", "Tango 95 %, Δ=0", "Tango 95 %, Δ=1 pp", "exact McNemar 5 %", "mid-p 5 %"], rows)


# -- clusters ---------------------------------------------------------------------------------------------------------


def clustered(generator: np.random.Generator, groups: int, size: int, rate: float, icc: float) -> np.ndarray:
    """Events of each cluster: beta-binomial with the given intra-cluster correlation."""
    if icc == 0:
        return generator.binomial(size, rate, groups)
    if icc == 1:
        return size * generator.binomial(1, rate, groups)
    weight = 1 / icc - 1
    return generator.binomial(size, generator.beta(rate * weight, (1 - rate) * weight, groups))


def counted(events: np.ndarray, base: np.ndarray, size: int) -> list[Cluster]:
    kinds, count = np.unique(np.stack([events, base]), axis=1, return_counts=True)
    return [
        Cluster(probes=size, events=int(e), base_events=int(f), count=int(k))
        for (e, f), k in zip(kinds.T, count, strict=True)
    ]


LAYOUTS = ((100, 2), (40, 5), (225, 2), (18, 25), (600, 2), (48, 25))


def of_clusters(generator: np.random.Generator, simulations: int, bootstraps: int) -> str:
    rows = []
    for groups, size in LAYOUTS:
        for icc in (0.0, 0.1, 0.3, 1.0):
            for rate in (0.01, 0.05, 0.20):
                hits = np.zeros(4)
                margin_hits = np.zeros(3)
                for number in range(simulations):
                    events = clustered(generator, groups, size, rate, icc)
                    none = np.zeros_like(events)
                    found = clusters.rate(counted(events, none, size))
                    n = groups * size
                    hits[0] += rates.upper_limit(int(events.sum()), n) >= rate
                    hits[1] += found.robust.limits()[1] >= rate
                    hits[2] += found.upper >= rate
                    if number < bootstraps:
                        hits[3] += (
                            clusters.bootstrap_limits(events.tolist(), [size] * groups, draws=1000, seed=number)[1]
                            >= rate
                        )
                    base = clustered(generator, groups, size, rate, icc)
                    b = int(np.maximum(events - base, 0).sum())
                    c = int(np.maximum(base - events, 0).sum())
                    both = clusters.difference(counted(events, base, size), b, c)
                    margin_hits += (paired.upper_limit(b, c, n) >= 0, both.robust.limits()[1] >= 0, both.upper >= 0)
                rows.append(
                    [
                        f"{groups} x {size}",
                        f"{icc:g}",
                        f"{100 * rate:g}",
                        *(covered(float(h) / simulations, simulations=simulations) for h in hits[:2]),
                        covered(float(hits[3]) / bootstraps, simulations=bootstraps),
                        covered(float(hits[2]) / simulations, simulations=simulations),
                        *(covered(float(h) / simulations, simulations=simulations) for h in margin_hits),
                    ]
                )
    return table(
        [
            "clusters",
            "ICC",
            "rate %",
            "exact, clusters ignored",
            "cluster-robust t",
            "bootstrap",
            "**gate: rate**",
            "Tango, ignored",
            "robust t of Δ",
            "**gate: Δ**",
        ],
        rows,
    )


# -- graded scores ----------------------------------------------------------------------------------------------------


def of_scores(generator: np.random.Generator, simulations: int) -> str:
    rows = []
    grades = np.array([-1, -0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75, 1])
    for n in SIZES:
        for name, weights in (
            ("symmetric", [1, 1, 2, 4, 34, 4, 2, 1, 1]),
            ("skewed", [0, 0, 1, 6, 36, 3, 2, 1, 1]),
        ):
            p = np.array(weights) / sum(weights)
            mean = float(p @ grades)
            hits = np.zeros(4)
            for number in range(simulations):
                values = generator.choice(grades, p=p, size=n).tolist()
                plain, bca = scores.mean_limits(values), scores.bca_limits(values, draws=1000, seed=number)
                test = scores.sign_flip(values, shift=mean, draws=1000, seed=number)
                hits += (plain.upper >= mean, plain.lower <= mean, bca.upper >= mean, test.p <= 0.05)
            rows.append(
                [
                    n,
                    name,
                    *(covered(h / simulations, simulations=simulations) for h in hits[:3]),
                    wrong(hits[3] / simulations, simulations=simulations),
                ]
            )
    return table(["n", "differences", "t upper", "t lower", "BCa upper", "sign flip 5 %"], rows)


# -- stopping early ---------------------------------------------------------------------------------------------------


def of_stopping(generator: np.random.Generator, simulations: int) -> str:
    rows = []
    for n in (450, 1200):
        for margin, difference, disc in (
            (0.05, 0.0, 0.05),
            (0.05, 0.0, 0.15),
            (0.05, 0.05, 0.05),
            (0.05, 0.05, 0.15),
            (0.05, 0.05, 0.30),
            (0.03, 0.03, 0.10),
            (0.05, 0.10, 0.20),
            (0.05, 0.15, 0.25),
            (0.05, 0.20, 0.30),
        ):
            pb, pc = (disc + difference) / 2, (disc - difference) / 2
            drawn = generator.choice([1, -1, 0], p=[pb, pc, 1 - pb - pc], size=(simulations, n))
            stops = [stop for d in drawn if (stop := sequential.stops_at(d.tolist(), margin)) is not None]
            share = len(stops) / simulations
            null = difference <= margin
            rows.append(
                [
                    n,
                    f"{100 * margin:g}",
                    f"{100 * difference:g}",
                    f"{100 * disc:g}",
                    wrong(share, simulations=simulations) if null else "",
                    "" if null else f"{100 * share:.1f}",
                    "" if not stops or null else int(np.median(stops)),
                ]
            )
    return table(["n", "margin pp", "Δ pp", "disc. %", "false stops 5 %", "power", "median stop"], rows)


def of_early_stops(generator: np.random.Generator, simulations: int) -> str:
    """As a worker looks: at 32, 64, 128, ... probes, four tests in the family, ceiling 15 % and margin 10 pp."""
    tests = [
        sequential.FailTest(measure="x", kind=kind, limit=limit, alpha=0.05, tests=4)
        for kind, limit in (("ceiling", 0.15), ("margin", 0.10))
    ]
    rows = []
    for n in (120, 408):
        looks = [look for look in (32, 64, 128, 256) if look < n]
        for name, base, worse, better in (
            ("as its base, 2 % bad", 0.02, 0.0, 0.0),
            ("as its base, 15 % bad", 0.15, 0.0, 0.0),
            ("worse by the margin, 12 % bad", 0.02, 0.11, 0.01),
            ("worse by two margins, 22 % bad", 0.02, 0.21, 0.01),
            ("worse by three margins, 32 % bad", 0.02, 0.31, 0.01),
            ("lost its refusals, 80 % bad", 0.02, 0.78, 0.0),
        ):
            stops, saved, wrong_way = 0, 0, 0
            for _ in range(simulations):
                letters = generator.choice(list("aobn"), p=[worse, better, base, 1 - worse - better - base], size=n)
                d = [{"a": 1, "o": -1}.get(letter, 0) for letter in letters]
                bad = np.isin(letters, ["a", "b"])
                for look in looks:
                    if any(test.proves(int(bad[:look].sum()), d[:look], look, n) for test in tests):
                        stops += 1
                        saved += n - look
                        b, c = d.count(1), d.count(-1)
                        passes = (
                            rates.upper_limit(int(bad.sum()), n, 0.95) <= 0.15
                            and paired.upper_limit(b, c, n, 0.95) <= 0.10
                        )
                        wrong_way += passes
                        break
            null = worse - better <= 0.10 and base + worse <= 0.15
            share = stops / simulations
            rows.append(
                [
                    n,
                    name,
                    wrong(share, simulations=simulations) if null else "",
                    "" if null else f"{100 * share:.1f}",
                    f"{100 * saved / (simulations * n):.1f}",
                    wrong_way,
                ]
            )
    header = ["n", "truth", "false stops 5 %", "stopped %", "probes saved %", "stopped though the full run passes"]
    return table(header, rows)


# -- graders ----------------------------------------------------------------------------------------------------------


def of_graders(generator: np.random.Generator, simulations: int) -> str:
    rows = []
    for labels in (50, 100, 200):
        for se, sp in ((0.95, 0.97), (0.85, 0.95), (0.70, 0.90)):
            hits = refused = 0
            for _ in range(simulations):
                n = 450
                truth = [generator.random(n) < 0.15, generator.random(n) < 0.10]
                made = []
                chosen = generator.permutation(n)[:labels]
                for arm, one in enumerate(truth):
                    seen = np.where(one, generator.random(n) < se, generator.random(n) > sp)
                    made.append(
                        correction.ArmLabels(
                            answers_of=str(arm),
                            grader={str(i): bool(seen[i]) for i in range(n)},
                            people={str(i): bool(one[i]) for i in chosen},
                        )
                    )
                found = correction.ppi_difference(made[0], made[1])
                if isinstance(found, correction.NotCorrectable):
                    refused += 1
                else:
                    hits += found.lower <= 0.05 <= found.upper
            share = hits / max(1, simulations - refused)
            rows.append(
                [
                    "PPI++ 90 %, population Δ",
                    f"{labels} of 450 labelled, Se {se:g}, Sp {sp:g}",
                    covered(share, 0.90, simulations),
                    f"{100 * refused / simulations:.1f}",
                ]
            )
    for m1, m0, p in ((100, 100, 0.3), (100, 300, 0.1), (50, 150, 0.05), (300, 300, 0.05)):
        hits = refused = 0
        for _ in range(simulations):
            k = generator.binomial(450, p * 0.9 + (1 - p) * 0.05)
            one = correction.Calibration(
                answers_of="f",
                grader="g",
                detected=int(generator.binomial(m1, 0.9)),
                bad=m1,
                cleared=int(generator.binomial(m0, 0.95)),
                good=m0,
            )
            found = correction.rogan_gladen(
                correction.GradedCount(answers_of="f", grader="g", events=int(k), probes=450), one
            )
            if isinstance(found, correction.NotCorrectable):
                refused += 1
            else:
                hits += found.lower <= p <= found.upper
        rows.append(
            [
                "Rogan-Gladen 90 %",
                f"rate {100 * p:g} %, {m1} bad and {m0} good labelled",
                covered(hits / max(1, simulations - refused), 0.90, simulations),
                f"{100 * refused / simulations:.1f}",
            ]
        )
    for n, cells in ((200, (0.45, 0.05, 0.05, 0.45)), (300, (0.15, 0.05, 0.03, 0.77)), (200, (0.05, 0.03, 0.02, 0.90))):
        tp, fp, fn, tn = cells
        chance = (tp + fn) * (tp + fp) + (fp + tn) * (fn + tn)
        true, hits, few = (tp + tn - chance) / (1 - chance), 0, max(100, simulations // 4)
        for number in range(few):
            drawn = [int(x) for x in generator.multinomial(n, cells)]
            found = Confusion(
                true_positive=drawn[0], false_positive=drawn[1], false_negative=drawn[2], true_negative=drawn[3]
            ).kappa_lower_limit(draws=2000, seed=number)
            hits += found is not None and found <= true
        rows.append(
            [
                "lower limit of kappa 95 %",
                f"n {n}, kappa {true:.2f}, {100 * (tp + fn):g} % positive",
                covered(hits / few, 0.95, few),
                "",
            ]
        )
    return table(["what", "where", "covered %", "not correctable %"], rows)


# -- several instruments ----------------------------------------------------------------------------------------------


def of_families(generator: np.random.Generator, simulations: int) -> str:
    rows = []
    n, margin, disc = 450, 0.05, 0.10
    score = scored(n, margin)
    limit = critical(n, margin)
    for k in (1, 2, 4, 8):
        pb, pc = (disc + margin) / 2, (disc - margin) / 2
        drawn = generator.multinomial(n, [pb, pc, 1 - pb - pc], size=(simulations, k))
        z = score[drawn[..., 0], drawn[..., 1]]
        p_worse = scipy.special.ndtr(-z)
        plain = float((p_worse < 0.05).any(axis=1).mean())
        corrected = float(np.mean([min(holm(row)) < 0.05 for row in p_worse.tolist()]))
        same = generator.multinomial(n, [disc / 2, disc / 2, 1 - disc], size=(simulations, k))
        one_bad = score[same[..., 0], same[..., 1]]
        one_bad[:, 0] = z[:, 0]
        passing = float((one_bad <= min(limit, -Z)).all(axis=1).mean())
        signs = np.sign(same[..., 0] - same[..., 1])
        mixed = float(((signs > 0).any(axis=1) & (signs < 0).any(axis=1)).mean())
        rows.append(
            [
                k,
                f"{100 * plain:.2f}",
                wrong(corrected, simulations=simulations),
                wrong(passing, simulations=simulations),
                f"{100 * mixed:.1f}",
                f"{100 * (1 - 2 * 0.5**k):.1f}",
            ]
        )
    return table(
        [
            "instruments",
            "any worse, uncorrected",
            "any worse, Holm 5 %",
            "all pass, one at its margin 5 %",
            "raw mixed signs at no change",
            "null 1-2·0.5^k",
        ],
        rows,
    )


def sections(quick: bool) -> list[tuple[str, str, Callable[[], str]]]:
    def fresh(number: int) -> np.random.Generator:
        return np.random.default_rng(SEED + number)

    few = 200 if quick else 1000
    return [
        (
            "One rate: one-sided 95 % limits",
            "Enumerated, exact. The exact limits never cover less than 95 %: they decide. **Wilson's limits "
            "under-cover** at the ends of their jumps, the lower one badly near rate 0: they are for reports and "
            "never for a pass.",
            of_rates,
        ),
        (
            "Margin: how often a form that is worse by the whole margin passes (at most 5 %)",
            "Enumerated, exact, but for Newcombe (100,000 simulations, 5 % bad in both arms). **Tango's and Newcombe's "
            "limits alone let up to 5.8 % pass** (Tango's 6.7 % where form and base differ on the margin's share of "
            "probes only): so a pass also needs `paired.p_not_worse_exact`, whose column stays at or below 5 %. "
            "`Tango > margin` is the false `fail` of one test at the margin, before Holm; it may exceed 5 % a little, "
            "and denies where `inconclusive` would deny too. The last column is the power of a pass when nothing "
            "changed.",
            lambda: of_margins(fresh(1)),
        ),
        (
            "Two-sided intervals and tests of no change (reported; no rule rests on them)",
            "Enumerated, exact. Tango's interval falls short of 95 % by up to half a point.",
            of_two_sided,
        ),
        (
            "Clusters: one-sided upper 95 % limits",
            f"{few:,} simulations (bootstrap: {few // 5}), beta-binomial clusters; ICC 1: whole clusters are bad or "
            "good. **Ignoring clusters, the robust t with rare events, and the bootstrap with few clusters or rare "
            "events all under-cover**: none of them decides alone. The gate takes the widest of exact, robust t, exact "
            "at the effective size (rates) and the compound limit of `statistics/clusters.py`.",
            lambda: of_clusters(fresh(2), few, few // 5),
        ),
        (
            "Graded scores: one-sided 95 % limits of the mean difference, and the sign-flip test",
            f"{few // 2} simulations. The sign-flip test assumes symmetric differences. No rule of the gate rests on "
            "these.",
            lambda: of_scores(fresh(3), few // 2),
        ),
        (
            "Stopping early, for fail only",
            f"{few:,} simulations of the betting test, looked at after every probe.",
            lambda: of_stopping(fresh(4), few),
        ),
        (
            "Stopping early, as a worker looks",
            f"{few // 2} simulations; looks at 32, 64, 128 and 256 probes; ceiling 15 % and margin 10 points, a family "
            "of four tests. Saved are the probes of this instrument, in both arms.",
            lambda: of_early_stops(fresh(9), few // 2),
        ),
        (
            "Grader error and agreement",
            f"{few:,} simulations (kappa: {max(100, few // 4)}). What is not correctable is `inconclusive`, and left "
            "out of the coverage beside it.",
            lambda: of_graders(fresh(5), few),
        ),
        (
            "Several instruments (n = 450, margin 5 pp, discordance 10 %)",
            "20,000 simulations. `fail` is any of several, so Holm; a pass is all of them and needs no correction.",
            lambda: of_families(fresh(6), 20_000),
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"write {OUTPUT.name} instead of printing")
    parser.add_argument("--quick", action="store_true", help="a fifth of the simulations")
    arguments = parser.parse_args()
    agrees(np.random.default_rng(SEED))
    parts = [
        "# Nominal against achieved\n\n"
        "Made by `python tests/benchmarks/bench_coverage.py --write`"
        + (" with `--quick`" if arguments.quick else "")
        + f" (seed {SEED}, Python {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}, "
        f"{datetime.now(UTC):%Y-%m-%d}).\n\n"
        "All figures in percent. `!` marks what is on the wrong side of its nominal figure (by more than three "
        "standard errors where it is simulated). Columns in bold are what the gate uses for a pass."
    ]
    for title, text, make in sections(arguments.quick):
        start = time.perf_counter()
        parts.append(f"## {title}\n\n{text}\n\n{make()}")
        print(f"{title}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    document = "\n\n".join(parts) + "\n"
    if arguments.write:
        OUTPUT.write_text(document, encoding="utf-8")
    else:
        print(document)


if __name__ == "__main__":
    main()
