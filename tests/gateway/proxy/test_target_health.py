"""What processes tell each other of providers' targets, and what an operator sees of it."""

import time
from collections.abc import Callable
from dataclasses import replace

from gateway.config.providers import ProviderConfig, TargetConfig
from gateway.config.secret import Secret
from gateway.config.settings import Settings
from gateway.proxy.target_health import HealthBoard, Told, open_until
from gateway.upstream.health import MAX_COOLDOWN_S, Cooldown, TargetHealth
from tests.gateway.conftest import Gateway
from tests.support.answering import Provider, answer, saying, until
from tests.support.gateways import ask

NOW_S = 1_000.0
OPEN = b'metergate_targets_open{provider="openai"} 1.0'


def provider(*urls: str, seconds: float = 30.0) -> ProviderConfig:
    targets = tuple(TargetConfig(url, Secret(f"sk-{number}"), 2) for number, url in enumerate(urls))
    return ProviderConfig("openai", "openai", urls[0], targets=targets, cooldown=Cooldown(1, seconds))


def board(clock: Callable[[], float] = lambda: 0.0) -> tuple[HealthBoard, TargetHealth]:
    made = HealthBoard([provider("http://a/v1", "http://b/v1")], clock)
    return made, made.of("openai")[1]


def test_a_board_notes_what_attempts_here_have_changed_and_nothing_else():
    made, target = board()
    target.succeeded(target.begin())
    made.apply(Told("openai/1", "other", NOW_S + 5), NOW_S)
    assert target.state == "open"
    made.apply(Told("openai/1", "other"), NOW_S)
    assert (target.state, target.sound) == ("closed", True)
    assert made.changed == {}
    assert not made.woken.is_set()
    target.failed(target.begin())
    assert made.changed == {"openai/1": target}
    assert (made.woken.is_set(), made.open_of("openai")) == (True, 1)


def test_what_others_tell_is_bounded_and_shortens_nothing():
    made, target = board()
    made.apply(Told("openai/1", "other", NOW_S + 10 * MAX_COOLDOWN_S), NOW_S)
    assert target.wait_s == MAX_COOLDOWN_S
    made.apply(Told("openai/1", "other", NOW_S + 1), NOW_S)
    assert target.wait_s == MAX_COOLDOWN_S
    for unknown in ("openai/2", "other/0", ""):
        made.apply(Told(unknown, "other", NOW_S + 1), NOW_S)
    assert made.open_of("openai") == 1


def test_a_cool_down_that_is_over_leaves_one_probe():
    made, target = board()
    made.apply(Told("openai/1", "other", NOW_S - 5), NOW_S)
    assert target.state == "half_open"
    assert target.begin().is_probe
    assert not target.is_free


def test_an_attempt_from_before_what_others_tell_changes_nothing():
    made, target = board()
    before = target.begin()
    made.apply(Told("openai/1", "other", NOW_S + 5), NOW_S)
    target.succeeded(before)
    assert target.state == "open"


def test_what_redis_keeps_and_nobody_can_read_is_left_out():
    assert open_until({b"openai/0": b"12.5", b"openai/1": b"soon", b"\xff": b"1"}) == {"openai/0": 12.5}


def using(made: ProviderConfig) -> Callable[[Settings], Settings]:
    return lambda settings: replace(settings, providers={**settings.providers, "openai": made})


async def states(gateway: Gateway) -> list[tuple[str, str | None]]:
    listed = (await gateway.admin("GET", "/providers"))["data"]
    (found,) = [each for each in listed if each["name"] == "openai"]
    assert (found["kind"], found["off_reason"], found["dialects"]) == ("openai", None, ["openai"])
    assert "gpt-4o-mini" in found["models"]
    assert "sk-" not in str(listed)
    assert [(each["number"], each["weight"]) for each in found["targets"]] == [(0, 2), (1, 2)]
    return [(each["state"], each["open_until"]) for each in found["targets"]]


async def test_what_one_gateway_finds_others_know_and_the_operator_sees(make_gateway, upstream):
    broken, whole = Provider(saying({}, 503)), Provider(saying(answer()))
    urls = [await upstream(each.serve) for each in (broken, whole)]
    change = using(provider(*urls, seconds=MAX_COOLDOWN_S))  # however long the rest takes
    one, other = await make_gateway(change=change), await make_gateway(change=change)
    assert await states(one) == [("closed", None)] * 2
    customer = await one.customer("5.00")

    async def found():
        assert (await ask(customer)).status == 200
        return bool(broken.sent)

    await until(found)

    async def told():
        return OPEN in await other.metrics()

    await until(told)
    (state, open_until_), well = await states(other)
    assert (state, well) == ("open", ("closed", None))
    assert open_until_ is not None
    for _ in range(6):
        assert (await ask(replace(customer, gateway=other))).status == 200
    assert len(broken.sent) == 1

    late = await make_gateway(change=change)  # one that has begun since

    async def learned():
        return OPEN in await late.metrics()

    await until(learned)


async def test_a_target_that_is_well_again_is_told(make_gateway, upstream):
    flaky, whole = Provider(saying({}, 503)), Provider(saying(answer()))
    change = using(provider(await upstream(flaky.serve), await upstream(whole.serve), seconds=0.2))
    one, other = await make_gateway(change=change), await make_gateway(change=change)
    customer = await one.customer("5.00")

    async def opened():
        assert (await ask(customer)).status == 200
        return (await states(other))[0][0] in ("open", "half_open")

    await until(opened)
    flaky.reply = saying(answer())

    async def closed():
        assert (await ask(customer)).status == 200
        return await states(other) == [("closed", None)] * 2

    await until(closed)


def test_the_clock_of_messages_is_that_of_the_day():
    made, target = board(time.monotonic)
    made.apply(Told("openai/1", "other", time.time() + 100), time.time())
    assert 90 < target.wait_s <= 100
