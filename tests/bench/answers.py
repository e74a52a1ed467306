"""What a model reads: length of answers and of the tool list; and the catalogue tools in small and large schemas."""

from __future__ import annotations

import itertools
from typing import Any, Final

import orjson

from tests.bench.lines import Line
from tests.bench.loops import Ask, Sample, run_round
from tests.bench.wires import StdioClient, checked

# A rule of thumb for English and JSON alike; a tokenizer counts some per cent more or less.
CHARS_PER_TOKEN: Final = 4
_CATALOGUE: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    # The same number of rows in both schemas.
    ("list_tables", {"limit": 100}),
    ("describe_table", {"table_name": "items"}),
    ("get_table_stats", {"table_name": "items"}),
    ("search_tables", {"search_term": "item"}),
)


def _text(reply: bytes) -> str:
    content: str = orjson.loads(reply)["result"]["content"][0]["text"]
    return content


async def measure_texts(client: StdioClient) -> list[Line]:
    """Compare answers with the shortest JSON of the same values: names once, rows as arrays."""
    lines = []
    for measure, query in (
        ("100 rows x 8 columns", "SELECT * FROM items ORDER BY id LIMIT 100"),
        ("100 rows x 60 columns", "SELECT * FROM wide ORDER BY column_00 LIMIT 100"),
    ):
        text = _text(await client.call("execute_query", {"query": query}))
        answer = orjson.loads(text)
        names = [column["name"] for column in answer["columns"]]
        shortest = len(orjson.dumps({"columns": names, "rows": answer["rows"]}).decode())
        objects = len(orjson.dumps([dict(zip(names, row, strict=True)) for row in answer["rows"]]).decode())
        cut = "" if answer["row_count"] == 100 else f" (the page held {answer['row_count']})"
        lines += [
            _characters(f"{measure}{cut} / columns once", len(text), shortest, most=1.1),
            _characters(f"{measure}{cut} / an object a row", len(text), objects, most=None),
        ]
    return lines


def _characters(measure: str, ours: int, other: int, *, most: float | None) -> Line:
    return Line(
        group="text", measure=measure, ours=f"{ours} chars", other=f"{other} chars", compared=ours / other, most=most
    )


async def measure_list(client: StdioClient) -> list[Line]:
    """Count the tool list, as it is and without the output schemas that most clients keep from the model."""
    tools = orjson.loads(checked(await client.request("tools/list")))["result"]["tools"]
    whole = len(orjson.dumps(tools).decode())
    brief = len(orjson.dumps([{k: v for k, v in tool.items() if k != "outputSchema"} for tool in tools]).decode())
    return [
        Line(
            group="text",
            measure=f"tools/list {what}, tokens as characters / {CHARS_PER_TOKEN}",
            ours=f"{size} chars",
            compared=size / CHARS_PER_TOKEN,
            unit="tokens",
            most=1500,
        )
        for what, size in (("without output schemas", brief), ("whole", whole))
    ]


def _always(tool: str, arguments: dict[str, Any]) -> Ask:
    return lambda _number: (tool, arguments)


async def measure_catalogue(client: StdioClient, *, rounds: int, seconds: float) -> list[Line]:
    """Ask the catalogue tools one at a time in the schema of 100 and of 10,000 tables, in turns."""
    lines = []
    numbers = itertools.count(1)
    for tool, arguments in _CATALOGUE:
        samples = {"small": Sample(), "large": Sample()}
        for number in range(rounds + 1):
            for name, sample in samples.items():
                given = {**arguments, "profile": name}
                kept = sample if number > 0 else Sample()
                await run_round(kept, [client.call], _always(tool, given), numbers, seconds=seconds)
        small, large = (sample.quantile_ms(0.5) for sample in samples.values())
        lines.append(
            Line(
                group="catalogue",
                measure=f"{tool}, 10,000 / 100 tables, c=1",
                ours=f"{large:.2f} ms",
                other=f"{small:.2f} ms",
                compared=large / small,
                most=1.5 if tool in ("list_tables", "describe_table") else None,
            )
        )
    page = Sample()
    await run_round(page, [client.call], _always("list_tables", {"profile": "large"}), numbers, seconds=seconds)
    page_ms = page.quantile_ms(0.5)
    lines.append(
        Line(
            group="catalogue",
            measure="list_tables, first page of 200 of 10,000 tables, c=1",
            ours=f"{page_ms:.2f} ms",
            compared=page_ms,
            unit="ms",
            most=3.0,
        )
    )
    return lines
