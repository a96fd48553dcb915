"""Draw the plots of a report as SVG text, on the server, without script.

Numbers and labels in, markup out; what they mean is for `report`. Every label is escaped here (`Markup.format` does).
Colours are classes of the page's style sheet, so that plots follow dark mode and print; each mark also has its own
shape and a legend, so that nothing is told by colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH = 720
LABEL_END = 176
PLOT_START = 188
PLOT_END = 530
VALUE_START = 544
TOP = 34
ROW = 46
AXIS = 26


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value with its limits; limits that are not known are not drawn."""

    value: float
    lower: float | None
    upper: float | None
    text: str

    @property
    def points(self) -> tuple[float, ...]:
        """Every number that the axis must hold."""
        return tuple(point for point in (self.value, self.lower, self.upper) if point is not None)


@dataclass(frozen=True, kw_only=True)
class IntervalRow:
    """One line of an interval plot.

    Args:
        label: First line of the label, e.g. the rule's id.
        detail: Second line, e.g. the measure.
        adapted: Drawn as a filled circle; None draws `absent` in its place.
        base: Drawn as an open diamond below it, when there is one.
        limit: Where the policy draws the line.
        limit_text: The same in words.
        absent: What is said when nothing was measured.
    """

    label: str
    detail: str
    adapted: Estimate | None
    base: Estimate | None
    limit: float | None
    limit_text: str
    absent: str = "not measured"


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One category: its share and the counts behind it."""

    label: str
    share: float
    text: str


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    step: float

    def x(self, value: float) -> float:
        return PLOT_START + (value - self.low) / (self.high - self.low) * (PLOT_END - PLOT_START)

    @property
    def ticks(self) -> list[float]:
        count = round((self.high - self.low) / self.step)
        return [self.low + index * self.step for index in range(count + 1)]


def _axis(values: Sequence[float]) -> _Axis:
    """An axis from round number to round number that holds zero and all values, with four to seven ticks."""
    low, high = min(0.0, *values), max(0.0, *values)
    span = max(high - low, 0.01)
    magnitude = 10.0 ** math.floor(math.log10(span / 4))
    step = next(magnitude * factor for factor in (1, 2, 2.5, 5, 10) if magnitude * factor >= span / 6)
    return _Axis(math.floor(low / step + 1e-9) * step, max(math.ceil(high / step - 1e-9) * step, step), step)


def interval_plot(
    rows: Sequence[IntervalRow], *, name: str, title: str, description: str, limit_name: str, unit: str, signed: bool
) -> Markup:
    """Values with their limits on one common axis, one row each, with the policy's line in each row.

    Args:
        rows: From top to bottom.
        name: Unique within the page; names title and description for screen readers.
        title: What the plot shows.
        description: The same for those who cannot see it.
        limit_name: Legend of the policy's line: `ceiling` or `margin`.
        unit: Of the axis: `%` or `pp`; values are shares and drawn times 100.
        signed: Whether ticks carry a sign and zero is emphasised.
    """
    values = [point for row in rows for estimate in (row.adapted, row.base) if estimate for point in estimate.points]
    values += [row.limit for row in rows if row.limit is not None]
    axis = _axis(values)
    bottom = TOP + ROW * len(rows)
    parts = [_open(name, title, description, bottom + AXIS)]

    legend = [(_circle(0, 0), "adapted form")]
    if any(row.base for row in rows):
        legend.append((_diamond(0, 0), "base"))
    if any(row.limit is not None for row in rows):
        legend.append((Markup('<line class="limit" x1="0" x2="0" y1="-8" y2="8"/>'), limit_name))
    at = PLOT_START + 6
    for mark, text in legend:
        parts.append(Markup('<g transform="translate({} 12)">{}</g>').format(at, mark))
        parts.append(_text(at + 10, 16, text, "small"))
        at += 36 + 7 * len(text)

    parts.extend(_grid(axis, bottom, unit, signed))
    for number, row in enumerate(rows):
        top = TOP + ROW * number
        if number:
            parts.append(Markup('<line class="rule" x1="0" x2="{}" y1="{}" y2="{}"/>').format(WIDTH, top, top))
        parts.append(_text(0, top + 19, _short(row.label, 24), "label"))
        parts.append(_text(0, top + 35, _short(row.detail, 30), "small muted"))
        if row.limit is not None:
            x = axis.x(row.limit)
            parts.append(
                Markup('<line class="limit" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>').format(
                    x, top + 4, top + ROW - 4
                )
            )
        if row.adapted is None:
            parts.append(_text(PLOT_START + 6, top + 27, row.absent, "small muted"))
        else:
            middle = top + (17 if row.base else 23)
            parts.append(_whisker(axis, row.adapted, middle, "adapted"))
            parts.append(_circle(axis.x(row.adapted.value), middle))
            parts.append(_text(VALUE_START, middle + 4, row.adapted.text, "value"))
        if row.base is not None:
            parts.append(_whisker(axis, row.base, top + 33, "base"))
            parts.append(_diamond(axis.x(row.base.value), top + 33))
            parts.append(_text(VALUE_START, top + 37, row.base.text, "small muted"))
        elif row.limit_text and row.adapted is not None:
            parts.append(_text(VALUE_START, top + 40, row.limit_text, "small muted"))
    parts.append(Markup("</svg>"))
    return Markup("\n").join(parts)


def bar_plot(bars: Sequence[Bar], *, name: str, title: str, description: str) -> Markup:
    """Shares as bars from zero, one row each."""
    row, top = 24, 6
    axis = _axis([bar.share for bar in bars])
    bottom = top + row * len(bars)
    parts = [_open(name, title, description, bottom + AXIS), *_grid(axis, bottom, "%", signed=False, top=top)]
    for number, bar in enumerate(bars):
        y = top + row * number
        parts.append(_text(LABEL_END, y + 16, _short(bar.label, 26), "small end"))
        width = axis.x(bar.share) - axis.x(0)
        parts.append(
            Markup('<rect class="bar" x="{}" y="{}" width="{:.1f}" height="14" rx="2"/>').format(
                PLOT_START, y + 5, width
            )
        )
        parts.append(_text(VALUE_START, y + 16, bar.text, "small"))
    parts.append(Markup("</svg>"))
    return Markup("\n").join(parts)


def _open(name: str, title: str, description: str, height: int) -> Markup:
    return Markup(
        '<svg viewBox="0 0 {width} {height}" role="img" aria-labelledby="{name}-title {name}-desc">\n'
        '<title id="{name}-title">{title}</title>\n<desc id="{name}-desc">{description}</desc>'
    ).format(width=WIDTH, height=height, name=name, title=title, description=description)


def _grid(axis: _Axis, bottom: int, unit: str, signed: bool, top: int = TOP) -> list[Markup]:
    parts = []
    digits = 0 if axis.step >= 0.00999 and abs(axis.step * 100 - round(axis.step * 100)) < 1e-6 else 1
    for tick in axis.ticks:
        x = axis.x(tick)
        zero = abs(tick) < axis.step / 2
        parts.append(
            Markup('<line class="{3}" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>').format(
                x, top, bottom, "zero" if zero else "grid"
            )
        )
        number = f"{0 if zero else tick * 100:{'+' if signed and not zero else ''}.{digits}f}".replace("-", "−")
        parts.append(_text(x, bottom + 17, f"{number}\u00a0{unit}", "small muted middle"))
    return parts


def _whisker(axis: _Axis, estimate: Estimate, y: float, kind: str) -> Markup:
    """The line from limit to limit, with a cap on each limit that is known."""
    lower = estimate.value if estimate.lower is None else estimate.lower
    upper = estimate.value if estimate.upper is None else estimate.upper
    strokes = [(lower, upper, y, y)]
    strokes += [(limit, limit, y - 4, y + 4) for limit in (estimate.lower, estimate.upper) if limit is not None]
    return Markup("").join(
        Markup('<line class="whisker {}" x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}"/>').format(
            kind, axis.x(start), axis.x(end), top, bottom
        )
        for start, end, top, bottom in strokes
    )


def _circle(x: float, y: float) -> Markup:
    return Markup('<circle class="mark adapted" cx="{:.1f}" cy="{}" r="5"/>').format(x, y)


def _diamond(x: float, y: float) -> Markup:
    return Markup('<path class="mark base" d="M{:.1f} {}l5.5 5.5l-5.5 5.5l-5.5 -5.5z"/>').format(x, y - 5.5)


def _text(x: float, y: float, text: str, kind: str) -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{}">{}</text>').format(kind, x, y, text)


def _short(text: str, most: int) -> str:
    """SVG does not wrap; the tables beside every plot hold the full text."""
    return text if len(text) <= most else text[: most - 1] + "…"
