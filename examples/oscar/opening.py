"""What the shop opens with: its tables, its catalogue, its offers. Every step leaves alone what is there already."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from pathlib import Path

from django.core.management import call_command
from django.db import connection
from django.db.models.signals import post_save
from django.utils.timezone import now
from oscar.core.loading import get_model

CATALOGUE = Path(__file__).with_name("catalogue.csv")
PAYMENTS = {"alipay": "支付宝 Alipay", "wechat-pay": "微信支付 WeChat Pay", "card": "银行卡 Card", "transfer": "对公转账 Transfer"}

Benefit, Category = get_model("offer", "Benefit"), get_model("catalogue", "Category")
Condition, ConditionalOffer = get_model("offer", "Condition"), get_model("offer", "ConditionalOffer")
Country, Option = get_model("address", "Country"), get_model("catalogue", "Option")
PaymentEventType, ShippingEventType = get_model("order", "PaymentEventType"), get_model("order", "ShippingEventType")
Product, ProductClass = get_model("catalogue", "Product"), get_model("catalogue", "ProductClass")
Range = get_model("offer", "Range")
SourceType, Voucher = get_model("payment", "SourceType"), get_model("voucher", "Voucher")


def open_shop() -> None:
    """Everything in order; safe to be called again."""
    call_command("migrate", verbosity=0)
    if not connection.mysql_is_mariadb:
        # MySQL refuses the statement by which oscar hides what is below a hidden category (its issue 3335). We hide none.
        post_save.disconnect(sender=Category, dispatch_uid="set_ancestors_are_public")
    if not Product.objects.exists():
        call_command("oscar_import_catalogue", str(CATALOGUE))
    _kinds()
    _offers()


def _kinds() -> None:
    ProductClass.objects.filter(name="Course").update(track_stock=False, requires_shipping=False)
    gift, _ = Option.objects.get_or_create(code="gift-card", defaults={"name": "Gift card", "type": Option.TEXT})
    ProductClass.objects.get(name="Tea").options.add(gift)
    Country.objects.get_or_create(iso_3166_1_a2="CN", defaults={"name": "China", "printable_name": "中国 China"})
    for code, name in PAYMENTS.items():
        SourceType.objects.get_or_create(code=code, defaults={"name": name})
    for name in ("Paid", "Refunded"):
        PaymentEventType.objects.get_or_create(name=name)
    for name in ("Shipped", "Returned"):
        ShippingEventType.objects.get_or_create(name=name)


def _offers() -> None:
    everything, _ = Range.objects.get_or_create(name="全场 Everything", defaults={"includes_all_products": True})
    books, _ = Range.objects.get_or_create(name="图书 Books")
    books.classes.add(ProductClass.objects.get(name="Book"))
    _offer("三本书九折", books, (Condition.COUNT, 3), books, (Benefit.PERCENTAGE, 10))
    _offer("满 300 免运费", everything, (Condition.VALUE, 300), None, (Benefit.SHIPPING_PERCENTAGE, 100))
    welcome = _offer("新客九五折", everything, (Condition.COUNT, 1), everything, (Benefit.PERCENTAGE, 5), ConditionalOffer.VOUCHER)
    saving = _offer("满 200 减 17", everything, (Condition.VALUE, 200), everything, (Benefit.FIXED, 17), ConditionalOffer.VOUCHER)
    for code, usage, offer in (("WELCOME", Voucher.ONCE_PER_CUSTOMER, welcome), ("SAVE17", Voucher.MULTI_USE, saving)):
        period = {"start_datetime": now() - timedelta(days=1), "end_datetime": now() + timedelta(days=3650)}
        voucher, _ = Voucher.objects.get_or_create(code=code, defaults={"name": offer.name, "usage": usage, **period})
        voucher.offers.add(offer)


def _offer(name: str, of: object, when: tuple[str, int], on: object, gives: tuple[str, int], kind: str = ConditionalOffer.SITE) -> object:
    if found := ConditionalOffer.objects.filter(name=name).first():
        return found
    condition = Condition.objects.create(range=of, type=when[0], value=Decimal(when[1]))
    benefit = Benefit.objects.create(range=on, type=gives[0], value=Decimal(gives[1]))
    return ConditionalOffer.objects.create(name=name, condition=condition, benefit=benefit, offer_type=kind)
