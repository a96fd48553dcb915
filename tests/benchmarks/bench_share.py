"""What grading costs beside generating: `python tests/benchmarks/bench_share.py [--models DIR] [--battery general]`.

One whole assessment of the demo's safe adaptation and its base with a shipped battery, in this process, by the code
that the worker runs (`runner.assess`), with nothing stored before. The engine and each grader are timed from outside.
Goal: grading takes at most a fifth of the time of generating. The demo's models are tiny: those that are promoted take
longer to answer and no longer to grade.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from evaluators import batteries
from evaluators.demo_models.family import DemoFamily, shipped_probes, train_family
from evaluators.engines.transformers_engine import TransformersEngine, quiet
from evaluators.graders.catalogue import load_grader
from evaluators.graders.interface import Grader, GradingItem
from evaluators.graders.remembered import RememberedGrader
from evaluators.runner import AnswerStore, Subject, assess
from registry_gate.battery import battery_from
from registry_gate.documents import parse_documents

spent: Counter[str] = Counter()


@contextmanager
def timed(what: str) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        spent[what] += time.perf_counter() - started


class TimedEngine(TransformersEngine):
    """The engine, loading the model included."""

    def answer(self, *arguments: Any) -> Any:
        with timed("generating"):
            return super().answer(*arguments)

    def choose(self, *arguments: Any) -> Any:
        with timed("weighing choices"):
            return super().choose(*arguments)


class TimedGrader:
    """A grader under the clock; what it had graded before costs nothing, as in the worker."""

    def __init__(self, grader: Grader) -> None:
        self._grader = RememberedGrader(grader)
        self.identity = grader.identity

    def grade(self, items: Sequence[GradingItem], progress: Callable[[int, int], None]) -> Any:
        with timed(f"grading: {self.identity.name}"):
            return self._grader.grade(items, progress)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=Path, help="directory with the demo's models; trained when absent")
    parser.add_argument("--battery", default="general")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    quiet()
    file = Path(batteries.__file__).with_name(f"{options.battery}.yaml")
    (raw,) = parse_documents(file.read_bytes(), str(file))
    battery = battery_from(raw)
    names = sorted({name for instrument in battery.spec.instruments for name in instrument.graders})
    with tempfile.TemporaryDirectory() as scratch:
        family = DemoFamily.at(options.models) if options.models else train_family(Path(scratch), shipped_probes())
        torch.set_num_threads(options.threads)
        graders = [TimedGrader(load_grader(name, threads=options.threads, provider="cpu")) for name in names]
        # Digests of their own: answers are stored under them.
        form, base = (replace(family.form(name), digest=f"sha256:{n:064}") for n, name in enumerate(("safe", "base")))
        with timed("everything"):
            assess(
                battery,
                Subject(form=form, base=base),
                base.digest,
                TimedEngine("cpu"),
                graders,
                [],
                AnswerStore(Path(scratch) / "answers"),
                "2026-01-01T00:00:00Z",
                lambda *_: None,
            )
    grading = sum(seconds for what, seconds in spent.items() if what.startswith("grading"))
    for what, seconds in sorted(spent.items(), key=lambda pair: -pair[1]):
        print(f"{what:32}{seconds:8.2f} s")
    print(f"grading takes {grading / spent['generating']:.3f} of the time of generating (goal: at most 0.2)")


if __name__ == "__main__":
    main()
