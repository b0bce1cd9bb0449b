"""LangChain: an answer, a stream, and structured output."""

import sys

from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class Place(BaseModel):
    """A place."""

    city: str


chat = ChatOpenAI(base_url=f"{sys.argv[1]}/v1", api_key="none", model="smol", max_tokens=24, temperature=0)
whole = chat.invoke("Say hello.")
assert whole.content and whole.usage_metadata["output_tokens"] > 0
assert "".join(chunk.content for chunk in chat.stream("Say hello.")) == whole.content
longer = ChatOpenAI(base_url=f"{sys.argv[1]}/v1", api_key="none", model="smol", max_tokens=200, temperature=0)
found = longer.with_structured_output(Place, method="json_schema").invoke("Name a city as JSON.")
assert isinstance(found, Place)
print(whole.content)
