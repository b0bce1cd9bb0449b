/* A matrix product, measured in C: the reference of matmul.py, with the same library files.
 *
 * matmul BACKEND WEIGHTS INPUT N TYPE THREADS reads N x N weights of a type and N x N floats from files. For each
 * line of its input it computes the product once, reads the result, and prints seconds and the result's last number. */
#define _POSIX_C_SOURCE 200809L
#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static void quiet(enum ggml_log_level level, const char * text, void * data) {
    (void) level, (void) text, (void) data;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double) t.tv_sec + (double) t.tv_nsec / 1e9;
}

static void fail(const char * what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static void fill(struct ggml_tensor * tensor, const char * path) {
    const size_t size = ggml_nbytes(tensor);
    void *       data = malloc(size);
    FILE *       file = fopen(path, "rb");
    if (data == NULL || file == NULL || fread(data, 1, size, file) != size) {
        fail(path);
    }
    fclose(file);
    ggml_backend_tensor_set(tensor, data, 0, size);
    free(data);
}

int main(int argc, char ** argv) {
    if (argc != 7) {
        fail("matmul BACKEND WEIGHTS INPUT N TYPE THREADS");
    }
    ggml_log_set(quiet, NULL);
    const int64_t      n   = atoll(argv[4]);
    ggml_backend_reg_t reg = ggml_backend_load(argv[1]);
    if (reg == NULL) {
        fail(argv[1]);
    }
    ggml_backend_t               backend = ggml_backend_dev_init(ggml_backend_reg_dev_get(reg, 0), NULL);
    ggml_backend_set_n_threads_t set_threads =
        (ggml_backend_set_n_threads_t) ggml_backend_reg_get_proc_address(reg, "ggml_backend_set_n_threads");
    set_threads(backend, atoi(argv[6]));

    struct ggml_context * ctx     = ggml_init((struct ggml_init_params){1 << 20, NULL, true});
    struct ggml_tensor *  weights = ggml_new_tensor_2d(ctx, (enum ggml_type) atoi(argv[5]), n, n);
    struct ggml_tensor *  input   = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, n, n);
    if (ggml_backend_alloc_ctx_tensors(ctx, backend) == NULL) {
        fail("out of memory");
    }
    fill(weights, argv[2]);
    fill(input, argv[3]);

    struct ggml_context * work   = ggml_init((struct ggml_init_params){1 << 20, NULL, true});
    struct ggml_tensor *  result = ggml_mul_mat(work, weights, input);
    struct ggml_cgraph *  graph  = ggml_new_graph(work);
    ggml_build_forward_expand(graph, result);
    ggml_gallocr_t allocator = ggml_gallocr_new(ggml_backend_get_default_buffer_type(backend));
    float *        out       = malloc(ggml_nbytes(result));
    char           line[16];
    if (out == NULL || !ggml_gallocr_alloc_graph(allocator, graph)) {
        fail("out of memory");
    }
    while (fgets(line, sizeof(line), stdin) != NULL) {
        const double started = now();
        if (ggml_backend_graph_compute(backend, graph) != GGML_STATUS_SUCCESS) {
            fail("the computation failed");
        }
        ggml_backend_tensor_get(result, out, 0, ggml_nbytes(result));
        printf("%.9f %.9g\n", now() - started, (double) out[n * n - 1]);
        fflush(stdout);
    }
    return 0;
}
