/* a + b or a − b in units of 2^−20 of twice the larger scale.  `step`: columns of an operand that is one column wide stay. */
typedef struct {
    int32_t a_mantissa, a_shift, b_mantissa, b_shift, mantissa, shift;
    uint16_t width, channels, a_step, b_step;
    int8_t a_zero, b_zero, zero, low, high, minus;
} sum;

static void sum_row(const sum *L, const int8_t *const *rows, int8_t *out, int8_t *scratch) {
    const int8_t *a = rows[0], *b = rows[1];
    (void)scratch;
    for (int32_t x = 0; x < L->width; ++x, a += L->a_step, b += L->b_step) {
        for (int32_t c = 0; c < L->channels; ++c) {
            const int32_t first = scaled((a[c] - L->a_zero) * (1 << 20), L->a_mantissa, L->a_shift);
            const int32_t other = scaled((b[c] - L->b_zero) * (1 << 20), L->b_mantissa, L->b_shift);
            const int32_t total = L->minus ? first - other : first + other;
            *out++ = clamp8(plus(scaled(total, L->mantissa, L->shift), L->zero), L->low, L->high);
        }
    }
}
