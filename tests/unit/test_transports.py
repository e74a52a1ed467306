"""The wire of lines: what is a message, what is answered for one that is none, and when the end is the end."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import orjson
import pytest
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCNotification, JSONRPCRequest, JSONRPCResponse

from gateway.transports import PatientReader, PatientWriter, PipeReader, encode_message

pytestmark = pytest.mark.anyio

REQUEST = b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}\n'


class Written:
    """The end of a wire that keeps what is written."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    async def send(self, item: SessionMessage, /) -> None:
        self.messages.append(json.loads(encode_message(item.message)))

    async def aclose(self) -> None:
        pass


def opened(
    *lines: bytes, limit: int = 1024, last_answers_s: float | None = 0.05
) -> tuple[PatientReader, PatientWriter, Written]:
    """Return both ends of a conversation in which the client has written these lines and closed its end."""
    stream = asyncio.StreamReader(limit=limit)
    stream.feed_data(b"".join(lines))
    stream.feed_eof()
    written = Written()
    writer = PatientWriter(written)
    return PatientReader(PipeReader(stream), writer, last_answers_s=last_answers_s), writer, written


async def methods(reader: PatientReader) -> list[str]:
    """Return the methods of all messages up to the end."""
    found = []
    async for item in reader:
        assert isinstance(item, SessionMessage)
        assert isinstance(item.message, JSONRPCRequest | JSONRPCNotification)
        found.append(item.message.method)
    return found


async def test_each_line_is_a_message_and_an_empty_one_is_none() -> None:
    reader, _, written = opened(b"\n", REQUEST, b"  \r\n", REQUEST)
    assert await methods(reader) == ["tools/list"] * 2
    assert written.messages == []


async def test_a_last_line_needs_no_end() -> None:
    reader, _, _ = opened(REQUEST.strip())
    assert await methods(reader) == ["tools/list"]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"{\n", -32700),
        (b"\xff\xfe\n", -32700),
        (b"[]\n", -32600),
        (b"[%s]\n" % REQUEST.strip(), -32600),
        (b'{"id": 1}\n', -32600),
        (b"null\n", -32600),
        (b"x" * 5000 + b"\n", -32700),
        (b"[" * 1025 + b"\n", -32700),
        (b"{", -32700),
    ],
)
async def test_a_line_that_is_no_message_is_answered_once(line: bytes, code: int) -> None:
    reader, _, written = opened(REQUEST, line)
    assert await methods(reader) == ["tools/list"]
    assert [(message["id"], message["error"]["code"]) for message in written.messages] == [(None, code)]


async def test_nothing_within_a_line_that_is_too_long_passes_for_a_message() -> None:
    # The last part of the line would be one, were the line cut at the limit.
    reader, _, written = opened(b" " * 1024 + REQUEST, REQUEST)
    assert await methods(reader) == ["tools/list"]
    assert len(written.messages) == 1


async def test_the_end_waits_for_what_is_asked_and_not_answered() -> None:
    reader, writer, _ = opened(REQUEST, last_answers_s=None)
    await reader.receive()
    end = asyncio.create_task(methods(reader))
    await asyncio.sleep(0)
    assert not end.done()

    await writer.send(SessionMessage(JSONRPCResponse(jsonrpc="2.0", id=1, result={})))

    assert await asyncio.wait_for(end, 5) == []


async def test_the_end_does_not_wait_for_what_was_cancelled() -> None:
    cancelled = b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}\n'
    reader, _, _ = opened(REQUEST, cancelled, last_answers_s=None)
    assert await asyncio.wait_for(methods(reader), 5) == ["tools/list", "notifications/cancelled"]


async def test_the_end_waits_no_longer_than_it_may() -> None:
    reader, _, _ = opened(REQUEST, last_answers_s=0.01)
    assert await asyncio.wait_for(methods(reader), 5) == ["tools/list"]


async def test_a_result_that_is_finished_json_is_written_as_it_is() -> None:
    result: dict[str, Any] = {"structuredContent": orjson.Fragment(b'{"n": 1.0}')}
    line = encode_message(JSONRPCResponse(jsonrpc="2.0", id=1, result=result))
    assert line == b'{"jsonrpc":"2.0","id":1,"result":{"structuredContent":{"n": 1.0}}}'
