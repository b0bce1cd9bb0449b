"""llama.cpp's chat code as a library of the package: templates, tool calls, reasoning. See `chat_api.h`."""
