"""Count the tokens of a text, of an answer, and the context window."""

import llama_cffi

llm = llama_cffi.load("model.gguf")
print(len(llm.tokenize("How many tokens are in this text?", addSpecial=False)), "tokens in the text")
answer = llm.chat("Name three colors.", maxTokens=32)
print(answer.usage.promptTokens, "in the prompt,", answer.usage.generatedTokens, "in the answer,", llm.nCtx, "at most")
