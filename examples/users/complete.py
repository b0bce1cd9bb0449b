"""Complete a prompt."""

import llama_cffi

llm = llama_cffi.load("model.gguf")
print(llm.complete("The capital of France is", maxTokens=32))
