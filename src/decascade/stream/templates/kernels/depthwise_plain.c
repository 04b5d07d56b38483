/* A depthwise convolution of any kind; `multiplier` outputs for each input channel. */
typedef struct {
    const int8_t *weights; /* kernel rows, kernel columns, output channels */
    const int32_t *scales; /* bias, mantissa, shift */
    uint16_t height, width, stride, channels, multiplier, in_width, out_width, dilation;
    int16_t left;
    int8_t in_zero, zero, low, high;
} depthwise_plain;

static void depthwise_plain_row(const depthwise_plain *L, const int8_t *const *rows, int8_t *out, int8_t *scratch) {
    const int32_t outs = L->channels * L->multiplier;
    (void)scratch;
    for (int32_t x = 0; x < L->out_width; ++x) {
        for (int32_t f = 0; f < outs; ++f) {
            const int32_t *q = L->scales + 3 * f;
            const int8_t *w = L->weights + f;
            int32_t sum = q[0];
            for (int32_t ky = 0; ky < L->height; ++ky) {
                for (int32_t kx = 0; kx < L->width; ++kx, w += outs) {
                    const int32_t at = x * L->stride - L->left + kx * L->dilation;
                    if (rows[ky] == NULL || at < 0 || at >= L->in_width) continue;
                    sum = plus(sum, *w * (rows[ky][at * L->channels + f / L->multiplier] - L->in_zero));
                }
            }
            *out++ = clamp8(plus(scaled(sum, q[1], q[2]), L->zero), L->low, L->high);
        }
    }
}
