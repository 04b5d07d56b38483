/* Runs the model once on the test vector and tells, by semihosting: timer ticks, bytes of stack, the outputs as bits.
   The board's timer runs at 25 MHz of emulated time, in which every instruction takes 64 ns.
   X tells that the stack took all RAM there is: what lies below it reads as zero, without a fault. */
#include <stdint.h>
#include <string.h>
#include "harness.h"

#define APART __attribute__((section(".harness.text"), noinline))
#define APART_DATA __attribute__((section(".harness.data")))
#define REGISTER(address) (*(volatile uint32_t *)(address))
#define TIMER 0x40000000u
#define PAINT 0xA5A5A5A5u

extern uint32_t stack_low, stack_top;
static volatile uint32_t wraps APART_DATA = 0;

APART static void call(uint32_t operation, uint32_t argument) {
    register uint32_t r0 __asm__("r0") = operation;
    register uint32_t r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}

static char line[24] APART_DATA = {0};

APART static void tell(char kind, uint32_t high, uint32_t low) {
    line[0] = kind;
    line[1] = ' ';
    for (int i = 0; i < 16; ++i) {
        uint32_t word = i < 8 ? high : low;
        uint32_t digit = (word >> (28 - 4 * (i & 7))) & 15u;
        line[2 + i] = (char)(digit < 10 ? '0' + digit : 'a' + digit - 10);
    }
    line[18] = '\n';
    line[19] = 0;
    call(4, (uint32_t)line);
}

APART static void wrapped(void) {
    REGISTER(TIMER + 12) = 1;
    ++wraps;
}

APART static void stop(void) { call(0x18, 0x20026); for (;;) {} }

APART static void failed(void) {
    tell('F', 0, REGISTER(0xE000ED28));
    stop();
}

APART static uint64_t ticks(uint32_t start) {
    uint32_t now = REGISTER(TIMER + 4);
    return ((uint64_t)wraps << 32) + (uint32_t)(start - now);
}

APART static void measure(void) {
    uint32_t *here;
    __asm__ volatile("mov %0, sp" : "=r"(here));
    uint32_t *low = here - PAINTED / 4 > &stack_low ? here - PAINTED / 4 : &stack_low;
    for (uint32_t *p = low; p < here - 16; ++p) *p = PAINT;
    REGISTER(TIMER + 8) = 0xFFFFFFFFu;
    REGISTER(TIMER + 4) = 0xFFFFFFFFu;
    REGISTER(0xE000E100) = 1u << 8;
    REGISTER(TIMER) = 9;
    uint32_t start = REGISTER(TIMER + 4);
    uint64_t nothing = ticks(start);
    start = REGISTER(TIMER + 4);
    RUN_MODEL;
    uint64_t taken = ticks(start) - nothing;
    tell('T', (uint32_t)(taken >> 32), (uint32_t)taken);
    if (low == &stack_low && *low != PAINT) tell('X', 0, 0); /* the stack went through all of the RAM */
    uint32_t *touched = low;
    while (touched < here && *touched == PAINT) ++touched;
    tell('S', 0, (uint32_t)((char *)here - (char *)touched));
    for (uint32_t i = 0; i < OUTPUTS; ++i) {
        uint32_t bits;
        memcpy(&bits, &results[i], 4);
        tell('O', 0, bits);
    }
}

APART void reset(void) {
    REGISTER(0xE000ED88) |= 0xFu << 20; /* the floating-point unit */
    __asm__ volatile("dsb\nisb");
    measure();
    stop();
}

__attribute__((section(".vectors"), used)) static void (*const vectors[48])(void) = {
    (void (*)(void))&stack_top, reset, failed, failed, failed, failed, failed, [24] = wrapped,
};
