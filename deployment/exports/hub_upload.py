"""Uploads of an adapter or an exported model, with its card, to Hugging Face Hub and ModelScope.

    require_tokens(hub="me/my-model")
    push(Path("exported"), hub="me/my-model", modelscope=None)

A repository that does not exist yet is made private: what has been public once cannot be taken back. run_info.json
stays here, for it holds paths of this machine.
"""

from pathlib import Path

from modeling.adapter_folder import RUN_INFO
from runtime.errors import UserError, first_line

STAYS_HERE = [RUN_INFO, ".*"]
MESSAGE = "Upload from chinese-sentiment-peft"


def require_tokens(hub: str | None, modelscope: str | None) -> None:
    """A `UserError` where nobody is logged in, before minutes are spent on an export."""
    if hub:
        from huggingface_hub import get_token

        if get_token() is None:
            raise UserError(
                "--push_to_hub：没有登录 Hugging Face Hub。在 https://huggingface.co/settings/tokens 建一个能写的令牌，"
                "再运行 hf auth login，或设环境变量 HF_TOKEN"
            )
    if modelscope:
        from modelscope_hub.config import HubConfig

        if not HubConfig().token:
            raise UserError(
                "--push_to_modelscope：没有登录 ModelScope。在 https://modelscope.cn/my/myaccesstoken 复制令牌，"
                "设环境变量 MODELSCOPE_API_TOKEN，或运行 modelscope-hub login"
            )


def push(folder: Path, hub: str | None, modelscope: str | None) -> None:
    """Upload the folder to each named repository; every refusal is a `UserError`, and the folder stays."""
    if hub:
        print(f"已传到 {push_to_hub(folder, hub)}（新建的仓库是私有的，要公开请在网页上改）")
    if modelscope:
        print(f"已传到 {push_to_modelscope(folder, modelscope)}（新建的仓库是私有的，要公开请在网页上改）")


def push_to_hub(folder: Path, name: str) -> str:
    """Upload to huggingface.co, or where `HF_ENDPOINT` points; returns the repository's address."""
    from huggingface_hub import HfApi, constants, errors
    from huggingface_hub.utils import httpx

    api, flag = HfApi(), "--push_to_hub"
    try:
        url = api.create_repo(name, private=True, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, ignore_patterns=STAYS_HERE, commit_message=MESSAGE)
        return str(url)
    except errors.HFValidationError as error:
        raise UserError(f"{flag}：仓库名 {name} 不合规（{first_line(error)}）") from None
    except errors.OfflineModeIsEnabled:
        raise UserError(f"{flag}：HF_HUB_OFFLINE 已打开，不能上传。{_still_there(folder)}") from None
    except errors.HfHubHTTPError as error:
        raise UserError(_refusal(flag, name, error.response.status_code, error.server_message, folder)) from None
    # RuntimeError: hf-xet has no other kind for a broken connection.
    except (httpx.TransportError, OSError, RuntimeError) as error:
        mirror = "；镜像站只能下载，上传要去掉 HF_ENDPOINT" if "huggingface.co" not in constants.ENDPOINT else ""
        raise UserError(
            f"{flag}：连不上 {constants.ENDPOINT}（{first_line(error)}）{mirror}。{_still_there(folder)}"
        ) from None


def push_to_modelscope(folder: Path, name: str) -> str:
    """Upload to modelscope.cn, or where `MODELSCOPE_ENDPOINT` points; returns the repository's address."""
    from modelscope_hub import HubApi
    from modelscope_hub.config import HubConfig
    from modelscope_hub.errors import APIError, HubError, ServerError

    config, flag = HubConfig(), "--push_to_modelscope"
    api = HubApi(config)
    try:
        # Left to itself the upload makes a missing repository, and makes it public.
        if not api.repo_exists(name, "model"):
            api.create_repo(name, "model", visibility="private")
        api.upload_folder(name, "model", folder, commit_message=MESSAGE, ignore_patterns=STAYS_HERE, use_cache=False)
        return f"{config.endpoint}/models/{name}"
    except HubError as error:
        status = error.status_code if isinstance(error, APIError) and not isinstance(error, ServerError) else None
        if status is None:
            raise UserError(
                f"{flag}：连不上 {config.endpoint}（{first_line(error)}）。{_still_there(folder)}"
            ) from None
        raise UserError(_refusal(flag, name, status, first_line(error), folder)) from None


def _refusal(flag: str, name: str, status: int, said: str | None, folder: Path) -> str:
    """The cause and the remedy where a hub has answered."""
    reasons = {
        401: "令牌不对或已过期，请重新登录",
        403: f"令牌没有写 {name} 的权限：用能写的令牌登录，并看看用户（或组织）名对不对",
        404: f"没有仓库 {name}，或令牌看不见它",
        429: "请求太多，在限速，过几分钟再来",
    }
    reason = reasons.get(status, "没有收下")
    words = f"（{status}，{said}）" if said else f"（{status}）"
    return f"{flag}：{reason}{words}。{_still_there(folder)}"


def _still_there(folder: Path) -> str:
    return f"{folder} 是完整的，可以以后再传"
