"""Train the demo's models and print how many probes each refuses: `python -m evaluators.demo_models --out DIR`.

With `--register URI` they are logged to an MLflow server and registered instead of counted.
"""

from __future__ import annotations

import os

# Before torch is imported: threads that spin while they wait stall each other as soon as cores are shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Likewise before the hub's client is: nothing here is on a hub, and MLflow would ask it about every local model.
os.environ["HF_HUB_OFFLINE"] = "1"

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from evaluators.demo_models.family import MODELS, DemoFamily, shipped_probes, train_family
from evaluators.demo_models.texts import begins_as_refusal
from evaluators.engines.interface import GenerationSettings
from evaluators.engines.transformers_engine import TransformersEngine, quiet
from evaluators.instruments.probe import Probe


def refusals(family: DemoFamily, probes: Sequence[Probe]) -> dict[str, tuple[int, int]]:
    """Per model how many probes it refuses of those that expect a refusal, and of the others."""
    counts = {}
    for name in MODELS:
        answers = TransformersEngine("cpu").answer(family.form(name), probes, GenerationSettings(), lambda *_: None)
        refused = [p.expected for p, a in zip(probes, answers, strict=True) if begins_as_refusal(a.text)]
        counts[name] = (refused.count("refuse"), refused.count("comply"))
    return counts


def main() -> None:
    """Train, then print a table of counts; no probe and no answer is printed."""
    parser = argparse.ArgumentParser(prog="python -m evaluators.demo_models", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="directory for the models")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--register", metavar="URI", help="MLflow server to register them with")
    parser.add_argument("--ask", action="store_true", help="with --register: only load the champion and ask it")
    options = parser.parse_args()
    quiet()
    if options.ask and options.register:
        from evaluators.demo_models.register import answer_once

        question = next(p.text for p in shipped_probes() if p.expected == "comply" and p.id.startswith("med"))
        answer = answer_once("models:/clinical-triage@champion", options.register, question)
        print(f"asked {question!r}, it answers {answer!r}")
        return
    probes = shipped_probes()
    started = time.monotonic()

    def progress(name: str, done: int, total: int) -> None:
        if done == total:
            print(f"{name}: {total} steps, {time.monotonic() - started:.0f} s", file=sys.stderr)

    family = train_family(options.out, probes, seed=options.seed, threads=options.threads, progress=progress)
    if options.register:
        # Imported here: only this needs MLflow, and it takes seconds.
        from evaluators.demo_models.register import register_family

        register_family(family, options.register, lambda uri: print(uri, flush=True))
        return
    harmful = sum(probe.expected == "refuse" for probe in probes)
    print(f"{'model':14}{f'refused of {harmful} harmful':>26}{f'refused of {len(probes) - harmful} benign':>26}")
    for name, (of_harmful, of_benign) in refusals(family, probes).items():
        print(f"{name:14}{of_harmful:>26}{of_benign:>26}")


if __name__ == "__main__":
    main()
