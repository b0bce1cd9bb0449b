"""LlamaIndex: a chat, a completion, and a stream."""

import sys

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

options = {"api_base": f"{sys.argv[1]}/v1", "api_key": "none", "model": "smol", "max_tokens": 16, "temperature": 0}
chat = OpenAILike(is_chat_model=True, **options)
whole = chat.chat([ChatMessage(role="user", content="Say hello.")])
assert whole.message.content
pieces = [piece.delta or "" for piece in chat.stream_chat([ChatMessage(role="user", content="Say hello.")])]
assert "".join(pieces) == whole.message.content
assert OpenAILike(is_chat_model=False, **options).complete("Once upon a time").text
print(whole.message.content)
