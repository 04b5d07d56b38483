#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#define APART static __attribute__((noinline))
#else
#define INLINE static
#define APART static
#endif

INLINE uint32_t load32(const int8_t *p) { uint32_t v; memcpy(&v, p, 4); return v; }
INLINE int32_t signed32(uint32_t v) { int32_t s; memcpy(&s, &v, 4); return s; }
INLINE int32_t plus(int32_t a, int32_t b) { return signed32((uint32_t)a + (uint32_t)b); }
INLINE int8_t clamp8(int32_t v, int32_t low, int32_t high) { return (int8_t)(v < low ? low : v > high ? high : v); }

#if defined(__ARM_FEATURE_DSP) && defined(__GNUC__)
/* Two products of 16 bits in one instruction; the compiler's own intrinsics where it has them. */
#include <arm_acle.h>
INLINE int32_t smlad(uint32_t a, uint32_t b, int32_t c) { return __smlad((int16x2_t)a, (int16x2_t)b, c); }
INLINE int32_t smlabb(uint32_t a, uint32_t b, int32_t c) { return __smlabb((int32_t)a, (int32_t)b, c); }
INLINE int32_t smlatt(uint32_t a, uint32_t b, int32_t c) { return __smlatt((int32_t)a, (int32_t)b, c); }
INLINE uint32_t even8(uint32_t v) { return (uint32_t)__sxtb16((int8x4_t)v); }
INLINE uint32_t odd8(uint32_t v) { uint32_t r; __asm__("sxtb16 %0, %1, ror #8" : "=r"(r) : "r"(v)); return r; }
INLINE int32_t high_product(int32_t a, int32_t b) { int32_t r; __asm__("smmulr %0, %1, %2" : "=r"(r) : "r"(a), "r"(b)); return r; }
INLINE int32_t saturate8(int32_t v) { int32_t r; __asm__("ssat %0, #8, %1" : "=r"(r) : "r"(v)); return r; }
/* Two words at once; p must be a multiple of 4. */
#define LOAD64(low, high, p) __asm__ volatile("ldrd %0, %1, [%2], #8" : "=r"(low), "=r"(high), "+r"(p) : : "memory")
#else
INLINE int32_t low16(uint32_t v) { return (int32_t)((v & 0xFFFFu) ^ 0x8000u) - 0x8000; }
INLINE int32_t high16(uint32_t v) { return low16(v >> 16); }
INLINE int32_t smlabb(uint32_t a, uint32_t b, int32_t c) { return plus(c, low16(a) * low16(b)); }
INLINE int32_t smlatt(uint32_t a, uint32_t b, int32_t c) { return plus(c, high16(a) * high16(b)); }
INLINE int32_t smlad(uint32_t a, uint32_t b, int32_t c) { return smlatt(a, b, smlabb(a, b, c)); }
INLINE uint32_t even8(uint32_t v) {
    uint32_t low = ((v & 0xFFu) ^ 0x80u) - 0x80u, high = (((v >> 16) & 0xFFu) ^ 0x80u) - 0x80u;
    return (low & 0xFFFFu) | (high << 16);
}
INLINE uint32_t odd8(uint32_t v) { return even8((v >> 8) | (v << 24)); }
INLINE int32_t high_product(int32_t a, int32_t b) { return (int32_t)(((int64_t)a * b + 0x80000000LL) >> 32); }
INLINE int32_t saturate8(int32_t v) { return v < -128 ? -128 : v > 127 ? 127 : v; }
#define LOAD64(low, high, p) do { low = load32(p); high = load32(p + 4); p += 8; } while (0)
#endif

/* A sum as int8, with the zero point and half a unit in c, for |sum| < 2^30 and n = −shift from 1 to 22; m = n = 0: the constant c. */
INLINE int32_t rescaled(int32_t sum, int32_t m, int32_t c, int32_t n) {
    int32_t t = high_product(signed32((uint32_t)sum << 1), m);
    t += t >> 31;
    return saturate8((t + c) >> n);
}
