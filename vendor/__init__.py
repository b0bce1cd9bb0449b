"""Fetch llama.cpp's source, build its libraries, and move to another version of it: see README.md.

A build tool: `llama_cffi` never imports it.
"""

import sys

if sys.platform != "linux":
    raise SystemExit(
        f"error: llama_cffi is built and runs on Linux only, and this Python is built for {sys.platform}: use WSL 2 on "
        "Windows, or a Linux virtual machine or container on macOS"
    )
