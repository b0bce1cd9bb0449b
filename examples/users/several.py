"""Complete several prompts at once."""

import llama_cffi

llm = llama_cffi.load("model.gguf", nSeqMax=8)
prompts = [f"A short poem about {subject}:" for subject in ("rain", "snow", "wind", "fog")]
for prompt, text in zip(prompts, llm.complete(prompts, maxTokens=24), strict=True):
    print(prompt, text)
