"""Answer a question under a system prompt."""

import llama_cffi

llm = llama_cffi.load("model.gguf")
answer = llm.chat("What is the sun?", system="You answer in one short sentence.", temperature=0, maxTokens=64)
print(answer)
