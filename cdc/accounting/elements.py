"""The lines of a rule that are there for each element of an array, and what they come to for the row.

They are worked out over the elements, each with its change, and gathered by change: each line as a list of lines, `#lines.1`; the sums of
the sides, `#item.debit`; the first fault, `#item!`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cdc.accounting.arrays import SUMMED_DIGITS, Array
from cdc.accounting.lines import Line, column
from cdc.accounting.lookups import rows
from cdc.accounting.sql import literal, quote
from cdc.types import DELETE


@dataclass(frozen=True, slots=True)
class Elements:
    """The lines for each element of an array that the rule knows by a name. `applies`: SQL over `c` for whether the rule does; `faults`:
    the columns that tell what was not found, `missed`: the cases of it; `failed`: SQL for the fault of a key that fails, by its SQL.

    Over the inputs of the lines are worked out, for an input that amounts are shared out by (`#lines.1.by`), its sum up to an element
    (`.upto`) and of all (`.all`), the parts (`.part`), and what those in another currency are in the book's (`.base`).
    """

    name: str
    array: Array
    lines: Sequence[Line]
    applies: str
    faults: str
    missed: Sequence[str]
    failed: Callable[[str, str], str]

    def gathered(self, tried: bool = False) -> str:
        """SQL for the lines by change. `tried`: of what fails there is nothing, instead of an error."""
        wrap = "TRY({})" if tried else "{}"
        number = quote(self.array.column("number"))
        given = [f"list({wrap.format(line.struct())} ORDER BY {number}) AS {quote(f'#lines.{line.place}')}" for line in self.lines]
        given += [f"sum({wrap.format(amount)}) AS {quote(f'#{self.name}.{side}')}" for side, amount in self._sums().items()]
        fault = f"arg_min({self._placed(wrap.format(self._fault()))}, {number}) AS {quote(f'#{self.name}!')}"
        return f"""SELECT "#rid", {fault}, {", ".join(given)} FROM ({self._worked_out(tried)}) GROUP BY "#rid" """

    def failing(self) -> str:
        """SQL for the `#rid` of each change with an element on which the rule fails, and the `fault` of its first."""
        number = quote(self.array.column("number"))
        shared = [*self._parts().items(), *self._bases().items()]
        cases = " ".join(fails(sql, literal(f"quarantine.expression|{name.removeprefix('#')}")) for name, sql in shared)
        failed = f'coalesce("#failed", CASE {cases} END)' if cases else '"#failed"'
        tried = [self._fault(), *(line.struct() for line in self.lines), *self._sums().values()]
        given = ", ".join(f"v{i} := {sql}" for i, sql in enumerate(tried))
        return f"""SELECT "#rid", arg_min({self._placed("fault")}, {number}) AS fault FROM (
            SELECT "#rid", {number}, coalesce({failed}, 'quarantine.expression|an amount is out of range') AS fault
            FROM ({self._worked_out(True)}) WHERE {failed} IS NOT NULL OR TRY(struct_pack({given})) IS NULL) GROUP BY "#rid" """

    def _fault(self) -> str:
        """SQL for what is wrong with an element, or null."""
        return f"CASE {' '.join([*self.missed, *(case for line in self.lines for case in line.faults())])} END"

    def _sums(self) -> dict[str, str]:
        """SQL for what is summed up, by side."""
        sums = {}
        for side in ("debit", "credit"):
            lines = [line for line in self.lines if getattr(line.config, side) is not None]
            if lines:
                sums[side] = " + ".join(f"CAST({line.amount} AS DECIMAL({SUMMED_DIGITS},{line.book.config.decimals}))" for line in lines)
        return sums

    def _parts(self) -> dict[str, str]:
        """SQL for the parts of amounts, by the input they are shared out by."""
        return {column(line.place, "by"): line.part for line in self.lines if line.config.by is not None}

    def _bases(self) -> dict[str, str]:
        """SQL for what those in another currency are in the book's."""
        shared = [line for line in self.lines if line.config.by is not None and line.conversion is not None]
        return {column(line.place, "by"): line.part_in_base for line in shared}

    def _placed(self, fault: str) -> str:
        """SQL for a fault with the element it is in."""
        number = quote(self.array.column("number"))
        return f"regexp_replace({fault}, '[|]', concat({literal(f'|{self.name} ')}, {number}, ', '))"

    def _worked_out(self, tried: bool) -> str:
        """SQL for inputs and parts; where they are tried also for the first that fails."""
        number, wrap = quote(self.array.column("number")), "TRY({})" if tried else "{}"
        inputs = {name: sql for line in self.lines for name, sql in line.columns.items()}
        applies = f"coalesce(TRY({self.applies}), true)" if tried else self.applies
        cases = " ".join(fails(sql, self.failed(name.removeprefix("#"), sql)) for name, sql in inputs.items())
        failed = f""", CASE {cases} END AS "#failed" """ if tried else ""
        given = ", ".join(f"{wrap.format(sql)} AS {quote(name)}" for name, sql in inputs.items())
        worked_out = f"""SELECT "#rid", {number}{self.faults}{failed}, {given}
            FROM {rows(self.array.relation)} WHERE "#op" <> '{DELETE}' AND {applies}"""
        shared = self._parts()
        upto = {f"{name}.upto": f'sum({quote(name)}) OVER (PARTITION BY "#rid" ORDER BY {number})' for name in shared}
        everything = {f"{name}.all": f'sum({quote(name)}) OVER (PARTITION BY "#rid")' for name in shared}
        parts = {f"{name}.part": wrap.format(sql) for name, sql in shared.items()}
        bases = {f"{name}.base": wrap.format(sql) for name, sql in self._bases().items()}
        for added in filter(None, (upto | everything, parts, bases)):
            worked_out = f"SELECT *, {', '.join(f'{sql} AS {quote(name)}' for name, sql in added.items())} FROM ({worked_out})"
        return worked_out


def fails(sql: str, fault: str) -> str:
    """The case of SQL that fails."""
    return f"WHEN TRY(struct_pack(v := {sql})) IS NULL THEN {fault}"
