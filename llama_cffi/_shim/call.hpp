/* What the C++ files of the binding share beside the guard. */
#pragma once

#include <cstdint>

/* How many lines were logged when the outermost guarded call on this thread began. */
uint64_t call_log_mark() noexcept;

/* How many lines were logged. */
uint64_t log_count() noexcept;

/* Points llama.cpp's log at the ring. */
void log_install();
