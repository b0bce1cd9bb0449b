"""The commands of the command line: their modules, and their lines in the help."""

from __future__ import annotations

# name -> module with `make_parser()` and `main(argv) -> int`, and the line in the help
COMMANDS = {
    "complete": ("llama_cffi.cli.complete", "complete a prompt"),
    "chat": ("llama_cffi.cli.chat", "chat with a model"),
    "embed": ("llama_cffi.cli.embed", "compute embeddings of texts"),
    "score": ("llama_cffi.cli.score", "show how probable a model finds given texts"),
    "perplexity": ("llama_cffi.cli.perplexity", "compute the perplexity of a long text"),
    "serve": ("llama_cffi.cli.serve", "serve models over HTTP by OpenAI's protocol"),
    "pull": ("llama_cffi.cli.pull", "download a model from the Hugging Face Hub into the cache"),
    "list": ("llama_cffi.cli.cached_models", "list the models in the cache"),
    "rm": ("llama_cffi.cli.remove", "remove models from the cache"),
    "info": ("llama_cffi.cli.info", "show what a GGUF file holds, how much memory it needs, and whether that fits"),
    "gguf": ("llama_cffi.cli.gguf", "show, change, copy, compare, split and merge GGUF files"),
    "quantize": ("llama_cffi.cli.quantize", "quantize a model"),
    "bench": ("llama_cffi.cli.bench", "measure the speed of a model on this machine"),
    "doctor": ("llama_cffi.doctor.command", "check the installation and the devices, and say how to fix what fails"),
    "rpc-worker": ("llama_cffi.cli.rpc_worker", "offer the devices of this machine to models on other machines"),
    "completion": ("llama_cffi.cli.completion", "print a script that completes commands in bash, zsh or fish"),
}

# Other names of commands.
ALIASES = {"show": "info"}

# Names that other programs have for them.
ELSEWHERE = {
    "version": "--version",
    "run": "chat",
    "generate": "complete",
    "completions": "complete",
    "server": "serve",
    "embedding": "embed",
    "embeddings": "embed",
    "download": "pull",
    "get": "pull",
    "ls": "list",
    "models": "list",
    "delete": "rm",
    "remove": "rm",
    "inspect": "info",
    "convert": "quantize",
    "benchmark": "bench",
    "ppl": "perplexity",
    "check": "doctor",
}
