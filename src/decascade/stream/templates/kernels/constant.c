/* Rows that are stored in the program. */
typedef struct {
    const int8_t *values;
    uint32_t size, rows;
} constant;

static void constant_row(const constant *L, int32_t y, int8_t *out) {
    memcpy(out, L->values + (L->rows > 1 ? (uint32_t)y : 0u) * L->size, L->size);
}
