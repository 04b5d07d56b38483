/* A convolution of any kind: groups, multipliers of 1 and more, sums without a proof. */
typedef struct {
    const int8_t *weights;
    const int32_t *scales; /* bias (with the zero point), mantissa, shift */
    uint16_t filters, height, width, stride, channels, group_in, group_out, in_width, out_width, dilation;
    int16_t left;
    int8_t in_zero, zero, low, high;
} conv_plain;

static void conv_plain_row(const conv_plain *L, const int8_t *const *rows, int8_t *out, int8_t *scratch) {
    (void)scratch;
    for (int32_t x = 0; x < L->out_width; ++x) {
        const int8_t *w = L->weights;
        const int32_t *q = L->scales;
        for (int32_t f = 0; f < L->filters; ++f, q += 3) {
            const int32_t group = f / L->group_out * L->group_in;
            int32_t sum = q[0];
            for (int32_t ky = 0; ky < L->height; ++ky) {
                for (int32_t kx = 0; kx < L->width; ++kx, w += L->group_in) {
                    const int32_t at = x * L->stride - L->left + kx * L->dilation;
                    if (rows[ky] == NULL || at < 0 || at >= L->in_width) continue;
                    const int8_t *p = rows[ky] + at * L->channels + group;
                    for (int32_t c = 0; c < L->group_in; ++c) sum = plus(sum, w[c] * (p[c] - L->in_zero));
                }
            }
            *out++ = clamp8(plus(scaled(sum, q[1], q[2]), L->zero), L->low, L->high);
        }
    }
}
