/* A depthwise convolution, four channels at a time: a word holds the weights of channels 0 and 2, the next those of 1 and 3. */
typedef struct {
    const uint32_t *weights;
    const int32_t *scales;
    uint16_t height, width, stride, channels, in_width, out_width, dilation;
    int16_t left;
    int8_t zero, low, high;
} depthwise_packed;

#define TAP(p) { const uint32_t v = load32(p), even = even8(v), odd = odd8(v); uint32_t w0, w1; LOAD64(w0, w1, w); \
    s0 = smlabb(even, w0, s0); s2 = smlatt(even, w0, s2); s1 = smlabb(odd, w1, s1); s3 = smlatt(odd, w1, s3); }

APART void depthwise_pixel(const depthwise_packed *L, const int8_t *const *from, int32_t step, int8_t *out) {
    const int8_t *w = (const int8_t *)L->weights;
    const int32_t *q = L->scales;
    const int32_t height = L->height, width = L->width;
    const int three = height == 3 && width == 3;
    for (int32_t c = 0; c < L->channels; c += 4, q += 16, out += 4) {
        int32_t s0 = q[0], s1 = q[4], s2 = q[8], s3 = q[12];
        if (three) { /* the usual kernel without its loops */
            const int8_t *p = from[0] + c;
            TAP(p) p += step; TAP(p) p += step; TAP(p) p = from[1] + c;
            TAP(p) p += step; TAP(p) p += step; TAP(p) p = from[2] + c;
            TAP(p) p += step; TAP(p) p += step; TAP(p)
        } else for (int32_t ky = 0; ky < height; ++ky) {
            const int8_t *p = from[ky] + c;
            int32_t kx = width;
            for (; kx >= 3; kx -= 3, p += step) { TAP(p) p += step; TAP(p) p += step; TAP(p) }
            for (; kx > 0; --kx, p += step) TAP(p)
        }
        out[0] = (int8_t)rescaled(s0, q[1], q[2], q[3]);
        out[1] = (int8_t)rescaled(s1, q[5], q[6], q[7]);
        out[2] = (int8_t)rescaled(s2, q[9], q[10], q[11]);
        out[3] = (int8_t)rescaled(s3, q[13], q[14], q[15]);
    }
}

static void depthwise_packed_row(const depthwise_packed *L, const int8_t *const *rows, int8_t *out, int8_t *scratch) {
    const int8_t *from[MOST_TAPS];
    const size_t size = L->channels;
    const int32_t span = (L->width - 1) * L->dilation;
    int8_t *start = out;
    int whole = 1;
    for (int32_t ky = 0; ky < L->height; ++ky) whole = whole && rows[ky] != NULL;
    for (int32_t x = 0; x < L->out_width; ++x, out += size) {
        const int32_t first = x * L->stride - L->left;
        int32_t step = L->dilation * L->channels;
        if (whole && first >= 0 && first + span < L->in_width) {
            for (int32_t ky = 0; ky < L->height; ++ky) from[ky] = rows[ky] + first * L->channels;
        } else { /* at the border: the window with its padding */
            int8_t *d = scratch;
            step = L->channels;
            for (int32_t ky = 0; ky < L->height; ++ky) {
                from[ky] = d;
                for (int32_t kx = 0; kx < L->width; ++kx, d += size) {
                    const int32_t at = first + kx * L->dilation;
                    if (rows[ky] == NULL || at < 0 || at >= L->in_width) memset(d, L->zero, size);
                    else memcpy(d, rows[ky] + at * L->channels, size);
                }
            }
        }
        depthwise_pixel(L, from, step, out);
    }
    if (L->low > -128 || L->high < 127) {
        for (; start != out; ++start) *start = clamp8(*start, L->low, L->high);
    }
}
