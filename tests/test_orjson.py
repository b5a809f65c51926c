"""`OrjsonSerializer` reads and writes what `Serializer` does."""

from __future__ import annotations

import math
import sys
from datetime import UTC, datetime
from typing import Any

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from durable_sync import ConfigurationError, OrjsonSerializer, SerializationError, Serializer

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)

plain, fast = Serializer(), OrjsonSerializer()


@frozen
class Order:
    id: int
    price: float
    placed: datetime
    note: str | None = None


@given(VALUES)
def test_each_reads_what_the_other_wrote(value: Any) -> None:
    """Executors with either serializer can share a database."""
    try:
        text = plain.dumps(value)
    except SerializationError:
        with pytest.raises(SerializationError):
            fast.dumps(value)
        return
    assert fast.loads(text) == value
    assert plain.loads(fast.dumps(value)) == value
    assert fast.dumps(value).isascii()


@pytest.mark.parametrize("value", [2**64, -(2**70), 10**30, 2**63, math.inf, -0.0, "\0", "é", "\ud800", [1.5, None]])
def test_what_orjson_would_change_comes_back_as_it_was(value: Any) -> None:
    """Large integers, infinities, NUL, and lone surrogates survive in either direction."""
    for writer, reader in [(fast, fast), (plain, fast), (fast, plain)]:
        back = reader.loads(writer.dumps(value))
        assert back == value
        assert type(back) is type(value)


def test_nan_never_becomes_null() -> None:
    """orjson writes NaN as null; here it stays NaN."""
    assert math.isnan(fast.loads(fast.dumps(math.nan, float), float))


def test_typed_values_go_both_ways() -> None:
    """Annotations mean the same to both."""
    order = Order(2**70, 1.5, datetime(2026, 1, 2, tzinfo=UTC))
    assert fast.loads(plain.dumps(order, Order), Order) == order
    assert plain.loads(fast.dumps(order, Order), Order) == order
    with pytest.raises(SerializationError, match="price"):
        fast.loads('{"id":1,"price":"2","placed":"2026-01-02T00:00:00+00:00"}', Order)


def test_a_missing_orjson_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without orjson the error says how to install it."""
    monkeypatch.setitem(sys.modules, "orjson", None)
    with pytest.raises(ConfigurationError, match=r"durable-sync\[orjson\]"):
        OrjsonSerializer()
