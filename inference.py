"""Predict: a sentence, a prompt, a file, or from a program.

    python inference.py --text "酒店很干净，下次还来" --text "屏幕有坏点"
    python inference.py --interactive
    python inference.py --input reviews.csv --output predictions.csv --text_column 评论
    python inference.py --input reviews.xlsx --output predictions.csv --text_column 评论 --on_bad_rows skip
    python inference.py --input reviews.csv --output predictions.csv --text_column 评论 --resume

In a program:

    from inference import SentimentPredictor
    SentimentPredictor(lora_path="outputs/lora_adapter").predict("酒店很干净，下次还来")
"""

import gc
import io
import json
import os
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

# A program that imports this file may have a configs.py or data.py of its own beside it, which Python finds first.
HERE = Path(__file__).resolve().parent
for package in ("runtime", "configs", "data", "modeling", "prediction"):
    found = find_spec(package)
    if found and found.origin and Path(found.origin).resolve().parent.parent != HERE:
        raise ImportError(f"{found.origin} 与 {HERE} 的包 {package} 同名，挡住了它：请给前者改名，或从别的文件夹运行")

from configs.command_line import ArgumentParser, help_text
from configs.fields import AUTO, DTYPES, encoding_problem
from runtime.errors import UserError, run_script
from runtime.hub_download import HUB_HELP, HUB_VARIABLE, HUBS
from runtime.processes import is_main, world_size

if TYPE_CHECKING:
    from prediction.predictor import SentimentPredictor

DEMO = (
    "房间很干净，前台服务热情，离地铁站也近，下次还会住这里。",
    "隔音太差，半夜能听见隔壁说话，早餐也没什么可吃的。",
    "书的内容很充实，印刷清晰，孩子一口气读完了。",
    "用了三天就死机，客服还推来推去，不建议购买。",
    "外观不错，就是散热不行，玩一会儿游戏就烫手，后悔买了。",
    "虽然价格稍高，但音质确实对得起这个价。",
)


def __getattr__(name: str) -> Any:
    """`from inference import SentimentPredictor`, without torch for those who only ask for --help."""
    if name == "SentimentPredictor":
        from prediction.predictor import SentimentPredictor

        return SentimentPredictor
    raise AttributeError(name)


def main() -> None:
    args = parse_args()
    if args.input:
        from data.sources.record_reader import require_file

        require_file(args.input)  # a mistake in its name need not wait for the model
    # Imports and the model make a million objects that all stay, and Python's collector of reference cycles would go
    # through them again and again, and once more at the end: with it the answer takes 1.6 times the processor time.
    gc.disable()
    try:
        from modeling.devices import best_device
        from prediction.predictor import SentimentPredictor
        from runtime.distributed import connect_processes

        connect_processes()  # under torchrun: each process computes its share, the first one prints and writes
        dtype = best_device().bulk_dtype if args.input and args.dtype == AUTO else args.dtype
        predictor = SentimentPredictor(
            args.base_model_name, args.model_path,
            merge=args.merge, min_precision=args.min_precision, dtype=dtype, shared=True,
        )  # fmt: skip
    finally:
        gc.freeze()
        gc.enable()
    if args.input:
        predict_input(predictor, args)
    if args.text or args.demo:
        show_answers(predictor, [*args.text, *(DEMO if args.demo else ())], args.json)
    if args.interactive:
        run_prompt(predictor)


def parse_args():
    parser = ArgumentParser(description=help_text("预测：一句话、提示符、文件，或在程序里调用。", __doc__))
    parser.add_argument(
        "--model_path",
        "--lora_path",
        default="./outputs/lora_adapter",
        help="适配器文件夹（默认 ./outputs/lora_adapter）",
    )
    parser.add_argument("--base_model_name", help="换一个基座（例如本机上的文件夹）；不给则用适配器里记的")
    parser.add_argument("--text", action="append", default=[], help="一条评论；可以重复给出")
    parser.add_argument("--demo", action="store_true", help="预测几条自带的例句")
    parser.add_argument("--interactive", action="store_true", help="在提示符下逐条输入；quit、exit 或 Ctrl-D 结束")
    parser.add_argument("--input", type=Path, help="评论文件：.txt 每行一条，或 .jsonl .json .csv .tsv .xlsx .parquet")
    parser.add_argument(
        "--output", type=Path, help="--input 的结果文件：.jsonl 或 .csv（默认在输入旁边加 .predictions.jsonl）"
    )
    parser.add_argument("--text_column", default="text", help="--input 里文本的列名（默认 text）")
    parser.add_argument("--encoding", help="--input 的编码（如 gb18030、big5）；不给则按整个文件自动判断")
    parser.add_argument(
        "--on_bad_rows",
        choices=("error", "skip"),
        default="error",
        help="--input 里有空的或读不出的行：error 列出它们就结束（默认）；skip 跳过，在结果里留空并写明 reason",
    )
    parser.add_argument(
        "--resume", action="store_true", help="--input 中断以后接着算：输入、模型和参数都须与那时相同；不加则从头开始"
    )
    parser.add_argument("--json", action="store_true", help="--text 的结果以 JSON 打印，每行一条")
    parser.add_argument(
        "--min_precision", type=float, help="标出把握达到此精确率的回答（先运行 confidence_analysis.py），如 0.97"
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, default=AUTO,
        help="计算的精度（默认 auto：GPU 上和大基座用 bfloat16，其余 float32；"
        "CPU 直接会算 bfloat16 的，--input 也用它，更快，个别回答可能不同）",
    )  # fmt: skip
    parser.add_argument("--merge", action="store_true", default=True, help="把 LoRA 并入基座，预测更快（默认）")
    parser.add_argument("--no_merge", dest="merge", action="store_false", help="LoRA 与基座分开计算")
    parser.add_argument("--hub", choices=HUBS, help=HUB_HELP)
    args = parser.parse_args()
    if args.hub:
        os.environ[HUB_VARIABLE] = args.hub
    if not (args.text or args.demo or args.interactive or args.input):
        parser.error("要预测什么？给出 --text、--input、--interactive 或 --demo 之一")
    if world_size() > 1 and (args.interactive or not args.input):
        parser.error("多个进程（torchrun）只用于 --input")
    if args.output and not args.input:
        parser.error("--output 要和 --input 一起用；--text 的结果打印在屏幕上")
    if args.resume and not args.input:
        parser.error("--resume 要和 --input 一起用")
    if (args.encoding or args.on_bad_rows != "error") and not args.input:
        parser.error("--encoding 和 --on_bad_rows 要和 --input 一起用")
    if problem := encoding_problem(args.encoding):
        parser.error(problem)
    if args.min_precision is not None and not 0 < args.min_precision < 1:
        parser.error(f"--min_precision：应在 0 和 1 之间，得到 {args.min_precision}")
    return args


def show_answers(predictor: "SentimentPredictor", texts: list[str], as_json: bool) -> None:
    try:
        answers = predictor.predict_batch(texts)
    except ValueError as error:
        raise UserError(f"--text {error}") from None
    for answer in answers:
        print(json.dumps(answer, ensure_ascii=False) if as_json else f"{describe(answer)}  {answer['text']}")


def describe(answer: dict[str, Any]) -> str:
    """`正面  98.2%`, and where a threshold was asked for, whether a person should read the text."""
    review = "" if answer.get("accepted", True) else "  请人工看"
    return f"{answer['label']}  {answer['confidence']:6.1%}{review}"


def run_prompt(predictor: "SentimentPredictor") -> None:
    """One review a line until quit, exit or Ctrl-D; arrow keys edit and recall, where readline is there.

    What was typed is forgotten at the end.
    """
    with suppress(ImportError):  # Windows has none
        import readline  # noqa: F401 (from now on `input` edits lines)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # a terminal in another encoding than Python's
    print("输入一条评论，回车即得结果；quit、exit 或 Ctrl-D 结束。")
    try:
        while (text := input("> ").strip()) not in ("quit", "exit"):
            if not text:
                continue
            try:
                print(f"  {describe(predictor.predict(text))}")
            except ValueError as error:
                print(f"  {error}")
    except EOFError:
        print()


def predict_input(predictor: "SentimentPredictor", args) -> None:
    """Predict every review of a file; the output appears whole or not at all."""
    from modeling.fingerprint import model_fingerprint
    from prediction.predict_file import predict_file

    target = args.output or args.input.with_suffix(".predictions.jsonl")
    model = model_fingerprint(args.model_path, args.base_model_name)
    count = predict_file(
        predictor, args.input, target, args.text_column, model=model, resume=args.resume,
        encoding=args.encoding, on_bad_rows=args.on_bad_rows,
    )  # fmt: skip
    if is_main():
        print(f"{count:,} 条预测写在 {target}", file=sys.stderr)


if __name__ == "__main__":
    run_script(main)
