"""A basket becomes an order: prices with VAT, freight, offers, vouchers and the first step of the payment, by oscar's own classes."""

from __future__ import annotations

from decimal import Decimal
from random import Random
from typing import Any

from django.contrib.auth.models import AnonymousUser
from oscar.apps.checkout.mixins import OrderPlacementMixin
from oscar.apps.partner import strategy
from oscar.apps.payment.exceptions import UnableToTakePayment
from oscar.apps.shipping import methods, repository
from oscar.core.loading import get_class, get_model

Applicator, OrderTotalCalculator = get_class("offer.applicator", "Applicator"), get_class("checkout.calculators", "OrderTotalCalculator")
Basket, Option = get_model("basket", "Basket"), get_model("catalogue", "Option")
Product, ShippingAddress = get_model("catalogue", "Product"), get_model("order", "ShippingAddress")
Source, SourceType = get_model("payment", "Source"), get_model("payment", "SourceType")
Voucher = get_model("voucher", "Voucher")

# What a gateway's references begin with.
REFERENCES = {"alipay": "ALI", "wechat-pay": "WX", "card": "CARD", "transfer": "BANK"}
_GREETINGS = ("生日快乐", "Many happy returns", "“新年好” 🎉", "谢谢您，老师")
_STREETS = ("示例路 1 号", "样本街 22 号", "3 Sample Lane")


class Strategy(strategy.UseFirstStockRecord, strategy.StockRequired, strategy.FixedRateTax, strategy.Structured):
    """Prices in the catalogue are without tax; 13% VAT, to the cent of a piece."""

    rate, exponent = Decimal("0.13"), Decimal("0.01")


class Freight(methods.FixedPrice):
    """A parcel."""

    code, name = "parcel", "快递 Parcel"
    charge_excl_tax, charge_incl_tax = Decimal("10.00"), Decimal("11.30")


class Freights(repository.Repository):
    """The ways to send a basket, offers of free freight applied."""

    methods = (Freight(),)


class Checkout(OrderPlacementMixin):
    """Oscar's placing of an order, without its web pages."""


def fill(rng: Random, customer: Any | None) -> Any | None:
    """A basket with up to four products that are in stock, perhaps with a voucher; None if nothing is left."""
    basket = Basket.objects.create(owner=customer)
    basket.strategy = Strategy()
    products = list(Product.objects.order_by("pk"))
    for product in rng.sample(products, rng.randint(1, 4)):
        quantity = rng.choice((1, 1, 1, 2, 3))
        if basket.strategy.fetch_for_product(product).availability.is_purchase_permitted(quantity)[0]:
            gift = product.product_class.options.first()
            greeted = gift and rng.random() < 0.3
            basket.add_product(product, quantity, [{"option": gift, "value": rng.choice(_GREETINGS)}] if greeted else None)
    if basket.is_empty:
        return None
    if customer and rng.random() < 0.4:
        voucher = Voucher.objects.get(code=rng.choice(("WELCOME", "SAVE17")))
        if voucher.is_available_for_basket(basket)[0]:
            basket.vouchers.add(voucher)
    return basket


def place(rng: Random, basket: Any, customer: Any | None, kind: str) -> Any:
    """The order of a basket, with its payment begun. Raises UnableToTakePayment where the customer's bank refuses."""
    Applicator().apply(basket, customer)
    method = Freights().get_shipping_methods(basket)[0]
    charge = method.calculate(basket)
    total = OrderTotalCalculator().calculate(basket, charge)
    basket.freeze()
    checkout = Checkout()
    number = checkout.generate_order_number(basket)
    checkout.add_payment_source(_payment(kind, number, total))
    if kind in ("alipay", "card"):
        checkout.add_payment_event("Paid" if kind == "alipay" else "Authorised", total.incl_tax, reference(kind, number))
    order = checkout.place_order(
        order_number=number,
        user=customer or AnonymousUser(),
        basket=basket,
        shipping_address=_address(rng) if basket.is_shipping_required() else None,
        shipping_method=method,
        shipping_charge=charge,
        order_total=total,
        guest_email="" if customer else f"guest{number}@example.com",
    )
    if rng.random() < 0.03:
        raise UnableToTakePayment("the bank said no, after all was written")
    basket.submit()
    if kind != "wechat-pay":  # which tells later whether the customer has paid
        order.set_status("Being processed")
    return order


def reference(kind: str, number: object, suffix: str = "") -> str:
    """A gateway's reference of a payment."""
    return f"{REFERENCES[kind]}-{number}{suffix}"


def _payment(kind: str, number: int, total: Any) -> Any:
    """How the order is going to be paid: wallets pay at once, cards when it is shipped, firms by transfer when they see fit."""
    source = Source(source_type=SourceType.objects.get(code=kind), currency=total.currency, reference=reference(kind, number))
    if kind != "transfer":
        source.amount_allocated = total.incl_tax
    if kind == "alipay":
        source.amount_debited = total.incl_tax
        source.create_deferred_transaction("Debit", total.incl_tax, source.reference, "Settled")
    elif kind == "wechat-pay":
        source.create_deferred_transaction("Debit", total.incl_tax, source.reference, "Pending")
    elif kind == "card":
        source.create_deferred_transaction("Authorise", total.incl_tax, source.reference, "Authorised")
    return source


def _address(rng: Random) -> Any:
    return ShippingAddress(
        first_name=rng.choice(("小满", "Robin", "立夏", "Kim")),
        last_name=rng.choice(("示", "Sample", "例")),
        line1=rng.choice(_STREETS),
        line4="样城 Sampleton",
        postcode="100000",
        country_id="CN",
        notes=rng.choice(("", "放门口", "Ring twice")),
    )
