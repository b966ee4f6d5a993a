#!/usr/bin/env bash
# Pretrains on a bare GPU machine: checks CUDA, measures speed, trains every objective at size tiny (hubert in two
# iterations) and then small ones, and leaves fp16 checkpoints of at most 14 MB (larger ones in parts), curves and
# figures in OUT. With NAMEs only those runs (hubert_tiny, data2vec_small, ...) share the minutes; an
# unknown name lists all.
#
#   tests/benchmarks/gpu_pretrain.sh MINUTES AUDIO_FOLDER OUT [NAME...]
#
# AUDIO_FOLDER holds one or several manifests (*.csv) with their audio; mboshi_fr.csv, if there, is what the phones
# probe is taken on and is not trained on. Needs Python 3.12 with torch 2.11 or later. What else is missing is installed
# from the folder of wheels WHEELS (default: wheels), without a network; nothing is built.
# DEVICE=cpu runs a few steps of everything on a CPU: a rehearsal.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,14p' "$0"; exit 2; }
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}
wheels=${WHEELS:-wheels}
began=$(date +%s)
if compgen -G "$wheels/*.whl" > /dev/null; then
    for wheel in "$wheels"/*.whl; do # what is there already is left alone
        name=$(basename "$wheel" | cut -d- -f1)
        "$python" -m pip show -q "$name" 2> /dev/null || "$python" -m pip install -q --no-index --no-deps "$wheel"
    done
fi
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec "$python" "$root/tests/benchmarks/gpu_pretrain.py" "$@" --began "$began" --device "${DEVICE:-cuda}"
