"""The figure of a study: one row for each model, one column for each instrument, the change with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from evaluators.study.drift import Change, Model

_ROW, _HEAD, _NAME, _COLUMN, _GAP = 18, 54, 330, 150, 14
_COLOURS = {"worse": "#b3261e", "better": "#1b6e3c", "same": "#5f6368", "unclear": "#9aa0a6"}


def as_svg(models: Sequence[Model], *, title: str, margin: float) -> str:
    """An SVG document. The band in each column is the margin; the scale of all columns is the same, -100 to +100."""
    measures = list(dict.fromkeys(change.measure for model in models for change in model.changes))
    width = _NAME + len(measures) * (_COLUMN + _GAP) + 10
    height = _HEAD + _ROW * len(models) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="8" y="16" font-size="13" font-weight="bold">{escape(title)}</text>',
    ]
    for column, measure in enumerate(measures):
        left = _NAME + column * (_COLUMN + _GAP)
        band = margin * _COLUMN / 2
        bottom = _HEAD + _ROW * len(models)
        parts += [
            f'<text x="{left + _COLUMN / 2}" y="38" text-anchor="middle" font-size="10">{escape(measure)}</text>',
            f'<rect x="{left + _COLUMN / 2 - band:.1f}" y="{_HEAD}" width="{2 * band:.1f}" '
            f'height="{_ROW * len(models)}" fill="#eef1f4"/>',
            f'<line x1="{left + _COLUMN / 2}" x2="{left + _COLUMN / 2}" y1="{_HEAD}" y2="{bottom}" stroke="#9aa0a6"/>',
            f'<text x="{left}" y="{bottom + 14}" font-size="9">-100</text>',
            f'<text x="{left + _COLUMN}" y="{bottom + 14}" font-size="9" text-anchor="end">+100 pp</text>',
        ]
    for row, model in enumerate(models):
        y = _HEAD + _ROW * row + _ROW / 2
        name = model.finding.name + ("" if model.valid else " (not valid)")
        weight = ' font-weight="bold"' if model.conflict else ""
        parts.append(f'<text x="8" y="{y + 4}"{weight}>{escape(name)}</text>')
        changes = {change.measure: change for change in model.changes}
        for column, measure in enumerate(measures):
            if measure in changes:
                parts.append(_mark(changes[measure], _NAME + column * (_COLUMN + _GAP), y))
    parts.append(
        f'<text x="8" y="{height - 8}" font-size="10">Right is worse than the base. Red: worse, green: better beyond '
        f"the margin of {100 * margin:g} points (Holm); grey: neither. Bold: instruments contradict each other.</text>"
    )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _mark(change: Change, left: float, y: float) -> str:
    def x(value: float) -> float:
        return left + (value + 1) / 2 * _COLUMN

    colour = _COLOURS[change.movement]
    said = (
        f"{change.model}, {change.measure}: {100 * change.difference:+.1f} pp "
        f"({100 * change.low:+.1f} to {100 * change.high:+.1f})"
    )
    return (
        f"<g><title>{escape(said)}</title>"
        f'<line x1="{x(change.low):.1f}" x2="{x(change.high):.1f}" y1="{y}" y2="{y}" stroke="{colour}" '
        f'stroke-width="2"/><circle cx="{x(change.difference):.1f}" cy="{y}" r="3" fill="{colour}"/></g>'
    )
