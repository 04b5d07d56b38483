#!/bin/sh
# Debian and Ubuntu: the compiler and the emulator behind --target cortex-m and the instruction counts of bench.
# Everything else of the device targets comes with: pip install "decascade[device]"
set -e
if command -v arm-none-eabi-gcc > /dev/null && command -v qemu-system-arm > /dev/null; then
    exit 0
fi
if ! command -v apt-get > /dev/null; then
    echo "no apt-get here: install arm-none-eabi-gcc with newlib, and qemu-system-arm, with this system's own packages" >&2
    exit 1
fi
run=""
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo > /dev/null || { echo "installing packages needs root" >&2; exit 1; }
    run="sudo"
fi
$run apt-get update -qq
$run env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
    gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm
