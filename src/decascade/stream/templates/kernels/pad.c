/* A value around the map. */
typedef struct {
    uint16_t width, channels, out_width, out_channels;
    int16_t left, front;
    int8_t fill;
} pad;

static void pad_row(const pad *L, const int8_t *const *rows, int8_t *out, int8_t *scratch) {
    (void)scratch;
    for (int32_t x = 0; x < L->out_width; ++x) {
        for (int32_t c = 0; c < L->out_channels; ++c) {
            const int32_t at = x - L->left, channel = c - L->front;
            const int inside = rows[0] != NULL && at >= 0 && at < L->width && channel >= 0 && channel < L->channels;
            *out++ = inside ? rows[0][at * L->channels + channel] : L->fill;
        }
    }
}
