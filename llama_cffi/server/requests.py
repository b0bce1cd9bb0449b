"""The bodies of requests that generate text, as pydantic models."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from llama_cffi.server.parameters import Body

_INT64 = 1 << 63
Text = Annotated[str, Field(max_length=1 << 24)]
Share = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Token = Annotated[int, Field(ge=0, lt=1 << 31)]
Count = Annotated[int, Field(ge=1, lt=1 << 31)]
Stop = Annotated[str, Field(min_length=1, max_length=1000)]

_ACCOUNTS = ("user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "service_tier")
_NO_TIMINGS = ((False,), "timings come at the end of an answer")
# Fields of a message, also those without an effect: clients send back what they got.
MESSAGE_FIELDS = frozenset(
    {
        *("role", "content", "reasoning_content", "reasoning", "tool_calls", "tool_call_id", "name"),
        *("refusal", "audio", "annotations", "function_call", "id", "status", "type"),
    }
)
_NO_STORE = "this server stores no answers"


class Lora(Body):
    """A LoRA adapter of the server: its name, or its number in the order of the options."""

    id: Annotated[int, Field(ge=0)] | None = None
    name: str | None = None
    scale: Annotated[float, Field(ge=-100, le=100)] = 1.0


class GenerationBody(Body):
    """What all requests that generate text have: limits, and how tokens are sampled."""

    model: str | None = None
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Share | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    # llama.cpp's own
    top_k: Annotated[int, Field(ge=-1, lt=1 << 31)] | None = None
    min_p: Share | None = None
    typical_p: Share | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    repeat_last_n: Annotated[int, Field(ge=-1, le=1 << 20)] | None = None
    xtc_probability: Share | None = None
    xtc_threshold: Share | None = None
    dry_multiplier: Annotated[float, Field(ge=0, le=100)] | None = None
    dry_base: Annotated[float, Field(ge=1, le=100)] | None = None
    dry_allowed_length: Annotated[int, Field(ge=1, lt=1 << 20)] | None = None
    dry_penalty_last_n: Annotated[int, Field(ge=-1, le=1 << 20)] | None = None
    mirostat: Annotated[int, Field(ge=0, le=2)] | None = None
    mirostat_tau: Annotated[float, Field(ge=0, le=100)] | None = None
    mirostat_eta: Annotated[float, Field(ge=0, le=1)] | None = None
    grammar: Annotated[str, Field(max_length=1 << 20)] | None = None
    cache_prompt: bool | None = None
    lora: Annotated[list[Lora], Field(max_length=16)] | None = None


class StreamOptions(Body):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class OpenAIBody(GenerationBody):
    """What chat and plain completions have in common."""

    n: Annotated[int, Field(ge=1)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    seed: Annotated[int, Field(ge=-_INT64, lt=_INT64)] | None = None
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=4096)] | None = None
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> list[str]:
        """The stop strings as a list."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: dict[str, Any] | None = None
    # llama.cpp's spelling of json_schema
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None


class ChatBody(OpenAIBody):
    """The body of /v1/chat/completions."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=1 << 14)]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=1024)] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    reasoning_effort: Annotated[str, Field(max_length=40)] | None = None
    reasoning_format: Literal["none", "auto", "deepseek"] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool | None = None

    NO_EFFECT: ClassVar = frozenset({*_ACCOUNTS, "store", "verbosity"})
    UNSUPPORTED: ClassVar = {
        "audio": ((), "this server writes text"),
        "modalities": ((["text"],), "this server writes text"),
        "prediction": ((), "leave it out"),
        "functions": (([],), "use tools"),
        "function_call": (("none", "auto"), "use tool_choice"),
        "web_search_options": ((), "this server opens no pages"),
        "chat_template": ((), "the server's options name the template"),
        "best_of": ((1,), "use n, or /v1/completions"),
        "json_schema": ((), "use response_format"),
        "timings_per_token": _NO_TIMINGS,
    }
    OBJECTS: ClassVar = {"messages": MESSAGE_FIELDS}


Prompt = Text | list[Text] | list[Token] | list[list[Token]]


class CompletionBody(OpenAIBody):
    """The body of /v1/completions."""

    prompt: Prompt
    max_tokens: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None
    suffix: Text | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=100)] | None = None
    best_of: Annotated[int, Field(ge=1)] | None = None
    response_format: ResponseFormat | None = None

    NO_EFFECT: ClassVar = frozenset({*_ACCOUNTS, "store"})
    UNSUPPORTED: ClassVar = {
        "n_predict": ((), "use max_tokens"),
        "json_schema": ((), "use response_format"),
        "timings_per_token": _NO_TIMINGS,
    }


class Reasoning(Body):
    effort: Annotated[str, Field(max_length=40)] | None = None
    summary: str | None = None
    generate_summary: str | None = None


class TextFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None


class TextOptions(Body):
    format: TextFormat | None = None
    verbosity: str | None = None


class ResponsesBody(GenerationBody):
    """The body of /v1/responses."""

    input: Text | list[dict[str, Any]]
    instructions: Text | None = None
    max_output_tokens: Count | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=1024)] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    metadata: dict[str, Any] | None = None
    user: str | None = None
    seed: Annotated[int, Field(ge=-_INT64, lt=_INT64)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    NO_EFFECT: ClassVar = frozenset({*_ACCOUNTS, "store", "stream_options"})
    UNSUPPORTED: ClassVar = {
        "previous_response_id": ((), f"{_NO_STORE}: send the whole conversation as input"),
        "conversation": ((), f"{_NO_STORE}: send the whole conversation as input"),
        "background": ((False,), _NO_STORE),
        "prompt": ((), "this server stores no prompts: send instructions and input"),
        "truncation": (("disabled",), "shorten the input"),
        "top_logprobs": ((0,), "use /v1/chat/completions"),
        "max_tool_calls": ((), "this server runs no tools"),
        "include": (([], ["reasoning.encrypted_content"]), "answers have their thoughts as text, and nothing else"),
    }
