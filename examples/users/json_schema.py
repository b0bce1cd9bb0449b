"""Get JSON that follows a schema."""

import json

import llama_cffi

text = {"type": "string", "maxLength": 30}
schema = {"type": "object", "properties": {"city": text, "country": text}, "required": ["city", "country"]}
llm = llama_cffi.load("model.gguf")
answer = llm.chat("Name a city, and its country.", responseFormat=schema, temperature=0)
print(json.loads(answer)["city"])
