"""The one change to a body: the model's name, and nothing else."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.body import read_body, with_model
from gateway.http.wire import Refusal

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"model":"a"}', b'{"model":"new"}'),
        (
            b'{ "x" : 1 ,\n "model" :\t"a" , "y":[ ] }',
            b'{ "x" : 1 ,\n "model" :\t"new" , "y":[ ] }',
        ),
        (b'{"model":"a\\"b","n":1}', b'{"model":"new","n":1}'),
        (b'{"m":{"model":"x"},"model":"a"}', b'{"m":{"model":"x"},"model":"new"}'),
        (b'{"model":"a","m":[{"model":"x"}]}', b'{"model":"new","m":[{"model":"x"}]}'),
        (b'{"content":"model","model":"a"}', b'{"content":"model","model":"new"}'),
        (
            b'{"content":"\\"model\\": 1","model":"a"}',
            b'{"content":"\\"model\\": 1","model":"new"}',
        ),
        (b'{"model":"first","model":"a"}', b'{"model":"first","model":"new"}'),
        (b'{"\\u006dodel":"a"}', b'{"\\u006dodel":"new"}'),
        (b'{"\\u006dodel":"a","m":{"model":"x"}}', b'{"\\u006dodel":"new","m":{"model":"x"}}'),
        (b'{"a":"}{[","model":"a"}', b'{"a":"}{[","model":"new"}'),
    ],
)
def test_only_the_value_changes(raw: bytes, expected: bytes) -> None:
    assert with_model(raw, "new") == expected
    assert with_model(raw, "new", read_body(raw).model) == expected


@given(st.dictionaries(st.text(), JSON), st.text(), st.text(), st.booleans())
def test_any_body_keeps_everything_else(
    fields: dict[str, Any], old: str, new: str, ascii_only: bool
) -> None:
    body = {**fields, "model": old}
    raw = json.dumps(body, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    try:
        seen = read_body(raw)
    except Refusal:
        # Lone surrogates are not UTF-8; a field of ours may have a wrong type.
        return
    assert seen.model == old
    assert json.loads(with_model(raw, new)) == {**body, "model": new}
    assert with_model(raw, new, old) == with_model(raw, new)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_body_or_a_refusal(raw: bytes) -> None:
    with contextlib.suppress(Refusal):
        assert isinstance(read_body(raw).model, str)
