"""The entry that a rule wants of a row, as SQL over the changes: header, lines and id, or the fault that sends the row to quarantine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cdc.accounting.arrays import Array
from cdc.accounting.balance import unbalanced, unbalanced_currency
from cdc.accounting.elements import Elements, fails
from cdc.accounting.lines import Line, arrays
from cdc.accounting.lookups import Step
from cdc.accounting.scope import Scope
from cdc.accounting.sql import literal, quote

_ROW = '"#rid", "#ordinal", "#op", "#hash", "#key", "#position", "#xid", "#committed_at"'
_HEADER = """"#voucher_key" AS voucher_key, "#voucher_type" AS voucher_type, "#date" AS doc_date, "#summary" AS summary,
            "#attachments" AS attachments"""


@dataclass(frozen=True, slots=True)
class Entry:
    """The entry of a rule, whose scope is that of its header. `applies`: SQL for whether the rule does; `header`: SQL for its inputs, by
    their columns; `lines`: as the rule has them."""

    scope: Scope
    applies: str
    header: Mapping[str, str]
    lines: Sequence[Line]

    def wanted(self) -> str:
        """SQL over `c` for a row per change that the rule applies to, with the entry or its fault."""
        rule, schema = self.scope.rule, self.scope.schema
        values = ", ".join(f"{sql} AS {quote(name)}" for name, sql in self._inputs().items())
        entry_id = f"""concat_ws('|', 'post', {literal(rule.book)}, {literal(rule.name)}, {literal(schema.name)},
            "#key", "#position", "#xid", "#ordinal")"""
        shaped = f"""SELECT {_ROW}, {_HEADER}, {self._fault()} AS fault,
            list_filter({self._all_lines()}, lambda l: coalesce(l.debit, l.credit, 0) <> 0) AS lines
            FROM (SELECT {_ROW}{self._fault_columns(None)}, {values} FROM c WHERE "#op" <> 'd' AND {self.applies}){self._joined()}"""
        return f"""SELECT {literal(rule.book)} AS book, {literal(rule.name)} AS rule, {rule.version} AS rule_version, *,
            CAST(md5({entry_id}) AS UUID)::VARCHAR AS entry_id FROM ({shaped}) WHERE fault IS NOT NULL OR len(lines) > 0"""

    def failing(self) -> str:
        """SQL for the rows on which the rule fails, and the first of its keys that does. DuckDB's own message is left out: it tells of
        another row where several fail."""
        inputs, failed = self._inputs(), self.scope.steps.failed
        cases = [f"WHEN TRY({self.applies}) IS NULL THEN {failed('when', self.applies)}"]
        cases += [fails(sql, failed(name.removeprefix("#"), sql)) for name, sql in inputs.items()]
        tried = ", ".join(f"TRY({sql}) AS {quote(name)}" for name, sql in inputs.items())
        failing = f"""SELECT "#rid", coalesce("#failed", 'quarantine.expression|an amount is out of range') AS fault
            FROM (SELECT "#rid"{self._fault_columns(None)}, CASE {" ".join(cases)} END AS "#failed", {tried}
                FROM c WHERE "#op" <> 'd' AND coalesce(TRY({self.applies}), true)){self._joined(tried=True)}
            WHERE "#failed" IS NOT NULL OR TRY(struct_pack(fault := {self._fault()}, lines := {self._all_lines()})) IS NULL"""
        elements = self._elements()
        each = [f"SELECT * FROM ({failing})", *(each.failing() for each in elements)]
        return f'SELECT "#rid", min(fault) AS fault FROM ({" UNION ALL ".join(each)}) GROUP BY "#rid"' if elements else failing

    def _lines(self, each: str | None) -> list[Line]:
        """The lines of the row, or those for each element of an array."""
        return [line for line in self.lines if line.config.each == each]

    def _inputs(self) -> dict[str, str]:
        """SQL for what the header and the lines of the row need of it, by column."""
        return {**self.header, **{name: sql for line in self._lines(None) for name, sql in line.columns.items()}}

    def _all_lines(self) -> str:
        """SQL for the list of lines. With those of elements in it they are numbered anew."""
        if not arrays(self.scope.rule):
            return "[" + ", ".join(line.struct() for line in self.lines) + "]"
        lists = [f"[{line.struct()}]" if line.config.each is None else quote(f"#lines.{line.place}") for line in self.lines]
        return f"list_transform(list_concat({', '.join(lists)}), lambda l, i: struct_update(l, line_no := CAST(i AS INTEGER)))"

    def _elements(self) -> list[Elements]:
        """The lines of elements, by array."""
        made, failed = [], self.scope.steps.failed
        for name in arrays(self.scope.rule):
            array = self.scope.found[name]
            assert isinstance(array, Array)
            made.append(Elements(name, array, self._lines(name), self.applies, self._fault_columns(name), self._missed(name), failed))
        return made

    def _joined(self, tried: bool = False) -> str:
        """SQL that adds the lines of elements to the changes."""
        return "".join(f' LEFT JOIN ({each.gathered(tried)}) USING ("#rid")' for each in self._elements())

    def _needed(self, each: str | None) -> dict[str, Step]:
        """What is looked up for the row, or for each element of an array, and can't be done without."""
        lookups, over = self.scope.rule.lookup, self.scope.relation(each)
        optional = {name for name, lookup in lookups.items() if lookup.optional}
        return {name: step for name, step in self.scope.found.items() if step.over == over and name not in optional}

    def _fault_columns(self, each: str | None) -> str:
        """SQL for the columns that tell what of that was not found, rates included."""
        steps = [*self._needed(each).values(), *(line.conversion for line in self._lines(each) if line.conversion is not None)]
        return "".join(f", {fault}" for fault in dict.fromkeys(quote(step.fault) for step in steps))

    def _missed(self, each: str | None) -> list[str]:
        """The cases of what of that was not found."""
        return [
            f"WHEN {quote(step.fault)} IS NOT NULL THEN concat({literal(step.reason + '|')}, {literal(name + ': ')}, {quote(step.fault)})"
            for name, step in self._needed(each).items()
        ]

    def _fault(self) -> str:
        """SQL for what is wrong with the entry a row wants: `code|detail`, or null."""
        rule, config = self.scope.rule, self.scope.book.config
        cases = self._missed(None)
        cases += [
            """WHEN "#date" IS NULL OR NOT isfinite("#date") THEN 'quarantine.no_date|' || coalesce(CAST("#date" AS VARCHAR), 'NULL')"""
        ]
        if (first := config.first_period) is not None:
            cases.append(f"""WHEN strftime("#date", '%Y-%m') < '{first}' THEN concat('quarantine.period|', "#date", ' < {first}')""")
        cases += [case for line in self._lines(None) for case in line.faults()]
        cases += [f"WHEN {fault} IS NOT NULL THEN {fault}" for fault in (quote(f"#{name}!") for name in arrays(rule))]
        cases += [unbalanced(rule), unbalanced_currency(self.lines, config.base_currency)]
        return f"CASE {' '.join(cases)} END"
