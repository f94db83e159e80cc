"""JSON text read as the decoder's documents, to compare and to change them."""

from __future__ import annotations

import json
from typing import NoReturn

from cdc.decode.mysql.binary_json import Node


class _Number(str):
    """A number of a JSON text, as told apart from its strings."""

    __slots__ = ()


def read_text(text: str) -> Node:
    """A document from text that a server or `document_text` wrote; numbers keep their digits."""
    return _node(json.loads(text, parse_int=_Number, parse_float=_Number, parse_constant=_no_number))


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _node(value: object) -> Node:
    match value:
        case _Number():
            return str(value)
        case str():
            return json.encoder.encode_basestring(value)
        case list():
            return [_node(child) for child in value]
        case dict():
            return {key: _node(child) for key, child in value.items()}
    return json.dumps(value)  # None, True and False
