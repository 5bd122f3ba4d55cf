"""Models and data sets of ModelScope (魔搭), through its client `modelscope_hub`.

The client downloads: it goes on with what broke off and checks sizes and SHA-256. What it leaves open is done here. The
listing of a repository is asked for with a time limit, it turns the branch into a commit, its file names are checked
(the client would write wherever they lead), and it stays in the cache, where it tells whether all files are there.

The cache is the client's own (`MODELSCOPE_CACHE`), as it lays it out:

    models/Qwen--Qwen2.5-1.5B/snapshots/COMMIT/    the files
    models/Qwen--Qwen2.5-1.5B/trees/COMMIT.json    ours: all files of this commit
    models/Qwen--Qwen2.5-1.5B/refs/master.json     ours: the commit of the branch when it was last asked for

`MODELSCOPE_ENDPOINT` and `MODELSCOPE_API_TOKEN` are obeyed, and `HF_HUB_OFFLINE` counts for this hub as well.
"""

import json
import os
import re
from fnmatch import fnmatch
from pathlib import Path, PureWindowsPath
from typing import Any
from urllib.parse import urlsplit

from runtime.atomic_files import write_json
from runtime.errors import UserError, disk_full_message, first_line, is_disk_full
from runtime.hub_download import CHINESE_KIND, OF_MODELSCOPE, PROBE_SECONDS, Refused, Unreachable, note

BRANCH = "master"
PAGE_SIZE = 200  # entries of one listing of a data set
COMMIT = re.compile("[0-9a-f]{7,40}")

# The client's log, in English, would stand between the lines of ours; its errors come back as exceptions.
os.environ.setdefault("MODELSCOPE_LOG_LEVEL", "CRITICAL")


def fetch_from_modelscope(
    name: str, kind: str, patterns: list[str], commit: str | None, ask: bool = True
) -> tuple[Path, str]:
    """(folder, commit) as `fetch` has them; without `ask` the commit from the cache alone, or `Unreachable`."""
    from huggingface_hub import constants
    from modelscope_hub import HubConfig

    if "/" not in name:  # there every repository has an owner
        raise _missing(name, kind, BRANCH)
    config = HubConfig()
    repository = config.cache_dir / f"{kind}s" / name.replace("/", "--")
    revision = commit.removeprefix(OF_MODELSCOPE) if commit else None
    if revision is not None and not COMMIT.fullmatch(revision):
        raise UserError(f"{CHINESE_KIND[kind]} {name}：{commit} 不是 ModelScope 的提交")
    if revision and _is_whole(repository, revision, patterns):
        return repository / "snapshots" / revision, f"{OF_MODELSCOPE}{revision}"
    if not ask or constants.HF_HUB_OFFLINE:
        return _last_known(repository, revision, patterns, "HF_HUB_OFFLINE 已打开")
    try:
        files, head = _listing(config, name, kind, revision or BRANCH)
        # What is recorded must bring the same files again.
        known = _read(repository / "trees" / f"{head}.json") == files
        if revision is None and not known and _listing(config, name, kind, head)[0] != files:
            raise Unreachable(f"{config.endpoint} 没有说清 {BRANCH} 现在是哪个提交")
    except Unreachable as error:
        folder, commit = _last_known(repository, revision, patterns, str(error))
        note(f"{error}，用本机缓存里的{CHINESE_KIND[kind]} {name}（提交 {folder.name[:8]}）")
        return folder, commit
    folder = repository / "snapshots" / (revision or head)
    write_json(repository / "trees" / f"{folder.name}.json", files)
    if not _is_whole(repository, folder.name, patterns):
        _download(config, name, kind, _matching(files, patterns), folder)
    if revision is None:
        write_json(repository / "refs" / f"{BRANCH}.json", head)
    return folder, f"{OF_MODELSCOPE}{folder.name}"


def _last_known(repository: Path, revision: str | None, patterns: list[str], reason: str) -> tuple[Path, str]:
    """What the cache holds of the commit, or of the branch as it was last; `Unreachable` where that is not all."""
    revision = revision or _read(repository / "refs" / f"{BRANCH}.json")
    if revision is None or not _is_whole(repository, revision, patterns):
        raise Unreachable(reason)
    return repository / "snapshots" / revision, f"{OF_MODELSCOPE}{revision}"


def _is_whole(repository: Path, revision: str, patterns: list[str]) -> bool:
    """True where every wanted file of the commit lies in the cache, in its size."""
    files = _read(repository / "trees" / f"{revision}.json")
    if files is None:
        return False
    for file in _matching(files, patterns):
        path = repository / "snapshots" / revision / file["Path"]
        if not path.is_file() or path.stat().st_size != file["Size"]:
            return False
    return True


def _read(path: Path) -> Any:
    """The value of a JSON file of ours; None where there is none, or a damaged one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _matching(files: list[dict[str, Any]], patterns: list[str]) -> list[dict[str, Any]]:
    return [file for file in files if any(fnmatch(file["Path"], pattern) for pattern in patterns)]


def _listing(config: Any, name: str, kind: str, revision: str) -> tuple[list[dict[str, Any]], str]:
    """(Path, Size and Sha256 of each file, commit) of a branch or a commit.

    `Unreachable` where the hub gives no listing, `Refused` for what it says is not there or not for this user, and a
    `UserError` for a file name that leads out of the repository's folder.
    """
    import requests
    from modelscope_hub import errors

    url = f"{config.endpoint}/api/v1/{kind}s/{name}/repo/{'files' if kind == 'model' else 'tree'}"
    session = requests.Session()
    if config.token:  # as the client sends it, and to no other host
        session.headers["Authorization"] = f"Bearer {config.token}"
        session.cookies.set("m_session_id", config.token, domain=urlsplit(url).hostname)
    asked: dict[str, Any] = {"Revision": revision, "Recursive": "True", "PageSize": PAGE_SIZE}
    entries: list[dict[str, Any]] = []
    files: list[dict[str, Any]] = []
    first_digits, page = "", 0
    try:
        while len(entries) == page * PAGE_SIZE and not (page and kind == "model"):  # a data set comes in pages
            page += 1
            answer = session.get(url, params=asked | {"PageNumber": page}, timeout=PROBE_SECONDS)
            errors.raise_for_status(answer)
            data = answer.json()["Data"]
            entries += data["Files"] or []
            first_digits = (data.get("LatestCommitter") or {}).get("ShortId") or first_digits
        entries = [entry for entry in entries if entry["Type"] != "tree"]
        for entry in entries:
            files.append({"Path": entry["Path"], "Size": int(entry["Size"]), "Sha256": entry.get("Sha256")})
        # The hub says the first digits of the commit. The whole stands at the files that this commit has changed.
        commits = [entry["Revision"] for entry in sorted(entries, key=lambda entry: -entry["CommittedDate"])]
        commit = next((one for one in commits if one.startswith(first_digits)), first_digits)
        leading_away = [entry["Path"] for entry in entries if not _stays_inside(entry["Path"])]
    except requests.RequestException as error:
        raise Unreachable(f"连不上 {config.endpoint}（{type(error).__name__}）") from None
    except errors.APIError as error:
        raise _explained(error, config, name, kind, revision) from None
    except (LookupError, TypeError, ValueError, AttributeError):
        raise Unreachable(f"{config.endpoint} 的回答不是 ModelScope 的文件列表") from None
    if not files:  # also the answer for a revision that is not there
        raise _missing(name, kind, revision)
    if leading_away:
        names = f"指向别处的文件名 {leading_away[0]!r:.200}"
        raise UserError(f"ModelScope 上的{CHINESE_KIND[kind]} {name} 有{names}，没有下载")
    if not COMMIT.fullmatch(commit):
        raise Unreachable(f"{config.endpoint} 没有说 {revision} 是哪个提交")
    return files, commit


def _stays_inside(file_name: str) -> bool:
    path = PureWindowsPath(file_name)  # takes / and \\ both for what parts a path
    return not path.anchor and ".." not in path.parts and "\0" not in file_name


def _download(config: Any, name: str, kind: str, files: list[dict[str, Any]], folder: Path) -> None:
    """Fetch the files of the commit that `folder` is called after; what was there of them already is gone on with."""
    from modelscope_hub import HubApi, errors

    what = f"{CHINESE_KIND[kind]} {name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        HubApi(config).download_repo(name, kind, revision=folder.name, local_dir=folder, file_list=files)
        return
    except errors.FileDownloadError as error:
        cause = next(iter(error.failed_files.values()))
    except OSError as error:
        cause = error
    while isinstance(cause, errors.NetworkError) and cause.__cause__ is not None:
        cause = cause.__cause__  # the last of several attempts
    if is_disk_full(cause):
        full = disk_full_message(cause, folder / "…")
        raise UserError(f"{what} 没有下载完：{full}；也可以用环境变量 MODELSCOPE_CACHE 把缓存放到别的磁盘")
    if isinstance(cause, OSError) and cause.errno is not None:
        raise UserError(
            f"{what} 没有下载完：不能写 {cause.filename or folder}（{cause.strerror}）；检查权限，"
            "或用环境变量 MODELSCOPE_CACHE 把缓存放到别处"
        )
    if isinstance(cause, errors.FileIntegrityError):
        raise UserError(
            f"{what} 没有下载完：下载到的文件与 ModelScope 的清单不符（{first_line(cause)}）；请稍后重新运行"
        )
    if isinstance(cause, errors.APIError):
        raise _explained(cause, config, name, kind, folder.name, begun=True)
    raise Unreachable(f"从 {config.endpoint} 下载时断了（{type(cause).__name__}）", begun=True)


def _explained(error: Any, config: Any, name: str, kind: str, revision: str, begun: bool = False) -> UserError:
    """The error to raise for an answer of the hub that is one."""
    from modelscope_hub import errors

    what, status = f"{CHINESE_KIND[kind]} {name}", error.status_code
    if isinstance(error, errors.NotExistError):
        return _missing(name, kind, revision)
    if isinstance(error, (errors.AuthenticationError, errors.PermissionDeniedError)):
        return Refused(
            f"ModelScope 拒绝给出{what}（{status}：{first_line(error)}）：用有读它的权限的令牌登录"
            "（环境变量 MODELSCOPE_API_TOKEN），或去掉、改正已有的"
        )
    if isinstance(error, errors.RateLimitError):
        return Refused(
            f"{what} 没有下载完：请求太多，ModelScope 在限速（{status}）。等几分钟再运行同一条命令，"
            "下载好的文件不会重来"
        )
    return Unreachable(f"{config.endpoint} 回答 {status}", begun)


def _missing(name: str, kind: str, revision: str) -> Refused:
    what = f"{CHINESE_KIND[kind]} {name}"
    if revision != BRANCH:
        return Refused(
            f"ModelScope 上的{what} 没有提交 {revision}（作者可能改写了历史），本机缓存里的也不完整。"
            "请从别处拿到这个提交的文件，放进一个文件夹，用 --base_model_name 指定"
        )
    return Refused(f"ModelScope 上没有{what}（或者它是空的，或是私有的，需要令牌 MODELSCOPE_API_TOKEN）；检查名字")
