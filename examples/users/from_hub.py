"""Load a model of the Hugging Face Hub, which is downloaded once."""

import llama_cffi

llm = llama_cffi.load("hf:ggml-org/gemma-3-270m-it-GGUF/gemma-3-270m-it-Q8_0.gguf")
print(llm.chat("Say hello.", maxTokens=32))
