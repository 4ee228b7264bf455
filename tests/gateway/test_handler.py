"""The main job, whole: a request through the gateway, its exact debit in the ledger."""

from tests.gateway.conftest import Gateway, chat


async def test_a_chat_request_is_answered_and_debited_exactly(gateway: Gateway) -> None:
    customer = await gateway.customer("5.00")
    async with customer.post(body=chat()) as answer:
        assert answer.status == 200
        said = await answer.json()
        request_id, cost = answer.headers["x-request-id"], answer.headers["x-metergate-cost-usd"]
    usage = said["usage"]
    expected_nano = usage["prompt_tokens"] * 150 + usage["completion_tokens"] * 600
    (event,) = await customer.events()
    assert event["id"] == request_id
    assert event["charged_usd"] == cost
    assert (event["input_tokens"], event["output_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
    balance = await customer.balance()
    assert 5 * 10**9 - expected_nano == round(float(balance["balance_usd"]) * 10**9)
    assert balance["held_usd"] == "0.00"


async def test_a_stream_is_passed_and_debited(gateway: Gateway) -> None:
    customer = await gateway.customer("5.00")
    async with customer.post(body=chat(stream=True)) as answer:
        assert answer.status == 200
        body = await answer.text()
    assert body.endswith("data: [DONE]\n\n")
    assert '"usage":{' not in body.replace(" ", "")
    (event,) = await customer.events()
    assert event["stream"] is True
    assert event["output_tokens"] > 0
    assert event["estimated"] is False
