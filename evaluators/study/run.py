"""Run a study: train or open each model, measure it beside its base, write what was found. Resumable at every model.

What is finished lies in the directory and is not done again: models by their name, answers in an `AnswerStore`,
assessments by a key over the files of the form and of its base, the battery and its graders. Interrupt it and start it
again with the same command.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluators.engines.interface import Engine, LocalForm
from evaluators.graders.interface import Grader
from evaluators.runner import AnswerStore, Subject, assess
from evaluators.study.manifest import Existing, Planned, Study, planned
from registry_gate.assessment import Assessment, assessment_from_dict
from registry_gate.battery import Battery
from registry_gate.errors import AssessmentError

Say = Callable[[str, int, int], None]
"""Called with (what is being done, done, in all)."""

ADAPTER_CONFIG = "adapter_config.json"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One model of the study and what was measured on it.

    Args:
        name: Name of the adaptation.
        base: Name of its base.
        recipe: What it was tuned on and how, in words; empty for one that existed.
        assessment: What was measured, or None.
        failure: Why nothing could be measured, or None.
    """

    name: str
    base: str
    recipe: str
    assessment: Assessment | None
    failure: str | None


def run_study(
    study: Study,
    battery: Battery,
    out: Path,
    engine: Engine,
    graders: Sequence[Grader],
    *,
    root: Path,
    assessed_at: str,
    say: Say,
    threads: int = 2,
) -> list[Finding]:
    """Every model of a study, measured.

    Args:
        study: What to do.
        battery: The battery it names.
        out: Directory for models, answers and assessments.
        engine: Obtains answers.
        graders: Those that the battery names.
        root: What relative paths of the manifest are relative to; external probe files too.
        assessed_at: When the run began.
        say: Told what is being done.
        threads: Threads for training.

    Raises:
        AssessmentError: A base or an adaptation that should exist does not.
    """
    grid = planned(study.spec)
    bases = _bases(study, out, root, say, threads)
    findings: list[Finding] = []
    models: list[Planned | Existing] = [*grid, *study.spec.adaptations]
    for number, one in enumerate(models):
        say(f"models; now {one.name}", number, len(models))
        base = bases[one.base]
        if isinstance(one, Planned):
            directory = out / "models" / one.name
            _trained(directory, lambda path, one=one, base=base: _tune(path, base, one, say, threads))
            recipe = f"{one.method}, {one.recipe}, rate {one.rate:g}, {one.steps} steps, seed {one.seed}"
        else:
            directory, recipe = _existing(one.path, root), ""
        form = _form(directory, base)
        subject = Subject(form=form, base=_form(base, base))
        try:
            found = _assessed(battery, subject, engine, graders, out, one.name, root, assessed_at, say)
        except AssessmentError as err:
            # One model that cannot be measured is a finding; the others still are to be measured.
            findings.append(Finding(name=one.name, base=one.base, recipe=recipe, assessment=None, failure=str(err)))
        else:
            findings.append(Finding(name=one.name, base=one.base, recipe=recipe, assessment=found, failure=None))
    say("models", len(models), len(models))
    return findings


def _bases(study: Study, out: Path, root: Path, say: Say, threads: int) -> Mapping[str, Path]:
    found = {}
    for base in study.spec.bases:
        if base.path is not None:
            found[base.name] = _existing(base.path, root)
        else:
            found[base.name] = out / "models" / base.name / "base"
            seed = base.seed or 0
            _trained(found[base.name], lambda path, seed=seed: _train_base(path, seed, say, threads))
    return found


def _existing(path: str, root: Path) -> Path:
    directory = root / path
    if not directory.is_dir():
        raise AssessmentError(f"expected the directory of a model at {directory}, got none", code="not_loadable")
    return directory


def _trained(directory: Path, train: Callable[[Path], None]) -> None:
    """Train into a directory beside it and move it there when it is whole."""
    if directory.is_dir():
        return
    part = directory.with_name(directory.name + ".part")
    train(part)
    os.replace(part, directory)


def _train_base(directory: Path, seed: int, say: Say, threads: int) -> None:
    # Imported where it is used: a study of models that exist trains nothing in this process.
    import torch

    from evaluators.demo_models.family import make_tokenizer, shipped_probes, train_base
    from evaluators.study.recipes import known, vocabulary

    torch.set_num_threads(threads)
    probes = shipped_probes()
    tokenizer = make_tokenizer(vocabulary(probes))
    train_base(directory, tokenizer, known(probes), seed=seed, report=lambda done, of: say("training a base", done, of))


def _tune(directory: Path, base: Path, one: Planned, say: Say, threads: int) -> None:
    import torch
    from transformers import PreTrainedTokenizerFast

    from evaluators.demo_models.family import Tuning, shipped_probes, tune
    from evaluators.study.recipes import pairs_of

    torch.set_num_threads(threads)
    tuning = Tuning(method=one.method, steps=one.steps, rate=one.rate, seed=one.seed)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    pairs = pairs_of(one.recipe, shipped_probes())
    tune(directory, base, tokenizer, pairs, tuning, report=lambda done, of: say("training", done, of))


def _form(directory: Path, base: Path) -> LocalForm:
    adapter = directory if (directory / ADAPTER_CONFIG).is_file() else None
    digest = _digest_of(directory) if adapter is None else _joined(_digest_of(directory), _digest_of(base))
    return LocalForm(
        digest=digest, model_dir=base if adapter else directory, tokenizer_dir=directory, adapter_dir=adapter
    )


def _digest_of(directory: Path) -> str:
    """`sha256:` over names and bytes of the files of a directory; an adapter's config names its base by a path, so only
    what is loaded counts there."""
    lines = []
    for path in sorted(file for file in directory.rglob("*") if file.is_file()):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        lines.append(f"{path.relative_to(directory).as_posix()} {digest}")
    return "sha256:" + hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _joined(*digests: str) -> str:
    return "sha256:" + hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _assessed(
    battery: Battery,
    subject: Subject,
    engine: Engine,
    graders: Sequence[Grader],
    out: Path,
    name: str,
    root: Path,
    assessed_at: str,
    say: Say,
) -> Assessment:
    base_digest = None if subject.base is None else subject.base.digest
    key = {
        "form": subject.form.digest,
        "base": base_digest,
        "battery": battery.digest,
        "graders": sorted(grader.identity.digest for grader in graders),
    }
    path = out / "assessments" / f"{name.replace('/', '--')}.json"
    if path.is_file():
        stored = json.loads(path.read_bytes())
        if stored["key"] == key:
            return assessment_from_dict(stored["assessment"])
    store = AnswerStore(out / "answers")
    found = assess(battery, subject, base_digest, engine, graders, [root], store, assessed_at, say, shard_size=1024)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"key": key, "assessment": found.to_dict()}, indent=1), encoding="utf-8")
    os.replace(part, path)
    return found
