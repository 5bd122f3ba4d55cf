"""Evaluate an adapter on a split or a file: a table, and metrics.json.

    python eval.py                                              # the test split of the data it was trained on
    python eval.py --dataset ChnSentiCorp --split validation
    python eval.py --test_file my_test.csv --text_column 评论 --label_column 标签

The metrics stand beside those on the rows that the adapter has not seen in training.
`model_evaluation/run_full_eval.py` tells much more.
"""

from configs.errors import run_script
from model_evaluation.pipeline import run_single
from model_evaluation.scores import STEP

if __name__ == "__main__":
    run_script(lambda: run_single(STEP, "评估适配器：打印一张表，写出 metrics.json。", __doc__))
