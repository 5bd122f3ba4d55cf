"""Heads, losses and numbers of labelled rows compared: LoRA with both heads beside TF-IDF and the un-tuned base.

    python benchmarks/heads.py --train_file train.jsonl --test_file validation.jsonl
    python benchmarks/heads.py --train_file train.jsonl --test_file validation.jsonl --sizes 32,all --seeds 1

Trains with `python train.py` once for each head, number of rows and seed, and measures all on the rows of
--test_file: on all of them, and on those whose text does not occur in --train_file. A tenth of the training file is
held out to choose the best step, so that nothing is chosen on the rows that are reported. TF-IDF learns from the very
rows that the adapters have learnt from. Runs that are done already are not repeated. Writes one JSON file and the
few-shot curve as SVG.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
from few_shot_plot import few_shot_curve

from data.dataset import LABEL_NAMES, Rows
from data.preprocessing import text_hash
from data.sources.review_files import read_labelled_file
from model_evaluation.evaluation import training_splits
from runtime.atomic_files import atomic_write, write_json
from runtime.run_info import REPOSITORY, environment

HEADS = {
    "classifier": ["--head", "classifier"],
    "label_scoring": ["--head", "label_scoring"],
    "label_scoring_lm": ["--head", "label_scoring", "--label_loss", "lm"],
}
TITLES = {
    "classifier": "LoRA，classifier",
    "label_scoring": "LoRA，label_scoring（restricted）",
    "label_scoring_lm": "LoRA，label_scoring（lm）",
    "tfidf": "字符 TF-IDF + 逻辑回归",
    "zero_shot": "零样本",
    "zero_shot_calibrated": "零样本，contextual calibration",
}
# Steps of up to 32 rows: the fewer rows, the more often each is seen; all rows, two epochs.
STEPS = {8: 20, 32: 40, 200: 80, 1000: 160}
EPOCHS = 2
# A head without new weights starts from what the base knows, which large steps on few rows unlearn: on EPRSTMT's five
# splits of 32 rows, 1e-3, 3e-4 and 1e-4 give 86.9, 88.4 and 89.0% (benchmarks/eprstmt.py --learning_rate).
GENTLE = {8: "1e-4", 32: "1e-4", 200: "1e-4", 1000: "3e-4"}
ALL = "all"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train_file", required=True)
    parser.add_argument("--test_file", required=True, help="rows that are measured and never trained on")
    parser.add_argument("--sizes", default="8,32,200,1000,all", help="numbers of training rows")
    parser.add_argument("--heads", default="classifier,label_scoring", help=f"of {', '.join(HEADS)}")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--preset", default="tiny", help="train.py's preset")
    parser.add_argument("--work_dir", default="outputs/heads", help="where the adapters go")
    parser.add_argument("--output", default="benchmarks/results/heads.json")
    args = parser.parse_args()
    args.train_file, args.test_file = (str(Path(path).resolve()) for path in (args.train_file, args.test_file))
    return args


def main() -> None:
    args = parse_args()
    test = read_labelled_file(Path(args.test_file), "text", "label")
    train_hashes = {text_hash(text) for text in read_labelled_file(Path(args.train_file), "text", "label").texts}
    unseen = np.array([text_hash(text) not in train_hashes for text in test.texts])
    results = [measured(name, 0, None, logits, test, unseen) for name, logits in zero_shot(args, test).items()]
    for size in args.sizes.split(","):
        for seed in map(int, args.seeds.split(",")):
            adapters = {head: train(args, head, size, seed) for head in args.heads.split(",")}
            rows = training_splits(str(next(iter(adapters.values()))))["train"]
            logits = {head: adapter_logits(adapter, test) for head, adapter in adapters.items()}
            logits["tfidf"] = tfidf_logits(rows, test, seed)
            results += [measured(name, len(rows), seed, found, test, unseen) for name, found in logits.items()]
            write(args, results, test, unseen)
    print(table(results))


def train(args: argparse.Namespace, head: str, size: str, seed: int) -> Path:
    """The adapter folder of one run; trained unless just this run lies there already."""
    output = Path(args.work_dir).resolve() / f"{head}-{size}-{seed}"
    few = ["--num_epochs", str(EPOCHS)] if size == ALL else few_shot_flags(head, int(size))
    flags = [
        "--preset", args.preset, "--train_file", args.train_file, "--test_file", args.test_file,
        *HEADS[head], *few, "--seed", str(seed),
    ]  # fmt: skip
    made_by = output / "flags.json"
    if not made_by.is_file() or json.loads(made_by.read_text(encoding="utf-8")) != flags:
        command = [sys.executable, "train.py", *flags, "--output_dir", str(output)]
        subprocess.run(command, cwd=REPOSITORY, check=True)
        write_json(made_by, flags)
    return output / "lora_adapter"


def few_shot_flags(head: str, size: int) -> list[str]:
    steps = STEPS[size]
    flags = ["--max_train_samples", str(size), "--max_steps", str(steps), "--eval_steps", str(steps // 4)]
    return flags if head == "classifier" else [*flags, "--learning_rate", GENTLE[size]]


def zero_shot(args: argparse.Namespace, test: Rows) -> dict[str, np.ndarray]:
    """The un-tuned base's logits, raw and with contextual calibration."""
    from configs.command_line import load_preset
    from configs.lora_config import LoraSettings
    from configs.training_config import TrainingConfig
    from prediction.zero_shot import ZeroShotPredictor, zero_shot_config

    config = zero_shot_config(load_preset(args.preset, [TrainingConfig, LoraSettings])["model_name"])
    raw = ZeroShotPredictor(config).predictions(test.texts).logits
    calibrated = ZeroShotPredictor(config, contextual_calibration=True).predictions(test.texts).logits
    return {"zero_shot": raw, "zero_shot_calibrated": calibrated}


def adapter_logits(adapter: Path, test: Rows) -> np.ndarray:
    from prediction.predictor import SentimentPredictor

    return SentimentPredictor(lora_path=adapter).predictions(test.texts).logits


def tfidf_logits(rows: Rows, test: Rows, seed: int) -> np.ndarray:
    from model_evaluation.baselines.models import Task, fit_tfidf

    return fit_tfidf(Task(rows, test, LABEL_NAMES, 256, seed, load_base=lambda: (None, None))).answer(test.texts)


def measured(name: str, rows: int, seed: int | None, logits: np.ndarray, test: Rows, unseen: np.ndarray) -> dict:
    right = logits.argmax(axis=1) == np.array(test.labels)
    return {
        "model": name,
        "rows": rows,
        "seed": seed,
        "accuracy": float(right.mean()),
        "accuracy_unseen": float(right[unseen].mean()),
    }


def summary(results: list[dict]) -> list[dict]:
    """Mean and range over the seeds of each model and size."""
    keys = list(dict.fromkeys((result["model"], result["rows"]) for result in results))
    lines = []
    for model, rows in keys:
        runs = [result for result in results if (result["model"], result["rows"]) == (model, rows)]
        line = {"model": model, "title": TITLES[model], "rows": rows, "seeds": len(runs)}
        for figure in ("accuracy", "accuracy_unseen"):
            values = [run[figure] for run in runs]
            line[figure] = {"mean": statistics.mean(values), "low": min(values), "high": max(values)}
        lines.append(line)
    return lines


def table(results: list[dict]) -> str:
    def shown(figure: dict) -> str:
        return f"{figure['mean']:.2%} ({figure['low']:.2%}–{figure['high']:.2%})"

    lines = [f"{'model':24} {'rows':>6} {'all rows':28} not in the training file"]
    for line in summary(results):
        lines.append(
            f"{line['model']:24} {line['rows']:>6} {shown(line['accuracy']):28} {shown(line['accuracy_unseen'])}"
        )
    return "\n".join(lines)


def write(args: argparse.Namespace, results: list[dict], test: Rows, unseen: np.ndarray) -> None:
    """After each seed, so that an interrupted measurement leaves what it has."""
    data = {"test": {"n": len(test), "unseen": int(unseen.sum()), "fingerprint": test.fingerprint()}}
    found = {"data": data, "summary": summary(results), "runs": results, "environment": environment()}
    write_json(args.output, found | {"preset": args.preset})
    with atomic_write(Path(args.output).with_suffix(".svg")) as file:
        file.write(few_shot_curve(found["summary"]))


if __name__ == "__main__":
    main()
