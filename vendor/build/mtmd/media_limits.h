/* Included before llama.cpp's code that decodes images and sounds: memory that stb_image and miniaudio allocate counts
 * against the limit of the thread. See media_limits.cpp. */
#ifndef LLAMA_CFFI_MEDIA_LIMITS_H
#define LLAMA_CFFI_MEDIA_LIMITS_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Sets how many bytes the decoders may allocate on this thread from now on, and how large a C++ allocation may be. */
__attribute__((visibility("default"))) void mtmd_cffi_limit(size_t bytes);

void * mtmd_cffi_malloc(size_t size);
void * mtmd_cffi_realloc(void * memory, size_t size);
void   mtmd_cffi_free(void * memory);

#ifdef __cplusplus
}
#endif

#define STBI_MALLOC(size)          mtmd_cffi_malloc(size)
#define STBI_REALLOC(memory, size) mtmd_cffi_realloc(memory, size)
#define STBI_FREE(memory)          mtmd_cffi_free(memory)
#define MA_MALLOC(size)            mtmd_cffi_malloc(size)
#define MA_REALLOC(memory, size)   mtmd_cffi_realloc(memory, size)
#define MA_FREE(memory)            mtmd_cffi_free(memory)

#endif
