"""What SQL can't say of fixed and intangible assets, prepayments and research: exact to the cent, over Arrow arrays.

Each function takes an array per argument and gives one of the same length. Money is reckoned in whole cents (64-bit integers), and no float
is used; halves are rounded up. A null among a row's arguments gives null, which sends the row to quarantine, as does what is raised here.
Every charge is a month's of a life, the first being 1; after the life it is zero, and over the life the charges add up to all that is to
be charged, without a cent more or less: the last month takes what is left.
"""

from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc

YEARS_MAX = 100
MONEY = pa.decimal128(18, 2)


def straight_line(cost, salvage, months, month):
    """A month's depreciation by the straight-line method (年限平均法): every month the same."""
    base = _base(cost, salvage)
    _check_months(months, month)
    return _money(_charge(base, months, month))


def declining_balance(cost, salvage, months, month):
    """A month's depreciation by the double-declining-balance method (双倍余额递减法).

    A year's is twice the straight-line rate of what the asset is still worth; the last two years share what is left above the salvage.
    """
    base, years = _base(cost, salvage), _years(months, month)

    def yearly(year, left):
        doubled = _share(pc.add(left, _cents(salvage)), 2, _most(years, 2))
        halved = _share(left, 1, 2)
        return pc.if_else(pc.less(year, pc.subtract(years, 1)), doubled, halved)

    return _money(_by_years(base, years, month, yearly))


def sum_of_years(cost, salvage, months, month):
    """A month's depreciation by the sum-of-the-years'-digits method (年数总和法): of n years the first bears n parts, the last one."""
    base, years = _base(cost, salvage), _years(months, month)
    parts = pc.divide(pc.multiply(years, pc.add(years, 1)), 2)

    def yearly(year, left):
        return _share(base, _most(pc.subtract(pc.add(years, 1), year), 0), parts)

    return _money(_by_years(base, years, month, yearly))


def amortisation(cost, months, month):
    """A month's share of an intangible asset's or a long-term prepayment's cost: every month the same."""
    _check_months(months, month)
    return _money(_charge(_cents(cost), months, month))


def prepaid(cost, first, last, from_day, to_day):
    """What of a prepayment for the days from `first` to `last` falls on those from `from_day` to `to_day`, all included.

    It is reckoned as the difference of what is used up before and after, so that parts without gaps add up to the cost.
    """
    _refuse(pc.less(last, first), "a prepayment ends before it begins")
    _refuse(pc.less(to_day, from_day), "a period ends before it begins")
    cents, days = _cents(cost), pc.add(_days(first, last), 1)

    def used(day, through):
        passed = pc.add(_days(first, day), through)
        return _share(cents, _most(_least(passed, days), 0), days)

    return _money(pc.subtract(used(to_day, 1), used(from_day, 0)))


def capitalised(cost, stage, share):
    """What of a research and development cost becomes an intangible asset: nothing in the research stage (研究阶段); in the development
    stage (开发阶段) the share, between 0 and 1, that meets the standard's conditions. The rest is the period's expense."""
    developing = pc.equal(stage, "development")
    _refuse(pc.invert(pc.or_(developing, pc.equal(stage, "research"))), "a stage is neither 'research' nor 'development'")
    parts = pc.cast(pc.multiply(share, pa.scalar(Decimal(10000))), pa.int64())
    _refuse(pc.or_(pc.less(parts, 0), pc.greater(parts, 10000)), "a share is not between 0 and 1")
    return _money(_share(_cents(cost), pc.if_else(developing, parts, 0), 10000))


def _by_years(base, years, month, yearly):
    """A month's charge in cents, where `yearly` tells a year's from what is left; the last year takes all of that."""
    left, charge, year_of = base, pc.multiply(base, 0), pc.divide(pc.add(pc.cast(month, pa.int64()), 11), 12)
    for year in range(1, (pc.max(years).as_py() or 0) + 1):
        amount = pc.if_else(pc.equal(years, year), left, _least(yearly(year, left), left))
        of_month = _charge(amount, 12, pc.subtract(pc.cast(month, pa.int64()), 12 * (year - 1)))
        charge = pc.if_else(pc.equal(year_of, year), of_month, charge)
        left = pc.subtract(left, amount)
    return charge


def _charge(base, months, month):
    """What of `base` falls on a month, if each bears the same, rounded, and the last what is left; zero after it."""
    months, month = pc.cast(months, pa.int64()), pc.cast(month, pa.int64())
    each = _share(base, 1, months)
    passed = pc.subtract(_least(month, months), 1)
    left = pc.subtract(base, _least(pc.multiply(each, passed), base))
    charge = pc.if_else(pc.equal(month, months), left, _least(each, left))
    return pc.if_else(pc.greater(month, months), 0, charge)


def _share(cents, part, whole):
    """`part` of `whole` parts of an amount, half a cent rounded up. In two steps, so that no product is past 64 bits."""
    full = pc.divide(cents, whole)
    rest = pc.subtract(cents, pc.multiply(full, whole))
    rounded = pc.divide(pc.add_checked(pc.multiply_checked(pc.multiply_checked(rest, part), 2), whole), pc.multiply(whole, 2))
    return pc.add(pc.multiply(full, part), rounded)


def _base(cost, salvage):
    base = pc.subtract(_cents(cost), _cents(salvage))
    _refuse(pc.less(base, 0), "a salvage value is more than the cost")
    return base


def _years(months, month):
    _check_months(months, month)
    years = pc.divide(pc.cast(months, pa.int64()), 12)
    _refuse(pc.not_equal(pc.multiply(years, 12), months), "a life is not of whole years")
    return years


def _check_months(months, month):
    _refuse(pc.or_(pc.less(months, 1), pc.greater(months, 12 * YEARS_MAX)), f"a life is not of 1 to {12 * YEARS_MAX} months")
    _refuse(pc.less(month, 1), "a month is less than 1")


def _refuse(condition, words):
    if pc.any(condition).as_py():
        raise ValueError(words)


def _least(one, other):
    return pc.min_element_wise(one, other, skip_nulls=False)


def _most(one, other):
    return pc.max_element_wise(one, other, skip_nulls=False)


def _days(first, last):
    return pc.cast(pc.days_between(first, last), pa.int64())


def _cents(money):
    cents = pc.cast(pc.multiply(money, pa.scalar(Decimal(100))), pa.int64())
    _refuse(pc.less(cents, 0), "an amount is negative")
    return cents


def _money(cents):
    return pc.cast(pc.multiply(pc.cast(cents, pa.decimal128(19, 0)), pa.scalar(Decimal("0.01"))), MONEY)
