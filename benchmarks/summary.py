"""All results of a folder in one table, and the plot for the README (speed.svg, and speed.en.svg with English words).

python benchmarks/summary.py
python benchmarks/summary.py benchmarks/results/gpu
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

from model_evaluation.report.svg import COLOUR, page_style, standalone_svg
from runtime.atomic_files import atomic_write

WORDS = {
    "speed.svg": {
        "train": "训练：评论 token / 秒", "predict": "预测：条 / 秒",
        "a": "都填到 256，重算激活", "b": "Trainer，批内填齐", "c": "本仓库", "d": "Trainer，按长度分组",
        "ours": "本仓库", "ours bfloat16": "本仓库，bfloat16",
        "pipeline": "pipeline，每批 {}",
    },
    "speed.en.svg": {
        "train": "Training: review tokens per second", "predict": "Prediction: texts per second",
        "a": "padded to 256, recomputed", "b": "Trainer, dynamic padding", "c": "this repository",
        "d": "Trainer, grouped by length", "ours": "this repository", "ours bfloat16": "this repository, bfloat16",
        "pipeline": "pipeline, batches of {}",
    },
}  # fmt: skip
GB = 10**9
WIDTH, LEFT, RIGHT, ROW, TITLE = 720, 205, 150, 26, 42  # pixels of speed.svg


def read_results(folder: Path) -> dict[str, dict]:
    """File name without .json -> result, of every result file that there is."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def table(results: dict[str, dict]) -> str:
    """A few lines for each result, with device and commit."""
    lines = []
    for name, result in results.items():
        environment = result["environment"]
        versions = environment["versions"]
        lines.append(
            f"\n{name}: {environment['device']}, torch {versions['torch']}, transformers {versions['transformers']}, "
            f"commit {(environment['git']['commit'] or '-')[:7]}{' (changed)' if environment['git']['dirty'] else ''}"
        )
        lines += [f"  {line}" for line in describe(result)]
    return "\n".join(lines).lstrip()


def describe(result: dict) -> Iterator[str]:
    for row in result.get("variants", ()):
        if "review_tokens_per_second" in row:
            expert = f" {row['ratio_to_d']:6.2f} x (d)" if "ratio_to_d" in row else ""
            memory = f", peak {row['peak_memory_bytes'] / GB:.2f} GB" if row["peak_memory_bytes"] else ""
            yield (
                f"({row['variant']}) {row['title']:38} {row['review_tokens_per_second']:10,.0f} tokens/s "
                f"{row['ratio_to_a']:6.2f} x (a) {row['ratio_to_b']:6.2f} x (b){expert} "
                f"{row['share_of_limit']:5.0%} of limit"
                f"{memory}"
            )
        else:
            alone = f", one text {row['latency_p50_ms']:.1f} ms" if "latency_p50_ms" in row else ""
            yield f"{row['variant']:14} {row['texts_per_second']:10,.1f} texts/s, ours {row['ratio']:5.2f} times{alone}"
    for row in result.get("load", ()):
        yield (
            f"{row['clients']:4} clients, {row['texts_per_request']:3} texts each: "
            f"{row['texts_per_second']:9,.1f} texts/s, {row['ratio']:.2f} of predict_batch, "
            f"p50 {row['p50_ms']:.1f} ms, p99 {row['p99_ms']:.1f} ms"
        )
    if overload := result.get("overload"):
        yield f"{overload['clients']} clients at once: " + ", ".join(f"{k} {v}" for k, v in overload["answers"].items())
    if memory := result.get("memory"):
        yield (
            f"{memory['requests']:,} requests: resident memory {memory['begin_mib']} MiB after a tenth, "
            f"{memory['end_mib']} MiB at the end"
        )
    if faith := result.get("faithfulness"):
        for row in faith:
            yield (
                f"deleting {row['share']:.0%} of the words: answer's probability falls by {row['top_drop']:.3f} "
                f"for the top words, {row['random_drop']:.3f} for random ones"
            )
    for row in result.get("measured", ()):
        peak = f"{row['peak_bytes'] / GB:5.2f} GB" if "peak_bytes" in row else f"failed {row['failed']}"
        held = "" if row.get("pieces") == row.get("pieces_in_the_end") else ", but memory ran out once"
        yield f"{row['title']:40} {peak}{held}"
    for kind, figures in result.get("estimated", {}).items():
        yield f"{kind}: " + ", ".join(f"recomputed {k} {v / GB:.2f} GB" for k, v in figures["whole_batch"].items())
        for row in figures["passes"]:
            yield f"  {pass_line(row)}"
    for name, figure in result.get("differences", {}).items():
        yield (
            f"{name:22} mean {figure['mean_difference']:.4f}, most {figure['max_difference']:.4f}, "
            f"same label {figure['label_agreement']:.1%}"
        )
    if accuracy := result.get("accuracy"):
        yield f"accuracy of an adapter: float32 {accuracy['float32']:.2%}, bf16 {accuracy['bf16']:.2%}"
    for row in result.get("results", ()):
        if "reviews_per_second" not in row:
            continue
        how = f"Ray, {row['ray_workers']} workers" if row.get("ray_workers") else "inference.py --input"
        yield f"{row['rows']:,} rows, {row['dtype']}, {how}: {row['reviews_per_second']:,} reviews/s"
    for row in result.get("engines", ()):
        memory = f", peak {row['peak_bytes'] / GB:.1f} GB" if row["peak_bytes"] else ""
        ratio = f"{row['ratio']:5.2f} times torch bf16"
        yield f"{row['variant']:14} {row['texts_per_second']:7.2f} texts/s, {ratio}{memory}"
    if counts := result.get("counts"):
        yield ", ".join(f"{key} {value:,}" for key, value in counts.items())


def pass_line(row: dict) -> str:
    measured = "not measured here" if row["measured"] is None else f"measured {row['measured'] / GB:.2f} GB"
    return (
        f"{row['layers']} layers, {row['tokens']:,} tokens at once, recomputed {row['recompute']}: activations "
        f"estimated {row['estimated'] / GB:.2f} GB, {measured}"
    )


@page_style
def speed_plot(results: dict[str, dict], words: dict[str, str]) -> str:
    """Bars of training and prediction speed, ours in colour; an SVG file that needs nothing around it."""
    groups = []
    if "train_speed" in results:
        rows = [row for row in results["train_speed"]["variants"] if row["variant"] in words]
        bars = {words[row["variant"]]: row["review_tokens_per_second"] for row in rows[::-1]}
        groups.append((words["train"], results["train_speed"]["environment"]["device"], bars))
    if "predict_speed" in results:
        bars = {}
        for row in results["predict_speed"]["variants"]:
            name = words.get(row["variant"], row["variant"])  # an exported folder's own
            if name.startswith("pipeline "):
                name = words["pipeline"].format(name.split()[-1])
            bars[name] = row["texts_per_second"]
        groups.append((words["predict"], results["predict_speed"]["environment"]["device"], bars))

    height = sum(TITLE + ROW * len(bars) for _, _, bars in groups) + 14
    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
    top = height
    for title, device, bars in groups:
        bottom = top - TITLE - ROW * len(bars)
        inner = (LEFT / WIDTH, bottom / height, 1 - (LEFT + RIGHT) / WIDTH, ROW * len(bars) / height)
        axes = figure.add_axes(inner)
        axes.grid(False)
        ours = bars[words["ours"]]
        colours = [COLOUR["accent" if name == words["ours"] else "accent-soft"] for name in bars]
        drawn = axes.barh(range(len(bars)), bars.values(), 18 / ROW, color=colours)
        said = [
            f"{value:,.0f}" if value == ours else f"{value:,.0f}  (1 / {ours / value:.1f})" for value in bars.values()
        ]
        axes.bar_label(drawn, said, padding=8)
        axes.set(xticks=[], ylim=(len(bars) - 0.5, -0.5))
        axes.set_yticks(range(len(bars)), bars, color=COLOUR["ink"])
        figure.text(8 / WIDTH, (top - 27) / height, title, weight="bold")
        figure.text(1 - 8 / WIDTH, (top - 27) / height, device, ha="right", size=11, color=COLOUR["soft"])
        top = bottom
    return standalone_svg(figure, f"{words['train']}; {words['predict']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("benchmarks/results"))
    folder = parser.parse_args().folder
    results = read_results(folder)
    print(table(results))
    for name, words in WORDS.items():
        with atomic_write(folder / name) as file:
            file.write(speed_plot(results, words))
    print(f"\n{folder / 'speed.svg'}")


if __name__ == "__main__":
    main()
