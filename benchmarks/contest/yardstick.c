/* The reference of the contest: a C program that does the same work with the same library files as the facade.
 * benchmarks/peers/protocol.py describes its input and output, benchmarks/contest/cases.py the cases. */
#define _GNU_SOURCE
#include "ggml-backend.h"
#include "llama.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define N_SEQ 8
#define PIECE 256

static struct {
    const char * backend;
    const char * model;
    const char * text;
    const char * file;
    const char * prompt;
    int          ctx, batch, threads, tokens, calls, seed, seqs;
} given = {.text = "", .prompt = "1", .ctx = 1024, .batch = 512, .threads = 1, .tokens = 64, .calls = 1000, .seed = 1, .seqs = 1};

static struct llama_model *       model;
static struct llama_context *     ctx;
static const struct llama_vocab * vocab;

static void die(const char * what) {
    fprintf(stderr, "yardstick: %s\n", what);
    exit(1);
}

static void * need(void * pointer, const char * what) {
    if (pointer == NULL) {
        die(what);
    }
    return pointer;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double) t.tv_sec + 1e-9 * (double) t.tv_nsec;
}

static void silent(enum ggml_log_level level, const char * text, void * data) {
    (void) level;
    (void) text;
    (void) data;
}

/* FNV-1a, to compare the results of two programs. */
static uint64_t digest(const void * data, size_t size) {
    const unsigned char * bytes = data;
    uint64_t              hash  = 0xcbf29ce484222325u;
    for (size_t i = 0; i < size; i++) {
        hash = (hash ^ bytes[i]) * 0x100000001b3u;
    }
    return hash;
}

static void answer(double seconds, int64_t items, uint64_t check) {
    printf("{\"seconds\": %.9f, \"items\": %" PRId64 ", \"check\": \"%016" PRIx64 "\"}\n", seconds, items, check);
    fflush(stdout);
}

static void ready(void) {
    printf("{\"ready\": true, \"version\": \"%s\"}\n", llama_version());
    fflush(stdout);
}

/* Waits for the next repetition. Returns false at the end of the input. */
static bool next(void) {
    char line[64];
    return fgets(line, sizeof(line), stdin) != NULL;
}

static char * read_file(const char * path, size_t * size) {
    FILE * file = need(fopen(path, "rb"), "cannot open the file");
    fseek(file, 0, SEEK_END);
    *size       = (size_t) ftell(file);
    char * data = need(malloc(*size + 1), "no memory");
    rewind(file);
    if (fread(data, 1, *size, file) != *size) {
        die("cannot read the file");
    }
    data[*size] = 0;
    fclose(file);
    return data;
}

/* Models and contexts */

static void load(void) {
    llama_log_set(silent, NULL);
    need(ggml_backend_load(given.backend), "cannot load the backend");
    struct llama_model_params params = llama_model_default_params();
    params.n_gpu_layers              = 0;
    model = need(llama_model_load_from_file(given.model, params), "cannot load the model");
    vocab = llama_model_get_vocab(model);
}

static struct llama_context_params context_params(void) {
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx                       = (uint32_t) given.ctx;
    params.n_batch                     = (uint32_t) given.batch;
    params.n_ubatch                    = (uint32_t) given.batch;
    params.n_threads                   = given.threads;
    params.n_threads_batch             = given.threads;
    return params;
}

static void make_context(struct llama_context_params params) {
    ctx = need(llama_init_from_model(model, params), "cannot make a context");
}

static void clear(void) {
    llama_memory_clear(llama_get_memory(ctx), false);
}

static void decode(struct llama_batch batch) {
    if (llama_decode(ctx, batch) != 0) {
        die("llama_decode failed");
    }
}

/* Parses the tokens of `prompt=1,2,3`. */
static int prompt_tokens(llama_token ** tokens) {
    const char * text = given.prompt;
    int          n    = 0;
    *tokens           = need(calloc(strlen(text) + 1, sizeof(llama_token)), "no memory");
    while (*text != 0) {
        char * end;
        (*tokens)[n++] = (llama_token) strtol(text, &end, 10);
        text           = *end == ',' ? end + 1 : end;
    }
    return n;
}

static int tokenize(const char * text, size_t size, llama_token ** tokens) {
    const int room = (int) size + 16;
    *tokens        = need(malloc(sizeof(llama_token) * (size_t) room), "no memory");
    const int n    = llama_tokenize(vocab, text, (int) size, *tokens, room, true, false);
    if (n < 0) {
        die("llama_tokenize failed");
    }
    return n;
}

/* The cases */

static volatile int ends; /* a program would stop at the end of the text; a benchmark continues */

static void greedy_loop(struct llama_sampler * sampler, llama_token * out, int n) {
    for (int i = 0; i < n; i++) {
        llama_token token = llama_sampler_sample(sampler, ctx, -1);
        out[i]            = token;
        ends += llama_vocab_is_eog(vocab, token);
        decode(llama_batch_get_one(&token, 1));
    }
}

static void run_greedy(void) {
    load();
    make_context(context_params());
    llama_token *          prompt;
    const int              n_prompt = prompt_tokens(&prompt);
    llama_token *          out      = need(calloc((size_t) given.tokens, sizeof(llama_token)), "no memory");
    struct llama_sampler * sampler  = llama_sampler_init_greedy();
    decode(llama_batch_get_one(prompt, n_prompt));
    greedy_loop(sampler, out, 4);
    ready();
    while (next()) {
        clear();
        decode(llama_batch_get_one(prompt, n_prompt));
        const double start = now();
        greedy_loop(sampler, out, given.tokens);
        answer(now() - start, given.tokens, digest(out, sizeof(llama_token) * (size_t) given.tokens));
    }
}

/* Greedy generation of several sequences at once, each from another token: one batch per step. */
static void run_many(void) {
    load();
    struct llama_context_params params = context_params();
    params.n_seq_max                   = (uint32_t) given.seqs;
    params.kv_unified                  = true;
    make_context(params);
    struct llama_sampler * sampler = llama_sampler_init_greedy();
    struct llama_batch     batch   = llama_batch_init(given.seqs, 0, 1);
    const size_t           n_out   = (size_t) given.tokens * (size_t) given.seqs;
    llama_token *          out     = need(calloc(n_out, sizeof(llama_token)), "no memory");
    ready();
    while (next()) {
        clear();
        double start = 0;
        for (int step = 0; step <= given.tokens; step++) {
            if (step == 1) {
                start = now(); /* the first step is the prompt */
            }
            batch.n_tokens = 0;
            for (int s = 0; s < given.seqs; s++) {
                const llama_token token =
                    step == 0 ? 100 + s : (out[(step - 1) * given.seqs + s] = llama_sampler_sample(sampler, ctx, s));
                batch.token[s]     = token;
                batch.pos[s]       = step;
                batch.n_seq_id[s]  = 1;
                batch.seq_id[s][0] = s;
                batch.logits[s]    = 1;
                batch.n_tokens++;
            }
            decode(batch);
        }
        answer(now() - start, (int64_t) n_out, digest(out, sizeof(llama_token) * n_out));
    }
}

/* The number of bytes that are complete UTF-8 characters. */
static size_t whole(const char * text, size_t size) {
    size_t back = 0;
    while (back < 3 && back < size && ((unsigned char) text[size - 1 - back] & 0xC0) == 0x80) {
        back++;
    }
    if (back < size) {
        const unsigned char lead = (unsigned char) text[size - 1 - back];
        const size_t        needed = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : lead >= 0xC0 ? 1 : 0;
        if (back < needed) {
            return size - 1 - back;
        }
    }
    return size;
}

static struct llama_sampler * make_chain(uint32_t seed) {
    struct llama_sampler * chain = llama_sampler_chain_init(llama_sampler_chain_default_params());
    llama_sampler_chain_add(chain, llama_sampler_init_penalties(llama_vocab_n_tokens(vocab), 64, 1.1f, 0.0f, 0.0f));
    llama_sampler_chain_add(chain, llama_sampler_init_top_k(40));
    llama_sampler_chain_add(chain, llama_sampler_init_top_p(0.95f, 1));
    llama_sampler_chain_add(chain, llama_sampler_init_temp(0.8f));
    llama_sampler_chain_add(chain, llama_sampler_init_dist(seed));
    return chain;
}

static void run_stream(void) {
    load();
    make_context(context_params());
    llama_token * prompt;
    const int     n_prompt = tokenize(given.text, strlen(given.text), &prompt);
    char *        text     = need(malloc((size_t) given.tokens * PIECE), "no memory");
    ready();
    while (next()) {
        struct llama_sampler * chain = make_chain((uint32_t) given.seed);
        clear();
        decode(llama_batch_get_one(prompt, n_prompt));
        size_t size = 0, shown = 0;
        int    n = 0, first = 0;
        double start = 0;
        while (n < given.tokens) {
            llama_token token = llama_sampler_sample(chain, ctx, -1);
            if (llama_vocab_is_eog(vocab, token)) {
                break;
            }
            n++;
            const int length = llama_token_to_piece(vocab, token, text + size, PIECE, 0, false);
            if (length < 0) {
                die("a token of more than 256 bytes");
            }
            size += (size_t) length;
            shown += whole(text + shown, size - shown); /* a program would print it here */
            if (first == 0 && shown > 0) {
                first = n; /* timed from the first piece of text on */
                start = now();
            }
            if (n < given.tokens) {
                decode(llama_batch_get_one(&token, 1));
            }
        }
        const double seconds = now() - start;
        answer(seconds, n - first, digest(text, size));
        llama_sampler_free(chain);
    }
}

static void run_tokenize(void) {
    load();
    size_t size;
    char * text = read_file(given.file, &size);
    ready();
    while (next()) {
        llama_token * tokens;
        const double  start   = now();
        const int     n       = tokenize(text, size, &tokens);
        const double  seconds = now() - start;
        answer(seconds, n, digest(tokens, sizeof(llama_token) * (size_t) n));
        free(tokens);
    }
}

static void run_detokenize(void) {
    load();
    size_t        size;
    char *        text = read_file(given.file, &size);
    llama_token * tokens;
    const int     n = tokenize(text, size, &tokens);
    ready();
    while (next()) {
        const double start  = now();
        const int    room   = (int) size + 64;
        char *       out    = need(malloc((size_t) room), "no memory");
        const int    length = llama_detokenize(vocab, tokens, n, out, room, false, false);
        const double seconds = now() - start;
        if (length < 0) {
            die("llama_detokenize failed");
        }
        answer(seconds, n, digest(out, (size_t) length));
        free(out);
    }
}

static void run_logits1(void) {
    load();
    make_context(context_params());
    llama_token token = 1;
    decode(llama_batch_get_one(&token, 1));
    ready();
    while (next()) {
        const float * volatile logits = NULL;
        const double start            = now();
        for (int i = 0; i < given.calls; i++) {
            logits = llama_get_logits_ith(ctx, -1);
        }
        const double seconds = now() - start;
        answer(seconds, given.calls, digest((const void *) logits, sizeof(float) * 16));
    }
}

/* Fills a batch with tokens of n_seq sequences. Outputs are requested for all tokens, or the last of each sequence. */
static void fill(struct llama_batch * batch, int n_tokens, int n_seq, bool all) {
    const int each = n_tokens / n_seq;
    for (int i = 0; i < n_tokens; i++) {
        batch->token[i]     = 100 + i % 1000;
        batch->pos[i]       = i % each;
        batch->n_seq_id[i]  = 1;
        batch->seq_id[i][0] = i / each;
        batch->logits[i]    = all || i % each == each - 1;
    }
    batch->n_tokens = n_tokens;
}

static void run_logits512(void) {
    load();
    make_context(context_params());
    struct llama_batch batch = llama_batch_init(512, 0, 1);
    fill(&batch, 512, 1, true);
    decode(batch);
    ready();
    while (next()) {
        const float * volatile logits = NULL;
        const double start            = now();
        for (int i = 0; i < given.calls; i++) {
            logits = llama_get_logits(ctx);
        }
        const double seconds = now() - start;
        answer(seconds, given.calls, digest((const void *) logits, sizeof(float) * 16));
    }
}

static void run_batch(void) {
    load();
    struct llama_context_params params = context_params();
    params.n_seq_max                   = N_SEQ;
    make_context(params);
    struct llama_batch batch = llama_batch_init(512, 0, 1);
    fill(&batch, 512, N_SEQ, false);
    decode(batch);
    ready();
    while (next()) {
        clear();
        const double start = now();
        fill(&batch, 512, N_SEQ, false);
        const double filled = now();
        decode(batch);
        llama_synchronize(ctx);
        const double seconds = now() - start;
        printf("{\"seconds\": %.9f, \"items\": 512, \"fill\": %.9f, \"check\": \"%016" PRIx64 "\"}\n", seconds,
               filled - start, digest(llama_get_logits_ith(ctx, -1), sizeof(float) * 16));
        fflush(stdout);
    }
}

static void run_embed(void) {
    load();
    struct llama_context_params params = context_params();
    params.embeddings                  = true;
    params.pooling_type                = LLAMA_POOLING_TYPE_MEAN;
    params.n_seq_max                   = 64;
    params.kv_unified                  = true;
    make_context(params);
    size_t  size;
    char *  text  = read_file(given.file, &size);
    int     n_all = 0;
    char ** lines = need(calloc(size + 1, sizeof(char *)), "no memory");
    for (char * line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        lines[n_all++] = line;
    }
    const int          width = llama_model_n_embd_out(model);
    float *            out   = need(calloc((size_t) n_all * (size_t) width, sizeof(float)), "no memory");
    struct llama_batch batch = llama_batch_init(given.batch, 0, 1);
    ready();
    while (next()) {
        const double start = now();
        int          done = 0, waiting = 0, n = 0;
        batch.n_tokens = 0;
        while (done + waiting < n_all || waiting > 0) {
            llama_token tokens[4096];
            const bool  more = done + waiting < n_all;
            if (more) {
                const char * line = lines[done + waiting];
                n = llama_tokenize(vocab, line, (int) strlen(line), tokens, 4096, true, false);
            }
            if (!more || waiting == 64 || batch.n_tokens + n > given.batch) {
                clear();
                decode(batch);
                for (int s = 0; s < waiting; s++) {
                    const float * row = llama_get_embeddings_seq(ctx, s);
                    double        sum = 0;
                    for (int k = 0; k < width; k++) {
                        sum += (double) row[k] * row[k];
                    }
                    const float scale = sum > 0 ? (float) (1 / __builtin_sqrt(sum)) : 0;
                    for (int k = 0; k < width; k++) {
                        out[(size_t) (done + s) * (size_t) width + (size_t) k] = row[k] * scale;
                    }
                }
                done += waiting;
                waiting        = 0;
                batch.n_tokens = 0;
                if (!more) {
                    break;
                }
            }
            for (int i = 0; i < n; i++) {
                const int at         = batch.n_tokens++;
                batch.token[at]     = tokens[i];
                batch.pos[at]       = i;
                batch.n_seq_id[at]  = 1;
                batch.seq_id[at][0] = waiting;
                batch.logits[at]    = 1;
            }
            waiting++;
        }
        const double seconds = now() - start;
        answer(seconds, n_all, digest(&n_all, sizeof(n_all)));
    }
}

static void run_state(void) {
    load();
    make_context(context_params());
    struct llama_batch batch = llama_batch_init(256, 0, 1);
    fill(&batch, 256, 1, false);
    decode(batch);
    ready();
    while (next()) {
        const double start = now();
        const size_t size  = llama_state_get_size(ctx);
        uint8_t *    data  = need(malloc(size), "no memory");
        const size_t got   = llama_state_get_data(ctx, data, size);
        const double saved = now();
        const size_t read  = llama_state_set_data(ctx, data, got);
        const double end   = now();
        printf("{\"seconds\": %.9f, \"items\": 1, \"save\": %.9f, \"load\": %.9f, \"check\": \"%zu %d\"}\n", end - start,
               saved - start, end - saved, got, read == got);
        fflush(stdout);
        free(data);
    }
}

static void run_load(void) {
    const double start = now();
    load();
    make_context(context_params());
    llama_token *          prompt;
    const int              n_prompt = prompt_tokens(&prompt);
    struct llama_sampler * sampler  = llama_sampler_init_greedy();
    decode(llama_batch_get_one(prompt, n_prompt));
    llama_token token = llama_sampler_sample(sampler, ctx, -1);
    answer(now() - start, 1, digest(&token, sizeof(token)));
}

/* A value of /proc/self/status in bytes. */
static long long status_bytes(const char * name) {
    FILE *    file = need(fopen("/proc/self/status", "r"), "cannot read /proc/self/status");
    char      line[256];
    long long kilobytes = 0;
    while (fgets(line, sizeof(line), file) != NULL) {
        if (strncmp(line, name, strlen(name)) == 0 && line[strlen(name)] == ':') {
            kilobytes = strtoll(line + strlen(name) + 1, NULL, 10);
        }
    }
    fclose(file);
    return 1024 * kilobytes;
}

static void run_memory(void) {
    load();
    make_context(context_params());
    llama_token *          prompt;
    const int              n_prompt = prompt_tokens(&prompt);
    llama_token            out[32];
    struct llama_sampler * sampler = llama_sampler_init_greedy();
    decode(llama_batch_get_one(prompt, n_prompt));
    greedy_loop(sampler, out, 32);
    printf("{\"seconds\": 0, \"items\": 1, \"rss\": %lld, \"rss_anon\": %lld, \"rss_file\": %lld, \"check\": \"%016" PRIx64
           "\"}\n",
           status_bytes("VmRSS"), status_bytes("RssAnon"), status_bytes("RssFile"), digest(out, sizeof(out)));
    fflush(stdout);
}

static int64_t called;

static bool on_node(void * data) {
    (void) data;
    called++;
    return false;
}

/* Decodes one token repeatedly, with and without a callback per node of the graph. */
static void run_callback(void) {
    load();
    make_context(context_params());
    ready();
    while (next()) {
        double seconds[2];
        for (int with = 0; with < 2; with++) {
            llama_set_abort_callback(ctx, with ? on_node : NULL, NULL);
            clear();
            called             = 0;
            const double start = now();
            for (int i = 0; i < given.calls; i++) {
                llama_token token = 100 + i % 1000;
                decode(llama_batch_get_one(&token, 1));
            }
            seconds[with] = now() - start;
        }
        answer(seconds[1] - seconds[0], called, 0);
    }
}

static const struct {
    const char * name;
    void (*run)(void);
} cases[] = {
    {"many", run_many},           {"greedy", run_greedy},       {"stream", run_stream},   {"tokenize", run_tokenize}, {"detokenize", run_detokenize},
    {"logits1", run_logits1},     {"embed", run_embed},     {"logits512", run_logits512}, {"batch", run_batch},
    {"state", run_state},         {"load", run_load},       {"memory", run_memory},     {"callback", run_callback},
};

static void parse(const char * word) {
    const char * value = strchr(word, '=');
    if (value == NULL) {
        die("arguments have the form key=value");
    }
    const size_t length = (size_t) (value++ - word);
    const struct {
        const char *  name;
        const char ** text;
        int *         number;
    } keys[] = {
        {"backend", &given.backend, NULL}, {"model", &given.model, NULL},     {"text", &given.text, NULL},
        {"file", &given.file, NULL},       {"prompt", &given.prompt, NULL},   {"ctx", NULL, &given.ctx},
        {"batch", NULL, &given.batch},     {"threads", NULL, &given.threads}, {"tokens", NULL, &given.tokens},
        {"calls", NULL, &given.calls},     {"seed", NULL, &given.seed},
        {"seqs", NULL, &given.seqs},
    };
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        if (strlen(keys[i].name) == length && strncmp(keys[i].name, word, length) == 0) {
            if (keys[i].text != NULL) {
                *keys[i].text = value;
            } else {
                *keys[i].number = atoi(value);
            }
            return;
        }
    }
    die("an unknown key");
}

int main(int argc, char ** argv) {
    for (int i = 2; i < argc; i++) {
        parse(argv[i]);
    }
    for (size_t i = 0; argc > 1 && i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (strcmp(cases[i].name, argv[1]) == 0) {
            cases[i].run();
            return 0;
        }
    }
    die("which case?");
}
