"""Where llama.cpp comes from and how its libraries are built. A build tool: never imported by `llama_cffi`."""
