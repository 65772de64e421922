"""Other people's JSON: one odd field costs that field, never the rest.

The typed decoder comes first and is all that ordinary bodies need. Where it raises, the body is
read as plain JSON and fitted into the same types field by field: what does not fit is left at its
default. Numbers beyond a float, NaN and half surrogate pairs are JSON to some servers; here they
become null, null and U+FFFD.
"""

import json
import math
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, inspect

T = TypeVar("T")

UNREADABLE = (ValueError, RecursionError)
"""What decoding raises: no JSON, other types than ours, no UTF-8, nested without end."""

_MAX_INT_DIGITS = 18
"""Of what fits 64 bits for sure; a longer integer is read as a float."""


class Unfit(ValueError):
    """A value of another type than asked for."""


def read(decode: Callable[[bytes], T], kind: type[T], body: bytes) -> T:
    """`body` by its typed decoder, else field by field; raises what is in UNREADABLE."""
    try:
        return decode(body)
    except UNREADABLE:
        return fit(kind, loads(body))


def loads(body: bytes | str) -> Any:
    """Plain JSON types, every number finite; raises what is in UNREADABLE."""
    text = body if isinstance(body, str) else body.decode("utf-8-sig", "replace")
    return _loads(text)


def fit(kind: type[T], value: Any) -> T:
    """`value` as a struct of `kind`, what does not fit left out; Unfit when it is no object."""
    description: Any = kind
    fitted: T = _fit(_info(description), value)
    return fitted


def encode(value: Any) -> bytes:
    """JSON; half surrogate pairs as U+FFFD, what no JSON number holds as a float or null."""
    try:
        return _encode(value)
    except (UnicodeEncodeError, OverflowError):
        return _encode(whole(msgspec.to_builtins(value)))


def text(value: Any) -> str:
    """`encode` as text."""
    return encode(value).decode()


def whole(value: Any) -> Any:
    """Plain JSON types with every text whole: halves of one character joined, others U+FFFD."""
    if isinstance(value, str):
        return mended(value)
    if isinstance(value, list | tuple):
        return [whole(item) for item in value]
    if isinstance(value, dict):
        return {whole(key): whole(item) for key, item in value.items()}
    return value


def mended(value: str) -> str:
    """Text that UTF-8 can hold: split surrogate pairs joined, a lone half as U+FFFD."""
    return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


_encode = msgspec.json.Encoder().encode


def _int(digits: str) -> int | float | None:
    return int(digits) if len(digits) <= _MAX_INT_DIGITS else _float(digits)


def _float(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


_loads = json.JSONDecoder(parse_int=_int, parse_float=_float, parse_constant=lambda _: None).decode


@cache
def _info(kind: Any) -> inspect.Type:
    return inspect.type_info(kind)


def _fit(info: inspect.Type, value: Any) -> Any:
    if isinstance(info, inspect.StructType):
        return _struct(info, value)
    if isinstance(info, inspect.UnionType):
        return _first(info, value)
    if isinstance(info, inspect.ListType) and isinstance(value, list):
        return _list(info.item_type, value)
    if isinstance(info, inspect.AnyType):
        return value
    if isinstance(info, inspect.RawType):
        return Raw(encode(value))
    if isinstance(info, inspect.FloatType) and type(value) in (int, float):
        return float(value)
    expected = _SCALARS.get(type(info))
    if expected is None or type(value) is not expected:
        raise Unfit
    return value


_SCALARS = {
    inspect.StrType: str,
    inspect.IntType: int,
    inspect.BoolType: bool,
    inspect.NoneType: type(None),
}


def _struct(info: inspect.StructType, value: Any) -> Any:
    if not isinstance(value, dict):
        raise Unfit
    found = {}
    for field in info.fields:
        if field.encode_name in value:
            try:
                found[field.name] = _fit(field.type, value[field.encode_name])
            except Unfit:
                continue
    return info.cls(**found)


def _list(item: inspect.Type, values: list[Any]) -> list[Any]:
    """Objects that do not fit are passed over; a hole in a list of numbers makes it worthless."""
    if not isinstance(item, inspect.StructType):
        return [_fit(item, value) for value in values]
    return [_struct(item, value) for value in values if isinstance(value, dict)]


def _first(info: inspect.UnionType, value: Any) -> Any:
    for member in info.types:
        try:
            return _fit(member, value)
        except Unfit:
            continue
    raise Unfit
