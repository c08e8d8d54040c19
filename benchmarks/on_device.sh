#!/usr/bin/env bash
# All checks that need a GPU, within four minutes: the kernels' tests on the card itself (compiled, not interpreted), the
# GPU suite of the benchmarks, tiny trainings in mixed precision among them. Rows go to $OUT/gpu.json as they are found.
#
#     PYTHON=.venv/bin/python bash benchmarks/on_device.sh
#
# Wheels in .whl/ are installed first, into a folder of their own: for a machine without a package registry that lacks
# some of ours (one lent here lacks plyfile).
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
out=${OUT:-benchmarks/results}
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" CUBLAS_WORKSPACE_CONFIG=:4096:8
unset TRITON_INTERPRET
if compgen -G ".whl/*.whl" > /dev/null; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site .whl/*.whl
    export PYTHONPATH="$PYTHONPATH:/tmp/site"
fi
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
"$python" -c 'import torch, triton; print("torch", torch.__version__, "triton", triton.__version__, "cudnn", torch.backends.cudnn.version()); assert torch.cuda.is_available()' || exit 1

failed=0
together=()
"$python" -c 'import xdist' 2> /dev/null && together=(-n 8)
timeout 75 "$python" -m pytest -q -o addopts= --noconftest -p no:cacheprovider "${together[@]}" \
    tests/kernels/test_sweep_triton.py tests/test_device.py tests/test_gpu_benchmark.py || failed=1
timeout 155 "$python" -m benchmarks.gpu --out "$out/gpu.json" || failed=1
exit $failed
