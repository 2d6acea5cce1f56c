"""Laws of token counting."""

import json
import subprocess
import sys

import pytest
from openai.types.completion_usage import CompletionTokensDetails, PromptTokensDetails
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails, ResponseUsage
from pydantic import TypeAdapter

from runstream.agent.usage import RequestUsage, Usage, deserialize_usage, serialize_usage


def one_request(cached: int = 0, written: int = 0, reasoning: int = 0, tokens: int = 10) -> Usage:
    return Usage(
        requests=1,
        input_tokens=tokens,
        input_tokens_details=InputTokensDetails(cached_tokens=cached, cache_write_tokens=written),
        output_tokens=tokens,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=reasoning),
        total_tokens=2 * tokens,
    )


def test_a_new_usage_is_all_zeros():
    """Nothing is used at first, and the details are the official objects."""
    usage = Usage()
    assert (usage.requests, usage.input_tokens, usage.output_tokens, usage.total_tokens) == (0, 0, 0, 0)
    assert usage.input_tokens_details == InputTokensDetails(cached_tokens=0, cache_write_tokens=0)
    assert usage.output_tokens_details == OutputTokensDetails(reasoning_tokens=0)
    assert usage.request_usage_entries == []


def test_whole_details_are_kept_as_the_same_object():
    """Official details without gaps are not copied."""
    details = InputTokensDetails(cached_tokens=1, cache_write_tokens=2)
    assert Usage(input_tokens_details=details).input_tokens_details is details


@pytest.mark.parametrize(
    ("given", "cached", "written"),
    [
        (None, 0, 0),
        ({}, 0, 0),
        ({"cached_tokens": 3}, 3, 0),
        (PromptTokensDetails(cached_tokens=4, cache_write_tokens=5), 4, 5),
        (PromptTokensDetails(), 0, 0),
        (InputTokensDetails.model_construct(cached_tokens=None), 0, 0),
        (InputTokensDetails.model_construct(cached_tokens=6), 6, 0),
    ],
)
def test_whatever_input_details_a_provider_gives_become_official_ones(given, cached, written):
    """Missing, partial, unvalidated, mapped and Chat Completions' details are normalised."""
    details = Usage(input_tokens_details=given).input_tokens_details
    assert type(details) is InputTokensDetails
    assert (details.cached_tokens, details.cache_write_tokens) == (cached, written)


@pytest.mark.parametrize(
    ("given", "reasoning"),
    [
        (None, 0),
        ({"reasoning_tokens": 3}, 3),
        (CompletionTokensDetails(reasoning_tokens=4), 4),
        (CompletionTokensDetails(), 0),
        (OutputTokensDetails.model_construct(reasoning_tokens=None), 0),
    ],
)
def test_whatever_output_details_a_provider_gives_become_official_ones(given, reasoning):
    """Missing, unvalidated, mapped and Chat Completions' details are normalised."""
    details = Usage(output_tokens_details=given).output_tokens_details
    assert type(details) is OutputTokensDetails
    assert details.reasoning_tokens == reasoning


def test_add_sums_every_field():
    """Totals and details of two usages add up."""
    usage = one_request(cached=3, written=5, reasoning=7)
    usage.add(one_request(cached=4, written=6, reasoning=8))
    assert (usage.requests, usage.input_tokens, usage.output_tokens, usage.total_tokens) == (2, 20, 20, 40)
    assert usage.input_tokens_details == InputTokensDetails(cached_tokens=7, cache_write_tokens=11)
    assert usage.output_tokens_details == OutputTokensDetails(reasoning_tokens=15)


def test_add_keeps_one_entry_for_each_request_with_tokens():
    """A single request becomes an entry; one without tokens, and a sum without entries, do not."""
    usage = Usage()
    usage.add(one_request(cached=3))
    usage.add(Usage(requests=1))
    usage.add(Usage(requests=3, input_tokens=9, total_tokens=9))
    assert [entry.input_tokens for entry in usage.request_usage_entries] == [10]
    assert usage.request_usage_entries[0].input_tokens_details.cached_tokens == 3
    assert usage.requests == 5


def test_add_prefers_entries_that_exist_and_copies_them():
    """Entries that the added usage carries are taken over, not made anew, and later changes do not reach them."""
    other = one_request()
    other.request_usage_entries = [RequestUsage(10, 10, 20, {"cached_tokens": 9}, None)]  # type: ignore[arg-type]
    usage = Usage()
    usage.add(other)
    other.request_usage_entries[0].input_tokens = 99
    assert [entry.input_tokens for entry in usage.request_usage_entries] == [10]
    assert usage.request_usage_entries[0].input_tokens_details.cached_tokens == 9


def test_the_entries_list_is_the_usages_own():
    """Two usages made with one list do not share it."""
    entries: list[RequestUsage] = []
    Usage(request_usage_entries=entries).add(one_request())
    first = Usage(request_usage_entries=entries)
    first.add(one_request())
    assert entries == []


@pytest.mark.parametrize("told", [None, 5, {}, {"total_tokens": 0}, {"total_tokens": "many"}])
def test_usage_of_a_request_that_failed(told):
    """What its error tells, else one request with an entry of no tokens."""
    usage = Usage.of_failed_request(told)
    assert (usage.requests, usage.total_tokens, [entry.total_tokens for entry in usage.request_usage_entries]) == (
        1,
        0,
        [0],
    )
    assert Usage.of_failed_request({"input_tokens": 3, "total_tokens": 3}).total_tokens == 3


def test_usage_of_a_response():
    """An official usage and its dict count one request with the same tokens."""
    official = ResponseUsage(
        input_tokens=3,
        input_tokens_details=InputTokensDetails(cached_tokens=1, cache_write_tokens=0),
        output_tokens=4,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=2),
        total_tokens=7,
    )
    usage = Usage.from_response(official)
    assert (usage.requests, usage.input_tokens, usage.output_tokens, usage.total_tokens) == (1, 3, 4, 7)
    assert usage.output_tokens_details.reasoning_tokens == 2
    assert Usage.from_response(official.model_dump()) == usage


def test_a_response_without_usage_counts_as_a_request():
    """Some providers report nothing; the request was made all the same."""
    assert Usage.from_response(None) == Usage(requests=1)


def test_serialising_and_back():
    """The plain form is JSON, has lists of one for the total's details, and restores an equal usage."""
    usage = Usage()
    usage.add(one_request(cached=1, written=2, reasoning=3))
    plain = serialize_usage(usage)
    assert plain["input_tokens_details"] == [{"cached_tokens": 1, "cache_write_tokens": 2}]
    assert plain["request_usage_entries"][0]["output_tokens_details"] == {"reasoning_tokens": 3}
    assert deserialize_usage(json.loads(json.dumps(plain))) == usage


def test_older_plain_forms_are_read():
    """What an older form lacks is zero; empty lists and plain mappings of details are understood."""
    usage = deserialize_usage(
        {
            "requests": 1,
            "input_tokens_details": [],
            "output_tokens_details": {"reasoning_tokens": 2},
            "request_usage_entries": [{"input_tokens": 5, "input_tokens_details": [{"cached_tokens": 3}]}],
        }
    )
    assert (usage.requests, usage.input_tokens) == (1, 0)
    assert usage.output_tokens_details.reasoning_tokens == 2
    assert usage.request_usage_entries[0].input_tokens_details.cached_tokens == 3
    assert deserialize_usage({}) == Usage()


def test_pydantic_round_trip():
    """A usage inside a pydantic model survives dumping and validating."""
    usage = Usage()
    usage.add(one_request(cached=1))
    adapter = TypeAdapter(Usage)
    assert adapter.validate_python(adapter.dump_python(usage)) == usage


def test_the_declarations_are_light_to_import():
    """Importing them loads neither openai nor pydantic nor sqlite3."""
    modules = ["usage", "context", "items", "item_helpers", "response", "hooks", "guardrail", "settings", "retry"]
    code = (
        "import sys\n"
        + "".join(f"import runstream.agent.{name}\n" for name in modules)
        + "import runstream.sessions.base, runstream.sessions.memory, runstream.sessions.sqlite\n"
        + "print([name for name in ('openai', 'pydantic', 'pydantic_core', 'sqlite3') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
