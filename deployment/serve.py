"""Serve an adapter over HTTP, with a page for people at / and an interface for programs.

    python deployment/serve.py --model_path outputs/lora_adapter
    python deployment/serve.py --host 0.0.0.0 --port 8000 --api_key_file key.txt --min_precision 0.97
    SENTIMENT_API_KEY=… python deployment/serve.py --host 0.0.0.0 --no_page

Then, from a program:

    curl http://127.0.0.1:8000/predict -H "Content-Type: application/json" -d '{"texts": ["酒店很干净，下次还来"]}'
"""

import logging
import os
import sys
from pathlib import Path

from configs.command_line import ArgumentParser, help_text
from runtime.errors import UserError, run_script

KEY_VARIABLE = "SENTIMENT_API_KEY"
SHORTEST_KEY = 16  # characters; a shorter one could be guessed
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def main() -> None:
    args = parse_args()
    key = read_key(args.api_key_file)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("deployment.server").setLevel(logging.INFO)
    # Faults are told by the gate, without what uvicorn would quote of a request.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    os.environ["TQDM_DISABLE"] = "1"  # whoever waits for a file looks at the page
    try:
        from deployment.server.application import build_app
        from deployment.server.schemas import Limits
        from deployment.server.uvicorn_server import GracefulServer, bound_socket
    except ModuleNotFoundError as error:
        raise UserError(f"没有装 {error.name}；先运行 pip install -r requirements-deploy.txt") from None
    listening = bound_socket(args.host, args.port)  # a port that is taken need not wait for the model
    limits = Limits(
        texts=args.max_texts,
        characters=args.max_characters,
        body_bytes=args.max_body_mb * 2**20,
        upload_bytes=args.max_upload_mb * 2**20,
    )

    from prediction.predictor import SentimentPredictor

    predictor = SentimentPredictor(args.base_model_name, args.model_path, min_precision=args.min_precision)
    predictor.predict("预热")  # what is imported and allocated on first use; the first client should not wait for it
    app, service = build_app(
        predictor,
        args.served_model_name or args.model_path,
        limits=limits,
        most_waiting=args.max_queue,
        api_key=key,
        log_texts=args.log_texts,
        model_path=args.model_path,
    )
    delete_uploads = None
    if not args.no_page:
        from deployment.web import mount_page

        delete_uploads = mount_page(app, service, args.marks_file, log_texts=args.log_texts)
    address, port = listening.getsockname()[:2]
    url = f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
    page = "" if args.no_page else f"网页 {url}/，"
    server = GracefulServer(app, service, f"在 {url} 上服务：{page}接口说明 {url}/docs；Ctrl-C 停止")
    if key is None and args.host not in LOOPBACK:
        print(f"注意：没有密钥，能连到这台机器的人都能用。设 --api_key_file 或环境变量 {KEY_VARIABLE}", file=sys.stderr)
    try:
        server.run(sockets=[listening])
    finally:
        service.queue.close()
        if delete_uploads:
            delete_uploads()


def parse_args():
    parser = ArgumentParser(description=help_text("把适配器变成 HTTP 服务：给人的网页，给程序的接口。", __doc__))
    parser.add_argument(
        "--model_path", default="./outputs/lora_adapter", help="适配器文件夹（默认 ./outputs/lora_adapter）"
    )
    parser.add_argument("--base_model_name", help="换一个基座（例如本机上的文件夹）；不给则用适配器里记的")
    parser.add_argument("--served_model_name", help="回答里的 model，/classify 只认它（默认即 --model_path）")
    parser.add_argument("--host", default="127.0.0.1", help="监听的地址；0.0.0.0 为所有网卡（默认 127.0.0.1）")
    parser.add_argument("--port", type=int, default=8000, help="端口；0 为任选一个（默认 8000）")
    parser.add_argument("--min_precision", type=float, help="每个回答带 accepted：把握是否达到此精确率，如 0.97")
    parser.add_argument("--api_key_file", type=Path, help=f"密钥文件，一行；也可用环境变量 {KEY_VARIABLE}")
    parser.add_argument("--max_queue", type=int, default=2048, help="最多有多少条评论排队，再多答 429（默认 2048）")
    parser.add_argument("--max_texts", type=int, default=1024, help="一个请求最多多少条（默认 1024）")
    parser.add_argument("--max_characters", type=int, default=20_000, help="一条评论最多多少字符（默认 20000）")
    parser.add_argument("--max_body_mb", type=int, default=8, help="一个请求最大多少 MB（默认 8）")
    parser.add_argument("--max_upload_mb", type=int, default=32, help="网页上传的文件最大多少 MB（默认 32）")
    parser.add_argument("--log_texts", action="store_true", help="日志里写出评论；默认不写")
    parser.add_argument("--no_page", action="store_true", help="只要接口，不要网页")
    parser.add_argument(
        "--marks_file", type=Path, default=Path("outputs/marks.jsonl"),
        help="网页上标出的错误记在这里，可直接作 --train_file（默认 outputs/marks.jsonl）",
    )  # fmt: skip
    args = parser.parse_args()
    for name in ("max_queue", "max_texts", "max_characters", "max_body_mb", "max_upload_mb"):
        if getattr(args, name) < 1:
            parser.error(f"--{name}：应不小于 1，得到 {getattr(args, name)}")
    if not 0 <= args.port < 65536:
        parser.error(f"--port：应在 0 和 65535 之间，得到 {args.port}")
    if args.max_queue < args.max_texts:
        parser.error(f"--max_queue（{args.max_queue}）不能小于 --max_texts（{args.max_texts}），否则排不上")
    if args.min_precision is not None and not 0 < args.min_precision < 1:
        parser.error(f"--min_precision：应在 0 和 1 之间，得到 {args.min_precision}")
    if args.marks_file.suffix != ".jsonl":
        parser.error(f"--marks_file：应为 .jsonl 文件，得到 {args.marks_file}")
    return args


def read_key(path: Path | None) -> str | None:
    """The API key of the file, or of the environment; None where neither is given."""
    if path is None:
        where, text = f"环境变量 {KEY_VARIABLE}", os.environ.get(KEY_VARIABLE)
    else:
        where = f"--api_key_file：{path}"
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{where} 不能读（{getattr(error, 'strerror', None) or '不是 UTF-8'}）") from None
    if text is None:
        return None
    key = text.strip()
    if len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(
            f"{where} 里的密钥应为一行，至少 {SHORTEST_KEY} 个 ASCII 字符，不含空格；"
            'python -c "import secrets; print(secrets.token_urlsafe(32))" 生成一个'
        )
    return key


if __name__ == "__main__":
    run_script(main)
