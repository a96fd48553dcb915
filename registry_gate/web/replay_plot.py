"""The figure of a replay: for each cause, how many past decisions turn one way or the other."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_ROW, _HEAD, _NAME, _BAR = 22, 58, 300, 300
_COLOURS = {"denied": "#b3261e", "released": "#1b6e3c"}


def replay_svg(causes: Sequence[tuple[str, str, int]], *, title: str) -> str:
    """An SVG document, one bar for each cause; it prints well and holds no script.

    Args:
        causes: (`denied` or `released`, the cause, how many decisions), from top to bottom.
        title: What was compared.
    """
    most = max((count for _, _, count in causes), default=1)
    width, height = _NAME + _BAR + 90, _HEAD + _ROW * max(len(causes), 1) + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="8" y="18" font-size="14" font-weight="bold">{escape(title)}</text>',
        '<text x="8" y="40" fill="#5f6368">Past decisions that turn, by cause; one may have several causes.</text>',
    ]
    for number, (turn, cause, count) in enumerate(causes):
        y = _HEAD + _ROW * number
        length = max(2.0, _BAR * count / most)
        parts += [
            f'<text x="{_NAME - 8}" y="{y + 14}" text-anchor="end">{escape(cause)}</text>',
            f'<rect x="{_NAME}" y="{y + 3}" width="{length:.1f}" height="{_ROW - 8}" fill="{_COLOURS[turn]}"/>',
            f'<text x="{_NAME + length + 6:.1f}" y="{y + 14}">{count} {turn}</text>',
        ]
    if not causes:
        parts.append(f'<text x="{_NAME}" y="{_HEAD + 14}">No past decision turns.</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
