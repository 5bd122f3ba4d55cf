"""LoRA: the frozen weight W gets a trained low-rank update, W + (alpha / r) * B A.

Hu et al. 2021, https://arxiv.org/abs/2106.09685. A is (r, in), B is (out, r) and starts at zero, so
training starts exactly at the base model.
"""

from dataclasses import dataclass

from configs.fields import ConfigError, check_fields, option


@dataclass
class LoraSettings:
    lora_r: int = option(8, "LoRA 的秩 r：B (out, r) 与 A (r, in) 的宽度；越大参数越多", minimum=1, maximum=1024)
    lora_alpha: int = option(16, "LoRA 的缩放 alpha：更新量为 (alpha / r) · BA", minimum=1, maximum=4096)
    lora_dropout: float = option(0.05, "LoRA 输入上的 dropout 概率", minimum=0.0, maximum=0.99)
    target_modules: list[str] = option(
        ["q_proj", "k_proj", "v_proj", "o_proj"], "加 LoRA 的线性层名，逗号分隔；all-linear 表示全部线性层"
    )

    def __post_init__(self):
        problems = check_fields(self)
        if not self.target_modules or not all(self.target_modules):
            problems.append("--target_modules：至少要有一个层名，逗号分隔，例如 q_proj,v_proj")
        elif "all-linear" in self.target_modules and len(self.target_modules) > 1:
            problems.append("--target_modules：all-linear 已是全部线性层，不能与别的层名写在一起")
        if problems:
            raise ConfigError(problems)
