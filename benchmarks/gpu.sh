#!/bin/sh
# Everything worth knowing of one GPU, in at most eight minutes: see benchmarks/gpu.py.
#
#   benchmarks/gpu.sh OUT              # in an environment with ntt-ray and its dev extra
#   WHEELS=DIR benchmarks/gpu.sh OUT   # makes one of the wheels in DIR, without a network
#   benchmarks/gpu.sh OUT --dry        # on a machine without a GPU: are the commands right?
#
# Wheels are carried there by: pip download --dest DIR --constraint constraints.txt ".[dev]" setuptools wheel
set -eu
cd "$(dirname "$0")/.."
if [ -n "${WHEELS:-}" ]; then
    python3 -m venv /tmp/ntt-ray-gpu
    PATH="/tmp/ntt-ray-gpu/bin:$PATH"
    pip install --quiet --no-index --find-links "$WHEELS" setuptools wheel  # that build ntt-ray
    pip install --quiet --no-index --find-links "$WHEELS" --no-build-isolation ".[dev]"
fi
exec python -m benchmarks.gpu "$@"
