"""Fetch llama.cpp's source, build its libraries, and move to another version of it: see README.md.

A build tool: `llama_cffi` never imports it.
"""
