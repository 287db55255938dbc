"""Amounts in words, for people."""


def plural(number: int, noun: str, of_many: str | None = None) -> str:
    """of_many: the noun's plural, if it has no plain s."""
    return f"{number} {noun}" if number == 1 else f"{number:,} {of_many or f'{noun}s'}"


def percent(part: float, whole: float) -> str:
    """Whole percents; 0 and 100 only for none and all."""
    if part in (0, whole):
        return "100 %" if part else "0 %"
    return f"{min(max(round(100 * part / whole), 1), 99)} %"


def seconds(s: float) -> str:
    return f"{s:,.0f} s" if s >= 100 else f"{s:.3g} s"


def short(s: float) -> str:
    """Seconds, in ms where they are less than one."""
    return f"{1000 * s:.3g} ms" if s < 0.9995 else seconds(s)


def size(number: int) -> str:
    """Bytes."""
    unit, name = next(
        (each for each in ((1e9, "GB"), (1e6, "MB")) if number >= 0.9995 * each[0]), (1e3, "kB")
    )
    return f"{number / unit:.3g} {name}"
