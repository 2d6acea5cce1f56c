"""What each dialect's stream means, and the grammar that the events keep in all of them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import responses as official

from runstream.errors import (
    ModelBehaviorError,
    ModelStreamBroken,
    ModelStreamFailed,
    ModelStreamTruncated,
    UserError,
)
from runstream.models.chat_decode import ChatDecoder, completion_to_response
from runstream.models.chat_quirks import QUIRKS
from runstream.wire.sse import SSEDecoder

RECORDINGS = Path(__file__).parents[2] / "data" / "chat"
NAMES = sorted(path.stem for path in RECORDINGS.glob("*.sse"))


class Answer(NamedTuple):
    """What a recording means: texts, calls as (name, arguments), why it is incomplete, (input, output) tokens."""

    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    incomplete: str | None = None
    tokens: tuple[int, int] | None = None


ANSWERS: dict[str, Answer] = {
    "azure_content_filter": Answer("The recipe", incomplete="content_filter"),
    "dashscope_tool_calls": Answer(calls=(("get_weather", '{"city": "Hangzhou"}'),)),
    "deepseek_reasoning": Answer("9.9", "9.9 is larger.", tokens=(18, 30)),
    "gateway_stop_everywhere": Answer("你好很高兴认识你。"),
    "gemini_signature_later": Answer(calls=(("get_weather", '{"city":"Sydney"}'),)),
    "gemini_tool_calls": Answer(
        calls=(("get_weather", '{"city":"Sydney"}'), ("get_weather", '{"city":"Perth"}')), tokens=(53, 36)
    ),
    "groq_usage": Answer("ok", "Short.", tokens=(18, 9)),
    "ik_llamacpp_no_done": Answer("Over"),
    "interleaved_calls": Answer("Both at once.", calls=(("left", '{"n":1}'), ("right", '{"m":2}'))),
    "koboldcpp_null_finish": Answer("Hi you"),
    "legacy_function_call": Answer(calls=(("get_weather", '{"city":"Rome"}'),)),
    "litellm_summary_chunk": Answer(calls=(("search", '{"query":"hello"}'),)),
    "llamacpp_python_crlf": Answer("Concise."),
    "llamacpp_text": Answer("test", tokens=(11, 2)),
    "lmdeploy_tool_calls": Answer(calls=(("add", '{"a":1}'), ("sub", '{"b":2}'))),
    "lmstudio_empty_call": Answer("I've created it."),
    "lmstudio_no_arguments": Answer(calls=(("task_list", "{}"), ("now", "{}"))),
    "lmstudio_tool_calls": Answer(calls=(("search", '{"count":3}'),)),
    "mistral_model_length": Answer("So long", incomplete="max_output_tokens"),
    "mistral_thinking": Answer("Hello.", "'s a greeting, so greet.", tokens=(12, 19)),
    "mistral_tool_calls": Answer(
        calls=(("get_weather", '{"city": "Paris"}'), ("get_weather", '{"city": "Lyon"}')), tokens=(80, 30)
    ),
    "moonshot_usage": Answer("Hi", tokens=(9, 2)),
    "nim_name_repeated": Answer(calls=(("read_file", '{"path":{"dir":"a"},"n":{}}'),)),
    "no_finish": Answer("All there"),
    "ollama_empty_finish": Answer(" Hello there"),
    "ollama_no_index": Answer(calls=(("get_weather", '{"city":"Boston"}'), ("get_weather", '{"city":"Rome"}'))),
    "ollama_tool_calls": Answer(
        "Two files.",
        calls=(("file_write", '{"filePath":"hello.py"}'), ("file_write", '{"filePath":"world.py"}')),
        tokens=(210, 58),
    ),
    "openai_citations": Answer("It rains."),
    "openai_length_in_call": Answer(
        calls=(("write_file", '{"path":"a.txt","text":"Once upon'),), incomplete="max_output_tokens", tokens=(24, 16)
    ),
    "openai_length_text": Answer("Once upon a", incomplete="max_output_tokens", tokens=(24, 4)),
    "openai_logprobs": Answer("Yes!"),
    "openai_parallel_calls": Answer(
        calls=(("get_weather", '{"city":"Paris"}'), ("get_time", '{"zone":"CET"}')), tokens=(24, 44)
    ),
    "openai_refusal": Answer(refusal="I'm sorry, no."),
    "openai_text": Answer("Hello from Köln 🎈", tokens=(24, 4)),
    "openrouter_reasoning": Answer("Done.", "Think twice.", tokens=(40, 12)),
    "reasoning_in_both_fields": Answer("Ok", "Both say so."),
    "same_id_calls": Answer(calls=(("roll", '{"sides":6}'), ("roll", '{"sides":6}'))),
    "several_choices": Answer("AB"),
    "sglang_tool_calls": Answer(reasoning="Two calls.", calls=(("add", '{"a": 1}'), ("sub", '{"b": 2}'))),
    "tgi_arguments_object": Answer(calls=(("retrieve_payment_status", '{"transaction_id":"T1001"}'),)),
    "together_eos": Answer("Hello", tokens=(37, 2)),
    "vllm_reasoning": Answer("42", "Hm, easy.", tokens=(20, 7)),
    "vllm_tool_calls": Answer(calls=(("searchGoogle", '{"query": "latest"}'),), tokens=(226, 20)),
}

FAILURES: dict[str, tuple[type[Exception], str]] = {
    "deepseek_no_resources": (ModelStreamFailed, "insufficient_system_resource"),
    "llamacpp_error": (ModelStreamFailed, "exceeds the available context size"),
    "nameless_call": (ModelBehaviorError, "without naming it"),
    "openrouter_error": (ModelStreamFailed, "Provider disconnected unexpectedly"),
    "truncated": (ModelStreamTruncated, "without a finish_reason"),
    "vllm_error": (ModelStreamFailed, "EngineCore encountered an issue"),
    "vllm_error_object": (ModelStreamFailed, "maximum context length is 4096"),
}


def replay(name: str, **options: Any) -> list[Any]:
    """The events of a recording, read whole."""
    decoder = ChatDecoder(**options)
    events: list[Any] = []
    decoder.feed_frames(SSEDecoder().feed((RECORDINGS / f"{name}.sse").read_bytes()), events)
    if not decoder.closed:
        events += decoder.close()
    return events


def chunk(delta: dict[str, Any], finish_reason: str | None = None, **fields: Any) -> dict[str, Any]:
    """A chunk with one choice."""
    return {"id": "c1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}], **fields}


def play(*chunks: dict[str, Any], **options: Any) -> list[Any]:
    """The events of these chunks and of the end after them."""
    decoder = ChatDecoder(**options)
    events = [event for piece in chunks for event in decoder.feed(piece)]
    return events + decoder.close(done=True)


def answer_of(response: Any) -> Answer:
    """What the items of a response say."""
    texts = {"output_text": "", "refusal": "", "summary_text": "", "reasoning_text": ""}
    calls: list[tuple[str, str]] = []
    for item in response.output:
        if item.type == "function_call":
            calls.append((item.name, item.arguments))
            continue
        for part in (*(item.content or ()), *getattr(item, "summary", ())):
            texts[part.type] += part.refusal if part.type == "refusal" else part.text
    usage = response.usage
    return Answer(
        texts["output_text"],
        texts["summary_text"] + texts["reasoning_text"],
        texts["refusal"],
        tuple(calls),
        response.incomplete_details.reason if response.incomplete_details else None,
        (usage.input_tokens, usage.output_tokens) if usage else None,
    )


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_recording_means_its_answer(name: str) -> None:
    """Each dialect's stream gives the texts, calls, end and usage that its server meant."""
    assert answer_of(replay(name)[-1].response) == ANSWERS[name]


@pytest.mark.parametrize("name", sorted(FAILURES))
def test_recording_of_a_failure_raises(name: str) -> None:
    """A stream that reports an error, or ends too early, is an error with the provider's words: never an answer."""
    error, words = FAILURES[name]
    with pytest.raises(error, match=words) as caught:
        replay(name)
    assert type(caught.value) is error


def test_tables_are_complete() -> None:
    """Every recording has its meaning, and every quirk has a source and recordings that exist."""
    assert set(NAMES) == set(ANSWERS) | set(FAILURES)
    for quirk in QUIRKS:
        assert quirk.recordings
        assert set(quirk.recordings) <= set(NAMES), quirk.name
        assert quirk.source.startswith("https://")


def check_grammar(events: list[Any], terminal: str) -> None:
    """created first, one terminal event last, numbers without gaps; items and parts start, grow and end in order."""
    assert [event.sequence_number for event in events] == list(range(len(events)))
    lifecycle = ("response.created", "response.completed", "response.incomplete")
    assert [event.type for event in events if event.type in lifecycle] == ["response.created", terminal]
    assert (events[0].type, events[-1].type) == ("response.created", terminal)
    response = events[-1].response
    assert (events[0].response.status, f"response.{response.status}") == ("in_progress", terminal)
    assert response.id == events[0].response.id
    open_items: dict[str, int] = {}
    grown: dict[tuple[Any, ...], str] = {}
    finished: list[tuple[int, Any]] = []
    for event in events[1:-1]:
        if event.type == "response.output_item.added":
            assert event.output_index == len(open_items) + len(finished)
            open_items[event.item.id] = event.output_index
            continue
        if event.type == "response.output_item.done":
            assert open_items.pop(event.item.id) == event.output_index
            finished.append((event.output_index, event.item))
            continue
        assert open_items[event.item_id] == event.output_index
        index = getattr(event, "content_index", getattr(event, "summary_index", None))
        place = (event.type.rpartition(".")[0], event.item_id, index)
        if event.type.endswith(".delta"):
            assert event.delta
            grown[place] = grown.get(place, "") + event.delta
        elif event.type.endswith(("text.done", "refusal.done", "arguments.done")):
            field = next(name for name in ("text", "refusal", "arguments") if hasattr(event, name))
            assert grown.pop(place, "") == getattr(event, field)
    assert not open_items
    assert not grown
    assert [item for _, item in sorted(finished, key=lambda pair: pair[0])] == response.output
    ids = [item.id for item in response.output]
    calls = [item.call_id for item in response.output if item.type == "function_call"]
    assert len(set(ids)) == len(ids)
    assert len(set(calls)) == len(calls)
    assert all(len(call_id) >= 4 for call_id in calls)


@pytest.mark.parametrize("name", sorted(ANSWERS))
@pytest.mark.parametrize("buffered", [False, True])
def test_grammar_of_recordings(name: str, buffered: bool) -> None:
    """Every recording's events keep the grammar."""
    terminal = "response.incomplete" if ANSWERS[name].incomplete else "response.completed"
    check_grammar(replay(name, buffer_tool_calls=buffered), terminal)


WORDS = st.sampled_from(["", "a", " b", "{", '{"x":1}', "\n"])
PIECES = st.fixed_dictionaries(
    {"function": st.fixed_dictionaries({"arguments": WORDS}, optional={"name": st.sampled_from(["", "f", "g"])})},
    optional={"index": st.integers(0, 2), "id": st.sampled_from(["", "0", "call_a", "call_b"])},
)
DELTAS = st.fixed_dictionaries(
    {},
    optional={
        "content": WORDS,
        "refusal": WORDS,
        "reasoning": WORDS,
        "reasoning_content": WORDS,
        "tool_calls": st.lists(PIECES, max_size=3),
    },
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(deltas=st.lists(DELTAS, max_size=8), end=st.sampled_from(["stop", "tool_calls", "length", None]))
def test_grammar_of_anything(deltas: list[dict[str, Any]], end: str | None) -> None:
    """Whatever a server sends, the events keep the grammar, or the answer is an error."""
    try:
        events = play(*(chunk(delta) for delta in deltas), chunk({}, end))
    except ModelBehaviorError:
        return  # a call that was never named
    check_grammar(events, "response.incomplete" if end == "length" else "response.completed")
    assert answer_of(events[-1].response).text == "".join(delta.get("content", "") for delta in deltas)


def test_events_are_the_official_types() -> None:
    """Users test events with isinstance against openai's classes."""
    kinds = {event.type: event for event in replay("deepseek_reasoning") + replay("openai_parallel_calls")}
    assert isinstance(kinds["response.output_text.delta"], official.ResponseTextDeltaEvent)
    assert isinstance(kinds["response.reasoning_summary_text.delta"], official.ResponseReasoningSummaryTextDeltaEvent)
    assert isinstance(kinds["response.function_call_arguments.delta"], official.ResponseFunctionCallArgumentsDeltaEvent)
    completed = kinds["response.completed"]
    assert isinstance(completed, official.ResponseCompletedEvent)
    assert isinstance(completed.response, official.Response)
    assert isinstance(completed.response.output[0], official.ResponseFunctionToolCall)
    message = replay("openai_text")[-1].response.output[0]
    assert isinstance(message, official.ResponseOutputMessage)
    assert isinstance(message.content[0], official.ResponseOutputText)
    reasoning = replay("vllm_reasoning")[-1].response.output[0]
    assert isinstance(reasoning, official.ResponseReasoningItem)


def test_completed_response_is_valid() -> None:
    """What is built without validation passes the official classes' validation."""
    for name in ANSWERS:
        for event in replay(name):
            type(event).model_validate(event.model_dump(exclude_unset=True))


def test_arguments_come_as_they_come() -> None:
    """Deltas of interleaved calls keep their order and go to their own call."""
    events = replay("interleaved_calls")
    deltas = [(event.output_index, event.delta) for event in events if event.type.endswith("arguments.delta")]
    assert deltas == [(1, '{"n"'), (2, '{"m"'), (2, ":2"), (1, ":1"), (2, "}"), (1, "}")]


def test_reasoning_ends_where_the_answer_begins() -> None:
    """Interfaces can close the thoughts before the first word of the answer."""
    kinds = [event.type for event in replay("deepseek_reasoning")]
    item_done = kinds.index("response.output_item.done")
    assert kinds.index("response.reasoning_summary_part.done") < item_done < kinds.index("response.output_text.delta")


def test_reasoning_may_come_again() -> None:
    """Thoughts after text are a reasoning item of their own; the text stays one message."""
    events = play(chunk({"reasoning_content": "a"}), chunk({"content": "b"}), chunk({"reasoning_content": "c"}))
    again = play(
        chunk({"reasoning_content": "a"}),
        chunk({"content": "b"}),
        chunk({"reasoning_content": "c"}),
        chunk({"content": "d"}),
    )
    assert [item.type for item in events[-1].response.output] == ["reasoning", "message", "reasoning"]
    assert [item.type for item in again[-1].response.output] == ["reasoning", "message", "reasoning"]
    assert answer_of(again[-1].response).text == "bd"


def test_reasoning_fields_become_their_parts() -> None:
    """`reasoning_content` is a summary, `reasoning` is reasoning text; objects in their place are nothing."""
    summary = replay("deepseek_reasoning")[-1].response.output[0]
    assert [part.text for part in summary.summary] == ["9.9 is larger."]
    text = replay("openrouter_reasoning", model="m")[-1].response.output[0]
    assert [part.text for part in text.content] == ["Think twice."]
    assert text.provider_data == {"model": "m", "_chat_completions_reasoning_field": "reasoning"}
    assert (
        play(chunk({"reasoning": {"effort": "high"}}), chunk({"content": "x"}))[-1].response.output[0].type == "message"
    )


def test_refusal_and_text_share_one_message() -> None:
    """The parts of a message are numbered in the order in which they began."""
    events = play(chunk({"refusal": "no"}), chunk({"content": "partial"}), chunk({"refusal": "!"}), chunk({}, "stop"))
    (message,) = events[-1].response.output
    assert [part.type for part in message.content] == ["refusal", "output_text"]
    added = [(event.part.type, event.content_index) for event in events if event.type == "response.content_part.added"]
    assert added == [("refusal", 0), ("output_text", 1)]
    assert message.content[0].refusal == "no!"


def test_logprobs_go_with_their_delta() -> None:
    """A delta has its tokens' log probabilities; the message has all of them, with bytes."""
    events = replay("openai_logprobs")
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert [[entry.token for entry in event.logprobs] for event in deltas] == [["Yes"], ["!"]]
    assert deltas[0].logprobs[0].top_logprobs[1].token == "No"
    part = events[-1].response.output[0].content[0]
    assert [(entry.token, entry.bytes) for entry in part.logprobs] == [("Yes", [89, 101, 115]), ("!", [33])]
    assert [entry.logprob for entry in events[-4].logprobs] == [-0.01, -0.2]


def test_citations_are_annotations() -> None:
    """A citation is announced, and is part of the message; incomplete ones and those before any text are left out."""
    events = replay("openai_citations")
    (added,) = [event for event in events if event.type == "response.output_text.annotation.added"]
    assert (
        added.annotation_index,
        added.annotation["url"] if isinstance(added.annotation, dict) else added.annotation.url,
    ) == (
        0,
        "https://example.com/weather",
    )
    (annotation,) = events[-1].response.output[0].content[0].annotations
    assert annotation.title == "Weather"
    broken = {"type": "url_citation", "url_citation": {"url": "https://example.com"}}
    early = play(chunk({"annotations": [broken]}), chunk({"content": "x"}), chunk({"annotations": [broken, {}]}))
    assert early[-1].response.output[0].content[0].annotations == []


def test_what_was_cut_off_is_incomplete() -> None:
    """At the limit, what is still open is marked incomplete; what had ended before is not."""
    events = replay("openai_length_in_call")
    assert events[-1].type == "response.incomplete"
    assert [item.status for item in events[-1].response.output] == ["incomplete"]
    later = play(chunk({"reasoning_content": "a"}), chunk({"content": "b"}), chunk({}, "length"))
    assert later[-1].response.output[1].status == "incomplete"
    assert play(chunk({"tool_calls": [{"index": 0}]}), chunk({}, "length"))[-1].response.output == []


def test_usage_details() -> None:
    """Cached and reasoning tokens are found under each server's names; a missing total is the sum."""
    deepseek = replay("deepseek_reasoning")[-1].response.usage
    assert (deepseek.input_tokens_details.cached_tokens, deepseek.output_tokens_details.reasoning_tokens) == (16, 24)
    assert replay("moonshot_usage")[-1].response.usage.input_tokens_details.cached_tokens == 9
    usage = play(chunk({"content": "x"}, "stop", usage={"prompt_tokens": 2, "completion_tokens": 3}))[-1].response.usage
    assert usage.total_tokens == 5
    assert replay("no_finish")[-1].response.usage is None


def test_call_ids() -> None:
    """The server's id is kept where it tells the call from all others; else it is nine letters and digits of ours."""

    def ids(name: str) -> list[str]:
        return [item.call_id for item in replay(name)[-1].response.output if item.type == "function_call"]

    assert ids("ollama_tool_calls") == ["call_9u6ynhuk", "call_k2xw0bvt"]
    same = ids("same_id_calls")
    assert same[0] == "call_00_same"
    for made in (same[1], *ids("gemini_tool_calls"), *ids("sglang_tool_calls"), *ids("tgi_arguments_object")):
        assert len(made) == 9
        assert made.isalnum()


@pytest.mark.parametrize("name", ["gemini_tool_calls", "gemini_signature_later"])
def test_gemini_signature_is_kept(name: str) -> None:
    """Gemini's signature stays with its call, whenever it came."""
    call = replay(name, model="gemini-3-flash")[-1].response.output[0]
    assert call.provider_data["thought_signature"].startswith("CkIBVKhc7")


def call_piece(arguments: str, name: str | None = None, **fields: Any) -> dict[str, Any]:
    """One entry of `tool_calls`."""
    return {**fields, "function": {"arguments": arguments} | ({"name": name} if name else {})}


def calls_of(*rounds: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The calls that these lists of entries, one a chunk, mean."""
    events = play(*(chunk({"tool_calls": entries}) for entries in rounds))
    return list(answer_of(events[-1].response).calls)


def test_calls_without_any_identity() -> None:
    """Without index and id, a name begins a call and nameless pieces go on with the last ones, in their order."""
    assert calls_of([call_piece("", "a")], [call_piece('{"x"')], [call_piece(":1}")], [call_piece("{}", "a")]) == [
        ("a", '{"x":1}'),
        ("a", "{}"),
    ]
    assert calls_of([call_piece("", "a"), call_piece("", "a")], [call_piece("{}"), call_piece('{"y":2}')]) == [
        ("a", "{}"),
        ("a", '{"y":2}'),
    ]


def test_same_index_and_id_but_another_name() -> None:
    """Where a gateway gives all calls one index and one id, another name is another call."""
    entries = [call_piece("{}", name, index=0, id="call_same") for name in ("a", "b")]
    assert calls_of([entries[0]], [entries[1]]) == [("a", "{}"), ("b", "{}")]


def test_same_call_with_other_arguments_is_another_call() -> None:
    """Only a repetition of the same arguments is dropped."""
    first = call_piece('{"n":1}', "a", index=0, id="call_same")
    assert calls_of([first], [call_piece('{"n":2}', "a", index=0, id="call_same")]) == [
        ("a", '{"n":1}'),
        ("a", '{"n":2}'),
    ]
    assert calls_of([first], [first]) == [("a", '{"n":1}')]


def test_name_after_arguments() -> None:
    """Arguments that come before the name are kept and sent once the call has begun."""
    events = play(
        chunk({"tool_calls": [call_piece('{"n"', index=0, id="call_1")]}),
        chunk({"tool_calls": [call_piece(":1}", "late", index=0)]}),
    )
    assert answer_of(events[-1].response).calls == (("late", '{"n":1}'),)
    added = next(event for event in events if event.type == "response.output_item.added")
    assert (added.item.arguments, added.item.call_id) == ("", "call_1")


def test_buffered_calls_come_whole() -> None:
    """With buffer_tool_calls each call has one delta, after everything else."""
    events = replay("interleaved_calls", buffer_tool_calls=True)
    deltas = [event.delta for event in events if event.type.endswith("arguments.delta")]
    assert deltas == ['{"n":1}', '{"m":2}']
    assert answer_of(events[-1].response) == ANSWERS["interleaved_calls"]


def test_strict_refuses_what_is_ignored() -> None:
    """Further choices and custom tool calls are ignored, or refused with `strict`."""
    custom = chunk({"tool_calls": [{"index": 0, "id": "c_1234", "type": "custom", "custom": {"name": "raw"}}]})
    assert play(custom)[-1].response.output == []
    with pytest.raises(UserError, match="Custom tool calls"):
        play(custom, strict=True)
    with pytest.raises(UserError, match="index above 0"):
        replay("several_choices", strict=True)


def test_audio_is_refused() -> None:
    """Audio cannot be expressed: dropping it would be an answer with a hole."""
    with pytest.raises(UserError, match="Audio is not currently supported"):
        play(chunk({"audio": {"id": "a1"}}))


def test_provider_errors_have_their_code() -> None:
    """The code is the provider's: a word, a number, or the type where there is no code; text alone has none."""

    def code(error: Any) -> str | None:
        with pytest.raises(ModelStreamFailed) as caught:
            ChatDecoder().feed({"error": error})
        return caught.value.error_code

    assert code({"message": "m", "code": "rate_limit_exceeded"}) == "rate_limit_exceeded"
    assert code({"message": "m", "code": 502}) == "502"
    assert code({"message": "m", "type": "server_error"}) == "server_error"
    assert code("just text") is None


@pytest.mark.parametrize("data", [b"not json", b"[1]", b'"text"', b'{"choices": [1]}', b'{"choices":[{"delta":[1]}]}'])
def test_broken_frame(data: bytes) -> None:
    """A frame that is no chunk is ModelStreamBroken with the frame; what came before it is not lost."""
    decoder, events = ChatDecoder(), []
    frames = SSEDecoder().feed(b'data: {"choices":[{"delta":{"content":"x"}}]}\n\ndata: ' + data + b"\n\n")
    with pytest.raises(ModelStreamBroken) as caught:
        decoder.feed_frames(frames, events)
    assert caught.value.frame == data
    assert events[-1].delta == "x"


def test_end_without_anything() -> None:
    """[DONE] alone is an empty answer; nothing at all is a truncated one; closing again gives nothing."""
    decoder = ChatDecoder()
    assert [event.type for event in decoder.close(done=True)] == ["response.created", "response.completed"]
    assert decoder.close(done=True) == []
    with pytest.raises(ModelStreamTruncated):
        ChatDecoder().close()


def test_frames_after_done_are_ignored() -> None:
    """[DONE] ends the answer, whatever a proxy appends."""
    decoder, events = ChatDecoder(), []
    frames = SSEDecoder().feed(b"data: [DONE]\n\ndata: {broken\n\n")
    decoder.feed_frames(frames, events)
    decoder.feed_frames(frames, events)
    assert decoder.closed
    assert len(events) == 2


def completion(message: dict[str, Any], finish_reason: str = "stop", **choice: Any) -> dict[str, Any]:
    """A whole chat completion."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 7,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason, **choice}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }


def test_completion_gives_the_same_items() -> None:
    """A whole completion means what the stream of it means."""
    message = {
        "role": "assistant",
        "reasoning_content": "hm",
        "content": "text",
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "a", "arguments": "{}"}},
            {"id": "call_2", "type": "function", "function": {"name": "a", "arguments": "{}"}},
            {"id": "call_2", "type": "function", "function": {"name": "a", "arguments": {"n": 1}}},
        ],
    }
    response = completion_to_response(completion(message, "tool_calls"), ChatDecoder())
    assert answer_of(response) == Answer(
        "text", "hm", calls=(("a", "{}"), ("a", "{}"), ("a", '{"n":1}')), tokens=(1, 2)
    )
    assert (response.id, response.created_at, response.status) == ("chatcmpl-1", 7.0, "completed")
    streamed = play(*(chunk({name: value}) for name, value in message.items()))[-1].response
    assert answer_of(streamed)[:4] == answer_of(response)[:4]


def test_completion_incomplete() -> None:
    """A completion that hit the limit is an incomplete response."""
    response = completion_to_response(completion({"content": "Once"}, "length"), ChatDecoder())
    assert response.status == "incomplete"
    assert answer_of(response).incomplete == "max_output_tokens"


@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        ({"id": "x", "choices": []}, ModelBehaviorError, "no choices"),
        ({"error": {"message": "quota", "code": 402}}, ModelStreamFailed, "quota"),
    ],
)
def test_completion_without_choices(body: dict[str, Any], error: type[Exception], words: str) -> None:
    """A body without choices is an error that shows what came instead."""
    with pytest.raises(error, match=words):
        completion_to_response(body, ChatDecoder())


def test_ids_can_be_fixed() -> None:
    """With a given source of ids, the same bytes give equal events."""

    def run() -> list[Any]:
        numbers = itertools.count()
        return replay("openai_parallel_calls", new_id=lambda prefix: f"{prefix}_{next(numbers):06}")

    assert run() == run()
    assert [item.id for item in run()[-1].response.output] == ["fc_000000", "fc_000001"]
