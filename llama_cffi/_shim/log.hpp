/* The log of llama.cpp's libraries, which log.cpp keeps. */
#pragma once

#include "ggml.h"

/* Redirects llama.cpp's log to log.cpp. */
void log_install();

/* Keeps a line of a log, or a piece of one: a `ggml_log_callback`. */
void log_line(enum ggml_log_level level, const char * text, void * user_data);
