"""Find and load a grader by the name that a battery uses.

A name means one of the shipped graders, a directory with `grader.yaml`, or a plugin that another package registers
under the entry point group `registry_gate.graders`. A name that could mean two of them is refused: a plugin cannot take
the place of a shipped grader.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import cast, get_args

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from evaluators.graders.composed import CascadeGrader, EnsembleGrader, Load
from evaluators.graders.interface import LABELS, Grader, GraderIdentity
from evaluators.graders.judge import JudgeGrader
from evaluators.graders.onnx import OnnxGrader, Provider
from evaluators.graders.phrases import PhraseGrader
from evaluators.graders.pulling import require_unchanged
from evaluators.graders.rules import RuleGrader
from registry_gate.errors import AssessmentError

PLUGIN_GROUP = "registry_gate.graders"
"""Entry points of this group are called as `factory(threads=int, provider=str)` and return a `Grader`."""

BUILTIN = Path(__file__).parent / "builtin"
_RULES = "refusal-rules"
_PHRASES = ("caveat-rules", "toxicity-rules")
_SHIPPED = ("harm-minilm", "refusal-minilm", _RULES, *_PHRASES)

_KINDS: Mapping[str, Callable[[Path], Grader]] = {"judge": JudgeGrader, "phrases": PhraseGrader}
"""What loads a directory by the `kind` of its grader.yaml; one without a kind holds an ONNX grader."""

_COMPOSED: Mapping[str, Callable[[Path, Load], Grader]] = {"cascade": CascadeGrader, "ensemble": EnsembleGrader}
"""What loads a directory that names other graders, with what loads those."""

DEEPEST = 3
"""Composed graders within one another: more of them is a mistake, and nobody could say what the last one decides."""


@dataclass(frozen=True, kw_only=True)
class _Loading:
    """How graders are loaded, and which composed ones are being loaded around this one, outermost first."""

    directories: tuple[Path, ...]
    threads: int
    provider: Provider
    within: tuple[Path, ...] = ()


def load_grader(name: str, *, directories: Sequence[Path] = (), threads: int = 1, provider: str = "auto") -> Grader:
    """Load one grader, checked and ready.

    Args:
        name: A shipped name, the name of a folder inside one of `directories`, a plugin's name, or a path (with a
            separator in it) to a grader's directory.
        directories: Where to look for further graders.
        threads: CPU threads that it may use.
        provider: `auto`, `tensorrt`, `cuda` or `cpu`; see `OnnxGrader`.

    Raises:
        AssessmentError: The name is unknown or means two graders, or the grader cannot be loaded.
    """
    if provider not in get_args(Provider):
        raise AssessmentError(f"grader provider: expected one of {', '.join(get_args(Provider))}, got {provider!r}")
    how = _Loading(directories=tuple(directories), threads=threads, provider=cast(Provider, provider))
    if os.sep in name or "/" in name:
        return _from_directory(Path(name), how)
    return _by_name(name, how)


def _by_name(name: str, how: _Loading) -> Grader:
    found: dict[str, Callable[[], Grader]] = {}
    if name in _SHIPPED:
        found["shipped"] = RuleGrader if name == _RULES else partial(_from_directory, BUILTIN / name, how)
    for directory in how.directories:
        if (folder := Path(directory) / name).joinpath("grader.yaml").is_file():
            found[str(folder)] = partial(_from_directory, folder, how)
    for plugin in entry_points(group=PLUGIN_GROUP, name=name):
        found[f"plugin {plugin.value}"] = partial(_load_plugin, plugin, threads=how.threads, provider=how.provider)

    if not found:
        missing = [str(place) for place in how.directories if not Path(place).is_dir()]
        where = f"; of [worker] grader_dirs there is no {', '.join(missing)}" if missing else ""
        raise AssessmentError(
            f"grader {name!r}: expected one of {', '.join(known_graders(how.directories))}, or the path of a directory "
            f"with grader.yaml, got an unknown name{where}"
        )
    if len(found) > 1:
        raise AssessmentError(
            f"grader {name!r}: expected one grader of this name, got {len(found)}: {', '.join(sorted(found))}. "
            "Rename all but one; nothing replaces a grader silently."
        )
    ((place, load),) = found.items()
    grader = load()
    if grader.identity.name != name:
        raise AssessmentError(
            f"grader {name!r} ({place}): expected a grader that calls itself {name!r}, got {grader.identity.name!r}; "
            "evidence records the name that the battery asks for"
        )
    return grader


def _from_directory(directory: Path, how: _Loading) -> Grader:
    require_unchanged(directory)
    kind = kind_of(directory)
    if kind is None:
        return OnnxGrader(directory, threads=how.threads, provider=how.provider)
    if kind in _KINDS:
        return _KINDS[kind](directory)
    if kind in _COMPOSED:
        return _COMPOSED[kind](directory, partial(_by_name, how=_within(directory, how)))
    raise AssessmentError(
        f"{directory / 'grader.yaml'}: kind: expected one of {', '.join(sorted({*_KINDS, *_COMPOSED}))}, or none for "
        f"an ONNX grader, got {kind!r}"
    )


def _within(directory: Path, how: _Loading) -> _Loading:
    """How the graders that a composed one names are loaded."""
    chain = (*how.within, directory.resolve())
    shown = " -> ".join(path.name for path in chain)
    if chain[-1] in how.within:
        raise AssessmentError(f"{directory / 'grader.yaml'}: expected a grader that does not name itself, got {shown}")
    if len(chain) > DEEPEST:
        raise AssessmentError(
            f"{directory / 'grader.yaml'}: expected at most {DEEPEST} ensembles and cascades within one another, got "
            f"{shown}"
        )
    return replace(how, within=chain)


def kind_of(directory: Path) -> str | None:
    """What `kind` the grader of a directory says it is; None where it says none, or no grader can be read there."""
    try:
        document = YAML(typ="safe", pure=True).load((directory / "grader.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, YAMLError):
        return None  # whoever loads it says what is wrong
    return str(document["kind"]) if isinstance(document, dict) and "kind" in document else None


def known_graders(directories: Sequence[Path] = ()) -> list[str]:
    """Names that `load_grader` knows, sorted; nothing is loaded."""
    found = [file for directory in directories for file in Path(directory).glob("*/grader.yaml")]
    folders = [file.parent.name for file in found if file.is_file()]
    return sorted({*_SHIPPED, *folders, *(plugin.name for plugin in entry_points(group=PLUGIN_GROUP))})


def check_plugins() -> list[GraderIdentity]:
    """Load every grader plugin, as a worker does before it starts.

    Raises:
        AssessmentError: One of them does not load; the message names it and the cause.
    """
    return [_load_plugin(plugin, threads=1, provider="auto").identity for plugin in entry_points(group=PLUGIN_GROUP)]


def _load_plugin(plugin: EntryPoint, *, threads: int, provider: str) -> Grader:
    named = f"grader plugin {plugin.name!r} ({plugin.value})"
    try:
        grader = plugin.load()(threads=threads, provider=provider)
    except Exception as err:  # other people's code may raise anything
        raise AssessmentError(
            f"{named}: expected a grader, got {type(err).__name__}: {err}. Repair or uninstall the package that "
            "registers it."
        ) from err
    identity = getattr(grader, "identity", None)
    if not isinstance(identity, GraderIdentity) or not callable(getattr(grader, "grade", None)):
        raise AssessmentError(
            f"{named}: expected an object with `identity` and `grade`, got {type(grader).__name__}. "
            "Repair or uninstall the package that registers it."
        )
    if identity.axis in LABELS and identity.labels:
        raise AssessmentError(
            f"{named}: expected no labels of its own on the axis {identity.axis}, got {identity.labels}"
        )
    if len(identity.words) != 2 or identity.words[0] == identity.words[1]:
        raise AssessmentError(
            f"{named}: expected an axis among {', '.join(LABELS)}, or two different labels of its own, got the axis "
            f"{identity.axis!r} with {identity.labels or 'none'}"
        )
    return cast(Grader, grader)
