/* Softmax over the channels of a pixel, from a table of exponentials in Q0.31. */
typedef struct {
    const int32_t *exponentials;
    uint16_t width, channels;
} softmax;

INLINE int32_t doubled_product(int32_t a, int32_t b) { return (int32_t)(((int64_t)a * b + (1 << 30)) >> 31); }
INLINE int32_t halved(int32_t x, int32_t exponent) {
    const int32_t mask = (int32_t)((1u << exponent) - 1u);
    return (x >> exponent) + ((x & mask) > (mask >> 1) + (x < 0));
}
INLINE int32_t raised(int32_t x, int32_t exponent) {
    const int64_t v = (int64_t)x * (1 << exponent);
    return v > INT32_MAX ? INT32_MAX : v < INT32_MIN ? INT32_MIN : (int32_t)v;
}

/* 1 / (1 + x) for x in [0, 1], Q0.31: three steps of Newton's division in Q2.29 */
static int32_t reciprocal(int32_t x) {
    const int32_t half = (int32_t)(((int64_t)x + INT32_MAX + 1) / 2);
    int32_t found = 1515870810 + doubled_product(half, -1010580540);
    for (int i = 0; i < 3; ++i) {
        const int32_t error = (1 << 29) - doubled_product(half, found);
        found += raised(doubled_product(found, error), 2);
    }
    return raised(found, 1);
}

static void softmax_row(const softmax *L, const int8_t *const *rows, int8_t *out, int8_t *scratch) {
    const int8_t *p = rows[0];
    (void)scratch;
    for (int32_t x = 0; x < L->width; ++x, p += L->channels, out += L->channels) {
        int32_t most = -128, total = 0, over = 0;
        for (int32_t c = 0; c < L->channels; ++c) most = p[c] > most ? p[c] : most;
        for (int32_t c = 0; c < L->channels; ++c) total = plus(total, halved(L->exponentials[most - p[c]], 12));
        uint32_t unit = (uint32_t)total;
        while (!(unit & 0x80000000u)) { unit <<= 1; ++over; }
        const int32_t inverse = reciprocal(signed32(unit - 0x80000000u));
        for (int32_t c = 0; c < L->channels; ++c) {
            const int32_t share = doubled_product(inverse, L->exponentials[most - p[c]]);
            out[c] = clamp8(halved(share, 35 - over) - 128, -128, 127);
        }
    }
}
