"""What `python -m data.audit` looks at, and with which model."""

from dataclasses import dataclass

from configs.fields import ConfigError, check_fields, option
from configs.training_config import DataConfig, source_problems


@dataclass
class AuditConfig(DataConfig):
    model_path: str | None = option(
        None, "用这个适配器的概率找可疑标注；不给则用字符 TF-IDF + 逻辑回归的 5 折折外概率（推荐）"
    )
    base_model_name: str | None = option(None, "与 --model_path 一起：换一个基座；不给则用适配器里记的")
    output_dir: str = option("./model_evaluation/outputs", "结果文件夹")

    def __post_init__(self):
        problems = check_fields(self) + source_problems(self)
        if self.base_model_name and not self.model_path:
            problems.append("--base_model_name：需要同时给出 --model_path")
        if problems:
            raise ConfigError(problems)
