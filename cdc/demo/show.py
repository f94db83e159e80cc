"""What the demo prints: live tables on a terminal, plain lines elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cdc.demo.books import AccountTotal, Comparison, Counts, Sales
from cdc.texts import text

_PLAIN_WIDTH = 120


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the shop and its books. `per_second`: committed transactions; lags are None while the daemon does not know them."""

    seconds: float
    seconds_total: int
    sales: Sales
    transactions: int
    rolled_back: int
    per_second: float
    state: str
    lag_bytes: int | None
    lag_seconds: float | None
    counts: Counts
    totals: list[AccountTotal]


def console() -> Console:
    """Standard output; as wide as the tables need where it is not a terminal."""
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=_PLAIN_WIDTH)


def say(out: Console, code: str, **values: object) -> None:
    """Print a text of the catalogue as it is: paths in it are neither broken nor taken for markup."""
    out.print(text(code, **values), markup=False, soft_wrap=True)


def plain(sample: Sample) -> str:
    """A sample as one line."""
    return text("demo.line", **_fields(sample))


def live(sample: Sample) -> RenderableType:
    """A sample as a screen."""
    return Group(Text.from_markup(text("demo.head", **_fields(sample))), totals_table(sample.totals))


def totals_table(totals: list[AccountTotal]) -> Table:
    """The trial balance: turnover and balance of each account, and the sums."""
    table = _table("demo.trial_balance", ("account", "name"), ("debit", "credit", "balance_debit", "balance_credit"), footer=True)
    sums = [Decimal()] * 4
    for total in totals:
        figures = [total.debit, total.credit, max(total.balance, Decimal()), max(-total.balance, Decimal())]
        sums = [a + b for a, b in zip(sums, figures, strict=True)]
        table.add_row(total.account, total.name, *(_money(figure) for figure in figures))
    for column, figure in zip(table.columns[2:], sums, strict=True):
        column.footer = _money(figure)
    return table


def story_table(rows: list[dict[str, Any]]) -> Table:
    """One order's entries, each with the place in the log it comes from."""
    table = _table("demo.story", ("position", "entry"), ("debit", "credit"), voucher=rows[0]["voucher_key"] if rows else "")
    for _, lines in groupby(rows, key=lambda row: row["entry_id"]):
        entry = list(lines)
        first = entry[0]
        kind = text(f"demo.kind.{first['kind']}", entry=first["entry_id"][:8], reversed=(first["reverses"] or "")[:8])
        place = f"{first['position']}\nxid {first['txn']} #{first['ordinal']}"
        what = escape(f"{first['rule']} · {first['summary'] or ''}\n{first['source_table']} {first['row_key']}")
        table.add_row(place, f"{kind} · {what}", "", "")
        for line in entry:
            table.add_row("", f"  {line['account']} {line['name']}", _money(line["debit"]), _money(line["credit"]))
        table.add_section()
    return table


def proof_table(comparison: list[Comparison]) -> Table:
    """The books' balances beside those recomputed from the shop."""
    table = _table("demo.proof", ("account", "name"), ("books", "shop", "equal"))
    for line in comparison:
        equal = text("demo.yes") if line.books == line.shop else text("demo.no", difference=_money(line.books - line.shop))
        table.add_row(line.account, line.name, _money(line.books), _money(line.shop), equal)
    return table


def _fields(sample: Sample) -> dict[str, str]:
    unknown = text("demo.unknown")
    return {
        "seconds": f"{sample.seconds:.0f}",
        "seconds_total": str(sample.seconds_total),
        "orders": f"{sample.sales.orders:,}",
        "total": _money(sample.sales.total),
        "transactions": f"{sample.transactions:,}",
        "rolled_back": f"{sample.rolled_back:,}",
        "per_second": f"{sample.per_second:.0f}",
        "state": sample.state,
        "lag_bytes": unknown if sample.lag_bytes is None else f"{sample.lag_bytes:,}",
        "lag_seconds": unknown if sample.lag_seconds is None else f"{sample.lag_seconds:.1f}",
        "entries": f"{sample.counts.entries:,}",
        "reversals": f"{sample.counts.reversals:,}",
        "quarantined": f"{sample.counts.quarantined:,}",
    }


def _table(code: str, words: tuple[str, ...], figures: tuple[str, ...], footer: bool = False, **values: str) -> Table:
    table = Table(title=text(f"{code}.title", **values), title_justify="left", show_footer=footer, title_style="bold")
    for name in words:
        table.add_column(text(f"demo.column.{name}"), overflow="fold")
    for name in figures:
        table.add_column(text(f"demo.column.{name}"), justify="right", no_wrap=True)
    return table


def _money(amount: Decimal | None) -> str:
    return f"{amount:,.2f}" if amount else ""
