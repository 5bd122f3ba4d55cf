"""The page of `deployment/serve.py`: one review, or a file of them. Gradio, with every file of it local.

    mount_page(app, service, marks_file=Path("outputs/marks.jsonl"), log_texts=False)

It asks the same queue as the HTTP interface and lies behind the same gate: with a key, the browser asks for it.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before Gradio is imported, which would otherwise ask its maker for the newest version and count its users.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr

from deployment.page import markup
from deployment.page.explanation import can_explain, explain
from deployment.page.marks import add_mark
from deployment.page.uploads import (
    FILE_TYPES,
    QueuedPredictor,
    check_upload,
    columns_of,
    likely_text_column,
    summarise,
)
from deployment.server.application import Service
from deployment.server.gate import log_failure, logger
from deployment.server.inference_queue import QueueFull, Stopping
from deployment.server.schemas import checked_texts
from prediction.predict_file import predict_file
from runtime.errors import UserError

EXAMPLES = (
    "房间很干净，前台服务热情，离地铁站也近，下次还会住这里。",
    "用了三天就死机，客服还推来推去，不建议购买。",
    "外观不错，就是散热不行，玩一会儿游戏就烫手，后悔买了。",
)
FONTS = ("system-ui", "-apple-system", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "sans-serif")
KEPT_SECONDS = 3600  # an uploaded file and its answers are deleted after this time, looked for each ten minutes
PRIVATE = {"api_visibility": "private"}  # programs use /predict
IN_CHINESE = "() => { document.documentElement.lang = 'zh-CN'; }"


class Page:
    """What the buttons do; each function returns the new values of the components named beside it in `build_page`."""

    def __init__(self, service: Service, marks_file: Path, folder: Path, log_texts: bool):
        self.service, self.marks_file, self.folder, self.log_texts = service, marks_file, folder, log_texts
        self.explains = can_explain(service.predictor)

    def judge(self, text: str) -> tuple[Any, ...]:
        """verdict, probabilities, words, the text that was judged, the choice of the right label, its group, status"""
        try:
            text = checked_texts(text)[0]
            if problem := self.service.limits.problem([text]):
                raise UserError(problem)
            if self.log_texts:
                logger.info("page %s", [text])
            answer = self.service.queue.submit([text]).result().answers[0]
            words = ""
            if self.explains:
                explanation = self.service.queue.run(lambda: explain(self.service.predictor, text)).result()
                words = markup.coloured_words(explanation, answer["label"])
        except Exception as error:
            hidden = gr.update(visible=False)
            return markup.fault(told(error)), gr.update(value=None, visible=False), "", "", None, hidden, ""
        shown = gr.update(visible=True)
        probabilities = gr.update(value=answer["probabilities"], visible=True)
        return markup.verdict(answer), probabilities, words, text, None, shown, ""

    def mark(self, text: str, label: str | None) -> str:
        """status"""
        if not text or label is None or label not in self.service.predictor.labels:
            return markup.fault("先判断一条评论，再选出正确的标签")
        try:
            add_mark(self.marks_file, text, label)
        except Exception as error:
            return markup.fault(told(error))
        return markup.notice("记下了，谢谢")

    def choose_file(self, path: str | None) -> tuple[Any, ...]:
        """column, status"""
        if path is None:
            return gr.update(choices=[], value=None, visible=False), ""
        try:
            check_upload(Path(path), self.service.limits.upload_bytes)
            columns = columns_of(Path(path))
        except Exception as error:
            return gr.update(choices=[], value=None, visible=False), markup.fault(told(error, Path(path)))
        return gr.update(choices=columns, value=likely_text_column(columns), visible=bool(columns)), ""

    def predict_file(self, path: str | None, column: str | None, progress: Any = None) -> tuple[Any, ...]:
        """status, overview, download"""
        hidden = gr.update(visible=False)
        if path is None:
            return markup.fault("先选一个文件"), "", hidden
        source = Path(path)
        try:
            check_upload(source, self.service.limits.upload_bytes)
            target = Path(tempfile.mkdtemp(dir=self.folder)) / f"{source.stem}.predictions.csv"
            predictor: Any = QueuedPredictor(self.service.queue, lambda done: progress and progress((done, None)))
            count = predict_file(
                predictor, source, target, column or "text", model=self.service.model_name, resume=False
            )
            if not count:
                raise UserError(f"{source.name} 里没有评论")
            summary = summarise(target)
        except Exception as error:
            return markup.fault(told(error, source)), "", hidden
        return "", markup.overview(summary), gr.update(value=str(target), visible=True)


def told(error: Exception, path: Path | None = None) -> str:
    """What a user is told: her own mistakes in full, and of ours only that there was one."""
    if not isinstance(error, (UserError, ValueError, QueueFull, Stopping)):
        log_failure(error)
        return "服务器内部出错，已记在它的日志里"
    message = str(error)
    if path is not None:
        message = message.replace(str(path), path.name)
    # Advice about flags is for who types commands.
    lines = message.splitlines()
    return "\n".join("；".join(part for part in line.split("；") if "--" not in part) for line in lines)


def build_page(page: Page) -> gr.Blocks:
    """The components, and which function each button calls."""
    predictor, limits = page.service.predictor, page.service.limits
    with gr.Blocks(title="中文情感分类", analytics_enabled=False, delete_cache=(600, KEPT_SECONDS)) as blocks:
        heading = f"# 中文情感分类\n模型 `{page.service.model_name}`，标签 {'、'.join(predictor.labels)}"
        gr.Markdown(heading, elem_id="heading")
        with gr.Tab("一条评论"):
            text = gr.Textbox(
                label="评论", placeholder="写一条评论，按 Shift+回车或下面的按钮", lines=4,
                max_length=limits.characters, elem_id="review",
            )  # fmt: skip
            judge = gr.Button("判断", variant="primary", elem_id="judge")
            verdict = gr.HTML(elem_id="verdict", padding=False)
            probabilities = gr.Label(label="各标签的概率", visible=False, elem_id="probabilities", show_heading=False)
            words = gr.HTML(elem_id="words", padding=False)
            judged = gr.State("")
            with gr.Group(visible=False) as correction:
                label = gr.Radio(predictor.labels, label="答错了？选出正确的标签，供下次训练", elem_id="right-label")
                mark = gr.Button("记下", size="sm", elem_id="mark")
            marked = gr.HTML(elem_id="marked", padding=False)
            gr.Examples([[example] for example in EXAMPLES], text, label="例子")
            answers = [verdict, probabilities, words, judged, label, correction, marked]
            gr.on([judge.click, text.submit], page.judge, text, answers, **PRIVATE)
            mark.click(page.mark, [judged, label], marked, **PRIVATE)
        with gr.Tab("一个文件"):
            file = gr.File(label=f"评论文件（{' '.join(FILE_TYPES)}）", file_types=list(FILE_TYPES), elem_id="file")
            column = gr.Dropdown([], label="哪一列是评论", visible=False, elem_id="column")
            start = gr.Button("开始", variant="primary", elem_id="start")
            status = gr.HTML(elem_id="status", padding=False)
            download = gr.DownloadButton("下载全部结果（CSV，可用 Excel 打开）", visible=False, elem_id="download")
            overview = gr.HTML(elem_id="overview", padding=False)

            def run(path: str | None, column: str | None, progress=gr.Progress()) -> tuple[Any, ...]:  # noqa: B008
                return page.predict_file(path, column, lambda step: progress(step, desc="预测", unit="条"))

            file.change(page.choose_file, file, [column, status], **PRIVATE)
            start.click(run, [file, column], [status, overview, download], **PRIVATE)
    return blocks


def mount_page(app: Any, service: Service, marks_file: Path, *, log_texts: bool = False) -> Callable[[], None]:
    """Put the page at / of the application; the function returned deletes what was uploaded."""
    folder = Path(tempfile.mkdtemp(prefix="sentiment-page-"))
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    blocks = build_page(Page(service, marks_file, folder, log_texts))
    blocks.queue(max_size=64, default_concurrency_limit=8, api_open=False)
    gr.mount_gradio_app(
        app,
        blocks,
        "/",
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=service.limits.upload_bytes,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=gr.themes.Default(
            primary_hue="teal",
            neutral_hue="slate",
            radius_size="lg",
            font=FONTS,
            font_mono=("ui-monospace", "monospace"),
        ).set(
            body_text_color_subdued="*neutral_500",
            button_primary_background_fill="*primary_700",
            button_primary_background_fill_dark="*primary_700",
            button_primary_background_fill_hover="*primary_800",
            button_primary_background_fill_hover_dark="*primary_600",
        ),
        css_paths=Path(__file__).parent / "page" / "style.css",
        js=IN_CHINESE,
    )
    return lambda: shutil.rmtree(folder, ignore_errors=True)
