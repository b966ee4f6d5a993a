#!/usr/bin/env bash
# Checks and measures extraction on a bare GPU machine, some minutes: states of every native family against the CPU's,
# losses and gradients of pretraining, and forward passes against transformers and torchaudio at each peer's best
# batch size. Leaves JSON and tables in OUT, to be committed under results/speed.
#
#   tests/benchmarks/gpu.sh OUT
#
# Needs Python 3.11 or later with torch 2.11 or later. What else is missing is installed from the folder of wheels
# WHEELS (default: wheels), without a network; nothing is built.
# DEVICE=cpu runs a little of everything on a CPU: a rehearsal. UPSTREAM is the preset that is timed.
set -uo pipefail
[ $# -eq 1 ] || { sed -n '2,11p' "$0"; exit 2; }
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}
wheels=${WHEELS:-wheels}
device=${DEVICE:-cuda}
if compgen -G "$wheels/*.whl" > /dev/null; then
    for wheel in "$wheels"/*.whl; do # what is there already is left alone
        name=$(basename "$wheel" | cut -d- -f1)
        "$python" -m pip show -q "$name" 2> /dev/null || "$python" -m pip install -q --no-index --no-deps "$wheel"
    done
fi
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
mkdir -p "$1"
out=$(cd "$1" && pwd)
here=$root/tests/benchmarks
status=0

if [ "$device" = cuda ]; then
    small=() name=${UPSTREAM:-wav2vec2_base}
    words=(seconds=3840 rounds=3 batches=1,4,8,16,32,64)
else
    small=(--small) name=${UPSTREAM:-wav2vec2_tiny}
    words=(seconds=24 rounds=1 batches=1,2)
fi
"$python" "$here/device_states.py" --device "$device" "${small[@]}" --out "$out/states.json" || status=1
"$python" "$here/device_checks.py" --device "$device" --out "$out/training.json" || status=1

# speed KIND WORDS...: one table; KIND is a part of its name
speed() {
    local kind=$1 place=$out/.$1
    shift
    "$python" -m wavbench.benchmark.cli speed upstream="$name" device="$device" peers=transformers,torchaudio \
        "${words[@]}" "$@" results="$place" || { status=1; return; }
    for end in json md; do
        mv "$place/speed/${name}_$device.$end" "$out/${name}_${device}_$kind.$end"
    done
    rm -r "$place"
}
speed to_host                       # states count once they are in the memory of the host
speed to_host_sorted sort=true      # peers get utterances of like length, and pad little
speed forward_sorted sort=true copy=false # states stay on the device
exit $status
