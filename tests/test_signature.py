"""A call becomes stored input and a call again, or is refused with all that is wrong with it."""

import json
import re
from collections.abc import Callable
from datetime import date
from functools import partial
from typing import Any, NotRequired, TypedDict, Unpack
from uuid import UUID

import pytest
from attrs import frozen

from durable_sync.errors import InvalidInputError, SerializationError
from durable_sync.serialization import Serializer
from durable_sync.signature import InputSchema

SERIALIZER = Serializer()
UUID_1 = UUID(int=1)


@frozen
class Line:
    sku: str
    price: int


@frozen
class Order:
    id: UUID
    lines: list[Line]
    note: str | None = None


@frozen
class Dog:
    name: str


@frozen
class Cat:
    name: str


class Movie(TypedDict):
    title: str
    year: NotRequired[int]


def place(ctx: Any, order: Order, *, words: int = 50) -> str: ...


def everything(a: int, /, b: int, c: int = 3, *rest: date, d: int, e: int = 5, **others: UUID) -> Line: ...


def loose(ctx, self, a, b: "Nowhere", *c, d: int = 0):  # type: ignore[no-untyped-def, name-defined]  # noqa: F821
    ...


class Worker:
    def method(self, when: date) -> date: ...

    def __call__(self, when: date) -> None: ...


def test_schema() -> None:
    """A schema knows the context, the missing annotations and the return annotation."""
    schema = InputSchema(place)
    assert schema.takes_context
    assert schema.unannotated == ()
    assert schema.output_annotation is str
    assert not InputSchema(everything).takes_context
    loose_schema = InputSchema(loose)
    assert loose_schema.takes_context
    assert loose_schema.unannotated == ("a", "b", "c")
    assert loose_schema.output_annotation is Any


def test_annotations_that_are_no_types() -> None:
    """An annotation that can't be used is as none, and does not spoil the others."""

    def f(a: "not python", b: (int, str), c: date) -> "Nowhere": ...  # type: ignore[valid-type, name-defined, syntax]  # noqa: F821

    schema = InputSchema(f)
    assert schema.unannotated == ("a", "b")
    assert schema.output_annotation is Any
    assert "c: 1 is not a date" in bad_input(schema, a=1, b=2, c=1)


def bad_input(schema: InputSchema, **kwargs: Any) -> str:
    with pytest.raises(InvalidInputError) as caught:
        schema.dumps(SERIALIZER, schema.bind((), kwargs))
    return caught.value.message


def test_schema_of_none() -> None:
    """A function annotated to return None has that as its output, unlike one without an annotation."""

    def nothing() -> None: ...

    assert InputSchema(nothing).output_annotation is type(None)


@pytest.mark.parametrize("function", [Worker().method, Worker(), partial(place)], ids=["method", "object", "partial"])
def test_schema_of_other_callables(function: Callable[..., Any]) -> None:
    """Methods, objects that can be called and partials have their annotations too."""
    assert InputSchema(function).unannotated == ()


def test_input_round_trip() -> None:
    """Input is written by parameter name, comes back typed, and calls the function as it was called."""
    schema = InputSchema(everything)
    args = (1, 2, 3, date(2020, 1, 1), date(2020, 1, 2))
    kwargs = {"d": 4, "x": UUID_1}
    bound = schema.bind(args, kwargs)
    assert bound == {
        "a": 1,
        "b": 2,
        "c": 3,
        "rest": [date(2020, 1, 1), date(2020, 1, 2)],
        "d": 4,
        "others": {"x": UUID_1},
    }
    read = schema.loads(SERIALIZER, schema.dumps(SERIALIZER, bound))
    assert read == bound
    assert schema.call_arguments(read) == (args, kwargs)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((1, 2), {"d": 4}),
        ((1,), {"b": 2, "d": 4}),
        ((1, 2, 3), {"d": 4, "e": 6}),
        ((1,), {"b": 2, "c": 3, "d": 4, "a": UUID_1}),
        ((1, 2, 3, date(2020, 1, 1)), {"d": 4}),
    ],
)
def test_calls_mean_the_same_after_storage(args: Any, kwargs: Any) -> None:
    """However the arguments were passed, the function sees them as in a direct call."""

    def record(a: int, /, b: int, c: int = 3, *rest: date, d: int, e: int = 5, **others: UUID) -> Any:
        return a, b, c, rest, d, e, others

    schema = InputSchema(record)
    read = schema.loads(SERIALIZER, schema.dumps(SERIALIZER, schema.bind(args, kwargs)))
    call_args, call_kwargs = schema.call_arguments(read)
    assert record(*call_args, **call_kwargs) == record(*args, **kwargs)


def test_defaults_are_not_stored() -> None:
    """A later version of the function applies its own defaults."""
    order = Order(UUID_1, [])
    assert InputSchema(place).bind((order,), {}) == {"order": order}


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "problems"),
    [
        (place, (), {}, "order: is missing"),
        (place, (1, 2), {}, "takes 1 positional arguments, 2 were given"),
        (place, (1,), {"order": 2}, "order: is given twice"),
        (place, (1,), {"x": 2}, "x: is not a parameter"),
        (place, (1,), {"ctx": 2}, "ctx: is passed by the executor"),
        (place, (), {"x": 2}, "x: is not a parameter; order: is missing"),
        (everything, (), {}, "a: is missing; b: is missing; d: is missing"),
        (Worker().method, (), {}, "when: is missing"),
    ],
)
def test_misfits_of_a_call(function: Any, args: Any, kwargs: Any, problems: str) -> None:
    """A call that does not fit names the function and every parameter that is wrong."""
    with pytest.raises(InvalidInputError) as caught:
        InputSchema(function).bind(args, kwargs)
    assert caught.value.message == f"invalid input for {function.__qualname__}: {problems}"


def test_positional_only_by_name() -> None:
    """A positional-only parameter can't be given by name, and the message says so."""

    def f(a: int = 0, /) -> None: ...

    with pytest.raises(InvalidInputError, match="a: is positional only"):
        InputSchema(f).bind((), {"a": 1})


def test_bad_input_names_every_path() -> None:
    """Values that do not fit name the function and each path."""
    schema = InputSchema(place)
    order = Order(UUID_1, [Line("a", 1), Line("b", 2), Line("c", 1.9)], note=0)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError) as caught:
        schema.dumps(SERIALIZER, schema.bind((order,), {"words": True}))
    assert caught.value.message == (
        "invalid input for place: order.lines[2].price: 1.9 is not an int; order.note: 0 is not a str; "
        "words: True is not an int"
    )


def test_bad_variadic_input() -> None:
    """Items of *args and **kwargs are checked one by one."""
    schema = InputSchema(everything)
    with pytest.raises(InvalidInputError, match=re.escape("rest[0]: 4 is not a date; others['x']: 5 is not a UUID")):
        schema.dumps(SERIALIZER, schema.bind((1, 2, 3, 4), {"d": 4, "x": 5}))


def test_stored_input_of_another_version() -> None:
    """Unknown names are ignored and absent ones left out; the call names what it misses."""
    schema = InputSchema(place)
    read = schema.loads(SERIALIZER, '{"words": 5, "removed": 1}')
    assert read == {"words": 5}
    with pytest.raises(InvalidInputError, match="invalid input for place: order: is missing"):
        schema.call_arguments(read)


def test_stored_input_that_does_not_fit() -> None:
    """Reading names every bad path."""
    with pytest.raises(SerializationError) as caught:
        InputSchema(place).loads(SERIALIZER, '{"words": "5", "order": {"id": 1}}')
    assert caught.value.message == "order.id: 1 is not a UUID; order.lines: is missing; words: '5' is not an int"


def test_absent_default_before_variadic() -> None:
    """An absent argument before *args is passed as its default, so that the others keep their places."""

    def f(a: int, b: int = 2, *rest: int) -> None: ...

    assert InputSchema(f).call_arguments({"a": 1, "rest": [3]}) == ((1, 2, 3), {})


def test_unpacked_typed_dict() -> None:
    """**kwargs annotated by a TypedDict are checked by its keys."""

    def f(**movie: Unpack[Movie]) -> None: ...

    schema = InputSchema(f)
    bound = schema.bind((), {"title": "a", "year": 1})
    assert schema.call_arguments(schema.loads(SERIALIZER, schema.dumps(SERIALIZER, bound))) == (
        (),
        {"title": "a", "year": 1},
    )
    with pytest.raises(InvalidInputError, match=re.escape("movie.year: 'x' is not an int")):
        schema.dumps(SERIALIZER, schema.bind((), {"title": "a", "year": "x"}))


def test_parameters_may_have_any_name() -> None:
    """Names that mean something to the library are ordinary parameters."""

    def f(_type: str, _value: int, self: int, cls: int, other: Dog | Cat) -> None: ...

    schema = InputSchema(f)
    bound = schema.bind(("a", 1, 2, 3, Cat("a")), {})
    assert schema.loads(SERIALIZER, schema.dumps(SERIALIZER, bound)) == bound


def test_a_serializer_replaced_whole() -> None:
    """Input goes through any serializer with dumps and loads."""

    class Plain(Serializer):
        def dumps(self, value: Any, annotation: Any = Any) -> str:
            return json.dumps(value)

        def loads(self, text: str, annotation: Any = Any) -> Any:
            return json.loads(text)

    schema = InputSchema(everything)
    bound = schema.bind((1, 2), {"d": "anything"})
    assert schema.loads(Plain(), schema.dumps(Plain(), bound)) == bound
