/* Maps side by side: every input brings so many bytes to each of `chunks`; along rows, the one that has this row. */
typedef struct {
    const uint32_t *sizes;
    uint16_t inputs, chunks;
} concat;

static void concat_row(const concat *L, const int8_t *const *rows, int8_t *out, int8_t *scratch) {
    (void)scratch;
    for (size_t chunk = 0; chunk < L->chunks; ++chunk) {
        for (size_t i = 0; i < L->inputs; ++i) {
            if (rows[i] == NULL) continue;
            memcpy(out, rows[i] + chunk * L->sizes[i], L->sizes[i]);
            out += L->sizes[i];
        }
    }
}
