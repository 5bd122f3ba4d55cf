"""Models and data sets of Hugging Face, or of the mirror that `HF_ENDPOINT` names.

Left to themselves the libraries take 20 to 400 seconds to give up on a hub that cannot be reached, and
some calls never end: a few of their requests have no time limit. So one probe with a limit comes first;
it tells whether to go on with the hub or with what the cache holds. `HF_ENDPOINT` and `HF_HUB_OFFLINE` are
obeyed.
"""

import json
from pathlib import Path
from typing import Any

from runtime.errors import UserError, disk_full_message, first_line, is_disk_full
from runtime.hub_download import CHINESE_KIND, PROBE_SECONDS, Refused, Unreachable, note


def fetch_from_hugging_face(
    name: str, kind: str, patterns: list[str], commit: str | None, ask: bool = True
) -> tuple[Path, str]:
    """(folder, commit) as `fetch` has them; without `ask` the commit from the cache alone, or `Unreachable`."""
    from huggingface_hub import HfApi, errors, snapshot_download
    from huggingface_hub.utils import httpx

    wanted: dict[str, Any] = {"repo_id": name, "repo_type": kind, "revision": commit, "allow_patterns": patterns}
    folder = _whole_in_cache(wanted) if commit else None
    if folder is None and not ask:
        raise Unreachable("本机缓存里没有这个提交")
    begun = False
    try:
        if folder is None:
            HfApi().repo_info(name, repo_type=kind, revision=commit, timeout=PROBE_SECONDS)
            begun = True
            # By branch and not by commit where none was asked for: only so the cache notes what `main` was,
            # and finds it again when the hub is away.
            folder = snapshot_download(**wanted)
    # RuntimeError: hf-xet has no other kind for a broken connection or a full disk.
    except (errors.HfHubHTTPError, httpx.TransportError, json.JSONDecodeError, OSError, RuntimeError) as error:
        cause: BaseException = error
        while isinstance(cause, errors.LocalEntryNotFoundError) and cause.__cause__ is not None:
            cause = cause.__cause__  # "not in the cache either", raised from what the hub has answered
        try:
            folder = snapshot_download(**wanted, local_files_only=True)
        except errors.LocalEntryNotFoundError:
            raise _explained(cause, name, kind, commit, begun) from None
        if not isinstance(cause, errors.OfflineModeIsEnabled):
            cached = f"{CHINESE_KIND[kind]} {name}（提交 {Path(folder).name[:8]}）"
            note(f"{_reason(cause)}，用本机缓存里的{cached}")
    return Path(folder), Path(folder).name


def _whole_in_cache(wanted: dict[str, Any]) -> str | None:
    """The folder of a commit in the cache, if all that is wanted of it is there.

    Another program may have fetched single files of it; only the listing of the commit's files tells.
    """
    from huggingface_hub import errors, get_cached_repo_tree, snapshot_download

    try:
        get_cached_repo_tree(wanted["repo_id"], repo_type=wanted["repo_type"], revision=wanted["revision"])
        return snapshot_download(**wanted, local_files_only=True)
    except (errors.CachedRepoTreeNotFoundError, errors.LocalEntryNotFoundError):
        return None


def _explained(error: BaseException, name: str, kind: str, commit: str | None, begun: bool) -> UserError:
    """The reason why neither the hub nor the cache has given the files, as the error to raise."""
    from huggingface_hub import constants, errors

    what = f"{CHINESE_KIND[kind]} {name}"
    if is_disk_full(error):
        full = disk_full_message(error, Path(constants.HF_HUB_CACHE) / "…")
        return UserError(f"{what} 没有下载完：{full}；也可以用环境变量 HF_HOME 把缓存放到别的磁盘")
    if isinstance(error, errors.HfHubHTTPError) and (said := _refused(error, what, name, kind, commit)):
        return Refused(said)
    if isinstance(error, OSError) and error.errno is not None:
        place = error.filename or constants.HF_HUB_CACHE
        return UserError(
            f"{what} 没有下载完：不能写 {place}（{error.strerror}）；检查权限，或用环境变量 HF_HOME 把缓存放到别处"
        )
    return Unreachable("HF_HUB_OFFLINE 已打开" if constants.HF_HUB_OFFLINE else _reason(error), begun)


def _refused(error, what: str, name: str, kind: str, commit: str | None) -> str | None:
    """The cause and the remedy where the hub has answered and no mirror would help; None where it is only broken."""
    from huggingface_hub import errors

    status = error.response.status_code
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f"Hub 上的{what} 没有提交 {commit}（作者可能改写了历史），本机缓存里的也不完整。"
            "请从别处拿到这个提交的文件，放进一个文件夹，用 --base_model_name 指定"
        )
    if isinstance(error, errors.GatedRepoError):
        page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{name}"
        return (
            f"{what} 要先同意它的许可才能下载：在 {page} 登录并同意（有的要等作者批准），"
            "再在本机登录（hf auth login，或设 HF_TOKEN），重新运行"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"Hub 上没有{what}（或者它是私有的，需要登录：hf auth login）；检查名字"
    if status == 401:
        return f"Hub 不认登录的令牌（401），拿不到{what}：重新登录（hf auth login），或去掉、改正环境变量 HF_TOKEN"
    if status == 403:
        said = f"：{error.server_message}" if error.server_message else ""
        return (
            f"Hub 拒绝给出{what}（403{said}）：令牌没有读它的权限，或者这个账号、这个网络不许下载；"
            "用有权限的令牌登录（hf auth login；hf auth whoami 看现在是谁）"
        )
    if status == 429:
        return (
            f"{what} 没有下载完：请求太多，Hub 在限速（429）。{_waiting_time(error.response.headers)}再运行同一条命令，"
            "下载好的文件不会重来；登录（hf auth login）后限额更高"
        )
    return None


def _waiting_time(headers) -> str:
    """The pause that a hub which limits the rate of requests asks for in its headers."""
    from huggingface_hub.utils import parse_ratelimit_headers

    after, limit = headers.get("Retry-After", ""), parse_ratelimit_headers(headers)
    if after.isdigit():
        return f"等 {after} 秒"
    if limit is not None and limit.remaining == 0:
        return f"等 {limit.reset_in_seconds} 秒"
    return f"等到 {after} " if after else "等几分钟"


def _reason(error: BaseException) -> str:
    """A few words on what went wrong between here and the hub."""
    from huggingface_hub import constants

    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return f"{constants.ENDPOINT} 回答 {status}"
    said = first_line(error) if isinstance(error, RuntimeError) else type(error).__name__
    return f"连不上 {constants.ENDPOINT}（{said}）"
