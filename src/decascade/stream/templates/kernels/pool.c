/* Largest or mean value over a window; padding is left out. */
typedef struct {
    uint16_t height, width, stride, channels, in_width, out_width, dilation, average;
    int16_t left;
    int8_t low, high;
} pool;

INLINE int32_t mean_of(int32_t total, int32_t count) {
    return (total > 0 ? total + count / 2 : total - count / 2) / count;
}

static void pool_row(const pool *L, const int8_t *const *rows, int8_t *out, int8_t *scratch) {
    (void)scratch;
    for (int32_t x = 0; x < L->out_width; ++x) {
        const int32_t start = x * L->stride - L->left;
        const int32_t first = start < 0 ? 0 : start;
        const int32_t end = start + L->width < L->in_width ? start + L->width : L->in_width;
        for (int32_t c = 0; c < L->channels; ++c) {
            int32_t total = 0, most = -128, count = 0;
            for (int32_t ky = 0; ky < L->height; ++ky) {
                if (rows[ky] == NULL) continue;
                for (int32_t at = first; at < end; ++at) {
                    const int32_t v = rows[ky][at * L->channels + c];
                    total += v;
                    most = v > most ? v : most;
                    ++count;
                }
            }
            *out++ = clamp8(L->average ? mean_of(total, count) : most, L->low, L->high);
        }
    }
}
