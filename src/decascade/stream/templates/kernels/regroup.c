/* The same values in other rows. */
typedef struct {
    int32_t from, to;
} regroup;

static void regroup_row(const regroup *L, const int8_t *const *rows, int32_t y, int8_t *out) {
    int32_t at = y * L->to % L->from, row = 0;
    for (int32_t i = 0; i < L->to;) {
        int32_t count = L->from - at < L->to - i ? L->from - at : L->to - i;
        memcpy(out + i, rows[row] + at, (size_t)count);
        i += count;
        at = 0;
        ++row;
    }
}
