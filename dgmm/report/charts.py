"""Line charts as inline SVG, coloured by the page's style sheet, so that they follow its theme."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

__all__ = ["Line", "Reference", "line_chart"]

_WIDTH, _HEIGHT = 520.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 74.0, 508.0, 14.0, 252.0


@dataclass(frozen=True)
class Line:
    """A curve over the iterations 1, 2, 3 and so on.

    Parameters
    ----------
    name : str
        Shown by a pointer that rests on the curve.
    values : sequence of float
        Those that cannot be drawn (not finite, or not positive on a logarithmic axis) leave a gap.
    role : {"chosen", "other", "retired"}
        Its class in the style sheet.
    """

    name: str
    values: Sequence[float]
    role: str = "chosen"


@dataclass(frozen=True)
class Reference:
    """A horizontal line with a label."""

    name: str
    value: float


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    start: float
    stop: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        share = (self._scaled(value) - self._scaled(self.low)) / (
            self._scaled(self.high) - self._scaled(self.low)
        )
        return self.start + share * (self.stop - self.start)

    def can_show(self, value: float) -> bool:
        return _can_show(value, self.is_log)

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.is_log else value


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    y_label: str,
    is_log: bool = False,
    reference: Reference | None = None,
) -> Markup:
    """Draw curves over one another.

    Parameters
    ----------
    lines : sequence of Line
        In the order of drawing: the last is on top.
    title : str
        What a screen reader says in place of the picture.
    x_label, y_label : str
    is_log : bool, default=False
        Whether the vertical axis is logarithmic.
    reference : Reference, optional

    Returns
    -------
    Markup
        An ``svg`` element; empty if there is nothing to draw.
    """
    y_values = [v for line in lines for v in line.values if _can_show(v, is_log)]
    if not y_values:
        return Markup("")
    y_values += [] if reference is None else [reference.value]
    longest = max(len(line.values) for line in lines)
    x = _Axis(1, max(2, longest), _LEFT, _RIGHT)
    y = _Axis(*_padded(min(y_values), max(y_values), is_log), _BOTTOM, _TOP, is_log)
    parts = [*_grid(x, y), *_labels(x_label, y_label)]
    if reference is not None:
        parts += _reference(reference, y)
    parts += [_curve(line, x, y) for line in lines]
    svg = '<svg class="chart" role="img" viewBox="0 0 {:.0f} {:.0f}"><title>{}</title>{}</svg>'
    return Markup(svg).format(_WIDTH, _HEIGHT, title, Markup("").join(parts))  # noqa: S704 (literal)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between two values, at most about ``most`` of them."""
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (m * step) <= most)
    first = math.ceil(low / step - 1e-9)
    # Multiples of the step rather than sums, which would show 0.30000000000000004.
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Powers of ten between two values, at most about ``most`` of them."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    return [10.0**i for i in range(first, last + 1, max(1, -(-(last - first + 1) // most)))]


def _can_show(value: float, is_log: bool) -> bool:
    return math.isfinite(value) and (value > 0 or not is_log)


def _padded(low: float, high: float, is_log: bool) -> tuple[float, float]:
    if is_log:
        # Less than a decade, and there might be no power of ten to label.
        if high < 10 * low:
            return 10.0 ** math.floor(math.log10(low)), 10.0 ** (math.floor(math.log10(high)) + 1)
        return low / 1.5, high * 1.5
    margin = 0.05 * (high - low) or 0.5 * max(abs(high), 1.0)
    return low - margin, high + margin


def _grid(x: _Axis, y: _Axis) -> Iterable[Markup]:
    for value in (log_ticks if y.is_log else ticks)(y.low, y.high):
        yield _segment("grid", _LEFT, y(value), _RIGHT, y(value))
        yield _text(_LEFT - 8, y(value) + 4, _tick(value), "end")
    for value in ticks(x.low, x.high, 8):
        if value == round(value):
            yield _segment("tick", x(value), _BOTTOM, x(value), _BOTTOM + 5)
            yield _text(x(value), _BOTTOM + 20, f"{value:.0f}", "middle")
    yield _segment("axis", _LEFT, _BOTTOM, _RIGHT, _BOTTOM)


def _labels(x_label: str, y_label: str) -> Iterable[Markup]:
    yield _text((_LEFT + _RIGHT) / 2, _HEIGHT - 6, x_label, "middle")
    middle = (_TOP + _BOTTOM) / 2
    yield Markup(
        '<text text-anchor="middle" transform="translate(14 {:.1f}) rotate(-90)">{}</text>'
    ).format(middle, y_label)


def _reference(reference: Reference, y: _Axis) -> Iterable[Markup]:
    height = y(reference.value)
    yield _segment("reference", _LEFT, height, _RIGHT, height)
    yield _text(_RIGHT, height - 6, reference.name, "end")


def _curve(line: Line, x: _Axis, y: _Axis) -> Markup:
    commands = []
    shown = [(i, v) for i, v in enumerate(line.values, start=1) if y.can_show(v)]
    for before, (number, value) in zip([(-1, 0.0), *shown], shown, strict=False):
        # A value that cannot be drawn lifts the pen.
        command = "L" if before[0] == number - 1 else "M"
        commands.append(f"{command}{x(number):.1f} {y(value):.1f}")
    dot = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="2.6"/>')
    dots = [dot.format(x(number), y(value)) for number, value in shown]
    group = Markup('<g class="line {}"><title>{}</title><path d="{}"/>{}</g>')
    return group.format(line.role, line.name, " ".join(commands), Markup("").join(dots))


def _segment(role: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    line = '<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>'
    return Markup(line).format(role, x1, y1, x2, y2)  # noqa: S704 (a literal)


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        x, y, anchor, escape(text)
    )


def _tick(value: float) -> str:
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        text = f"{value:.0e}" if value == float(f"{value:.0e}") else f"{value:.2e}"
        mantissa, exponent = text.split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    return f"{value:,.10g}".replace("-", "−")
