"""What happens in the shop. Each function is one transaction and answers whether there was anything to do it to."""

from __future__ import annotations

from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal
from random import Random
from typing import Any

import checkout
from django.contrib.auth import get_user_model
from django.db import transaction
from django.db.models import F
from oscar.apps.payment.exceptions import UnableToTakePayment
from oscar.core.loading import get_class, get_model

EventHandler = get_class("order.processing", "EventHandler")
Line, Order = get_model("order", "Line"), get_model("order", "Order")
PaymentEventType, ShippingEventType = get_model("order", "PaymentEventType"), get_model("order", "ShippingEventType")
Product, Source = get_model("catalogue", "Product"), get_model("payment", "Source")
StockRecord, Transaction = get_model("partner", "StockRecord"), get_model("payment", "Transaction")
User = get_user_model()

Operation = Callable[[Random], bool]
_NAMES = (("小满", "示"), ("Robin", "Sample"), ("立夏", "例"), ("Kim", "Template"))
_OPEN, _SENT = ("Pending", "Being processed"), ("Shipped", "Complete")


def buy(rng: Random) -> bool:
    """A customer, known or not, fills a basket and checks out; now and then the bank refuses and nothing of it stays."""
    with transaction.atomic():
        customer = _customer(rng)
        basket = checkout.fill(rng, customer)
    if basket is None:
        return False
    try:
        with transaction.atomic():
            checkout.place(rng, basket, customer, rng.choice(("alipay", "alipay", "wechat-pay", "card", "transfer")))
    except UnableToTakePayment:
        return False
    return True


@transaction.atomic
def wallet_reports(rng: Random) -> bool:
    """WeChat tells how a payment went. Without it the order is called off."""
    txn = _pick(rng, Transaction.objects.filter(txn_type=Transaction.DEBIT, status="Pending"))
    if not txn:
        return False
    source, order = txn.source, txn.source.order
    txn.status = "Failed" if rng.random() < 0.1 else "Settled"
    txn.save()
    if txn.status == "Failed":
        _call_off(order, "付款失败 Payment failed")
        return True
    source.amount_debited += txn.amount
    source.save()
    _payment_event(order, "Paid", txn.amount, txn.reference)
    order.set_status("Being processed")
    return True


@transaction.atomic
def transfer_arrives(rng: Random) -> bool:
    """A firm pays its order, shipped or not."""
    unpaid = Source.objects.filter(source_type__code="transfer", amount_debited=0, order__status__in=("Being processed", *_SENT))
    source = _pick(rng, unpaid)
    if not source:
        return False
    source.allocate(source.order.total_incl_tax, source.reference, "Announced")
    source.debit(reference=source.reference, status="Settled")
    _payment_event(source.order, "Paid", source.amount_debited, source.reference)
    return True


@transaction.atomic
def ship(rng: Random) -> bool:
    """The goods leave, and the card is charged; when it can't be, they stay."""
    order = _pick(rng, Order.objects.filter(status="Being processed"))
    if not order:
        return False
    card = order.sources.filter(source_type__code="card").first()
    if card and rng.random() < 0.1:
        card.transactions.create(txn_type=Transaction.DEBIT, amount=card.balance, reference=card.reference, status="Failed")
        return True
    if card:
        card.debit(reference=card.reference, status="Settled")
        _payment_event(order, "Paid", card.amount_debited, card.reference)
    _shipping_event(order, "Shipped")
    EventHandler().consume_stock_allocations(order)
    order.set_status("Shipped")
    return True


@transaction.atomic
def complete(rng: Random) -> bool:
    """A parcel has arrived and is paid: a change that no rule sees."""
    order = _pick(rng, Order.objects.filter(status="Shipped", sources__amount_debited=F("total_incl_tax")))
    if order:
        order.set_status("Complete")
    return order is not None


@transaction.atomic
def cancel(rng: Random) -> bool:
    """An order is called off before it is shipped; what was paid is given back."""
    order = _pick(rng, Order.objects.filter(status="Being processed"))
    if order:
        _give_back(order, "Cancelled")
        _call_off(order, "客户取消 Cancelled by the customer")
    return order is not None


@transaction.atomic
def send_back(rng: Random) -> bool:
    """A whole order comes back: the goods into stock, the money to the customer."""
    order = _pick(rng, Order.objects.filter(status__in=_SENT, sources__amount_refunded=0))
    if not order:
        return False
    _shipping_event(order, "Returned")
    for line in order.lines.filter(stockrecord__isnull=False, product__product_class__track_stock=True):
        StockRecord.objects.filter(pk=line.stockrecord_id).update(num_in_stock=F("num_in_stock") + line.quantity)
    _give_back(order, "Returned")
    EventHandler().handle_order_status_change(order, "Returned", note_msg="七天无理由 Returned within seven days")
    return True


@transaction.atomic
def allow(rng: Random) -> bool:
    """A scratch on the cover: the customer keeps the goods and gets back a part of the price."""
    source = _pick(rng, Source.objects.filter(order__status__in=_SENT, amount_debited__gt=0, amount_refunded=0))
    if source:
        amount = (source.amount_debited * rng.randint(5, 30) / 100).quantize(Decimal("0.01"), ROUND_HALF_UP)
        source.refund(amount, f"{source.reference}-A", "Allowance")
        _payment_event(source.order, "Refunded", amount, f"{source.reference}-A")
    return source is not None


@transaction.atomic
def restock(rng: Random) -> bool:
    """Goods come in."""
    record = _pick(rng, StockRecord.objects.filter(num_in_stock__lt=30, product__product_class__track_stock=True))
    if record:
        record.num_in_stock += 50
        record.save()
    return record is not None


@transaction.atomic
def reprice(rng: Random) -> bool:
    """A price changes."""
    record = _pick(rng, StockRecord.objects.all())
    record.price = (record.price * rng.choice((95, 98, 103, 110)) / 100).quantize(Decimal("0.01"), ROUND_HALF_UP)
    record.save()
    return True


@transaction.atomic
def new_edition(rng: Random) -> bool:
    """A product that nobody waits for is deleted, and with it what refers to it; another takes its place."""
    awaited = Line.objects.filter(order__status__in=_OPEN, product__isnull=False).values("product")
    old = _pick(rng, Product.objects.exclude(pk__in=awaited))
    if not old:
        return False
    stock, upc = old.stockrecords.get(), f"{old.upc.split('-n')[0]}-n{rng.randrange(10**6)}"
    new = Product.objects.create(product_class=old.product_class, title=f"{old.title.removesuffix(' 新版')} 新版", upc=upc)
    new.categories.set(old.categories.all())
    partner, sku, price = stock.partner, stock.partner_sku, stock.price
    old.delete()
    new.stockrecords.create(partner=partner, partner_sku=sku, price=price, num_in_stock=40)
    return True


@transaction.atomic
def forget(rng: Random) -> bool:
    """A customer asks to be forgotten: the account is deleted, the orders stay, without a customer."""
    customer = _pick(rng, User.objects.exclude(orders__status__in=_OPEN))
    if customer:
        customer.delete()
    return customer is not None


OPERATIONS: dict[Operation, int] = {
    ship: 40,
    transfer_arrives: 12,
    wallet_reports: 14,
    complete: 16,
    cancel: 4,
    send_back: 5,
    allow: 5,
    restock: 6,
    reprice: 3,
    new_edition: 1,
    forget: 1,
}


def _pick(rng: Random, rows: Any) -> Any | None:
    """One of the rows, locked; rather a recent one."""
    keys = list(rows.order_by("pk").values_list("pk", flat=True).distinct())
    if not keys:
        return None
    key = keys[-1 - min(int(rng.expovariate(0.1)), len(keys) - 1)]
    return rows.model.objects.select_for_update().get(pk=key)


def _customer(rng: Random) -> Any | None:
    """A new customer, one who was here before, or nobody we know."""
    roll = rng.random()
    if roll < 0.15:
        return None
    if roll < 0.7 and (known := _pick(rng, User.objects.all())):
        return known
    first, last = rng.choice(_NAMES)
    name = f"customer{User.objects.count() + 1}-{rng.randrange(10**6)}"
    return User.objects.create_user(name, f"{name}@example.com", first_name=first, last_name=last)


def _payment_event(order: Any, kind: str, amount: Decimal, reference: str) -> None:
    EventHandler().handle_payment_event(order, PaymentEventType.objects.get(name=kind), amount, reference=reference)


def _shipping_event(order: Any, kind: str) -> None:
    lines, event_type = list(order.lines.all()), ShippingEventType.objects.get(name=kind)
    quantities = [line.quantity for line in lines]
    EventHandler().handle_shipping_event(order, event_type, lines, quantities, reference=f"示例快递 {order.number}")


def _give_back(order: Any, why: str) -> None:
    """All money taken for the order; the transaction's status says why."""
    for source in order.sources.filter(amount_debited__gt=F("amount_refunded")):
        amount, reference = source.amount_available_for_refund, f"{source.reference}-R"
        source.refund(amount, reference, why)
        _payment_event(order, "Refunded", amount, reference)


def _call_off(order: Any, note: str) -> None:
    handler = EventHandler()
    handler.cancel_stock_allocations(order)
    handler.handle_order_status_change(order, "Cancelled", note_msg=note)
