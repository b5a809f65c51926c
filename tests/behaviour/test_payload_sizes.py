"""Payloads up to the limit are stored whole, whatever characters they are made of."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import create_engine

from durable_sync import ConfigurationError, DurableExecutor, TaskContext
from tests.behaviour.conftest import NewExecutor

LIMIT = 8 * 1024 * 1024


@pytest.mark.parametrize("character", ['"', "'", "\\", "é", "x"])
def test_a_payload_of_the_largest_size_comes_back_whole(new_executor: NewExecutor, character: str) -> None:
    """Eight MiB of JSON are stored whole both as input and as output, also of characters that quoting doubles."""
    executor = new_executor()

    @executor.task
    def echo(text: str) -> str:
        return text

    size = len(json.dumps(character)) - 2
    text = character * ((LIMIT - 40) // size)

    with executor:
        assert executor.enqueue(echo, text).result(timeout=60) == text


def test_many_large_payloads_go_in_one_transaction(new_executor: NewExecutor) -> None:
    """Inputs and outputs that together outgrow a packet of the database's are cut into several statements."""
    executor = new_executor()

    @executor.task
    def echo(text: str) -> str:
        return text

    texts = [f"{n}" + "'" * 1_000_000 for n in range(24)]
    with executor:
        handles = executor.enqueue_many([echo.bind(text) for text in texts])
        assert [handle.result(timeout=60) for handle in handles] == texts


def test_long_and_short_ones_are_claimed_together(new_executor: NewExecutor) -> None:
    """However long its input, and the error of the attempt before, an execution is claimed with them whole."""
    executor = new_executor()

    @executor.task(retry=1)
    def echo(ctx: TaskContext, text: str) -> str:
        if ctx.prev_error is None:
            raise ValueError(text)
        assert ctx.prev_error.message == text
        return text

    texts = [character * length for length in (1, 70_000, 2) for character in 'x"é\\\0']
    handles = executor.enqueue_many([echo.bind(text) for text in texts])
    with executor:
        assert [handle.result(timeout=60) for handle in handles] == texts


def test_large_payloads_are_enqueued_in_the_users_transaction(new_executor: NewExecutor, url: str) -> None:
    """A connection of the user's, which we did not open, carries large payloads as ours do."""
    executor = new_executor()

    @executor.task
    def echo(text: str) -> str:
        return text

    text = '"' * 3_000_000
    executor.migrate()
    engine = create_engine(url)
    with engine.begin() as connection:
        handle = executor.using(connection).enqueue(echo, text)
    engine.dispose()
    assert handle.get_execution().input == {"text": text}


def test_a_server_that_takes_only_small_packets_is_refused_at_once(mariadb_url: str) -> None:
    """Where `max_allowed_packet` can't hold a payload of the largest size, that is said before anything is lost."""
    executor = DurableExecutor(mariadb_url, max_payload_bytes=64 * 1024 * 1024)

    with pytest.raises(ConfigurationError, match="max_allowed_packet"):
        executor.migrate()
