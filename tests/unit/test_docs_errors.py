"""docs/errors.md has a paragraph for each error code, and for nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gateway.errors import ALL_ERRORS, GatewayError, NotFound

PAGE = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()
PARAGRAPHS = dict(re.findall(r"^### `(\w+)`\n\n(.+?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL))


def test_the_codes_of_the_page_are_those_of_the_program() -> None:
    assert sorted(PARAGRAPHS) == sorted(error.code for error in ALL_ERRORS)


@pytest.mark.parametrize("error", ALL_ERRORS, ids=lambda error: error.code)
def test_a_paragraph_says_what_it_is_and_whether_to_try_again(error: type[GatewayError]) -> None:
    text = PARAGRAPHS[error.code]
    assert len(text) > 80
    assert ("Retryable: " in text) is error.transient


def test_the_example_is_what_a_caller_gets() -> None:
    example = re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert example is not None
    error = NotFound(
        'relation "custmers" does not exist',
        hint="Did you mean public.customers?",
        profile="local",
        sqlstate="42P01",
        position=15,
    )
    assert json.loads(example.group(1)) == {"error": error.to_dict()}


def test_the_list_of_errors_has_the_whole_tree() -> None:
    def below(error: type[GatewayError]) -> set[type[GatewayError]]:
        return {error}.union(*(below(child) for child in error.__subclasses__()))

    assert below(GatewayError) - {GatewayError} == set(ALL_ERRORS)
