"""Models and data sets of a hub, fetched into its client's cache: within seconds it works, or says why not.

    folder, commit = fetch("Qwen/Qwen2.5-1.5B", "model", MODEL_FILES, way_out="…")

There are two: Hugging Face (huggingface.co, or the mirror that `HF_ENDPOINT` names) and ModelScope. `--hub`, or else
the environment variable SENTIMENT_HUB, says which is asked; `auto`, the default, asks ModelScope where Hugging Face
cannot be reached. A commit of ModelScope begins with `modelscope:`, so that an adapter or a checkpoint that records it
finds the same files again.
"""

import os
import sys
from pathlib import Path

from runtime.errors import UserError
from runtime.processes import is_main

MODEL_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
DATASET_FILES = ["*.parquet", "*.jsonl", "*.json", "*.csv", "*.tsv", "*.md", ".huggingface.yaml"]
PROBE_SECONDS = 5  # for a hub to answer its first question
CHINESE_KIND = {"model": "模型", "dataset": "数据集"}
AUTO, HUGGING_FACE, MODELSCOPE = HUBS = ("auto", "huggingface", "modelscope")
HUB_VARIABLE = "SENTIMENT_HUB"
HUB_HELP = (
    f"模型和数据集从哪里下载：huggingface（或 HF_ENDPOINT 的镜像）、modelscope；auto 先前者，连不上时用后者。"
    f"不给则为环境变量 {HUB_VARIABLE}，也没有则为 auto"
)
OF_MODELSCOPE = "modelscope:"  # begins a commit of that hub


class Unreachable(UserError):
    """A hub that cannot be asked, or not now, for files that its cache does not hold; says why in a few words.

    `begun`: it could be, and the download has broken off.
    """

    def __init__(self, reason: str, begun: bool = False):
        super().__init__(reason)
        self.begun = begun


class Refused(UserError):
    """A hub's answer that it does not give the files; says why and what to do."""


def fetch(
    name: str, kind: str, patterns: list[str], way_out: str, commit: str | None = None, hub: str | None = None
) -> tuple[Path, str]:
    """(folder, commit) of a repository's files; `kind` is "model" or "dataset". Raises `UserError`.

    With a `commit` whose files are all in the cache no hub is asked. What a download that broke off has left is gone
    on with. `hub` is one of `HUBS`; None takes it from the environment.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    from runtime.hubs.hugging_face import fetch_from_hugging_face
    from runtime.hubs.modelscope import fetch_from_modelscope

    what = f"{CHINESE_KIND[kind]} {name}"
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise UserError(f"{CHINESE_KIND[kind]}名 {name!r} 不合规；Hub 上的名字形如 Qwen/Qwen2.5-1.5B") from None
    hub = hub or os.environ.get(HUB_VARIABLE) or AUTO
    if hub not in HUBS:
        raise UserError(f"环境变量 {HUB_VARIABLE}：应为 {'、'.join(HUBS)} 之一，得到 {hub}")

    # Which to ask, in this order. A commit is known to one of them alone.
    fetch_from = {HUGGING_FACE: fetch_from_hugging_face, MODELSCOPE: fetch_from_modelscope}
    home = MODELSCOPE if commit and commit.startswith(OF_MODELSCOPE) else HUGGING_FACE
    hubs = [HUGGING_FACE, MODELSCOPE] if hub == AUTO else [hub]
    if commit and hub == AUTO:
        hubs = [home]
    elif commit and hub != home:
        try:
            return fetch_from[home](name, kind, patterns, commit, ask=False)
        except Unreachable:
            note(f"{what} 记下的提交 {commit} 在 {home} 上；现在用 {hub} 上最新的，没有核对内容是否相同")
            commit = None

    reasons: list[str] = []
    for asked in hubs:
        if reasons and not constants.HF_HUB_OFFLINE:
            note(f"{reasons[0]}，改从 ModelScope 取{what}")
        try:
            return fetch_from[asked](name, kind, patterns, commit)
        except Unreachable as error:
            reasons.append(str(error))
            if error.begun:
                break
        except Refused as error:
            if not reasons:
                raise UserError(f"{error}；或改用 {way_out}") from None
            reasons.append(str(error))
    raise _unobtainable(what, hubs[: len(reasons)], reasons, way_out)


def _unobtainable(what: str, asked: list[str], reasons: list[str], way_out: str) -> UserError:
    ways = [way_out]
    if MODELSCOPE not in asked:
        ways.insert(0, "--hub modelscope（从 ModelScope 下载）")
    if HUGGING_FACE in asked:
        ways.insert(0, "镜像：export HF_ENDPOINT=https://hf-mirror.com（Windows：set HF_ENDPOINT=…）")
    listed = "\n".join(f"  {number}. {way}" for number, way in enumerate(ways, 1))
    why = "；".join(dict.fromkeys(reasons))
    return UserError(f"拿不到{what}：{why}。本机缓存里也没有它，或不完整。可以改用：\n{listed}")


def note(text: str) -> None:
    """Say on stderr, once for all processes, what the user did not ask for."""
    if is_main():
        print(f"注意：{text}", file=sys.stderr)
