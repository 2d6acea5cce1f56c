"""What servers of the Chat Completions API send differently from OpenAI: tables, and the small readers that use them.

`FINISH_REASONS`, `REASONING_FIELDS` and the readers below are what the decoder asks. `QUIRKS` documents every deviation
with its source, our answer to it and the streams under tests/data/chat that prove the answer. Must not know events.
A new deviation is a row here, a stream of its shape, and if need be a line of a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import msgspec

from runstream.errors import ModelStreamFailed

__all__ = [
    "FINISH_REASONS",
    "MIN_CALL_ID_LENGTH",
    "QUIRKS",
    "REASONING_FIELDS",
    "Quirk",
    "arguments_text",
    "error_of",
    "finish_of",
    "text_parts",
    "usage_of",
]

FINISH_REASONS: Mapping[str, str] = {
    "length": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "model_length": "max_output_tokens",
    "content_filter": "content_filter",
    "safety": "content_filter",
    "recitation": "content_filter",
    "error": "failed",
    "insufficient_system_resource": "failed",
    "": "",
    "null": "",
}
"""What a `finish_reason` (in lower case) means: why the answer is incomplete, "failed", or "" for "not finished yet".

Any other (`stop`, `tool_calls`, `function_call`, `eos`, `end_turn`, ...) means that the answer is complete.
"""

REASONING_FIELDS: Mapping[str, str] = {"reasoning_content": "summary_text", "reasoning": "reasoning_text"}
"""Fields of a delta that hold reasoning, and the part of a reasoning item that each becomes (as in the Agents SDK).

The first wins where a server sends the same text in both.
"""

MIN_CALL_ID_LENGTH = 4
"""Shorter ids of tool calls ("0", "1") count from 0 in each answer: two turns of a conversation would share them."""


def finish_of(reason: object) -> str | None:
    """ "completed", "failed", or the reason for which the answer is incomplete; None while it is not finished."""
    if not isinstance(reason, str):
        return None
    return FINISH_REASONS.get(reason.lower(), "completed") or None


def error_of(chunk: Mapping[str, Any]) -> ModelStreamFailed:
    """The provider's failure that a chunk with an `error`, or one that is itself the error, reports after HTTP 200."""
    error: Any = chunk.get("error") or chunk
    fields: Mapping[str, Any] = cast("Mapping[str, Any]", error) if isinstance(error, Mapping) else {"message": error}
    message = fields.get("message") or msgspec.json.encode(error).decode()
    code = fields.get("code")
    if code is None:
        code = fields.get("type")
    shown = "" if code is None else f" ({code})"
    return ModelStreamFailed(
        f"The model's provider reported an error inside the stream{shown}: {message}",
        event_type="error",
        error_code=None if code is None else str(code),
    )


def arguments_text(arguments: object) -> str:
    """Arguments of a call as JSON text; servers that send them decoded get them encoded again."""
    if isinstance(arguments, str):
        return arguments
    return "" if arguments is None else msgspec.json.encode(arguments).decode()


def text_parts(content: list[Any]) -> list[tuple[str, str]]:
    """(kind, text) of each part of a `content` that is a list: kind is "output_text" or "summary_text" (thinking)."""
    found: list[tuple[str, str]] = []
    for part in content:
        if isinstance(part, str):
            found.append(("output_text", part))
        elif isinstance(part, dict):
            fields = cast("dict[str, Any]", part)
            if fields.get("type") == "thinking":
                thinking = fields.get("thinking")
                pieces = text_parts(cast("list[Any]", thinking)) if isinstance(thinking, list) else [("", thinking)]
                found.extend(("summary_text", text) for _, text in pieces if isinstance(text, str))
            elif isinstance(fields.get("text"), str):
                found.append(("output_text", fields["text"]))
    return [(kind, text) for kind, text in found if text]


def usage_of(usage: Mapping[str, Any]) -> dict[str, Any]:
    """Usage in the names of the Responses API. Counts that a server leaves out are 0; a missing total is the sum."""
    prompt: Mapping[str, Any] = usage.get("prompt_tokens_details") or {}
    completion: Mapping[str, Any] = usage.get("completion_tokens_details") or {}
    input_tokens = _count(usage, "prompt_tokens", "input_tokens")
    output_tokens = _count(usage, "completion_tokens", "output_tokens")
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {
            "cached_tokens": _count(prompt, "cached_tokens")
            or _count(usage, "prompt_cache_hit_tokens", "cached_tokens"),
            "cache_write_tokens": _count(prompt, "cache_write_tokens"),
        },
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": _count(completion, "reasoning_tokens")},
        "total_tokens": _count(usage, "total_tokens") or input_tokens + output_tokens,
    }


def _count(counts: Mapping[str, Any], *names: str) -> int:
    for name in names:
        value = counts.get(name)
        if isinstance(value, int | float):
            return int(value)
    return 0


class Quirk(NamedTuple):
    """One deviation: who sends what, what we make of it, where that is said, and the recordings that prove it."""

    name: str
    servers: str
    fact: str
    answer: str
    source: str
    recordings: tuple[str, ...]


QUIRKS: tuple[Quirk, ...] = (
    Quirk(
        "usage in a chunk of its own",
        "OpenAI, vLLM, SGLang, Ollama",
        "With include_usage, a last chunk has `choices: []` and `usage`; all others have `usage: null`.",
        "The last usage that is not null counts; the answer ends at [DONE] or the end of the body, not at its reason.",
        "https://github.com/openai/openai-node/pull/829",
        ("openai_text", "openai_parallel_calls", "vllm_tool_calls"),
    ),
    Quirk(
        "usage beside the last content",
        "DeepSeek, llama.cpp, Mistral, OpenRouter",
        "The chunk with the finish reason has the usage too; some send the finish reason twice.",
        "Usage is read from any chunk.",
        "https://github.com/ggml-org/llama.cpp/issues/15443",
        ("deepseek_reasoning", "llamacpp_text", "openrouter_reasoning", "mistral_thinking"),
    ),
    Quirk(
        "usage on every chunk",
        "vLLM with continuous_usage_stats, Gemini, xAI",
        "Each chunk has the usage so far.",
        "The last one counts; they are never added up.",
        "https://docs.rs/dynamo-protocols/latest/dynamo_protocols/types/struct.ChatCompletionStreamOptions.html",
        ("vllm_reasoning", "gemini_tool_calls"),
    ),
    Quirk(
        "usage elsewhere",
        "Groq, Moonshot",
        "Groq sends `x_groq.usage`, Moonshot `choices[0].usage`, DeepSeek counts cached tokens in "
        "`prompt_cache_hit_tokens`.",
        "Read there, where there is no `usage`.",
        "https://github.com/vercel/ai/issues/1651, https://github.com/earendil-works/pi/issues/2017",
        ("groq_usage", "moonshot_usage", "deepseek_reasoning"),
    ),
    Quirk(
        "no usage",
        "servers without stream_options",
        "No chunk has any usage.",
        "`response.usage` is None: not reported, which is not zero.",
        "https://github.com/fips-agents/agent-template/pull/119",
        ("ollama_empty_finish", "no_finish"),
    ),
    Quirk(
        "empty choices, no delta, empty ids",
        "Azure OpenAI",
        'The first chunk has `choices: []`, `id: ""`, `model: ""` and filter results; a late one has no `delta`.',
        "Ignored; the model's name is the one that was asked for.",
        "https://github.com/microsoft/semantic-kernel/issues/3650, https://github.com/microsoft/autogen/issues/6465",
        ("azure_content_filter",),
    ),
    Quirk(
        "calls counted as 0",
        "Ollama, LMDeploy, Dynamo",
        'Every call has `index: 0`, each with an id of its own; later pieces may have `id: ""`.',
        "A new id begins a new call; a piece without id belongs to the latest call of that index.",
        "https://github.com/ollama/ollama/issues/15457, https://github.com/InternLM/lmdeploy/issues/3412",
        ("ollama_tool_calls", "lmdeploy_tool_calls"),
    ),
    Quirk(
        "calls without index",
        "Ollama before 0.4.7, Gemini",
        "`index` is missing.",
        "The id tells the call; without one, a name begins a call and a piece without a name is more of the last call.",
        "https://github.com/ollama/ollama/issues/7881, https://github.com/open-webui/computer/issues/224",
        ("ollama_no_index", "gemini_tool_calls"),
    ),
    Quirk(
        "a whole call in one chunk",
        "Ollama, Groq, Mistral, Gemini, LM Studio for some models",
        "Name and arguments come at once, several calls in one chunk or in one each.",
        "One arguments delta. Two entries of one chunk that both have a name are two calls, whatever their ids.",
        "https://github.com/lmstudio-ai/lmstudio-bug-tracker/issues/1868",
        ("ollama_tool_calls", "mistral_tool_calls", "gemini_tool_calls"),
    ),
    Quirk(
        "the id repeated",
        "SGLang, DashScope, LiteLLM",
        "Each piece of a call has its id.",
        "The same id is the same call.",
        "https://github.com/langchain4j/langchain4j/pull/4544, https://github.com/BerriAI/litellm/issues/20480",
        ("sglang_tool_calls", "litellm_summary_chunk"),
    ),
    Quirk(
        "ids that are not unique",
        "GLM and DeepSeek behind gateways, SGLang, TGI",
        'Parallel calls share one id, or the ids are "0", "1" in every answer, or "".',
        "`call_id` is made by us where the server's id cannot tell the call from all others of the conversation: nine "
        "letters and digits, because Mistral's API and chat templates refuse any other length.",
        "https://github.com/HKUDS/nanobot/pull/3943, https://github.com/OpenRouterTeam/ai-sdk-provider/pull/471, "
        "https://github.com/ml-explore/mlx-lm/pull/1399",
        ("same_id_calls", "sglang_tool_calls", "tgi_arguments_object", "gemini_tool_calls"),
    ),
    Quirk(
        "the name repeated",
        'MiniMax on NVIDIA NIM; LM Studio and DashScope send `name: ""`',
        "Each piece has the whole name, or an empty one.",
        "The first name counts; names are never joined. The name again after complete arguments begins another call.",
        "https://github.com/NousResearch/hermes-agent/issues/8259, "
        "https://github.com/lmstudio-ai/lmstudio-bug-tracker/issues/649",
        ("nim_name_repeated", "lmstudio_tool_calls", "dashscope_tool_calls"),
    ),
    Quirk(
        "the call once more",
        "LiteLLM proxy",
        "After its pieces a call comes once more as a whole, its arguments encoded twice.",
        "A repetition under the same id is dropped.",
        "https://github.com/BerriAI/litellm/issues/20480",
        ("litellm_summary_chunk",),
    ),
    Quirk(
        "arguments as an object",
        "Text Generation Inference, Ollama behind LiteLLM",
        "`arguments` is decoded JSON; TGI also sends one `tool_calls` object instead of a list.",
        "Encoded again; the object is a list of one.",
        "https://github.com/huggingface/text-generation-inference/issues/2136, "
        "https://github.com/huggingface/text-generation-inference/pull/2949",
        ("tgi_arguments_object",),
    ),
    Quirk(
        "a call without arguments",
        "OpenAI-compatible servers",
        'A tool without parameters is called with `arguments: ""`, or the field is missing.',
        "The arguments are `{}`.",
        "https://github.com/QwenLM/qwen-code/issues/6249",
        ("lmstudio_no_arguments",),
    ),
    Quirk(
        "an empty call",
        "LM Studio",
        'A call with `id: ""` and neither name nor arguments.',
        "Dropped. Arguments without a name are an error (ModelBehaviorError): nothing could run them.",
        "https://github.com/lmstudio-ai/lmstudio-bug-tracker/issues/830",
        ("lmstudio_empty_call", "nameless_call"),
    ),
    Quirk(
        "a signature on the call",
        "Gemini",
        "`extra_content.google.thought_signature` comes with a call, or after it in a delta of its own; Gemini 3 "
        "refuses the next request without it.",
        "Kept in `provider_data` of the call and sent back with it.",
        "https://github.com/open-webui/computer/issues/224",
        ("gemini_tool_calls", "gemini_signature_later"),
    ),
    Quirk(
        "stop with tool calls",
        "Gemini, Ollama",
        "`finish_reason` is `stop` although there are calls.",
        "Calls are what the chunks hold, whatever the reason says.",
        "https://github.com/googleapis/python-genai/issues/2868, https://github.com/ollama/ollama/issues/16212",
        ("ollama_no_index", "gemini_tool_calls"),
    ),
    Quirk(
        "stop on every chunk",
        "one-api, new-api and other gateways to Gemini",
        'Each chunk has `finish_reason: "stop"`.',
        "A finish reason ends nothing; the last one counts.",
        "https://github.com/songquanpeng/one-api/issues/1408",
        ("gateway_stop_everywhere",),
    ),
    Quirk(
        "finish reasons of their own",
        'Together (`eos`), Mistral (`model_length`), KoboldCpp ("null"), Ollama and SGLang ("")',
        'Other words than OpenAI\'s; "" or "null" where null is meant.',
        "`FINISH_REASONS`.",
        "https://github.com/openai/openai-dotnet/pull/267, https://github.com/ollama/ollama/issues/4357, "
        "https://github.com/PowerShell/AIShell/issues/350",
        ("together_eos", "mistral_model_length", "ollama_empty_finish", "koboldcpp_null_finish"),
    ),
    Quirk(
        "no finish reason",
        "gateways",
        "`finish_reason` is null to the end; [DONE] comes.",
        "[DONE] is an end. Neither of both is ModelStreamTruncated.",
        "https://github.com/anomalyco/opencode/issues/43882",
        ("no_finish", "truncated"),
    ),
    Quirk(
        "no [DONE]",
        "ik_llama.cpp, older TGI, mistral.rs",
        "The body ends after the chunk with the finish reason.",
        "The finish reason is an end.",
        "https://github.com/ikawrakow/ik_llama.cpp/issues/467",
        ("ik_llamacpp_no_done",),
    ),
    Quirk(
        "cut off by the limit",
        "all",
        "`finish_reason: length` in the middle of a text or of a call's arguments.",
        "`response.incomplete` (`max_output_tokens`); what was open is marked incomplete, and its calls are never run.",
        "https://github.com/vllm-project/vllm/pull/36944",
        ("openai_length_in_call", "openai_length_text", "mistral_model_length"),
    ),
    Quirk(
        "errors after HTTP 200",
        "OpenAI, llama.cpp, vLLM, SGLang, OpenRouter",
        '`{"error": {...}}`, vLLM also `{"object": "error", "message": ...}`, OpenRouter with '
        '`finish_reason: "error"` beside it; then [DONE].',
        "ModelStreamFailed with the provider's message and code.",
        "https://github.com/block/goose/pull/8031, https://openrouter.ai/docs/api-reference/streaming, "
        "https://github.com/ggml-org/llama.cpp/pull/16109",
        ("vllm_error", "vllm_error_object", "llamacpp_error", "openrouter_error"),
    ),
    Quirk(
        "failed without an error",
        "DeepSeek",
        "`finish_reason: insufficient_system_resource`, nothing else.",
        "ModelStreamFailed.",
        "https://api-docs.deepseek.com/api/create-chat-completion",
        ("deepseek_no_resources",),
    ),
    Quirk(
        "reasoning_content",
        "DeepSeek, SGLang, older vLLM, llama.cpp",
        "Reasoning beside `content: null`, then `content` beside `reasoning_content: null`.",
        "A reasoning item with a summary part; it ends where the answer begins.",
        "https://docs.vllm.ai/en/v0.8.3/getting_started/examples/openai_chat_completion_with_reasoning_streaming.html",
        ("deepseek_reasoning", "sglang_tool_calls"),
    ),
    Quirk(
        "reasoning",
        "OpenRouter, Groq, newer vLLM, Ollama",
        "`reasoning`; some versions send the same text in both fields.",
        "A reasoning item with a `reasoning_text` part; sent in both fields, it is read once.",
        "https://github.com/BerriAI/litellm/pull/24019",
        ("openrouter_reasoning", "groq_usage", "vllm_reasoning", "reasoning_in_both_fields"),
    ),
    Quirk(
        "content as a list",
        "Mistral (Magistral)",
        "`content` is a list of parts: `text`, and `thinking`, which holds a list of its own.",
        "Text is text; thinking is reasoning.",
        "https://github.com/BerriAI/litellm/issues/16272",
        ("mistral_thinking",),
    ),
    Quirk(
        "role and content in their ways",
        "llama.cpp, Ollama, vLLM",
        '`content` is null, "" or missing where there is none; `role` comes first only, or on every chunk.',
        "Only text that is not empty counts; the role is not read.",
        "https://github.com/darshi1337/apogee/pull/139",
        ("openai_text", "llamacpp_text", "ollama_tool_calls"),
    ),
    Quirk(
        "comments and line ends",
        "OpenRouter, DeepSeek; servers on sse-starlette",
        "`: OPENROUTER PROCESSING`, `: keep-alive`, `: ping - ...`; lines end in CR LF.",
        "As the standard says (wire/sse).",
        "https://openrouter.ai/docs/api-reference/streaming",
        ("openrouter_reasoning", "deepseek_reasoning", "llamacpp_python_crlf"),
    ),
    Quirk(
        "function_call",
        "OpenAI's older API, LocalAI",
        "One `function_call` without an id instead of `tool_calls`.",
        "A call like any other.",
        "https://platform.openai.com/docs/api-reference/chat-streaming",
        ("legacy_function_call",),
    ),
    Quirk(
        "several choices",
        "any server that was asked for n > 1",
        "Choices with `index` 1 and above.",
        "Ignored: an answer is choice 0.",
        "https://platform.openai.com/docs/api-reference/chat-streaming",
        ("several_choices",),
    ),
)
