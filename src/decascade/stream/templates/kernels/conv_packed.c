/* A convolution with pairs of filters in one word: w0 + 256·w1 in 16 bits, so that one product gives the sums of both.
   The sum of the first is taken apart, from the sign-extended low bytes; the second is what is left, shifted down. */
typedef struct {
    const uint32_t *weights;
    const int32_t *scales;
    uint16_t quads, filters, column, height, width, stride, channels, in_width, out_width, tile, dilation;
    int16_t left;
    int8_t zero, low, high;
} conv_packed;

INLINE void store16(int8_t *p, int32_t v) { const int16_t s = (int16_t)v; memcpy(p, &s, 2); }

/* Columns of the window, one for each input column: int16, kernel rows by channels. */
APART void expand(const conv_packed *L, const int8_t *const *rows, int32_t x, int32_t count, int32_t step, int8_t *to) {
    const int32_t channels = L->channels;
    for (; count > 0; --count, x += step, to += 2 * L->column) {
        int8_t *d = to;
        for (int32_t ky = 0; ky < L->height; ++ky) {
            int32_t c = 0;
            if (rows[ky] == NULL || x < 0 || x >= L->in_width) {
                for (; c < channels; ++c, d += 2) store16(d, L->zero);
                continue;
            }
            const int8_t *p = rows[ky] + x * channels;
            for (; c + 4 <= channels; c += 4, p += 4, d += 8) {
                const uint32_t v = load32(p), even = even8(v), odd = odd8(v);
                const uint32_t low = (even & 0xFFFFu) | (odd << 16), high = (even >> 16) | (odd & 0xFFFF0000u);
                memcpy(d, &low, 4);
                memcpy(d + 4, &high, 4);
            }
            for (; c < channels; ++c, ++p, d += 2) store16(d, *p);
        }
    }
}

/* Two pixels, two filters, four taps. */
#define STEP22 { uint32_t w0, w1, a0, a1, b0, b1; \
    LOAD64(w0, w1, w); LOAD64(a0, a1, p); LOAD64(b0, b1, p2); \
    c01 = smlad(w0, a0, c01); c11 = smlad(w0, b0, c11); w0 = even8(w0); c00 = smlad(w0, a0, c00); c10 = smlad(w0, b0, c10); \
    c01 = smlad(w1, a1, c01); c11 = smlad(w1, b1, c11); w1 = even8(w1); c00 = smlad(w1, a1, c00); c10 = smlad(w1, b1, c10); }

INLINE int32_t second(int32_t both, int32_t first) { return signed32((uint32_t)both - (uint32_t)first) >> 8; }

APART void two_pixels(const conv_packed *L, const int8_t *a, int32_t step, int8_t *out) {
    const int8_t *w = (const int8_t *)L->weights;
    const int32_t *q = L->scales;
    const int32_t quads = L->quads;
    int8_t *out2 = out + L->filters;
    for (int32_t f = L->filters; f > 0; f -= 2, q += 8) {
        int32_t c00 = q[0], c01 = q[1], c10 = c00, c11 = c01;
        const int8_t *p = a, *p2 = a + step, *end = w + 8 * quads;
        if (quads & 3) { do { STEP22 STEP22 } while (w != end); }
        else { do { STEP22 STEP22 STEP22 STEP22 } while (w != end); }
        *out++ = (int8_t)rescaled(c00, q[2], q[3], q[4]);
        *out2++ = (int8_t)rescaled(c10, q[2], q[3], q[4]);
        if (f == 1) return;
        c01 = second(c01, c00);
        c11 = second(c11, c10);
        *out++ = (int8_t)rescaled(c01, q[5], q[6], q[7]);
        *out2++ = (int8_t)rescaled(c11, q[5], q[6], q[7]);
    }
}

APART void one_pixel(const conv_packed *L, const int8_t *a, int8_t *out) {
    const int8_t *w = (const int8_t *)L->weights;
    const int32_t *q = L->scales;
    for (int32_t f = L->filters; f > 0; f -= 2, q += 8) {
        int32_t c0 = q[0], c1 = q[1];
        const int8_t *p = a, *end = w + 8 * L->quads;
        do {
            uint32_t w0, w1, a0, a1;
            LOAD64(w0, w1, w);
            LOAD64(a0, a1, p);
            c1 = smlad(w0, a0, c1); w0 = even8(w0); c0 = smlad(w0, a0, c0);
            c1 = smlad(w1, a1, c1); w1 = even8(w1); c0 = smlad(w1, a1, c0);
        } while (w != end);
        *out++ = (int8_t)rescaled(c0, q[2], q[3], q[4]);
        if (f == 1) return;
        *out++ = (int8_t)rescaled(second(c1, c0), q[5], q[6], q[7]);
    }
}

static void conv_packed_row(const conv_packed *L, const int8_t *const *rows, int8_t *out, int8_t *scratch) {
    int8_t *start = out;
    for (int32_t x = 0; x < L->out_width; x += L->tile) {
        const int32_t count = L->out_width - x < L->tile ? L->out_width - x : L->tile;
        const int32_t from = x * L->stride - L->left;
        int32_t step = 2 * L->column * L->stride;
        if (L->dilation > 1 || L->stride > L->width) { /* no two pixels share a column */
            step = 2 * L->column * L->width;
            for (int32_t i = 0; i < count; ++i) {
                expand(L, rows, from + i * L->stride, L->width, L->dilation, scratch + i * step);
            }
        } else {
            expand(L, rows, from, (count - 1) * L->stride + L->width, 1, scratch);
        }
        const int8_t *a = scratch;
        int32_t i = 0;
        for (; i + 2 <= count; i += 2, a += 2 * step, out += 2 * L->filters) two_pixels(L, a, step, out);
        if (i < count) { one_pixel(L, a, out); out += L->filters; }
    }
    if (L->low > -128 || L->high < 127) {
        for (; start != out; ++start) *start = clamp8(*start, L->low, L->high);
    }
}
