"""The page in a real browser: a review, marks, a file, a phone's width, a key; nothing asks anybody outside.

Needs Chromium (Debian: apt-get install chromium fonts-noto-cjk); without it the tests with a browser are skipped.
"""

import csv
import io
import json
import os
import shutil
from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi_offline")
pytest.importorskip("gradio")

import httpx
from serving import running_server
from small import REPOSITORY, small_reviews

from deployment.server.schemas import Limits
from deployment.web import mount_page
from prediction.predictor import SentimentPredictor

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next((path for path in map(shutil.which, NAMES) if path), None)
KEY = "a-key-of-32-characters-or-so-0000"
HOSTILE = "房间很干净<img src=x onerror=alert(1)>，就是早餐难吃"
TEXTS = [HOSTILE, *(row["text"] for row in small_reviews(30))]
needs_browser = pytest.mark.skipif(BROWSER is None, reason=f"没有浏览器（{'、'.join(NAMES)} 都找不到）")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def predictor(adapter):
    predictor = SentimentPredictor(lora_path=adapter)
    predictor.threshold = 1.01  # nothing is ever sure enough
    return predictor


@pytest.fixture(scope="module")
def page_server(predictor, tmp_path_factory):
    """A server with a page; `marks` is its file, uploads go to `folder`."""
    marks = tmp_path_factory.mktemp("marks") / "marks.jsonl"
    clean = []
    limits = Limits(characters=500, upload_bytes=100_000)
    with running_server(
        predictor, limits=limits, prepare=lambda app, service: clean.append(mount_page(app, service, marks))
    ) as running:
        running.marks, running.folder = marks, os.environ["GRADIO_TEMP_DIR"]
        yield running
    clean[0]()


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()


def opened(browser, server, width=1280, **options):
    """`page` in a window of this width; `errors` of its console and `outside` requests are collected."""
    page = browser.new_page(viewport={"width": width, "height": 900}, **options)
    page.set_default_timeout(20_000)
    watched = SimpleNamespace(page=page, errors=[], outside=[])
    page.on("console", lambda message: watched.errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: watched.errors.append(str(error)))
    ours = (server.url, "data:", "blob:")
    page.on("request", lambda request: None if request.url.startswith(ours) else watched.outside.append(request.url))
    page.goto(server.url + "/")
    page.locator("#review textarea").wait_for()
    return watched


def assert_fits_and_is_quiet(watched) -> None:
    root = watched.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert root[0] <= root[1]
    assert watched.errors == [] and watched.outside == []


@needs_browser
@pytest.mark.parametrize("width", [1280, 400])
def test_one_review_from_typing_to_a_mark(browser, page_server, width):
    watched = opened(browser, page_server, width)
    page = watched.page
    assert page.title() == "中文情感分类"
    page.locator("#review textarea").fill(HOSTILE)
    page.locator("#judge").click()
    page.locator("#words mark").first.wait_for()
    assert "请人工看" in page.locator("#verdict").inner_text()
    expected = page_server.service.predictor.predict(HOSTILE)
    assert expected["label"] in page.locator("#verdict").inner_text()
    shown = page.locator("#probabilities").inner_text()
    assert "负面" in shown and "正面" in shown and f"{expected['confidence']:.0%}" in shown
    assert HOSTILE in page.locator("#words .words").inner_text() and page.locator("#words img").count() == 0
    page.locator("#right-label").get_by_text("负面", exact=True).click()
    page.locator("#mark").click()
    page.get_by_text("记下了").wait_for()
    row = json.loads(page_server.marks.read_text(encoding="utf-8").splitlines()[-1])
    assert row == {"text": HOSTILE, "label": "负面"}
    assert_fits_and_is_quiet(watched)
    page.close()


@needs_browser
@pytest.mark.parametrize("width", [1280, 400])
def test_a_file_from_upload_to_download(browser, page_server, width, tmp_path):
    with open(tmp_path / "评论.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["编号", "内容"], *([str(i), text] for i, text in enumerate(TEXTS))])
    watched = opened(browser, page_server, width)
    page = watched.page
    page.get_by_role("tab", name="一个文件").click()
    page.locator("#file input[type=file]").set_input_files(tmp_path / "评论.csv")
    page.locator("#column input").wait_for()
    assert page.locator("#column input").input_value() == "内容"
    page.locator("#start").click()
    page.locator("#overview tr").nth(20).wait_for()
    assert page.locator("#overview tr").count() == 21 and page.locator("#overview img").count() == 0
    assert f"共 {len(TEXTS)} 条，其中 {len(TEXTS)} 条请人工看" in page.locator("#overview").inner_text()
    with page.expect_download() as download:
        page.locator("#download").click()
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text(encoding="utf-8-sig"))))
    expected = page_server.service.predictor.predict_batch(TEXTS)
    assert [(row["text"], row["label"]) for row in rows] == [(answer["text"], answer["label"]) for answer in expected]
    assert download.value.suggested_filename == "评论.predictions.csv"
    assert_fits_and_is_quiet(watched)
    page.close()


@needs_browser
def test_mistakes_are_told_on_the_page(browser, page_server, tmp_path):
    watched = opened(browser, page_server)
    page = watched.page
    page.locator("#judge").click()
    page.get_by_text("第 1 条是空的").wait_for()
    page.get_by_role("tab", name="一个文件").click()
    page.locator("#start").click()
    page.get_by_text("先选一个文件").wait_for()
    (tmp_path / "a.csv").write_text('text\n好\n" "\n', encoding="utf-8")
    page.locator("#file input[type=file]").set_input_files(tmp_path / "a.csv")
    page.locator("#column input").wait_for()
    page.locator("#start").click()
    page.locator("#status .fault").get_by_text("第 3 行").wait_for()
    assert "/" not in page.locator("#status").inner_text().replace(" / ", "")
    assert_fits_and_is_quiet(watched)
    page.close()


@needs_browser
def test_with_a_key_the_browser_asks_for_it(browser, predictor, tmp_path):
    def prepare(app, service):
        clean.append(mount_page(app, service, tmp_path / "marks.jsonl"))

    clean = []
    with running_server(predictor, api_key=KEY, prepare=prepare) as running:
        for path in (
            "/",
            "/config",
            "/theme.css",
            "/gradio_api/info",
            "/gradio_api/queue/data",
            "/assets/x",
            "/nowhere",
        ):
            response = httpx.get(running.url + path)
            assert response.status_code == 401 and response.headers["www-authenticate"].startswith("Basic")
        for path in ("/gradio_api/upload", "/gradio_api/queue/join", "/login"):
            assert httpx.post(running.url + path, files={"files": b"x"}).status_code == 401
        watched = opened(browser, running, http_credentials={"username": "", "password": KEY})
        watched.page.locator("#review textarea").fill("很好")
        watched.page.locator("#judge").click()
        watched.page.locator("#words .words").wait_for()
        assert_fits_and_is_quiet(watched)
        watched.page.close()
    clean[0]()


@needs_browser
def test_the_documents_page_shows_and_asks_nobody(browser, page_server):
    page = browser.new_page()
    errors, outside = [], []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: outside.append(request.url))
    page.goto(page_server.url + "/docs")
    page.get_by_text("/classify", exact=True).first.wait_for(timeout=20_000)
    assert errors == [] and [url for url in outside if not url.startswith((page_server.url, "data:"))] == []
    page.close()


def joined(server, function: int, data: list) -> str:
    """All events of a call as a browser makes it."""
    body = {"data": data, "fn_index": function, "session_hash": "test", "trigger_id": None}
    assert httpx.post(server.url + "/gradio_api/queue/join", json=body).status_code == 200
    with httpx.stream("GET", server.url + "/gradio_api/queue/data?session_hash=test", timeout=60) as events:
        return "".join(events.iter_text())


def functions(server) -> dict[str, int]:
    config = httpx.get(server.url + "/config").json()
    return {found["api_name"]: found["id"] for found in config["dependencies"] if found["api_name"]}


def test_files_of_the_machine_cannot_be_had(page_server, tmp_path):
    secret = tmp_path / "secret.csv"
    secret.write_text("text\n很秘密的话\n", encoding="utf-8")
    for path in (secret, page_server.marks, REPOSITORY / "README.md", "/etc/passwd", "../README.md"):
        for prefix in ("/gradio_api/file=", "/file=", "/gradio_api/file/", "/static/", "/assets/"):
            assert httpx.get(f"{page_server.url}{prefix}{path}").status_code in (403, 404, 422)
    file = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
    events = joined(page_server, functions(page_server)["run"], [file, "text"])
    assert "process_completed" in events and "秘密" not in json.dumps(events, ensure_ascii=False)
    assert '"success":false' in events.replace(" ", "")


def test_uploads_stay_in_their_folder_and_under_their_limit(page_server, tmp_path):
    for name in ("../../evil.csv", "/tmp/evil.csv", "..\\evil.csv", "a" * 300 + ".csv", "评论 .csv"):
        response = httpx.post(page_server.url + "/gradio_api/upload", files={"files": (name, b"text\n1\n")})
        if response.status_code == 200:
            (path,) = response.json()
            assert os.path.realpath(path).startswith(os.path.realpath(page_server.folder) + os.sep)
        else:
            assert 400 <= response.status_code < 500
    response = httpx.post(page_server.url + "/gradio_api/upload", files={"files": ("big.csv", b"x" * 200_000)})
    assert response.status_code == 413
    assert httpx.get(page_server.url + "/health").status_code == 200
