/* The mean from its sums: a division, or a multiplier that holds it. */
typedef struct {
    int32_t count, moved, mantissa, shift;
    uint16_t channels;
    int8_t zero, low, high, rescales;
} divided;

static void divided_row(const divided *L, const int8_t *const *rows, int8_t *out, int8_t *scratch) {
    (void)scratch;
    for (int32_t c = 0; c < L->channels; ++c) {
        int32_t total;
        memcpy(&total, rows[0] + 4 * c, 4);
        if (L->rescales) total = plus(scaled(total - L->moved, L->mantissa, L->shift), L->zero);
        else total = (total > 0 ? total + L->count / 2 : total - L->count / 2) / L->count;
        out[c] = clamp8(total, L->low, L->high);
    }
}
