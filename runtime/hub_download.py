"""Models and data sets of the hub, fetched into its cache: within seconds it works, or says why not.

    folder, commit = fetch("Qwen/Qwen2.5-1.5B", "model", MODEL_FILES, way_out="…")

Left to themselves the libraries take 20 to 400 seconds to give up on a hub that cannot be reached, and
some calls never end: a few of their requests have no time limit. So one probe with a limit comes first;
it tells whether to go on with the hub or with what the cache holds. `HF_ENDPOINT` and `HF_HUB_OFFLINE` are
obeyed.
"""

import json
from pathlib import Path

from runtime.errors import UserError

PROBE_SECONDS = 5
MODEL_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
DATASET_FILES = ["*.parquet", "*.jsonl", "*.json", "*.csv", "*.md"]
CHINESE_KIND = {"model": "模型", "dataset": "数据集"}


def fetch(name: str, kind: str, patterns: list[str], way_out: str, commit: str | None = None) -> tuple[Path, str]:
    """(folder, commit) of a repository's files; `kind` is "model" or "dataset". Raises `UserError`.

    With a `commit` that is already in the cache nothing is asked of the hub.
    """
    from huggingface_hub import errors, snapshot_download
    from huggingface_hub.utils import httpx

    found, reachable = _find(name, kind, way_out, commit)
    # By branch and not by commit where none was asked for: only so the cache notes what `main` was,
    # and finds it again when the hub is away.
    revision = commit if reachable else found
    try:
        folder = snapshot_download(
            name, repo_type=kind, revision=revision, allow_patterns=patterns, local_files_only=not reachable
        )
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, httpx.TransportError, OSError) as error:
        raise UserError(_unreachable(name, kind, way_out, f"下载没有完成：{type(error).__name__}")) from None
    return Path(folder), Path(folder).name


def _find(name: str, kind: str, way_out: str, commit: str | None) -> tuple[str, bool]:
    """(commit, whether the hub answered); a known commit in the cache needs no answer."""
    from huggingface_hub import HfApi, errors
    from huggingface_hub.utils import httpx

    api = HfApi()
    if commit and (cached := _in_cache(api, name, kind, commit)):
        return cached, False
    try:
        return api.repo_info(name, repo_type=kind, revision=commit, timeout=PROBE_SECONDS).sha, True
    except errors.HFValidationError:
        raise UserError(f"{CHINESE_KIND[kind]}名 {name!r} 不合规；Hub 上的名字形如 Qwen/Qwen2.5-1.5B") from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"Hub 上没有{CHINESE_KIND[kind]} {name}（或者它需要登录：hf auth login）；检查名字，或改用 {way_out}"
        ) from None
    except (httpx.TransportError, errors.OfflineModeIsEnabled, errors.HfHubHTTPError, json.JSONDecodeError) as error:
        if cached := _in_cache(api, name, kind, commit):
            return cached, False
        raise UserError(_unreachable(name, kind, way_out, _reason(error))) from None


def _in_cache(api, name: str, kind: str, commit: str | None) -> str | None:
    from huggingface_hub import errors

    try:
        return api.resolve_revision(name, repo_type=kind, revision=commit, local_files_only=True).resolved
    except errors.RevisionResolutionError:
        return None


def _reason(error: Exception) -> str:
    response = getattr(error, "response", None)
    return f"服务器回答 {response.status_code}" if response is not None else type(error).__name__


def _unreachable(name: str, kind: str, way_out: str, reason: str) -> str:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        where = "HF_HUB_OFFLINE 已打开，而本机缓存里没有它"
    else:
        where = f"连不上 {constants.ENDPOINT}（{reason}），本机缓存里也没有它"
    return (
        f"拿不到{CHINESE_KIND[kind]} {name}：{where}。可以：\n"
        "  1. 设置镜像后再运行：export HF_ENDPOINT=https://hf-mirror.com（Windows：set HF_ENDPOINT=…）\n"
        f"  2. 改用 {way_out}"
    )
