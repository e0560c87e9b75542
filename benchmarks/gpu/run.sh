#!/usr/bin/env bash
# Everything that waits for a GPU, the most valuable first, within a time limit. The same command
# goes on where the last one ended. Needs no network and installs nothing.
#
#   benchmarks/gpu/run.sh OUT MINUTES [--data PATH...] [--wheels FOLDER] [--boxes FOLDER]
#       [--jobs "trainings tests speed detection"] [--trainings "DEPTH:SEED ..."] [--at-once N]
#       [--steps N] [--device cuda] [--precision float32] [--work FOLDER]
#
# --data is a folder with cifar-10-batches-py, or `digits` for a trial, or an archive, also in parts
# and in their order. If the archive lacks cifar-10-batches-py, give unpack_cifar10.py after it,
# which writes that folder (see CONTRIBUTING.md). OUT gets results/, runs/, logs/ and done/.
set -u
fail() { echo "run.sh: $*" >&2; exit 2; }
[ $# -ge 2 ] || fail "give a folder for the results and the minutes"
total=$(awk -v m="$2" 'BEGIN { print int(60 * m) }')
[ "$total" -gt 0 ] || fail "the minutes are a positive number, not $2"
mkdir -p "$1"/{results/benchmarks,runs,logs,done} || exit 1
out=$(cd "$1" && pwd) jobs="trainings tests speed detection" device=cuda precision=float32
# Figure 1 first, then three seeds of the first row of Table 6, then its other rows and Figure 6.
trainings="20:0 56:0 20:1 20:2 32:0 44:0 110:0 56:1 56:2 32:1 32:2 44:1 44:2 110:1 110:2"
at_once=4 steps='' work=/tmp/residual-gpu wheels='' boxes='' data=()
shift 2
while [ $# -gt 0 ]; do
  option=${1#--} && [ "$option" != "$1" ] || fail "unknown argument $1"
  [ $# -ge 2 ] || fail "$1 needs a value"
  shift
  case $option in
  data)
    while [ $# -gt 0 ] && [ "${1#--}" = "$1" ]; do
      [ "$1" = digits ] && data+=(digits) || data+=("$(realpath -m "$1")")
      shift
    done ;;
  wheels | boxes | work) printf -v "$option" %s "$(realpath -m "$1")"; shift ;;
  jobs | trainings | steps | device | precision) printf -v "$option" %s "$1"; shift ;;
  at-once) at_once=$1; shift ;;
  *) fail "unknown option --$option" ;;
  esac
done
for name in $jobs; do
  [[ "$name" = @(trainings|tests|speed|detection) ]] ||
    fail "no job $name; there are trainings, tests, speed and detection"
done
[ "$device" = cpu ] || nvidia-smi > /dev/null 2>&1 || fail "no GPU here; a trial needs --device cpu"
# Of the time a little is left for the runs to be saved in.
deadline=$((SECONDS + total - (total > 200 ? 20 : total / 10)))
cd "$(dirname "$0")/../.." || exit 1
python=${PYTHON:-python3}
export PYTHONPATH="$work/site:$PWD" OMP_WAIT_POLICY=PASSIVE

modules() { # the packages that are missing, by the names of their wheels
  "$python" -c '
from importlib.util import find_spec
names = "torch torchvision numpy PIL safetensors typer rich matplotlib sklearn jinja2 simplejpeg"
names += " scipy defusedxml psutil pytest timm"
wheels = {"PIL": "pillow", "sklearn": "scikit-learn"}
print(*(wheels.get(name, name) for name in names.split() if find_spec(name) is None))'
}

install() { # the packages that are missing, from --wheels
  local missing
  missing=$(modules) || fail "$python does not run"
  if [ -n "$missing" ] && [ -n "$wheels" ]; then
    # shellcheck disable=SC2086
    "$python" -m pip install -q --no-index --no-deps --find-links "$wheels" \
      --target "$work/site" $missing
    missing=$(modules)
  fi
  [ -z "$missing" ] || fail "these packages are missing: $missing; give --wheels with theirs"
}

unpack() { # CIFAR-10, once
  local script='' parts=()
  case ${data[0]:-} in
  digits) return ;;
  '') data=("$work/data") ;;
  esac
  [ -d "${data[0]}/cifar-10-batches-py" ] && return
  if [ ! -f "$work/data/unpacked" ]; then
    for file in "${data[@]}"; do
      [ -f "$file" ] || fail "no CIFAR-10 in $file; give --data, a folder or an archive in parts"
      case $file in *.py) script=$file ;; *) parts+=("$file") ;; esac
    done
    mkdir -p "$work/data" && cat "${parts[@]}" > "$work/cifar10-lossless.tar" || exit 1
    tar -xf "$work/cifar10-lossless.tar" -C "$work/data" ||
      fail "the files of --data are no archive"
    if [ ! -d "$work/data/cifar-10-batches-py" ]; then
      [ -n "$script" ] || fail "the archive has no cifar-10-batches-py; give unpack_cifar10.py, too"
      cp "$script" "$work" && "$python" "$work/${script##*/}" "$work/data" || exit 1
    fi
    touch "$work/data/unpacked"
  fi
  data=("$work/data")
}

job() { # NAME MINUTES COMMAND...: runs a command once, in the time that is left, if it may suffice
  local name=$1 left=$((deadline - SECONDS)) pid status
  [ -e "$out/done/$name" ] && return
  ((left > $2 * 60)) || { echo "$name: not begun, $left s are left"; return; }
  echo "$name: begun, $left s are left"
  shift 2
  timeout --kill-after=15 "$left" "$@" >> "$out/logs/$name.log" 2>&1 &
  pid=$!
  trap 'deadline=0; kill -TERM "$pid" 2> /dev/null' TERM INT
  while wait "$pid"; status=$?; kill -0 "$pid" 2> /dev/null; do :; done  # a signal ends a wait
  [ "$status" = 0 ] && touch "$out/done/$name"
  echo "$name: ended with status $status"
}

residual() { # NAME MINUTES WORDS...
  local name=$1 minutes=$2
  shift 2
  job "$name" "$minutes" "$python" -m residual "$@" --device "$device"
}

trainings() { # a plain and a residual network at a time, at 64,000 steps unless --steps is given
  local source=(--data cifar10 --root "${data[0]}") item
  trap 'deadline=0; kill -TERM $(jobs -rp) 2> /dev/null' TERM INT
  [ "${data[0]}" = digits ] && source=(--data digits --root "$work")
  for item in $trainings; do
    while [ "$(jobs -rp | wc -l)" -ge $((at_once > 1 ? at_once / 2 : 1)) ]; do wait -n; done
    ((SECONDS < deadline)) || break
    residual "train-${item/:/-}" 0 reproduce table6 figure1 figure6 figure7 "${source[@]}" \
      --depths "${item%:*}" --set "seed=${item#*:}" ${steps:+--steps "$steps"} \
      --side-by-side 2 --threads 2 --precision "$precision" --results "$out/results" \
      --runs "$out/runs" &
  done
  while [ -n "$(jobs -rp)" ]; do wait; done
}

tests() { job tests 1 "$python" -m pytest -p no:cacheprovider -m gpu tests/test_gpu.py; }

benchmark() { # NAME MINUTES MODULE WORDS...: a comparison that has to end to leave its file
  local name=$1 minutes=$2 module=$3
  shift 3
  job "$name" "$minutes" "$python" -m "benchmarks.$module" "$@" --device "$device" \
    --keep "$out/results/benchmarks/$name.json"
}

speed() {
  benchmark cifar-training-resnet20-gpu 3 cifar_training --networks resnet20 --rounds 3
  benchmark cifar-training-resnet56-gpu 3 cifar_training --networks resnet56 --rounds 3
  benchmark detection-gpu 4 detection --network resnet101 --rounds 3
  benchmark imagenet-training-gpu 8 imagenet_training --batch 256 --rounds 3
  benchmark growth-gpu 5 growth --batch 8 32 64 128 --size 96 128 224 --processes 1 \
    --figure "$out/results/figures"
}

detection() { # the blood cells, or other boxes
  [ -n "$boxes" ] || { echo "cells: not begun, give --boxes"; return; }
  local run=$out/runs/cells
  if [ -e "$run/recipe.json" ]; then
    job cells 1 "$python" -m residual resume "$run"
  else
    residual cells 1 detect train resnet18 --data "$boxes" --recipe scratch --bad-boxes skip \
      --out "$run"
  fi
  [ -e "$run/result.json" ] && cp "$run/result.json" "$out/results/cells-detector-resnet18.json"
}

install
[[ " $jobs " = *" trainings "* ]] && unpack
echo "prepared after $SECONDS s"
for name in $jobs; do "$name"; done
echo "done: $(cd "$out/done" && echo *)"
