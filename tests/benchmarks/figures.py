"""What is measured, and how it is shown to people and kept as JSON."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

_begun = time.monotonic()


@dataclass(frozen=True, slots=True)
class Goal:
    """A number of DESIGN.md's that is to be reached: by ours or, if `times`, by the ratio. At least that, or at `most`."""

    number: float
    most: bool = False
    times: bool = False

    def reached(self, figure: Figure) -> bool | None:
        """Whether the figure does; None if it is not known."""
        found = figure.ratio if self.times else figure.ours
        if found is None:
            return None
        return found <= self.number if self.most else found >= self.number

    def __str__(self) -> str:
        return f"{'at most' if self.most else 'at least'} {_number(self.number)}{'x' * self.times}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of ours in `unit`, and the same of `beside`, the reference. None where there is none to tell."""

    benchmark: str
    what: str
    unit: str
    ours: float | None
    reference: float | None = None
    beside: str = ""
    goal: Goal | None = None

    @property
    def ratio(self) -> float | None:
        """Ours over the reference's."""
        return self.ours / self.reference if self.ours is not None and self.reference else None

    @property
    def reached(self) -> bool | None:
        """Whether the goal is; None if there is none, or no number."""
        return self.goal.reached(self) if self.goal else None

    def facts(self) -> dict[str, Any]:
        """As JSON carries it."""
        numbers = {"ours": self.ours, "reference": self.reference, "ratio": self.ratio}
        rounded = {name: None if number is None else round(number, 3) for name, number in numbers.items()}
        named = {"benchmark": self.benchmark, "what": self.what, "unit": self.unit, "beside": self.beside}
        return {**named, **rounded, "goal": asdict(self.goal) if self.goal else None, "reached": self.reached}

    @classmethod
    def of(cls, facts: dict[str, Any]) -> Figure:
        """From such facts."""
        told = {name: facts[name] for name in ("benchmark", "what", "unit", "ours", "reference", "beside")}
        return cls(**told, goal=Goal(**facts["goal"]) if facts["goal"] else None)


def progress(text: str) -> None:
    """A line on stderr with the seconds since the start."""
    print(f"{time.monotonic() - _begun:6.1f} s  {text}", file=sys.stderr, flush=True)


def table(figures: Iterable[Figure]) -> str:
    """The figures as lines for people."""
    head = ("benchmark", "figure", "unit", "ours", "reference", "ratio", "reference is", "to reach")
    rows = [head, *((f.benchmark, f.what, f.unit, *map(_number, (f.ours, f.reference, f.ratio)), f.beside, _goal(f)) for f in figures)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(_line(row, widths) for row in rows)


def markdown(figures: Iterable[Figure]) -> str:
    """Those that have a goal, as a table of README's."""
    rows = [("what", "ours", "beside", "ratio", "to reach"), ("---",) * 5]
    for f in figures:
        if f.goal is not None:
            beside = f"{_number(f.reference)} {f.unit}, {f.beside}" if f.reference is not None else ""
            ratio = "" if f.ratio is None else _number(f.ratio)
            rows.append((f"{f.benchmark}: {f.what}", f"{_number(f.ours)} {f.unit}", beside, ratio, _goal(f)))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _goal(figure: Figure) -> str:
    missed = " (missed)" if figure.reached is False else ""
    return f"{figure.goal}{missed}" if figure.goal else ""


def _line(cells: Sequence[str], widths: list[int]) -> str:
    numbers = range(3, 6)
    padded = [cell.rjust(width) if i in numbers else cell.ljust(width) for i, (cell, width) in enumerate(zip(cells, widths, strict=True))]
    return "  ".join(padded).rstrip()


def _number(number: float | None) -> str:
    if number is None:
        return "-"
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"
