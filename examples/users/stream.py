"""Print a text while the model writes it."""

import llama_cffi

llm = llama_cffi.load("model.gguf")
for text in llm.complete("Once upon a time", maxTokens=32, stream=True):
    print(text, end="", flush=True)
