"""Find the text that is the most similar to a question."""

import llama_cffi

llm = llama_cffi.load("model.gguf", poolingType=llama_cffi.PoolingType.MEAN)
texts = ["Cats sleep most of the day.", "The invoice is due in May.", "Bread is made of flour."]
scores = llm.embed(texts) @ llm.embed("How long do kittens sleep?")
print(texts[scores.argmax()], scores)
