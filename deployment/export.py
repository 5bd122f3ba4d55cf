"""Export an adapter as a model that answers the same elsewhere: in transformers and vLLM, or without torch.

    python deployment/export.py --model_path outputs/lora_adapter --output_dir exported --format merged
    python deployment/export.py --format onnx --int8 --output_dir exported_onnx
    python deployment/export.py --format openvino --output_dir exported_openvino
    python deployment/export.py --format adapter --output_dir my_adapter --push_to_hub USER/NAME

Before the folder takes its name, its answers are compared with those of `SentimentPredictor`.
"""

from configs.command_line import help_text, parse_config
from configs.export_config import ExportConfig
from runtime.errors import run_script


def main() -> None:
    title = "导出适配器：在 transformers、vLLM 里，或不用 torch，答案都一样；答案核对过才写出。"
    (config,) = parse_config([ExportConfig], None, description=help_text(title, __doc__))
    print("正在载入……", flush=True)

    from deployment.exports.exporting import export

    export(config)


if __name__ == "__main__":
    run_script(main)
