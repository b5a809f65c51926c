"""What goes in comes out: values of every supported type, through a real run on a real database."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any
from uuid import UUID

import cattrs
import pytest
from attrs import frozen

from durable_sync import (
    DurableExecutor,
    ExecutionStatus,
    InvalidInputError,
    SerializationError,
    Serializer,
    TaskError,
)
from durable_sync.serialization import make_converter
from tests.behaviour.conftest import NewExecutor
from tests.paths import every_path, one_database

SOON = 10.0


class Colour(Enum):
    RED = "red"
    BLUE = ("b", 2)


class Level(IntEnum):
    LOW = 1
    HIGH = 2


@frozen
class Price:
    amount: Decimal
    currency: str = "EUR"


@dataclasses.dataclass(frozen=True)
class Line:
    name: str
    price: Price
    colours: frozenset[Colour] = frozenset()


@frozen
class ByCard:
    number: str


@frozen
class ByBill:
    due: date


@frozen
class Order:
    id: UUID
    lines: tuple[Line, ...]
    placed_at: datetime
    payment: ByCard | ByBill
    level: Level = Level.LOW
    notes: dict[str, list[int | None]] | None = None
    seal: bytes = b""
    folder: Path = Path()
    opens: time = time(8)
    patience: timedelta = timedelta(0)


ORDER = Order(
    id=UUID(int=7),
    lines=(
        Line("pen", Price(Decimal("1.10")), frozenset({Colour.RED, Colour.BLUE})),
        Line("ink", Price(Decimal("1E+3"), "USD")),
    ),
    placed_at=datetime(2024, 2, 29, 23, 59, 59, 123456, timezone(timedelta(hours=5, minutes=30))),
    payment=ByBill(date(2024, 3, 31)),
    level=Level.HIGH,
    notes={"é": [1, None, 2**80], "": []},
    seal=bytes(range(256)),
    folder=Path("a") / "b c",
    opens=time(23, 0, 0, 1),
    patience=timedelta(days=-1, microseconds=1),
)


# in and out


@every_path
def test_nested_values_come_out_as_they_went_in(executor: DurableExecutor) -> None:
    """attrs classes, dataclasses, enums, dates, decimals, bytes, paths and unions pass unchanged."""

    @executor.task
    def place(order: Order) -> Order:
        assert order == ORDER
        assert order.placed_at.utcoffset() == ORDER.placed_at.utcoffset()
        return order

    handle = executor.enqueue(place, ORDER)

    assert handle.result(timeout=SOON) == ORDER
    execution = handle.get_execution()
    assert execution.input == {"order": ORDER}
    assert (execution.output, execution.run_output) == (ORDER, ORDER)


@one_database
@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, -(2**200)),
        (float, 0.1),
        (float, float("inf")),
        (bool, False),
        (str, ""),
        (type(None), None),
        (list[Colour], [Colour.BLUE]),
        (set[date], {date(1, 1, 1), date(9999, 12, 31)}),
        (dict[UUID, Level], {UUID(int=1): Level.HIGH}),
        (ByCard | ByBill | None, ByCard("4")),
        (tuple[int, str], (1, "a")),
        (datetime, datetime(1, 1, 1, tzinfo=UTC)),
        (Any, {"a": [1, 2.5, None, True, {"b": "c"}]}),
    ],
)
def test_values_by_annotation(executor: DurableExecutor, annotation: Any, value: Any) -> None:
    """Each annotation brings its values back equal, and of the same type."""

    def echo(value: Any) -> Any:
        return value

    echo.__annotations__ = {"value": annotation, "return": annotation}
    task = executor.task(echo)

    result = executor.enqueue(task, value).result(timeout=SOON)

    assert result == value
    assert type(result) is type(value)


@one_database
def test_plain_json_where_the_task_is_unknown(new_executor: NewExecutor) -> None:
    """`get_execution` is typed where the task is registered, and plain JSON values elsewhere."""
    executor = new_executor()
    executor.start()

    @executor.task
    def price(line: Line) -> Price:
        return line.price

    handle = executor.enqueue(price, ORDER.lines[0])
    handle.wait(timeout=SOON)

    here = executor.get_execution(handle.execution_id)
    assert (here.input, here.output) == ({"line": ORDER.lines[0]}, Price(Decimal("1.10")))
    elsewhere = new_executor().get_execution(handle.execution_id)
    assert elsewhere.input["line"]["name"] == "pen"
    assert elsewhere.output == {"amount": "1.10", "currency": "EUR"}
    json.dumps([elsewhere.input, elsewhere.output])


@one_database
def test_fields_of_a_later_version_are_passed_over(new_executor: NewExecutor) -> None:
    """In a rolling deploy the old code runs what the new code enqueued: it ignores fields it doesn't know."""
    new, old = new_executor(), new_executor()

    @new.task(id="price")
    def price_with_tax(price: PriceWithTax) -> Decimal: ...

    @old.task(id="price")
    def price_without(price: Price) -> Decimal:
        return price.amount

    handle = new.enqueue(price_with_tax, PriceWithTax(Decimal(1), "EUR", Decimal("0.2")))
    old.start()

    assert handle.result(timeout=SOON) == Decimal(1)


@frozen
class PriceWithTax:
    amount: Decimal
    currency: str
    tax: Decimal


# misfits


@one_database
@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"id": "7"}, "order.id"),
        ({"level": 2}, "order.level"),
        ({"payment": None}, "order.payment"),
        ({"lines": (Line("pen", Price(1.1)),)}, r"order.lines\[0\].price.amount"),
        ({"placed_at": date(2024, 1, 1)}, "order.placed_at"),
    ],
)
def test_a_misfit_deep_inside_is_named(new_executor: NewExecutor, change: dict[str, Any], path: str) -> None:
    """`InvalidInputError` names the path of what doesn't fit, however deep it is; nothing is coerced."""
    executor = new_executor()

    @executor.task
    def place(order: Order) -> None: ...

    fields = {name: getattr(ORDER, name) for name in Order.__annotations__}
    with pytest.raises(InvalidInputError, match=path):
        executor.enqueue(place, Order(**{**fields, **change}))


@one_database
@pytest.mark.parametrize("output", [1.5, "1", None, True, [1]])
def test_an_output_of_another_type_fails_the_task(executor: DurableExecutor, output: object) -> None:
    """An output that doesn't fit its annotation fails the task with a clear error, and without a retry."""
    runs: list[int] = []

    @executor.task(retry=3)
    def count() -> int:
        runs.append(1)
        return output

    ended = executor.enqueue(count).wait(timeout=SOON)

    assert ended.status is ExecutionStatus.FAILED
    assert ended.error is not None
    assert ended.error.type == "SerializationError"
    assert "output of task 'count'" in ended.error.message
    assert ended.output is None
    assert runs == [1]


@one_database
def test_an_output_that_json_cannot_hold_fails_the_task(executor: DurableExecutor) -> None:
    """An output without annotation must be plain JSON; anything else fails the task."""

    @executor.task
    def leak() -> Any:
        return object()

    with pytest.raises(TaskError, match="output of task 'leak'"):
        executor.enqueue(leak).result(timeout=SOON)


@one_database
def test_input_that_no_longer_fits_fails_the_execution(new_executor: NewExecutor) -> None:
    """Stored input that the present function can't take fails the execution, and says which path."""
    before, after = new_executor(), new_executor()

    @before.task(id="double")
    def double_text(number: str) -> str: ...

    @after.task(id="double", retry=3)
    def double(number: int) -> int:
        return 2 * number

    handle = before.enqueue(double_text, "two")
    after.start()
    ended = handle.wait(timeout=SOON)

    assert ended.status is ExecutionStatus.FAILED
    assert ended.error is not None
    assert "number" in ended.error.message
    assert ended.attempt == 0


@one_database
def test_output_that_no_longer_fits_is_told_to_its_reader(new_executor: NewExecutor) -> None:
    """`result` of a stored output that doesn't fit the reader's type raises `SerializationError`."""
    writer, reader = new_executor(), new_executor()
    writer.start()

    @writer.task(id="measure")
    def measure() -> str:
        return "long"

    @reader.task(id="measure")
    def measure_in_metres() -> float: ...

    handle = writer.enqueue(measure)
    handle.wait(timeout=SOON)

    with pytest.raises(SerializationError, match="float"):
        reader.get_handle(measure_in_metres, handle.execution_id).result(timeout=SOON)
    assert reader.get_execution(handle.execution_id).output == "long"


# annotations and serializers


@one_database
def test_parameters_without_annotation_are_warned_of_once(executor: DurableExecutor) -> None:
    """Unannotated parameters pass as plain JSON, unchecked, and are warned of at decoration, by name."""
    with pytest.warns(UserWarning, match="loose.*first, second") as warnings:

        @executor.task
        def loose(first, second, third: int = 0):  # type: ignore[no-untyped-def]
            return [first, second, third]

    assert len(warnings) == 1
    assert warnings[0].filename == __file__
    assert executor.enqueue(loose, {"a": 1}, None).result(timeout=SOON) == [{"a": 1}, None, 0]


class Celsius:
    def __init__(self, degrees: float) -> None:
        self.degrees = degrees


@one_database
def test_a_serializer_with_hooks_of_the_users(new_executor: NewExecutor) -> None:
    """A serializer given a converter reads and writes the user's own types."""
    converter: cattrs.Converter = make_converter()
    converter.register_unstructure_hook(Celsius, lambda value: value.degrees)
    converter.register_structure_hook(Celsius, lambda value, _type: Celsius(value))
    executor = new_executor(serializer=Serializer(converter))
    executor.start()

    @executor.task
    def warm(temperature: Celsius) -> Celsius:
        return Celsius(temperature.degrees + 1)

    assert executor.enqueue(warm, Celsius(20.5)).result(timeout=SOON).degrees == 21.5


class Shouting(Serializer):
    """A serializer of the user's own: strings only, kept in capitals."""

    def dumps(self, value: Any, annotation: Any = Any) -> str:
        return json.dumps(value).upper()

    def loads(self, text: str, annotation: Any = Any) -> Any:
        return json.loads(text.replace('"TEXT"', '"text"'))


@one_database
def test_a_serializer_replaced_whole(new_executor: NewExecutor) -> None:
    """A serializer that overrides both methods has the last word on what is stored."""
    executor = new_executor(serializer=Shouting())
    executor.start()

    @executor.task
    def echo(text: str) -> str:
        return text.lower()

    handle = executor.enqueue(echo, "quiet")

    assert handle.result(timeout=SOON) == "QUIET"
    assert handle.get_execution().input == {"text": "QUIET"}
