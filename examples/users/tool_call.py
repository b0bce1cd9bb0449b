"""Let the model call a function of yours."""

import llama_cffi

city = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 30}}, "required": ["city"]}
tool = {"type": "function", "function": {"name": "weather", "description": "The weather now.", "parameters": city}}
session = llama_cffi.load("model.gguf").session(tools=[tool])
answer = session.send("What is the weather in Paris?", toolChoice="required")
answer.result()
for call in answer.toolCalls:
    session.addToolResult(call, f"It is sunny in {call.arguments['city']}.")
print(session.send(maxTokens=48, toolChoice="none").result())
