"""Chat formats of your own in llama-cpp-python's spelling: formatters, handlers, and their registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from llama_cffi.chat import jinja
from llama_cffi.compat import chat_dicts
from llama_cffi.compat.chat_request import offered_tools, schema_of
from llama_cffi.compat.grammar import LlamaGrammar
from llama_cffi.compat.unsupported import unsupported

# ChatML with tools in the form of Hermes: for models whose own template lacks tools.
CHATML_TOOLS = """\
{%- if tools %}<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}

{% endif %}You may call these tools:
<tools>
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
</tools>
To call one, write its name and its arguments as JSON:
<tool_call>
{"name": "...", "arguments": {...}}
</tool_call><|im_end|>
{% endif %}
{%- for message in messages %}
{%- if message.role == 'system' and loop.first and tools %}
{%- elif message.role == 'tool' %}<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response><|im_end|>
{% elif message.role == 'assistant' and message.tool_calls %}<|im_start|>assistant
{{ message.content or '' }}
{%- for call in message.tool_calls %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% else %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


class LlamaChatCompletionHandler(Protocol):
    """A function that answers a conversation: it is called with `llama` and all of `create_chat_completion`'s."""

    def __call__(self, *, llama: Any, messages: Any, **options: Any) -> Any: ...


class LlamaChatCompletionHandlerNotFoundException(Exception):
    """No handler was registered with this name."""


@dataclass
class ChatFormatterResponse:
    """A prompt, and what ends the answer to it."""

    prompt: str
    stop: str | list[str] | None = None
    stopping_criteria: Any = None
    added_special: bool = False


class ChatFormatter(Protocol):
    """A function that makes a prompt of messages."""

    def __call__(self, *, messages: Any, **options: Any) -> ChatFormatterResponse: ...


class LlamaChatCompletionHandlerRegistry:
    """The handlers by name; all objects of this class share them."""

    _handlers: ClassVar[dict[str, LlamaChatCompletionHandler]] = {}

    def register_chat_completion_handler(
        self, name: str, chat_handler: LlamaChatCompletionHandler, overwrite: bool = False
    ) -> None:
        """Add a handler. Raises ValueError if the name is taken, unless `overwrite` is True."""
        if name in self._handlers and not overwrite:
            raise ValueError(f"the chat format {name!r} is registered already: pass overwrite=True")
        self._handlers[name] = chat_handler

    def unregister_chat_handler(self, name: str) -> None:
        """Remove a handler. Raises ValueError if it is not registered."""
        if name not in self._handlers:
            raise ValueError(f"the chat format {name!r} is not registered")
        del self._handlers[name]

    def get_chat_completion_handler_by_name(self, name: str) -> LlamaChatCompletionHandler:
        """Return a handler. Raises LlamaChatCompletionHandlerNotFoundException."""
        try:
            return self._handlers[name]
        except KeyError:
            raise LlamaChatCompletionHandlerNotFoundException(
                f"the chat format {name!r} is not registered: register_chat_format adds one"
            ) from None


def find_handler(name: str | None) -> LlamaChatCompletionHandler | None:
    """Return a handler that the user registered, or None."""
    return None if name is None else LlamaChatCompletionHandlerRegistry._handlers.get(name)


def get_chat_completion_handler(name: str) -> LlamaChatCompletionHandler:
    """Return a handler. Raises LlamaChatCompletionHandlerNotFoundException."""
    return LlamaChatCompletionHandlerRegistry().get_chat_completion_handler_by_name(name)


def register_chat_completion_handler(name: str) -> Callable[[Any], Any]:
    """Decorate a handler: `chat_format=name` uses it."""

    def decorator(handler: Any) -> Any:
        LlamaChatCompletionHandlerRegistry().register_chat_completion_handler(name, handler)
        return handler

    return decorator


def register_chat_format(name: str) -> Callable[[Any], Any]:
    """Decorate a formatter: `chat_format=name` uses it."""

    def decorator(formatter: Any) -> Any:
        handler = chat_formatter_to_chat_completion_handler(formatter)
        LlamaChatCompletionHandlerRegistry().register_chat_completion_handler(name, handler)
        return formatter

    return decorator


class Jinja2ChatFormatter:
    """A formatter with a template in Jinja, which jinja2 runs (the extra `chat`)."""

    def __init__(
        self,
        template: str,
        eos_token: str,
        bos_token: str,
        add_generation_prompt: bool = True,
        stop_token_ids: Sequence[int] | None = None,
    ) -> None:
        jinja.check(template)
        self.template, self.eos_token, self.bos_token = template, eos_token, bos_token
        self.add_generation_prompt = add_generation_prompt
        self.stop_token_ids = None if stop_token_ids is None else set(stop_token_ids)

    def __call__(self, *, messages: Any, **options: Any) -> ChatFormatterResponse:
        names = ("functions", "function_call", "tools", "tool_choice")
        given = {name: options.get(name) for name in names if options.get(name) is not None}
        prompt = jinja.render(
            self.template,
            {
                "messages": messages,
                "eos_token": self.eos_token,
                "bos_token": self.bos_token,
                "add_generation_prompt": self.add_generation_prompt,
                **given,
            },
        )
        ends = self.stop_token_ids
        criteria = None if not ends else [lambda ids, logits: bool(len(ids)) and int(ids[-1]) in ends]
        return ChatFormatterResponse(prompt, [self.eos_token], _any_of(criteria), added_special=True)

    def to_chat_handler(self) -> LlamaChatCompletionHandler:
        """Return the handler that uses this template."""
        return chat_formatter_to_chat_completion_handler(self)


def _any_of(criteria: Any) -> Any:
    if criteria is None:
        return None
    from llama_cffi.compat.sampling import StoppingCriteriaList

    return StoppingCriteriaList(criteria)


# Options of a handler that `create_completion` takes as they are.
_PASSED = (
    *("temperature", "top_p", "top_k", "min_p", "typical_p", "stream", "seed", "max_tokens", "presence_penalty"),
    *("frequency_penalty", "repeat_penalty", "tfs_z", "mirostat_mode", "mirostat_tau", "mirostat_eta", "model"),
    *("logits_processor", "grammar", "logit_bias"),
)
_NO_TOOLS = {"functions": None, "function_call": None, "tools": None, "tool_choice": None}


def chat_formatter_to_chat_completion_handler(chat_formatter: ChatFormatter) -> LlamaChatCompletionHandler:
    """Make the handler that completes the prompt of a formatter. It reads no tool calls."""

    def handler(*, llama: Any, messages: Any, **options: Any) -> Any:
        prompt = chat_formatter(messages=messages, **options)
        if _forced(options):
            raise unsupported("tool_choice with a chat format of your own", "leave chat_format and chat_handler out")
        given = {name: options[name] for name in _PASSED if name in options}
        stop = options.get("stop") or []
        own = prompt.stop or []
        given["stop"] = [*_listed(stop), *_listed(own)]
        if options.get("logprobs"):
            given["logprobs"] = options.get("top_logprobs") or 0
        schema = schema_of(options.get("response_format"))
        if schema is not None:
            import json

            given["grammar"] = LlamaGrammar.from_json_schema(json.dumps(schema))
        tokens = llama.tokenize(prompt.prompt.encode("utf-8"), add_bos=not prompt.added_special, special=True)
        found = llama.create_completion(tokens, stopping_criteria=prompt.stopping_criteria, **given)
        return chat_dicts.answer_of_text(found) if isinstance(found, dict) else chat_dicts.chunks_of_text(found)

    return handler


def _listed(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _forced(options: Mapping[str, Any]) -> bool:
    return offered_tools({**_NO_TOOLS, **options})[1] not in ("auto", "none")


def __getattr__(name: str) -> Any:
    if name.endswith("ChatHandler"):

        def refuse(*arguments: Any, **keywords: Any) -> Any:
            raise unsupported(name, "models see no images or sounds yet: send text")

        return type(name, (), {"__init__": refuse, "from_pretrained": staticmethod(refuse)})
    if name.startswith(("format_", "hf_", "functionary_", "chatml_function_calling", "guess_")):
        raise AttributeError(f"llama_cffi.compat has no llama_chat_format.{name}: ChatTemplate formats messages")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
