"""The HTTP interface: POST /classify (vLLM's shape), POST /predict (ours), GET /health, /info, /metrics, /docs.

    app, service = build_app(predictor, model_name="outputs/lora_adapter")

Predictions are made by one thread (`inference_queue`); this file translates between HTTP and it.
"""

import asyncio
import time
import uuid
from concurrent.futures import Future
from importlib import metadata
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

from deployment.server.gate import Gate, ServiceState, answer_error, log_failure, logger
from deployment.server.inference_queue import Answered, InferenceQueue, QueueFull, Stopping
from deployment.server.metrics import Metrics
from deployment.server.schemas import (
    ClassifyAnswer,
    ClassifyRequest,
    ErrorAnswer,
    Health,
    Info,
    Limits,
    PredictAnswer,
    PredictRequest,
    problem_line,
)
from modeling.adapter_folder import RUN_INFO, read_object
from runtime.errors import is_out_of_memory, out_of_memory_message

TITLE = "中文情感分类"
ERRORS = {
    400: "请求体不能读：嵌套太深，或不是 UTF-8",
    401: "没有密钥，或密钥不对",
    404: "没有这个模型",
    408: "请求体没有按时到齐",
    413: "请求体太大",
    422: "JSON、字段或文本不对；error 说明哪里",
    429: "排队的评论太多；Retry-After 是建议等待的秒数",
    503: "服务正在停止，或内存不足",
}
MESSAGES = {400: ERRORS[400], 404: "没有这个路径", 405: "这个路径不接受这种方法"}


class Service(ServiceState):
    """The state of a server together with its predictor and queue."""

    def __init__(self, predictor, model_name: str, limits: Limits, most_waiting: int, api_key: str | None):
        super().__init__(Metrics(), limits, api_key)
        self.predictor, self.model_name = predictor, model_name
        self.queue = InferenceQueue(predictor, most_waiting, self.metrics.observe_batch)
        self.metrics.watch_queue(lambda: self.queue.waiting)


def build_app(
    predictor,
    model_name: str,
    *,
    limits: Limits | None = None,
    most_waiting: int = 2048,
    api_key: str | None = None,
    log_texts: bool = False,
    model_path: str | Path | None = None,
) -> tuple[FastAPI, Service]:
    """(the application, its state); whoever serves it ends with `state.queue.close()`."""
    service = Service(predictor, model_name, limits or Limits(), most_waiting, api_key)

    # The validator's badge would send the document's address to swagger.io.
    app = FastAPIOffline(
        redoc_url=None,
        title=TITLE,
        version=metadata.version("chinese-sentiment-peft"),
        description="`/classify` 与 vLLM 的相同；`/predict` 是 `SentimentPredictor` 的回答。",
        swagger_ui_parameters={"validatorUrl": None, "defaultModelsExpandDepth": -1},
    )
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(QueueFull, _queue_full)
    app.add_exception_handler(Stopping, _stopping)
    app.include_router(_prediction_routes(service, log_texts))
    app.include_router(_information_routes(service, model_path))
    app.add_middleware(Gate, state=service)
    return app, service


def _prediction_routes(service: Service, log_texts: bool) -> APIRouter:
    router = APIRouter(dependencies=_documented_key(service))
    limits = f"一次最多 {service.limits.texts:,} 条，每条最多 {service.limits.characters:,} 个字符。"

    async def answers(request: Request, texts: list[str], count_tokens: bool) -> Answered:
        if problem := service.limits.problem(texts):
            raise HTTPException(422, problem)
        if log_texts:
            logger.info("%s %s", request.url.path, texts)
        return await _answered(request, service.queue.submit(texts, count_tokens=count_tokens))

    @router.post(
        "/classify",
        summary="与 vLLM 的 /classify 相同",
        description=limits,
        responses=_responses(ClassifyAnswer, *ERRORS),
    )
    async def classify(request: Request, body: ClassifyRequest) -> Response:
        longest = service.predictor.config.max_length
        if body.model not in (None, service.model_name):
            return answer_error(404, f"没有这个模型；这里的是 {service.model_name}")
        if body.truncate_prompt_tokens not in (None, -1, longest):
            return answer_error(422, f"truncate_prompt_tokens：这个模型读 {longest} 个 token，只认 {longest} 或 -1")
        found = await answers(request, body.input, count_tokens=True)
        data = [
            {
                "index": index,
                "label": answer["label"],
                "probs": list(answer["probabilities"].values()),
                "num_classes": len(answer["probabilities"]),
            }
            for index, answer in enumerate(found.answers)
        ]
        usage = {"prompt_tokens": found.tokens, "total_tokens": found.tokens, "completion_tokens": 0}
        return JSONResponse(
            {
                "id": f"classify-{uuid.uuid4().hex}",
                "object": "list",
                "created": int(time.time()),
                "model": service.model_name,
                "data": data,
                "usage": usage | {"prompt_tokens_details": None},
            }
        )

    @router.post(
        "/predict",
        summary="SentimentPredictor 的回答",
        description=limits,
        responses=_responses(PredictAnswer, *ERRORS),
    )
    async def predict(request: Request, body: PredictRequest) -> Response:
        found = await answers(request, body.texts, count_tokens=False)
        return JSONResponse({"model": service.model_name, "answers": found.answers})

    return router


def _information_routes(service: Service, model_path: str | Path | None) -> APIRouter:
    router = APIRouter()
    key = _documented_key(service)
    info = _info(service, model_path).model_dump()

    @router.get("/health", summary="活着，在接受请求（不要密钥）", responses=_responses(Health, 503))
    async def health() -> Response:
        if not service.queue.is_alive():
            return answer_error(503, "推理线程已经结束，请重新启动服务")
        return JSONResponse({"status": "ok"})

    @router.get("/info", summary="模型、标签、阈值、版本", responses=_responses(Info, 401, 503), dependencies=key)
    async def information() -> Response:
        return JSONResponse(info)

    text: dict[int | str, dict[str, Any]] = {
        200: {"description": "Prometheus 的文本格式", "content": {"text/plain": {"schema": {"type": "string"}}}}
    }

    @router.get(
        "/metrics",
        summary="Prometheus 指标",
        responses=text | _errors(401, 503),
        response_class=Response,
        dependencies=key,
    )
    async def prometheus() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=1.0.0; charset=utf-8")

    return router


async def _answered(request: Request, future: Future) -> Answered:
    """Wait for the answer, but not for a client that has gone: its texts are then not computed."""
    answer = asyncio.wrap_future(future)
    gone = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            answer.cancel()
            raise HTTPException(499, "客户端已经断开")
        return answer.result()
    except HTTPException:
        raise
    except Exception as error:
        log_failure(error)
        if is_out_of_memory(error):
            raise HTTPException(503, out_of_memory_message(error)) from None
        raise HTTPException(500, "预测时出错，已记在服务的日志里") from None
    finally:
        gone.cancel()


def _info(service: Service, model_path: str | Path | None) -> Info:
    config = service.predictor.config
    path = Path(model_path) / RUN_INFO if model_path else None
    card: dict[str, Any] | None = None
    if path and path.is_file():
        made = read_object(path)
        card = {name: made[name] for name in ("time", "metrics", "data_fingerprint", "versions") if name in made}
    return Info(
        model=service.model_name,
        version=metadata.version("chinese-sentiment-peft"),
        labels=list(service.predictor.labels),
        max_length=config.max_length,
        head=config.head,
        base_model=config.base_model,
        temperature=config.temperature,
        thresholds=config.thresholds,
        threshold=service.predictor.threshold,
        limits=service.limits,
        card=card,
    )


def _documented_key(service: Service) -> list[Any]:
    """The key in the OpenAPI document; the gate is what asks for it."""
    return [Depends(HTTPBearer(auto_error=False))] if service.api_key else []


def _responses(answer: type, *errors: int) -> dict[int | str, dict[str, Any]]:
    return {200: {"model": answer}} | _errors(*errors)


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorAnswer, "description": ERRORS[status]} for status in statuses}


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = MESSAGES.get(error.status_code, error.detail)
    return answer_error(error.status_code, message, dict(error.headers or {}))


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return answer_error(422, problem_line(list(error.errors())))


async def _queue_full(request: Request, error: Exception) -> Response:
    assert isinstance(error, QueueFull)
    return answer_error(429, str(error), {"Retry-After": str(error.retry_after)})


async def _stopping(request: Request, error: Exception) -> Response:
    return answer_error(503, str(error), {"Retry-After": "10"})
