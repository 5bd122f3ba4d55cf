"""schemathesis reads the OpenAPI document and asks whatever comes to its mind: no 5xx, no status that is not in it."""

import pytest

pytest.importorskip("schemathesis")
pytest.importorskip("fastapi_offline")

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.generation import GenerationMode

from deployment.server.application import build_app
from deployment.server.schemas import Limits
from prediction.predictor import SentimentPredictor

KEY = "a-key-of-32-characters-or-so-0000"
HEADERS = {"Authorization": f"Bearer {KEY}"}
CHECKS = [
    schemathesis.checks.not_a_server_error,
    schemathesis.checks.status_code_conformance,
    schemathesis.checks.content_type_conformance,
    schemathesis.checks.response_headers_conformance,
    schemathesis.checks.response_schema_conformance,
]


@pytest.fixture(scope="module")
def operations(plain_adapter):
    limits = Limits(texts=8, characters=200, body_bytes=10_000)
    app, service = build_app(SentimentPredictor(lora_path=plain_adapter), "small", limits=limits, api_key=KEY)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers=HEADERS)
    yield {found.ok().path: found.ok() for found in schema.get_all_operations()}
    service.queue.close()


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("path", ["/classify", "/predict"])
def test_the_document_is_true(operations, path, mode):
    statuses = set()

    @given(case=operations[path].as_strategy(generation_mode=mode))
    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    def ask(case):
        statuses.add(case.call_and_validate(checks=CHECKS, headers=HEADERS).status_code)

    ask()
    expected = 422 if mode is GenerationMode.NEGATIVE else 200
    assert expected in statuses
