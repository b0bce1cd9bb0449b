"""The output of `/v1/responses`: its items, and the events that build them."""

from __future__ import annotations

import time
import uuid
from typing import Any

from llama_cffi.chat.events import ChatEvent
from llama_cffi.engine.chat_request import ChatRequest
from llama_cffi.server import answers
from llama_cffi.server.errors import ApiError
from llama_cffi.server.requests import ResponsesBody

_NO_TEXT_CONFIG = {"format": {"type": "text"}}


def response_head(body: ResponsesBody, model: str) -> dict[str, Any]:
    """Return a response without output, as it is when the work begins."""
    text = body.text.model_dump(by_alias=True, exclude_none=True) if body.text is not None else {}
    return {
        "id": f"resp_{uuid.uuid4().hex}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "model": model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {"effort": body.reasoning.effort if body.reasoning is not None else None, "summary": None},
        "store": False,
        "temperature": body.temperature,
        "text": text or _NO_TEXT_CONFIG,
        "tool_choice": body.tool_choice or "auto",
        "tools": [{"strict": True, **tool} for tool in body.tools or ()],
        "top_p": body.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": body.user,
    }


class ResponseWriter:
    """Builds a response from the parts of an answer, and the events that tell a client about it."""

    def __init__(self, head: dict[str, Any]) -> None:
        self.response = head
        self._number = 0
        self._item: dict[str, Any] | None = None  # that is open
        self._call = -1

    def begin(self) -> list[dict[str, Any]]:
        """Return the first events."""
        return [self._whole("response.created"), self._whole("response.in_progress")]

    def add(self, event: ChatEvent) -> list[dict[str, Any]]:
        """Add a part of the answer, and return its events."""
        made: list[dict[str, Any]] = []
        if event.kind == "call":
            made += self._close() + self._open(_new_call(event))
            self._call = event.index
        elif event.kind == "arguments":
            if self._item is not None and self._item["type"] == "function_call":
                self._item["arguments"] += event.text
                made.append(self._event("response.function_call_arguments.delta", delta=event.text))
        else:
            kind = "message" if event.kind == "content" else "reasoning"
            if self._item is None or self._item["type"] != kind:
                made += self._close() + self._open(_new_message() if kind == "message" else _new_thought())
            assert self._item is not None
            self._item["content"][0]["text"] += event.text
            if kind == "message":
                made.append(self._event("response.output_text.delta", content_index=0, delta=event.text, logprobs=[]))
            else:
                made.append(self._event("response.reasoning_text.delta", content_index=0, delta=event.text))
        return made

    @property
    def thoughts(self) -> list[str]:
        """The texts of the thoughts so far."""
        return [item["content"][0]["text"] for item in self.response["output"] if item["type"] == "reasoning"]

    def finish(self, job: ChatRequest, thought_tokens: int) -> list[dict[str, Any]]:
        """Complete the response, and return the last events."""
        full = answers.finish_reason(job) == "length"
        if not self.response["output"]:
            self._open(_new_message())
        made = self._close("incomplete" if full else "completed")
        used = answers.usage([job], reasoning=thought_tokens)
        self.response["usage"] = {
            "input_tokens": used["prompt_tokens"],
            "input_tokens_details": {**used["prompt_tokens_details"], "cache_write_tokens": 0},
            "output_tokens": used["completion_tokens"],
            "output_tokens_details": used["completion_tokens_details"],
            "total_tokens": used["total_tokens"],
        }
        self.response["status"] = "incomplete" if full else "completed"
        if full:
            self.response["incomplete_details"] = {"reason": "max_output_tokens"}
        return [*made, self._whole("response.incomplete" if full else "response.completed")]

    def fail(self, error: ApiError) -> list[dict[str, Any]]:
        """End the response with an error."""
        self.response["status"] = "failed"
        self.response["error"] = {"code": "server_error", "message": error.message}
        return [self._whole("response.failed")]

    # Events

    def _numbered(self, event: dict[str, Any]) -> dict[str, Any]:
        event["sequence_number"] = self._number
        self._number += 1
        return event

    def _whole(self, kind: str) -> dict[str, Any]:
        return self._numbered({"type": kind, "response": {**self.response, "output": list(self.response["output"])}})

    def _event(self, kind: str, **more: Any) -> dict[str, Any]:
        """Return an event about the open item."""
        assert self._item is not None
        index = len(self.response["output"]) - 1
        return self._numbered({"type": kind, "item_id": self._item["id"], "output_index": index, **more})

    def _about_item(self, kind: str) -> dict[str, Any]:
        assert self._item is not None
        item = {**self._item}
        if "content" in item:
            item["content"] = [dict(part) for part in item["content"]]
        index = len(self.response["output"]) - 1
        return self._numbered({"type": kind, "output_index": index, "item": item})

    def _open(self, item: dict[str, Any]) -> list[dict[str, Any]]:
        """Begin an item."""
        self._item = item
        self.response["output"].append(item)
        parts, item["content"] = item.get("content"), []
        if parts is None:
            del item["content"]
        made = [self._about_item("response.output_item.added")]
        if parts is not None:
            item["content"] = parts
            made.append(self._event("response.content_part.added", content_index=0, part=dict(parts[0])))
        return made

    def _close(self, status: str = "completed") -> list[dict[str, Any]]:
        """End the open item, if there is one."""
        item = self._item
        if item is None:
            return []
        item["status"] = status
        made = []
        if item["type"] == "function_call":
            done = {"arguments": item["arguments"], "name": item["name"]}
            made.append(self._event("response.function_call_arguments.done", **done))
        else:
            text = item["content"][0]["text"]
            if item["type"] == "message":
                made.append(self._event("response.output_text.done", content_index=0, text=text, logprobs=[]))
            else:
                made.append(self._event("response.reasoning_text.done", content_index=0, text=text))
            made.append(self._event("response.content_part.done", content_index=0, part=dict(item["content"][0])))
        made.append(self._about_item("response.output_item.done"))
        self._item = None
        return made


def _new_message() -> dict[str, Any]:
    part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    identity = f"msg_{uuid.uuid4().hex}"
    return {"id": identity, "type": "message", "role": "assistant", "status": "in_progress", "content": [part]}


def _new_thought() -> dict[str, Any]:
    part = {"type": "reasoning_text", "text": ""}
    return {
        "id": f"rs_{uuid.uuid4().hex}",
        "type": "reasoning",
        "status": "in_progress",
        "summary": [],
        "content": [part],
    }


def _new_call(event: ChatEvent) -> dict[str, Any]:
    identity = event.id or f"call_{uuid.uuid4().hex[:24]}"
    return {
        "id": f"fc_{uuid.uuid4().hex}",
        "type": "function_call",
        "status": "in_progress",
        "call_id": identity,
        "name": event.name,
        "arguments": "",
    }
