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
DATASET_FILES = ["*.parquet", "*.jsonl", "*.json", "*.csv", "*.tsv", "*.md", ".huggingface.yaml"]
CHINESE_KIND = {"model": "模型", "dataset": "数据集"}


def fetch(name: str, kind: str, patterns: list[str], way_out: str, commit: str | None = None) -> tuple[Path, str]:
    """(folder, commit) of a repository's files; `kind` is "model" or "dataset". Raises `UserError`.

    With a `commit` whose files are all in the cache nothing is asked of the hub. What a download that broke off
    has left is gone on with.
    """
    from huggingface_hub import HfApi, errors, snapshot_download
    from huggingface_hub.utils import httpx

    wanted = {"repo_id": name, "repo_type": kind, "revision": commit, "allow_patterns": patterns}
    try:
        folder = _whole_in_cache(wanted) if commit else None
        if folder is None:
            HfApi().repo_info(name, repo_type=kind, revision=commit, timeout=PROBE_SECONDS)
            # By branch and not by commit where none was asked for: only so the cache notes what `main` was,
            # and finds it again when the hub is away.
            folder = snapshot_download(**wanted)
    except errors.HFValidationError:
        raise UserError(f"{CHINESE_KIND[kind]}名 {name!r} 不合规；Hub 上的名字形如 Qwen/Qwen2.5-1.5B") from None
    except (errors.HfHubHTTPError, httpx.TransportError, json.JSONDecodeError, OSError) as error:
        try:
            folder = snapshot_download(**wanted, local_files_only=True)
        except errors.LocalEntryNotFoundError:
            raise UserError(_explained(error, name, kind, way_out, commit)) from None
    return Path(folder), Path(folder).name


def _whole_in_cache(wanted: dict) -> str | None:
    """The folder of a commit in the cache, if all that is wanted of it is there.

    Another program may have fetched single files of it; only the listing of the commit's files tells.
    """
    from huggingface_hub import errors, get_cached_repo_tree, snapshot_download

    try:
        get_cached_repo_tree(wanted["repo_id"], repo_type=wanted["repo_type"], revision=wanted["revision"])
        return snapshot_download(**wanted, local_files_only=True)
    except (errors.CachedRepoTreeNotFoundError, errors.LocalEntryNotFoundError):
        return None


def _explained(error: Exception, name: str, kind: str, way_out: str, commit: str | None) -> str:
    """The reason why neither the hub nor the cache has given the files, and the ways out."""
    from huggingface_hub import errors

    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f"Hub 上的{CHINESE_KIND[kind]} {name} 没有提交 {commit}（作者可能改写了历史），本机缓存里的也不完整。"
            "请从别处拿到这个提交的文件，放进一个文件夹，用 --base_model_name 指定"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"Hub 上没有{CHINESE_KIND[kind]} {name}（或者它需要登录：hf auth login）；检查名字，或改用 {way_out}"
    return _unreachable(name, kind, way_out, _reason(error))


def _reason(error: Exception) -> str:
    response = getattr(error, "response", None)
    return f"服务器回答 {response.status_code}" if response is not None else type(error).__name__


def _unreachable(name: str, kind: str, way_out: str, reason: str) -> str:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        where = "HF_HUB_OFFLINE 已打开，而本机缓存里没有它，或不完整"
    else:
        where = f"连不上 {constants.ENDPOINT}（{reason}），本机缓存里也没有它，或不完整"
    return (
        f"拿不到{CHINESE_KIND[kind]} {name}：{where}。可以：\n"
        "  1. 设置镜像后再运行：export HF_ENDPOINT=https://hf-mirror.com（Windows：set HF_ENDPOINT=…）\n"
        f"  2. 改用 {way_out}"
    )
