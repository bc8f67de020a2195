"""The description says what is accepted: schemathesis finds no answer that it does not have."""

import json

import pytest

from eval.serve.limits import Limits
from eval.serve.openapi import description
from tests.eval.serve.conftest import LIMITS, client_of, listening, service_of
from tests.eval.serve.test_completions import ASK


def test_the_description_is_of_openapi_and_has_every_path(client):
    document = client.get("/openapi.json").json()
    limits = Limits(**LIMITS)
    assert document == json.loads(json.dumps(description(limits, version="0.1.0", token=False)))
    assert document["openapi"].startswith("3.1")
    for path, methods in document["paths"].items():
        for method in {"get", "post", "delete"} - methods.keys():
            real = path.replace("{id}", "x").replace("{model}", "toy")
            answer = client.request(method.upper(), real, json={})
            assert answer.status_code in (404, 405), (method, path)


def test_every_field_of_the_description_is_read(client):
    properties = client.get("/openapi.json").json()["components"]["schemas"]
    fields = properties["CompletionRequest"]["properties"]
    neutral = {
        "session_in": None,
        "session_out": None,
        "stop_token_ids": [],
        "stream_options": {},
        "user": "me",
        "model": "toy",
        "prompt": "a",
        "stream": False,
        "stop": [],
        "inside": False,
    }
    numbers = {"max_tokens": 2, "n": 1, "logprobs": 0, "top_k": 5, "seed": 1, "temperature": 0.5}
    numbers |= {"top_p": 0.5, "min_p": 0.1, "repetition_penalty": 1.1}
    values = neutral | numbers
    every = {name: values.get(name, x.get("enum", [None])[0]) for name, x in fields.items()}
    answer = client.post("/v1/completions", json=ASK | every)
    assert answer.status_code == 200, answer.text


@pytest.mark.slow
def test_schemathesis_finds_no_error_of_the_server(tmp_path):
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given, settings
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    service = service_of(tmp_path, limits=LIMITS | {"max_tokens": 12, "max_seconds": 20})
    with client_of(service) as client:
        client.post("/v1/completions", json=ASK | {"max_tokens": 3, "session_out": "known"})
    with listening(service_of(tmp_path, limits=service.limits.__dict__)) as address:
        base = f"http://{address[0]}:{address[1]}"
        schema = schemathesis.openapi.from_url(f"{base}/openapi.json")
        tried = 0
        for result in schema.get_all_operations():
            operation = result.ok()

            @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
            @given(case=operation.as_strategy())
            def check(case):
                nonlocal tried
                tried += 1
                if isinstance(case.body, dict) and "model" in case.body:
                    case.body["model"] = "toy"  # which is not found by chance
                answer = case.call(base_url=base, timeout=60)
                assert answer.status_code < 500 or answer.status_code in (503, 504, 507)
                case.validate_response(answer, excluded_checks=[positive_data_acceptance])

            check()
        assert tried > 300
