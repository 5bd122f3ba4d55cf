"""Evaluate an adapter on a split or a file: a table, and metrics.json.

    python eval.py                                              # the test split of the data it was trained on
    python eval.py --dataset ChnSentiCorp --split validation
    python eval.py --test_file my_test.csv --text_column 评论 --label_column 标签

The metrics stand beside those on the rows that the adapter has not seen in training.
`model_evaluation/run_full_eval.py` tells much more.
"""

from pathlib import Path

from configs.cli import help_text, parse_config
from configs.errors import run_script
from configs.evaluation_config import EvaluationConfig


def main() -> None:
    (config,) = parse_config(
        [EvaluationConfig], None, description=help_text("评估适配器：打印一张表，写出 metrics.json。", __doc__)
    )
    print("正在载入……", flush=True)

    from data.atomic import write_json
    from data.seen_texts import seen_mask
    from model_evaluation.evaluation_data import evaluation_rows
    from model_evaluation.metrics import seen_unseen_metrics
    from model_evaluation.tables import metrics_table
    from modeling.adapter import require_adapter
    from modeling.prediction import SentimentPredictor

    require_adapter(config.model_path)
    rows = evaluation_rows(config)
    predictor = SentimentPredictor(config.base_model_name, config.model_path)
    predictions = predictor.predictions(rows.texts, rows.labels, progress="预测")
    measured = seen_unseen_metrics(
        predictions, seen_mask(config.model_path, rows.texts), predictor.labels, seed=config.seed
    )

    output = Path(config.output_dir)
    predictions.save(output / "predictions.jsonl")
    write_json(output / "metrics.json", measured["all"] | {"unseen": measured["unseen"], "seen": measured["seen"]})
    tables = {"全部": measured["all"]} | ({"训练中没见过的": measured["unseen"]} if measured["unseen"] else {})
    print(metrics_table(tables))
    if measured["seen"]:
        seen = measured["seen"]
        print(f"其中 {seen['n']:,} 条在训练中见过（可能是背下来的），在它们上面准确率 {seen['accuracy']:.4f}")
    print(f"\n结果写在 {output / 'metrics.json'}；每条预测在 {output / 'predictions.jsonl'}")


if __name__ == "__main__":
    run_script(main)
