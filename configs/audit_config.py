"""Settings of `python -m data.audit`: the data to look at, and where the findings go."""

from dataclasses import dataclass

from configs.fields import ConfigError, check_fields, option
from configs.training_config import DataConfig, source_problems


@dataclass
class AuditConfig(DataConfig):
    output_dir: str = option("./model_evaluation/outputs", "结果文件夹")

    def __post_init__(self):
        if problems := check_fields(self) + source_problems(self):
            raise ConfigError(problems)
