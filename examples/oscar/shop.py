"""Runs the shop: opens it if it is not open, then lets customers order, pay, change their minds and send things back.

    OSCAR_DATABASE_URL=mysql://oscar@127.0.0.1:3306/oscar OSCAR_PASSWORD=... python shop.py --orders 100 --seed 1

The same seed on the same database does the same things.
"""

from __future__ import annotations

import argparse
import os
import time
from random import Random

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")


def main() -> None:
    """Parse the arguments and trade."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--orders", type=int, default=100, help="how many orders are placed (0 only opens the shop)")
    parser.add_argument("--seed", type=int, default=1, help="what chance begins with")
    arguments = parser.parse_args()
    django.setup()
    import opening  # needs the settings

    print("opening the shop: tables, catalogue, offers", flush=True)
    opening.open_shop()
    trade(arguments.orders, Random(arguments.seed))


def trade(orders: int, rng: Random) -> None:
    """Place that many orders, each followed by two other things that happen in the shop; tell how far it is and what became of it."""
    from trade import OPERATIONS, buy

    began, placed, done = time.monotonic(), 0, 0
    while placed < orders:
        if not buy(rng):
            continue
        placed += 1
        done += sum(operation(rng) for operation in rng.choices(list(OPERATIONS), list(OPERATIONS.values()), k=2))
        if placed % 25 == 0 or placed == orders:
            print(f"{placed} of {orders} orders, {done} other transactions, {time.monotonic() - began:.0f} s", flush=True)
    print(_standing(), flush=True)


def _standing() -> str:
    from django.db.models import Count
    from oscar.core.loading import get_model

    counted = get_model("order", "Order").objects.order_by("status").values_list("status").annotate(Count("pk"))
    return "orders: " + ", ".join(f"{number} {status.lower()}" for status, number in counted)


if __name__ == "__main__":
    main()
