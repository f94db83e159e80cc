"""The shop's Django settings: django-oscar as it comes, on MySQL or MariaDB, in yuan.

OSCAR_DATABASE_URL names the database (`mysql://user@host:3306/oscar`), OSCAR_PASSWORD the user's password.
"""

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pymysql
from oscar import INSTALLED_APPS as OSCAR_APPS
from oscar.defaults import *  # noqa: F403  Oscar's own way to set its defaults

pymysql.install_as_MySQLdb()
_database = urlsplit(os.environ["OSCAR_DATABASE_URL"])

BASE_DIR = Path(__file__).parent
SECRET_KEY = "an example that serves no pages"
INSTALLED_APPS = OSCAR_APPS
SITE_ID = 1
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.mysql",
        "HOST": _database.hostname,
        "PORT": _database.port or 3306,
        "USER": unquote(_database.username or ""),
        "PASSWORD": os.environ["OSCAR_PASSWORD"],
        "NAME": unquote(_database.path.lstrip("/")),
        "OPTIONS": {"charset": "utf8mb4"},
    }
}
USE_TZ = True  # so every DATETIME in the database is UTC
TIME_ZONE = "Asia/Shanghai"
LANGUAGE_CODE = "en"
EMAIL_BACKEND = "django.core.mail.backends.dummy.EmailBackend"
HAYSTACK_CONNECTIONS = {"default": {"ENGINE": "haystack.backends.simple_backend.SimpleEngine"}}
HAYSTACK_SIGNAL_PROCESSOR = "haystack.signals.BaseSignalProcessor"  # nothing is searched

OSCAR_DEFAULT_CURRENCY = "CNY"
OSCAR_OFFERS_INCL_TAX = True  # prices are shown with tax, and so are discounts
OSCAR_SLUG_ALLOW_UNICODE = True
OSCAR_INITIAL_ORDER_STATUS = OSCAR_INITIAL_LINE_STATUS = "Pending"
OSCAR_ORDER_STATUS_PIPELINE = {
    "Pending": ("Being processed", "Cancelled"),
    "Being processed": ("Shipped", "Cancelled"),
    "Shipped": ("Complete", "Returned"),
    "Complete": ("Returned",),
    "Returned": (),
    "Cancelled": (),
}
OSCAR_LINE_STATUS_PIPELINE = OSCAR_ORDER_STATUS_PIPELINE
OSCAR_ORDER_STATUS_CASCADE = {status: status for status in OSCAR_ORDER_STATUS_PIPELINE}
