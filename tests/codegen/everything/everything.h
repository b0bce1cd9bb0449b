/* What C can put in a header, beside what llama.cpp does put there today. Valid C and C++. */
#pragma once

#include <assert.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define SAMPLE_API __attribute__((visibility("default"))) extern
#define OLD(func, hint) func __attribute__((deprecated(hint)))

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC diagnostic push
#pragma GCC diagnostic pop

typedef int32_t sample_id;
typedef int32_t sample_id;
typedef float   sample_real;

/* Enumerations */

enum colour { COLOUR_NONE = -1, COLOUR_RED = 1 << 3, COLOUR_ALSO_RED = COLOUR_RED, COLOUR_NEXT, COLOUR_COUNT = 5 };
enum { LONELY = 77, LONELY_NEXT };
typedef enum { SHADE_LIGHT, SHADE_DARK = 3 } shade;
enum wide_values { WIDE_TOP = 0xFFFFFFFFu, WIDE_BIT = 1u << 31 };

/* Macros that are values */

#define M_PLAIN       42
#define M_EXPRESSION  ((1 << 4) | 3)
#define M_NEGATIVE    (-7)
#define M_U32         0xFFFFFFFFu
#define M_U64         0xFFFFFFFFFFFFFFFFULL
#define M_LOWEST      (-0x7fffffffffffffffLL - 1)
#define M_CAST        ((sample_id) -1)
#define M_CAST_SYSTEM ((size_t) 5)
#define M_CAST_FLOAT  ((float) 1 / 4)
#define M_CAST_REAL   ((sample_real) 3)
#define M_FLOAT       1.5f
#define M_WHOLE_FLOAT 2.0
#define M_SMALL       1e-3
#define M_STRING      "two" " parts"
#define M_QUOTED      "a \"quoted\" \\ line\n, \xc3\xa9"
#define M_CHARACTER   'c'
#define M_ENUMERATOR  (COLOUR_RED + 1)
#define M_SIZEOF      sizeof(struct bits)
#define M_SIZEOF_TYPE (sizeof(sample_id) * 2)
#define M_CHAIN       M_EXPRESSION
#define M_TERNARY     (M_PLAIN > 3 ? 1 : 2)
#define M_COMPARISON  (1.5 > 1.0)
#define M_CONSTANT    (S_INT + 1)

/* Macros that are none */

#define N_ATTRIBUTE       SAMPLE_API
#define N_TAKES(x)        ((x) + 1)
#define N_NULL            ((void *) 0)
#define N_FUNCTION        sample_add
#define N_CALL            sample_add(1, 2)
#define N_TYPE            uint32_t
#define N_STATEMENT       int a = 3;
#define N_WIDE            L"wide"
#define N_EMPTY
#define N_WITHDRAWN       9
#undef N_WITHDRAWN
#define COLOUR_NEXT       COLOUR_NEXT

static const int    S_INT  = 3;
static const float  S_REAL = 0.5f;
static const size_t S_SIZE = sizeof(sample_id);

/* Structs and unions */

struct bits {
    unsigned     low : 3;
    int              : 5;
    signed int   high : 4;
    bool         flag : 1;
    enum colour  tint : 6;
    unsigned         : 0;
    uint8_t      last : 2;
};

struct nest {
    int head;
    union {
        struct {
            int a;
            union {
                int   b;
                float c;
            };
        };
        int64_t whole;
    };
    struct {
        int head;
        struct {
            char deep;
        } in;
    } named;
    struct {
        short s;
    } many[3];
    struct {
        int q;
    } * far;
};

union number {
    int   i;
    float f;
};

struct later;
struct never;
struct later {
    int value;
    static_assert(sizeof(int) >= 2, "a member that is none");
};

struct outer {
    struct inner {
        int depth;
    } one, two[2];
    struct tag_only * next;
    enum mood { MOOD_GOOD, MOOD_BAD } mood;
    volatile int      tick;
    long double       stretch;
};

struct flexible {
    size_t n;
    int    items[];
};

struct arrays {
    char    text[M_PLAIN];
    int32_t params[64 / sizeof(int32_t)];
    float   grid[2][3];
    int     table[COLOUR_COUNT];
};

struct words {
    int lambda;
    int from;
    int async;
};

typedef uint8_t sample_guid[4 * 4];
typedef int (*binary)(int, int);
typedef int unary(int);

typedef struct twice {
    int v;
} twice_t, *twice_p;

typedef struct {
    binary       op;
    sample_id    id;
    struct later by_value;
} untagged, untagged_too;

typedef struct {
    untagged first;
} wrapper;

typedef struct hidden * hidden_t;

struct pinned {
    const char * const * names;
    char * const         fixed;
    int (*ops[2])(int (*)(int), int);
    int (*const steady)(int);
    int (*const volatile * chain)(int);
    int (**indirect)(int);
    int (*(*maker)(char))(int, int);
    int (*row)[3];
    unary * plain;
};

/* Functions */

SAMPLE_API int          sample_add(int, int);
SAMPLE_API int          sample_add(int left, int right);
SAMPLE_API int          sample_nothing(void);
SAMPLE_API int          sample_sum(int n, ...);
SAMPLE_API binary       sample_choose(char op);
SAMPLE_API int          (*sample_pick(char op))(int, int);
SAMPLE_API int          sample_fold(const int * xs, size_t n, int (*f)(int, int), int start);
SAMPLE_API int          (*sample_relay(int (*outer)(int (*)(int))))(int);
SAMPLE_API int          sample_apply(unary * f, int x);
SAMPLE_API int          (*sample_row(int (*m)[3], int i))[3];
SAMPLE_API float        sample_grid_sum(const float grid[2][3]);
SAMPLE_API const char * const * sample_names(size_t * n);
SAMPLE_API size_t       sample_count(const char * const * list, char * const * unused);
SAMPLE_API void         sample_bits(struct bits * out);
SAMPLE_API void         sample_nest(struct nest * out);
SAMPLE_API struct later sample_later(int value);
SAMPLE_API int          sample_pass(struct arrays arrays, untagged u, union number n);
SAMPLE_API long double  sample_stretch(long double x);
SAMPLE_API hidden_t     sample_hidden(void);
SAMPLE_API sample_id    import(int lambda, int self, int from);
SAMPLE_API int          sample_shadow(int function, int guarded, int guard, int module_function);

enum mode { MODE_OFF, MODE_ON = 4 };
SAMPLE_API enum mode mode(void);

OLD(SAMPLE_API int sample_old_inside(int x), "use sample_add (left, right), or none; it's \"fine\"");
SAMPLE_API OLD(int sample_old_outside(
                   int (*f)(int), // called
                   int x),
               "use sample_apply"
               " instead");
OLD(SAMPLE_API int (*sample_old_pick(char op))(int, int), "use sample_pick instead");
SAMPLE_API int sample_old_bare(void) __attribute__((__deprecated__, __unused__));

/* Functions that cannot be bound */

SAMPLE_API FILE * sample_open(const char * path);
SAMPLE_API int    sample_print(const char * format, va_list arguments);
SAMPLE_API int    sample_missing(void);

static inline int sample_inline(int x) {
    return x * 2 + (x > 1 ? 1 : 0);
}

static_assert(sizeof(sample_id) == 4, "at file level");

#ifdef __cplusplus
}
#endif
