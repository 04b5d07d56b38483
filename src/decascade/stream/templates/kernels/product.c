/* (a − zero of a)·(b − zero of b), rescaled. */
typedef struct {
    int32_t mantissa, shift;
    uint16_t width, channels, a_step, b_step;
    int8_t a_zero, b_zero, zero, low, high;
} product;

static void product_row(const product *L, const int8_t *const *rows, int8_t *out, int8_t *scratch) {
    const int8_t *a = rows[0], *b = rows[1];
    (void)scratch;
    for (int32_t x = 0; x < L->width; ++x, a += L->a_step, b += L->b_step) {
        for (int32_t c = 0; c < L->channels; ++c) {
            const int32_t both = (a[c] - L->a_zero) * (b[c] - L->b_zero);
            *out++ = clamp8(plus(scaled(both, L->mantissa, L->shift), L->zero), L->low, L->high);
        }
    }
}
