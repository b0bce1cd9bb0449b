"""A chat that remembers what was said."""

import llama_cffi

llm = llama_cffi.load("model.gguf", nCtx=2048)
session = llm.session()
for question in ("My name is Ada. Say hello to me.", "What is my name?"):
    print("You:", question)
    print("Model:", session.send(question, maxTokens=64).result())
