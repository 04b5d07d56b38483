/* sum·m·2^(shift−31), rounded twice as TFLite does it */
APART int32_t scaled(int32_t x, int32_t mantissa, int32_t shift) {
    const int32_t left = shift > 0 ? shift : 0, right = shift > 0 ? 0 : -shift;
    const int64_t product = (int64_t)signed32((uint32_t)x << left) * mantissa;
    const int32_t high = (int32_t)((product + (1 << 30)) >> 31);
    const int32_t mask = (int32_t)((1u << right) - 1u);
    return (high >> right) + ((high & mask) > (mask >> 1) + (high < 0));
}

