"""Generates the bindings from llama.cpp's public headers. A tool: never shipped, never imported by `llama_cffi`."""
