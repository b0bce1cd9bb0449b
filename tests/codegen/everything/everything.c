#include "everything.h"

struct hidden {
    int secret;
};

static int add(int a, int b) { return a + b; }
static int mul(int a, int b) { return a * b; }
static int triple(int x) { return 3 * x; }

int sample_add(int left, int right) { return left + right; }
int sample_nothing(void) { return 11; }

int sample_sum(int n, ...) {
    va_list arguments;
    va_start(arguments, n);
    int sum = 0;
    for (int i = 0; i < n; i++) sum += va_arg(arguments, int);
    va_end(arguments);
    return sum;
}

binary sample_choose(char op) { return op == '+' ? add : mul; }
int (*sample_pick(char op))(int, int) { return op == '+' ? add : mul; }

int sample_fold(const int * xs, size_t n, int (*f)(int, int), int start) {
    for (size_t i = 0; i < n; i++) start = f(start, xs[i]);
    return start;
}

int (*sample_relay(int (*outer)(int (*)(int))))(int) { return outer(triple) == 6 ? triple : NULL; }
int sample_apply(unary * f, int x) { return f(x); }
int (*sample_row(int (*m)[3], int i))[3] { return m + i; }

float sample_grid_sum(const float grid[2][3]) {
    float sum = 0;
    for (int i = 0; i < 6; i++) sum += grid[i / 3][i % 3];
    return sum;
}

const char * const * sample_names(size_t * n) {
    static const char * const names[] = {"one", "two"};
    *n = 2;
    return names;
}

size_t sample_count(const char * const * list, char * const * unused) {
    size_t n = 0;
    (void) unused;
    while (list[n]) n++;
    return n;
}

void sample_bits(struct bits * out) {
    out->low  = 5;
    out->high = -8;
    out->flag = true;
    out->tint = COLOUR_RED;
    out->last = 2;
}

void sample_nest(struct nest * out) {
    static int far   = 0;
    out->head          = 1;
    out->a             = 2;
    out->c             = 0.5f;
    out->named.head      = 3;
    out->named.in.deep = 4;
    out->many[2].s     = 5;
    out->far           = (void *) &far;
    out->far->q        = 6;
}

struct later sample_later(int value) { return (struct later) {value}; }

int sample_pass(struct arrays arrays, untagged u, union number n) {
    return arrays.params[15] + arrays.table[4] + u.op(u.id, u.by_value.value) + n.i;
}

long double sample_stretch(long double x) { return x / 2; }

hidden_t sample_hidden(void) {
    static struct hidden hidden;
    return &hidden;
}

sample_id import(int lambda, int self, int from) { return lambda + 10 * self + 100 * from; }
int       sample_shadow(int function, int guarded, int guard, int module_function) {
    return function + guarded + guard + module_function;
}
enum mode mode(void) { return MODE_ON; }

int sample_old_inside(int x) { return x; }
int sample_old_outside(int (*f)(int), int x) { return f(x); }
int (*sample_old_pick(char op))(int, int) { return sample_pick(op); }
int sample_old_bare(void) { return 0; }

FILE * sample_open(const char * path) { return fopen(path, "r"); }
int    sample_print(const char * format, va_list arguments) { return vprintf(format, arguments); }
