"""The same training with several seeds: what of a difference between two settings is chance.

    train_seeds(config, lora, train)

Each seed has a folder of its own, OUTPUT_DIR/seed_1 and so on, with checkpoints and an adapter as any other training.
The seed decides the fresh weights, dropout, the order of the rows, and which rows `--max_train_samples` draws; the
splits are the same for all.
"""

import dataclasses
import gc
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from configs.lora_config import LoraSettings
from configs.training_config import ACCURACY, TrainingConfig
from modeling.adapter_folder import SEEDS
from runtime.atomic_files import write_json
from runtime.file_lock import output_lock
from runtime.processes import is_main
from runtime.terminal import text_table
from training.run_summary import next_commands

METRICS = ("accuracy", "precision", "recall", "f1", "auc")
COLUMNS = {
    "验证准确率": ("validation", "accuracy"),
    "验证 F1": ("validation", "f1"),
    "测试准确率": ("test", "accuracy"),
    "测试 F1": ("test", "f1"),
}


def train_seeds(config: TrainingConfig, lora: LoraSettings, train: Callable[..., dict[str, Any]]) -> None:
    """Train each of `config.seeds` that is not finished, then write OUTPUT_DIR/seeds.json and print the comparison.

    `train(config, lora, keep_finished=True)` trains one and returns its run_info. Each adapter gets a copy of the file.
    """
    configs, infos = {}, {}
    for number, seed in enumerate(config.seeds, start=1):
        folder = Path(config.output_dir) / f"seed_{seed}"
        configs[seed] = dataclasses.replace(config, seeds=None, seed=seed, output_dir=str(folder))
        print(f"\n== 种子 {seed}（{number}/{len(config.seeds)}）", flush=True)
        with output_lock(folder):
            infos[seed] = train(configs[seed], lora, keep_finished=True)
        gc.collect()  # trainer and model hold each other, and the next seed needs the memory

    summary = summarise(infos)
    if is_main():
        write_json(Path(config.output_dir) / SEEDS, summary)
        for one in configs.values():
            write_json(Path(one.output_dir) / "lora_adapter" / SEEDS, summary)
    print(f"\n== {len(infos)} 个种子\n{seeds_table(summary)}")
    best = summary["best_seed"]
    score = "准确率" if summary["best_by"] == ACCURACY else "宏平均 F1"
    print(f"\n验证{score}最高的是种子 {best}，要用就用它：{Path(configs[best].output_dir) / 'lora_adapter'}")
    print(f"平均、范围和标准差写在 {Path(config.output_dir) / SEEDS}。")
    if (Path(config.output_dir) / "lora_adapter").is_dir():
        print(f"（{Path(config.output_dir) / 'lora_adapter'} 是另一次训练的，不属于这几个种子。）")
    print(next_commands(configs[best], has_test="test" in infos[best]["metrics"]))


def summarise(infos: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """{"runs": seed -> split -> metrics, "summary": split -> metric -> figures, "best_seed", "best_by"}, JSON-ready.

    The figures are mean, min, max and sd, the standard deviation of a sample (N - 1; None for one seed); None in place
    of all where a metric is undefined for a seed. The best seed has the highest validation score by which the steps of
    its run were chosen; the first of equals.
    """
    runs: dict[int, dict[str, dict[str, float | None]]] = {}
    for seed, info in infos.items():
        runs[seed] = {split: {name: metrics[name] for name in METRICS} for split, metrics in info["metrics"].items()}
    splits = next(iter(runs.values()))
    summary = {
        split: {name: _figures([run[split][name] for run in runs.values()]) for name in METRICS} for split in splits
    }
    by = next(iter(infos.values())).get("best", {}).get("by", ACCURACY)
    return {
        "runs": {str(seed): run for seed, run in runs.items()},
        "summary": summary,
        "best_seed": max(runs, key=lambda seed: runs[seed]["validation"][by]),
        "best_by": by,
    }


def _figures(values: list[float | None]) -> dict[str, float | None] | None:
    if None in values:
        return None
    return {
        "mean": statistics.mean(values),
        "min": min(values),
        "max": max(values),
        "sd": statistics.stdev(values) if len(values) > 1 else None,
    }


def seeds_table(summary: dict[str, Any]) -> str:
    """A line for each seed, then the mean, the range and the standard deviation."""
    columns = {title: place for title, place in COLUMNS.items() if place[0] in summary["summary"]}
    rows = [["种子", *columns]]
    for seed, run in summary["runs"].items():
        rows.append([seed, *(f"{run[split][name]:.4f}" for split, name in columns.values())])
    figures = [summary["summary"][split][name] for split, name in columns.values()]
    rows.append(["平均", *(f"{one['mean']:.4f}" for one in figures)])
    rows.append(["范围", *(f"{one['min']:.4f}–{one['max']:.4f}" for one in figures)])
    if len(summary["runs"]) > 1:
        rows.append(["标准差", *(f"{one['sd']:.4f}" for one in figures)])
    return text_table(rows)
