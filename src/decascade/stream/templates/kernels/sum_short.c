/* a + b where one operand has the larger scale, so that its factor is exactly 1/2, and the other a smaller one. */
typedef struct {
    int32_t mantissa, half, shift, out_mantissa, out_offset, out_shift;
    uint32_t size;
    int8_t whole, whole_zero, other_zero, whole_minus, other_minus, low, high; /* whole: which operand is just shifted */
} sum_short;

static void sum_short_row(const sum_short *L, const int8_t *const *rows, int8_t *out, int8_t *scratch) {
    const int8_t *a = rows[L->whole], *b = rows[1 - L->whole], *end = a + L->size;
    const int32_t m = L->mantissa, half = L->half, n = L->shift, z1 = L->whole_zero, z2 = L->other_zero;
    const int32_t out_m = L->out_mantissa, out_c = L->out_offset, out_n = L->out_shift;
    const int32_t up = L->whole_minus ? -(1 << 19) : 1 << 19, minus = L->other_minus ? -1 : 0;
    int8_t *start = out;
    (void)scratch;
    while (a != end) {
        int32_t t = high_product((*b++ - z2) * (1 << 21), m);
        t += t >> 31;
        t = (((t + half) >> n) ^ minus) - minus;
        *out++ = (int8_t)rescaled((*a++ - z1) * up + t, out_m, out_c, out_n);
    }
    if (L->low > -128 || L->high < 127) {
        for (; start != out; ++start) *start = clamp8(*start, L->low, L->high);
    }
}
