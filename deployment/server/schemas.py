"""What clients may send and what they get, as the OpenAPI document says it; every refusal is one Chinese line."""

import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, StrictInt, StrictStr, WithJsonSchema

from data.preprocessing import clean_text

HALF_A_PAIR = re.compile("[\ud800-\udfff]")


class Limits(BaseModel):
    """Most texts of a request, characters of a text, bytes of a body and of an uploaded file."""

    texts: int = 1024
    characters: int = 20_000
    body_bytes: int = 8 * 2**20
    upload_bytes: int = 32 * 2**20

    def problem(self, texts: list[str]) -> str | None:
        """One line about texts that are too many or too long."""
        if len(texts) > self.texts:
            return f"一次最多 {self.texts:,} 条，得到 {len(texts):,} 条"
        for number, text in enumerate(texts, start=1):
            if len(text) > self.characters:
                return f"第 {number} 条有 {len(text):,} 个字符，最多 {self.characters:,} 个"
        return None


def checked_texts(value: Any) -> list[str]:
    """The texts of a request; ValueError that names the first bad one by its position, and never quotes it."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts:
        raise ValueError("应为一条评论（字符串）或一组评论（不为空的字符串列表）")
    for number, text in enumerate(texts, start=1):
        if not isinstance(text, str):
            raise ValueError(f"第 {number} 条应为字符串")
        if HALF_A_PAIR.search(text):
            raise ValueError(f"第 {number} 条里有半个代理对（\\ud800–\\udfff），不是合法的 Unicode 文本")
        if not clean_text(text):
            raise ValueError(f"第 {number} 条是空的，或只有空白字符")
    return texts


ONE_TEXT = {"type": "string", "minLength": 1, "pattern": r"\S"}
Texts = Annotated[
    list[str],
    PlainValidator(checked_texts),
    WithJsonSchema({"anyOf": [ONE_TEXT, {"type": "array", "items": ONE_TEXT, "minItems": 1}]}),
]


class ClassifyRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")
    model: StrictStr | None = Field(None, description="模型名；不给，或 /info 里的 model")
    input: Texts = Field(description="一条评论，或一组评论", examples=["酒店很干净，下次还来"])
    truncate_prompt_tokens: StrictInt | None = Field(
        None, ge=-1, description="只认模型自己的长度（/info 里的 max_length）或 -1；不给也是它"
    )
    user: StrictStr | None = Field(None, description="不使用")


class PredictRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")
    texts: Texts = Field(description="一条评论，或一组评论", examples=[["很好", "太差了"]])


class ErrorAnswer(BaseModel):
    error: str = Field(description="一行说明")


class ClassProbabilities(BaseModel):
    index: int
    label: str
    probs: list[float] = Field(description="各标签的概率，按 /info 里 labels 的次序")
    num_classes: int


class Usage(BaseModel):
    prompt_tokens: int
    total_tokens: int
    completion_tokens: int
    prompt_tokens_details: None


class ClassifyAnswer(BaseModel):
    """The answer of vLLM's /classify."""

    id: str
    object: str
    created: int
    model: str
    data: list[ClassProbabilities]
    usage: Usage


class PredictedText(BaseModel):
    text: str
    label: str
    label_id: int
    confidence: float = Field(description="所选标签的概率，做过评估后经过校准")
    probabilities: dict[str, float]
    accepted: bool | None = Field(None, description="只在服务以 --min_precision 启动时有；为 false 的请人工看")


class PredictAnswer(BaseModel):
    model: str
    answers: list[PredictedText]


class Health(BaseModel):
    status: str


class Info(BaseModel):
    """The model card in short: what answers here, and how it was made."""

    model: str
    version: str = Field(description="本软件的版本")
    labels: list[str]
    max_length: int = Field(description="一条评论最多读入的 token 数")
    head: str
    base_model: str
    temperature: float
    thresholds: dict[str, float] = Field(description="精确率 -> 置信度阈值，评估得出")
    threshold: float | None = Field(description="本服务所用的阈值（--min_precision）")
    limits: Limits
    card: dict[str, Any] | None = Field(description="训练的数据指纹、指标和时间（run_info.json）；没有则为 null")


_PROBLEMS = {
    "missing": "缺少这个字段",
    "extra_forbidden": "不认识的字段",
    "string_type": "应为字符串",
    "string_unicode": "不是合法的 Unicode 文本",
    "int_type": "应为整数",
    "greater_than_equal": "应不小于 -1",
    "json_invalid": "不是合法的 JSON",
    "model_attributes_type": "应为 JSON 对象，Content-Type 应为 application/json",
}


def problem_line(errors: list[dict[str, Any]]) -> str:
    """pydantic's errors in one line, without what the client sent."""
    problems = []
    for error in errors:
        where = ".".join(str(part) for part in error["loc"][1:] if isinstance(part, str))[:100] or "请求体"
        if error["type"] == "missing" and len(error["loc"]) == 1:
            reason = "缺少请求体"
        elif error["type"] == "value_error":
            reason = str(error["ctx"]["error"])
        else:
            reason = _PROBLEMS.get(error["type"], error["msg"])
        problems.append(f"{where}：{reason}")
    line = "；".join(problems).encode("utf-8", "replace").decode("utf-8")
    return " ".join(line.split())[:1000]
