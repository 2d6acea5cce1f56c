"""Laws of a model's complete answer."""

import pytest
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseOutputText,
)
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails, ResponseUsage

from runstream.agent.response import ModelResponse
from runstream.agent.usage import RequestUsage, Usage


def message(text: str = "hi") -> ResponseOutputMessage:
    content = [ResponseOutputText(type="output_text", text=text, annotations=[])]
    return ResponseOutputMessage(id="m", type="message", role="assistant", status="completed", content=content)


def official(usage: ResponseUsage | None = None, response_id: str = "resp_1") -> Response:
    return Response(
        id=response_id,
        created_at=1.0,
        model="m",
        object="response",
        output=[message()],
        parallel_tool_calls=True,
        tool_choice="auto",
        tools=[],
        usage=usage,
    )


def usage(requests: int = 1) -> Usage:
    entry = RequestUsage(3, 4, 7, None, None)  # type: ignore[arg-type]
    return Usage(
        requests=requests, input_tokens=3, output_tokens=4, total_tokens=7, request_usage_entries=[entry] * requests
    )


def test_an_answer_from_an_official_response():
    """Output, usage and ids are taken over; the output is a list of the answer's own."""
    response = official(
        ResponseUsage(
            input_tokens=3,
            input_tokens_details=InputTokensDetails(cached_tokens=2, cache_write_tokens=0),
            output_tokens=4,
            output_tokens_details=OutputTokensDetails(reasoning_tokens=1),
            total_tokens=7,
        )
    )
    answer = ModelResponse.from_response(response, request_id="req_1")
    assert answer.output == response.output
    assert answer.output is not response.output
    assert (answer.response_id, answer.request_id) == ("resp_1", "req_1")
    assert (answer.usage.requests, answer.usage.total_tokens) == (1, 7)
    assert answer.usage.input_tokens_details.cached_tokens == 2


def test_the_clients_own_request_id_is_found():
    """The official client leaves the request's id on the response."""
    response = official()
    response._request_id = "req_2"
    assert ModelResponse.from_response(response).request_id == "req_2"


def test_an_answer_without_usage_or_id():
    """One request is counted, and an empty id is none."""
    answer = ModelResponse.from_response(official(response_id=""))
    assert answer.usage == Usage(requests=1)
    assert answer.response_id is None


def test_the_terminal_event_is_an_official_one():
    """It is of the official class, can be dumped, and holds output and usage."""
    event = ModelResponse(output=[message("done")], usage=usage(), response_id="resp_1").to_completed_event()
    assert isinstance(event, ResponseCompletedEvent)
    assert isinstance(event.response, Response)
    assert event.type == "response.completed"
    assert event.response.output_text == "done"
    dumped = event.model_dump(mode="json", exclude_unset=True)
    assert dumped["response"]["usage"]["total_tokens"] == 7
    assert ResponseCompletedEvent.model_validate(dumped).response.output == event.response.output


@pytest.mark.parametrize("response_id", ["resp_1", None])
def test_an_answer_survives_being_an_event(response_id):
    """Through the event and back nothing is lost: requests, their entries, ids and raw usage."""
    answer = ModelResponse([message()], usage(requests=3), response_id, request_id="req", raw_usage={"x": 1})
    response = answer.to_completed_event().response
    assert ModelResponse.from_response(response) == answer
    response.output = [message("replaced")]
    assert ModelResponse.from_response(response).output == [message("replaced")]
    assert answer.output == [message()]


def test_items_of_unknown_types_pass_through():
    """An answer may hold items that the installed client does not know, as dicts."""
    raw = {"type": "from_the_future", "x": 1, "created_by": "y"}
    answer = ModelResponse([raw], Usage(), None)  # type: ignore[list-item]
    assert answer.to_completed_event().response.output == [raw]
    assert answer.to_input_items() == [{"type": "from_the_future", "x": 1}]


def test_output_becomes_input():
    """Each item of the output is a plain dict for the next call, in order."""
    call = ResponseFunctionToolCall(arguments="{}", call_id="c", name="f", type="function_call")
    items = ModelResponse([message(), call], Usage(), None).to_input_items()
    assert [item["type"] for item in items] == ["message", "function_call"]
    assert items[1] == {"arguments": "{}", "call_id": "c", "name": "f", "type": "function_call"}
