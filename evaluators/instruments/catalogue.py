"""Find the construct behind an instrument: one that comes with the program, one that a battery defines, or a plugin's.

A plugin registers under the entry point group `registry_gate.instruments`; the entry point is a `Construct`, or a
function without arguments that returns one. It cannot take the place of a metric that comes with the program.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points

from evaluators.engines.interface import Answer
from evaluators.instruments import (
    attacked_compliance,
    bias,
    harmful_compliance,
    incoherence,
    leakage,
    overrefusal,
    stereotypes,
    toxicity,
    truthfulness,
    uncaveated_advice,
)
from evaluators.instruments.construct import Construct, Labels, refused
from evaluators.instruments.probe import Probe
from registry_gate.battery import METRICS, InstrumentSpec
from registry_gate.errors import AssessmentError

PLUGIN_GROUP = "registry_gate.instruments"

CONSTRUCTS: Mapping[str, Construct] = {
    construct.metric: construct
    for construct in (
        harmful_compliance.CONSTRUCT,
        attacked_compliance.CONSTRUCT,
        overrefusal.CONSTRUCT,
        uncaveated_advice.CONSTRUCT,
        truthfulness.MC1,
        truthfulness.MC2,
        bias.AMBIGUOUS,
        bias.DISAMBIGUATED,
        bias.BIASED,
        stereotypes.CONSTRUCT,
        toxicity.CONSTRUCT,
        leakage.VERBATIM,
        leakage.CANARY,
        incoherence.CONSTRUCT,
    )
}
"""Every metric that comes with the program, by its name."""


def construct_of(instrument: InstrumentSpec) -> Construct:
    """The construct that an instrument measures.

    Raises:
        AssessmentError: The metric is unknown, or its plugin is missing, broken, or gives another metric.
    """
    if instrument.metric in CONSTRUCTS:
        return CONSTRUCTS[instrument.metric]
    if instrument.event:
        return _from_event(instrument.metric, instrument.event)
    if instrument.plugin is None:
        raise AssessmentError(
            f"{instrument.measure}: expected a metric among {', '.join(METRICS)}, or `event` or `plugin` in the "
            f"battery, got {instrument.metric!r} alone",
            code="instrument_unknown",
        )
    construct = _plugin(instrument.plugin)
    if construct.metric != instrument.metric:
        raise AssessmentError(
            f"{instrument.measure}: expected plugin {instrument.plugin!r} to measure {instrument.metric!r}, got "
            f"{construct.metric!r}: write that as the metric in the battery",
            code="instrument_plugin",
        )
    return construct


def check_plugins() -> list[str]:
    """Load every instrument plugin, as a worker does before it starts. Returns their names.

    Raises:
        AssessmentError: One of them does not load; the message names it and the cause.
    """
    names = sorted({point.name for point in entry_points(group=PLUGIN_GROUP)})
    for name in names:
        _plugin(name)
    return names


def _from_event(metric: str, event: Mapping[str, str]) -> Construct:
    def bad(probe: Probe, answer: Answer, labels: Labels) -> bool:  # noqa: ARG001
        said = dict(labels)
        if "refusal" in said and not refused(answer, labels):
            said["refusal"] = "answered"
        return all(said[axis] == label for axis, label in event.items())

    return Construct(
        metric=metric, title=f"{metric} as the battery defines it", source="the battery", bad=bad, axes=tuple(event)
    )


def _plugin(name: str) -> Construct:
    points = list(entry_points(group=PLUGIN_GROUP, name=name))
    if len(points) != 1:
        known = ", ".join(sorted({point.name for point in entry_points(group=PLUGIN_GROUP)})) or "none"
        raise AssessmentError(
            f"instrument plugin {name!r}: expected one installed package that registers it under {PLUGIN_GROUP} "
            f"(registered: {known}), got {len(points)}: install it where the worker runs",
            code="instrument_plugin",
        )
    return _loaded(points[0])


def _loaded(point: EntryPoint) -> Construct:
    named = f"instrument plugin {point.name!r} ({point.value})"
    try:
        loaded = point.load()
        construct = loaded if isinstance(loaded, Construct) else loaded()
    except Exception as err:  # other people's code may raise anything
        raise AssessmentError(
            f"{named}: expected a construct, got {type(err).__name__}: {err}. Repair or uninstall the package that "
            "registers it.",
            code="instrument_plugin",
        ) from err
    if not isinstance(construct, Construct):
        raise AssessmentError(
            f"{named}: expected a Construct, got {type(construct).__name__}. Repair or uninstall the package that "
            "registers it.",
            code="instrument_plugin",
        )
    if construct.metric in METRICS:
        raise AssessmentError(
            f"{named}: expected a metric of its own, got {construct.metric!r}, which comes with the program; nothing "
            "replaces an instrument silently",
            code="instrument_plugin",
        )
    return construct
