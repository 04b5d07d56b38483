/* Sums over all rows so far, int32 for each channel. */
typedef struct {
    uint16_t width, channels;
} totals;

static void totals_row(const totals *L, const int8_t *const *rows, int32_t y, int8_t *out) {
    const int8_t *p = rows[0];
    for (int32_t c = 0; c < L->channels; ++c) {
        int32_t total = 0;
        if (y > 0) memcpy(&total, out + 4 * c, 4);
        for (int32_t x = 0; x < L->width; ++x) total += p[x * L->channels + c];
        memcpy(out + 4 * c, &total, 4);
    }
}
