"""Numbers as people read them."""

from __future__ import annotations

import math

__all__ = ["count", "decimal", "duration", "percent", "plural"]


def count(number: float) -> str:
    """A whole number with thousands apart: ``4,253,760``."""
    return f"{round(number):,}"


def plural(number: int, noun: str) -> str:
    """``1 pass``, ``2 passes``, ``3 iterations``."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{count(number)} {noun}{ending}"


def decimal(number: float, digits: int = 4) -> str:
    """A number to some significant digits, with a true minus sign and powers of ten written out."""
    if not math.isfinite(number):
        return "not finite" if math.isnan(number) else ("∞" if number > 0 else "−∞")
    text = f"{number:,.{digits}g}"
    if "e" in text:
        mantissa, exponent = text.split("e")
        text = f"{mantissa} × 10{_raised(int(exponent))}"
    return text.replace("-", "−")


def percent(share: float) -> str:
    """A share of one as a percentage, never a rounded-away 0 or 100."""
    value = 100 * share
    if 0 < value < 0.05:
        return "< 0.1 %"
    if 99.95 < value < 100:
        return "> 99.9 %"
    return f"{value:.1f} %"


def duration(seconds: float) -> str:
    """A time span: ``0.42 s``, ``17 s``, ``2 min 05 s``, ``1 h 12 min``."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _raised(exponent: int) -> str:
    return str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
