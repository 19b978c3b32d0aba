"""Settings: every name, what it takes, and the one sentence that refuses the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamworker.errors import ConfigurationError
from streamworker.settings import OPTIONS, Settings, mask_url, mask_urls, parse_duration

P = "STREAMWORKER_"
CANARY = "canary-s3cret"
REDIS, DATABASE = "redis://localhost:6379/0", "postgresql://localhost/db"
DURATIONS = ["RETRY_DELAY", "ITEM_TIMEOUT", "UNAVAILABLE_TIMEOUT", "BATCH_TIMEOUT", "LEASE_TTL", "SHUTDOWN_TIMEOUT"]
NUMBERS = ["BATCH_CONCURRENCY", "ITEM_CONCURRENCY", "MAX_ATTEMPTS", "PROGRESS_MAXLEN"]
NAMES = ["STREAM", "GROUP", "PROGRESS_STREAM", "DEAD_STREAM", "CONSUMER"]
CHOICES = ["ISOLATION", "LOG_LEVEL", "LOG_FORMAT", "MIGRATE"]
ADDRESSES = ["HTTP_ADDRESS", "GATEWAY_ADDRESS"]


def short(value: object) -> str | None:
    """The id of a parameter that is too long to be its own."""
    return f"{len(value)}-long" if isinstance(value, str) and len(value) > 60 else None


def load(**environ: str) -> Settings:
    return Settings.load(environ=environ)


def refused(environ: dict[str, str], flags: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(flags, environ)
    text = str(caught.value)
    assert len(text) < 500
    assert text.isprintable(), text
    return text


def test_defaults_are_the_contracts() -> None:
    s = load()
    assert (s.redis_url, s.database_url, s.home, s.processors, s.embedded) == (None, None, Path(".streamworker"), (), True)
    assert (s.stream, s.group, s.progress_stream, s.dead_stream) == ("batches", "workers", "progress", "batches:dead")
    assert (s.batch_concurrency, s.item_concurrency, s.max_attempts, s.progress_maxlen, s.max_message_bytes) == (
        1,
        1,
        2,
        100_000,
        16 * 1024**2,
    )
    assert (s.retry_delay, s.item_timeout, s.batch_timeout, s.lease_ttl, s.shutdown_timeout) == (0, None, 7 * 86400, 15, 30)
    assert (s.isolation, s.log_level, s.http_address, s.migrate) == ("inline", "info", None, True)
    assert (s.gateway_address, s.gateway_token) == (("127.0.0.1", 8080), None)
    assert s.consumer != load().consumer


def test_flags_win_over_the_environment_and_that_over_defaults() -> None:
    assert Settings.load({"lease_ttl": "3s"}, {P + "LEASE_TTL": "4s"}).lease_ttl == 3
    assert load(**{P + "LEASE_TTL": "4s"}).lease_ttl == 4
    assert "--lease-ttl" in refused({P + "LEASE_TTL": "4s"}, {"lease_ttl": "3"})


def test_the_table_of_options_and_the_fields_are_the_same_list() -> None:
    assert {option.name for option in OPTIONS} == set(Settings.__dataclass_fields__)
    assert len({option.variable for option in OPTIONS}) == len({option.flag or option.name for option in OPTIONS}) == len(OPTIONS)
    for option in OPTIONS:
        assert option.help


@pytest.mark.parametrize("name", [option.variable for option in OPTIONS])
@pytest.mark.parametrize("value", [" ", "a\nb", "a\x00b", "x" * 10_000, "a\x1b[31m", "\u202eabc", "\ud800"], ids=short)
def test_nothing_takes_control_characters_spaces_or_endless_text(name: str, value: str) -> None:
    assert name in refused({name: value})


@pytest.mark.parametrize("name", [P + name for name in DURATIONS])
@pytest.mark.parametrize(
    "value", ["0", "5", "-1s", "1e9", "1e9s", "5 m", "5M", "٥s", "NaN", "nans", "5s\n", " 5s", "5s ", "s", "+5s", "999999999d"]
)
def test_durations_that_are_none(name: str, value: str) -> None:
    text = refused({name: value})
    assert name in text
    assert "500ms" in text


@pytest.mark.parametrize("name", [P + name for name in NUMBERS])
@pytest.mark.parametrize(
    "value", ["", "0", "-1", "1e9", "1.5", "5 m", "5M", "٥", "NaN", "1_000", "+5", "0x10", "9" * 5000, "5\n"], ids=short
)
def test_numbers_that_are_none(name: str, value: str) -> None:
    text = refused({name: value})
    assert name in text
    assert "whole number" in text


@pytest.mark.parametrize("name", [P + name for name in NAMES + CHOICES + ["GATEWAY_ADDRESS", "MAX_MESSAGE_BYTES", "HOME", "RETRY_DELAY"]])
def test_empty_is_a_bad_value(name: str) -> None:
    assert name in refused({name: ""})


def test_empty_is_unset_where_nothing_is_a_sensible_answer() -> None:
    names = [
        "REDIS_URL",
        "DATABASE_URL",
        P + "HTTP_ADDRESS",
        P + "ITEM_TIMEOUT",
        P + "UNAVAILABLE_TIMEOUT",
        P + "PROCESSOR",
        P + "GATEWAY_TOKEN",
    ]
    names += [P + "PROCESS_MEMORY", P + "PROCESS_ITEMS", P + "UNAVAILABLE_TIMEOUT"]
    s = Settings.load(environ=dict.fromkeys(names, ""))
    assert (s.process_memory, s.process_items, s.unavailable_timeout) == (None, None, None)
    assert (s.redis_url, s.database_url, s.http_address, s.item_timeout, s.processors, s.gateway_token) == (
        None,
        None,
        None,
        None,
        (),
        None,
    )


@pytest.mark.parametrize("name", [P + name for name in CHOICES + ADDRESSES])
@pytest.mark.parametrize(
    "value", ["5", "-1", "1e9", "NaN", "٥s", "yes", ":80", "host", "host:", "host:65536", "[::1", "[::1]", "[x]:80", "::1:80", "a:b:80"]
)
def test_words_and_addresses_that_are_none(name: str, value: str) -> None:
    text = refused({name: value})
    assert name in text
    assert "expected" in text


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("LEASE_TTL", "2s", "lease_ttl", 2.0),
        ("LEASE_TTL", "1h", "lease_ttl", 3600.0),
        ("RETRY_DELAY", "500ms", "retry_delay", 0.5),
        ("BATCH_TIMEOUT", "2h", "batch_timeout", 7200.0),
        ("ITEM_TIMEOUT", "5m", "item_timeout", 300.0),
        ("ITEM_TIMEOUT", "none", "item_timeout", None),
        ("UNAVAILABLE_TIMEOUT", "1h", "unavailable_timeout", 3600.0),
        ("UNAVAILABLE_TIMEOUT", "none", "unavailable_timeout", None),
        ("SHUTDOWN_TIMEOUT", "0s", "shutdown_timeout", 0.0),
        ("MAX_MESSAGE_BYTES", "65536", "max_message_bytes", 65536),
        ("MAX_MESSAGE_BYTES", "512KiB", "max_message_bytes", 512 * 1024),
        ("MAX_MESSAGE_BYTES", "16 MiB", "max_message_bytes", 16 * 1024**2),
        ("PROCESS_MEMORY", "2GiB", "process_memory", 2 * 1024**3),
        ("PROCESS_MEMORY", "64 MiB", "process_memory", 64 * 1024**2),
        ("PROCESS_MEMORY", "none", "process_memory", None),
        ("PROCESS_ITEMS", "1000", "process_items", 1000),
        ("PROCESS_ITEMS", "none", "process_items", None),
        ("PROCESSOR", "a.b:process", "processors", ("a.b:process",)),
        ("PROCESSOR", "a:b, documents,a:b", "processors", ("a:b", "documents")),
        ("LOG_LEVEL", "WARNING", "log_level", "warning"),
        ("LOG_FORMAT", "json", "log_format", "json"),
        ("MIGRATE", "0", "migrate", False),
        ("HTTP_ADDRESS", "[::1]:9464", "http_address", ("::1", 9464)),
        ("GATEWAY_ADDRESS", "0.0.0.0:80", "gateway_address", ("0.0.0.0", 80)),
        ("GATEWAY_HOSTS", "Jobs.example.com, [::1]:8080,jobs.example.com", "gateway_hosts", ("jobs.example.com", "[::1]:8080")),
        ("GATEWAY_HOSTS", "", "gateway_hosts", ()),
        ("GATEWAY_ORIGINS", "https://App.example.com, http://x:8080", "gateway_origins", ("https://app.example.com", "http://x:8080")),
        ("STREAM", "büro:{1}/x", "stream", "büro:{1}/x"),
        ("HOME", "/tmp/a b", "home", Path("/tmp/a b")),
        ("HOME", "~/x", "home", Path.home() / "x"),
    ],
)
def test_values_that_are_taken(name: str, value: str, field: str, expected: object) -> None:
    assert getattr(load(**{P + name: value}), field) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LEASE_TTL", "1s"),
        ("LEASE_TTL", "61m"),
        ("BATCH_CONCURRENCY", "1001"),
        ("PROGRESS_MAXLEN", "1"),
        ("MAX_MESSAGE_BYTES", "5"),
        ("MAX_MESSAGE_BYTES", "65MiB"),
        ("MAX_MESSAGE_BYTES", "16MB"),
        ("PROCESS_MEMORY", "63MiB"),
        ("PROCESS_MEMORY", "2GB"),
        ("PROCESS_MEMORY", "1025GiB"),
        ("PROCESS_ITEMS", "0"),
        ("PROCESS_ITEMS", "many"),
        ("GATEWAY_HOSTS", "a,,b"),
        ("GATEWAY_HOSTS", "a:65536"),
        ("GATEWAY_HOSTS", "*"),
        ("GATEWAY_HOSTS", "::1"),
        ("GATEWAY_HOSTS", "http://a"),
        ("GATEWAY_HOSTS", "büro"),
        ("GATEWAY_ORIGINS", "*"),
        ("GATEWAY_ORIGINS", "null"),
        ("GATEWAY_ORIGINS", "a.example.com"),
        ("GATEWAY_ORIGINS", "https://a/"),
        ("GATEWAY_ORIGINS", "https://a:443"),
        ("GATEWAY_ORIGINS", "http://a:80"),
        ("GATEWAY_ORIGINS", "ftp://a"),
        ("GATEWAY_ORIGINS", "https://a,"),
        ("PROCESSOR", "a,,b"),
        ("PROCESSOR", "a b"),
        ("HOME", "~nobody-has-this-name/x"),
    ],
)
def test_values_out_of_range(name: str, value: str) -> None:
    text = refused({P + name: value})
    assert text.startswith(f"{P}{name}: expected ")
    assert repr(value) in text


def test_the_processor_flag_may_be_repeated() -> None:
    assert Settings.load({"processors": ["a:b", "c,d"]}, {P + "PROCESSOR": "x"}).processors == ("a:b", "c", "d")
    assert Settings.load({"processors": []}, {P + "PROCESSOR": "x"}).processors == ("x",)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("STREEM", "STREAM"),
        ("LEASETTL", "LEASE_TTL"),
        ("PROCESSORS", "PROCESSOR"),
        ("HTTP_ADRESS", "HTTP_ADDRESS"),
        ("max_attempts", "MAX_ATTEMPTS"),
    ],
)
def test_a_typo_suggests_the_name(given: str, meant: str) -> None:
    assert refused({P + given: "x"}) == f"{P}{given}: unknown variable; did you mean {P}{meant}?"


def test_unknown_names_are_refused_and_their_values_not_shown() -> None:
    text = refused({P + "FOO": CANARY})
    assert text.startswith(P + "FOO: unknown variable")
    assert CANARY not in text
    assert "did you mean REDIS_URL?" in refused({P + "REDIS_URL": CANARY})
    refused({P + "\n\x1b" + "x" * 10_000: "1"})


def test_names_of_processors_and_other_programs_are_left_alone() -> None:
    names = ["DOCUMENTS_ROOT", "OLLAMA_VISION_MODEL"]
    Settings.load(environ={**{P + name: "x" for name in names}, "PATH": "\n", "STREAM": "", "streamworker_foo": "1"})


@pytest.mark.parametrize("names", [("STREAM", "DEAD_STREAM"), ("STREAM", "PROGRESS_STREAM"), ("PROGRESS_STREAM", "DEAD_STREAM")])
def test_streams_need_different_names(names: tuple[str, str]) -> None:
    assert "three different names" in refused({P + name: "same" for name in names})


def test_both_urls_or_neither() -> None:
    assert refused({"REDIS_URL": REDIS}).startswith("DATABASE_URL: not set although REDIS_URL is")
    assert refused({"DATABASE_URL": DATABASE}).startswith("REDIS_URL: not set although DATABASE_URL is")
    assert not load(REDIS_URL=REDIS, DATABASE_URL=DATABASE).embedded


@pytest.mark.parametrize(
    "url",
    [
        REDIS,
        "redis://:p%40%3A%2F%25@localhost",
        "redis://user:a@b:c@localhost:6379/1",
        "redis://[::1]:6379/0",
        "rediss://redis.example.com:6380?ssl_ca_certs=/ca.pem",
        "unix:///run/redis.sock?db=1",
        "unix://user:pw@/run/redis.sock",
        "redis+sentinel://:pw@one:26379,two:26379/main/0",
        "redis+cluster://one:7000,[::1]:7001",
    ],
)
def test_redis_urls_that_are_taken(url: str) -> None:
    assert load(REDIS_URL=url, DATABASE_URL=DATABASE).redis_url == url


@pytest.mark.parametrize(
    "url",
    [
        DATABASE,
        "postgres://user:p%40%3A%2F%25@db.example.com:5433/name?sslmode=disable",
        "postgresql://user@[::1]/name?sslmode=verify-full",
        "postgresql:///name?host=/var/run/postgresql",
        "postgresql://one:5432,two:5432/name",
        "postgresql://user@%2Fvar%2Frun/name",
    ],
)
def test_database_urls_that_are_taken(url: str) -> None:
    assert load(REDIS_URL=REDIS, DATABASE_URL=url).database_url == url


@pytest.mark.parametrize("variable", ["REDIS_URL", "DATABASE_URL"])
@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{CANARY}@host",
        f"redis:/{CANARY}",
        CANARY,
        f"host=db password={CANARY}",
        f"{{scheme}}://user:{CANARY}@host:70000/0",
        f"{{scheme}}://user:{CANARY}@host:port/0",
        f"{{scheme}}://user:{CANARY}/x@host/0",
        f"{{scheme}}://user:{CANARY}#x@host/0",
        f"{{scheme}}://user:{CANARY}?x@host/0",
        f"{{scheme}}://user:[{CANARY}@host/0",
        f"{{scheme}}://user:{CANARY} x@host/0",
        f"{{scheme}}://user:{CANARY}@host/0\n",
        f"{{scheme}}://user:{CANARY}@[::zz]/0",
        f"{{scheme}}://user:{CANARY}@ho st/0?password={CANARY}",
        f"{{scheme}}://host/0 ?password={CANARY}@x",
        f"{{scheme}}://user:{CANARY}@" + "x" * 5000,
    ],
    ids=short,
)
def test_bad_urls_show_no_password(variable: str, url: str) -> None:
    url = url.replace("{scheme}", "redis" if variable == "REDIS_URL" else "postgresql")
    text = refused({"REDIS_URL": REDIS, "DATABASE_URL": DATABASE, variable: url})
    assert text.startswith(f"{variable}: expected a URL such as ")
    assert CANARY not in text


@pytest.mark.parametrize("url", ["redis://", "redis://host/x", "redis://a,b/0", "unix://", "unix://run/redis.sock"])
def test_redis_urls_that_lead_nowhere(url: str) -> None:
    assert repr(url) in refused({"REDIS_URL": url, "DATABASE_URL": DATABASE})


def test_secrets_are_not_in_the_repr_and_are_known_to_who_must_hide_them() -> None:
    s = load(
        REDIS_URL="redis://:red%2Fis-pw@h", DATABASE_URL="postgresql://u:db-passwd@h/d?sslpassword=ssl-pw", **{P + "GATEWAY_TOKEN": CANARY}
    )
    assert not any(secret in repr(s) for secret in ("red%2Fis-pw", "db-passwd", "ssl-pw", CANARY))
    assert set(s.secrets) == {CANARY, "red%2Fis-pw", "red/is-pw", "db-passwd", "ssl-pw"}
    assert "'redis://:***@h'" in repr(s)
    assert CANARY not in refused({P + "GATEWAY_TOKEN": CANARY + " \n"})


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("redis://u:p@h", "redis://u:***@h"),
        ("redis://p@h", "redis://***@h"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("postgresql://u:a@b:c/d%@h/d", "postgresql://u:***@h/d"),
        ("postgresql://h/d?user=x&password=p&sslmode=disable", "postgresql://h/d?user=x&password=***&sslmode=disable"),
        ("postgresql://h/d?password=p@ss", "postgresql://***"),
        ("redis+sentinel://h/m?sentinel_password=p", "redis+sentinel://h/m?sentinel_password=***"),
        ("no url at all", "***"),
    ],
)
def test_masks(url: str, masked: str) -> None:
    assert mask_url(url) == masked


def test_urls_are_masked_anywhere_in_a_text() -> None:
    assert mask_urls("to 'redis://u:p@h' and (postgresql://u:p@h/d) now") == "to 'redis://u:***@h' and (postgresql://u:***@h/d) now"
    assert mask_urls("nothing: a@b") == "nothing: a@b"


@pytest.mark.parametrize(
    "text", ["a://" * 250_000, "a" * 1_000_000 + "://", "?pass" * 200_000 + "://x", "://x?" + "pass" * 250_000], ids=short
)
def test_masking_hostile_text_ends(text: str) -> None:
    assert mask_urls(text)


@pytest.mark.parametrize("address", ["127.0.0.1:80", "127.9.9.9:80", "[::1]:80", "localhost:80"])
def test_loopback_needs_no_token(address: str) -> None:
    load(**{P + "GATEWAY_ADDRESS": address}).require_gateway_token()


@pytest.mark.parametrize("address", ["0.0.0.0:80", "[::]:80", "10.0.0.1:80", "example.com:80", "localhost.example.com:80"])
def test_any_other_address_needs_one_but_only_where_the_gateway_starts(address: str) -> None:
    s = load(**{P + "GATEWAY_ADDRESS": address})
    with pytest.raises(ConfigurationError, match=f"{P}GATEWAY_TOKEN: not set"):
        s.require_gateway_token()
    load(**{P + "GATEWAY_ADDRESS": address, P + "GATEWAY_TOKEN": "t"}).require_gateway_token()


def test_a_name_that_others_can_call_needs_one_too() -> None:
    load(**{P + "GATEWAY_HOSTS": "localhost,127.0.0.1:9,[::1]"}).require_gateway_token()
    with pytest.raises(ConfigurationError, match=f"{P}GATEWAY_TOKEN: not set although {P}GATEWAY_HOSTS names jobs.example.com:80"):
        load(**{P + "GATEWAY_HOSTS": "localhost,jobs.example.com:80"}).require_gateway_token()
    load(**{P + "GATEWAY_HOSTS": "jobs.example.com", P + "GATEWAY_TOKEN": "t"}).require_gateway_token()


def test_the_read_only_token_is_another_and_as_secret() -> None:
    tokens = {P + "GATEWAY_TOKEN": "the-operators", P + "GATEWAY_READ_TOKEN": CANARY}
    s = load(**tokens)
    assert (s.gateway_read_token, s.secrets) == (CANARY, ("the-operators", CANARY))
    assert CANARY not in repr(s)
    assert "not set" in refused({P + "GATEWAY_READ_TOKEN": CANARY})
    same = refused({P + "GATEWAY_READ_TOKEN": CANARY, P + "GATEWAY_TOKEN": CANARY})
    assert same.startswith(f"{P}GATEWAY_TOKEN: the same")
    assert CANARY not in same + refused({P + "GATEWAY_READ_TOKEN": CANARY + " "})


@given(st.text(max_size=20))
@settings(max_examples=300)
def test_fuzz_durations(text: str) -> None:
    refusal = ""
    try:
        assert parse_duration(text) >= 0
    except ConfigurationError as error:
        refusal = str(error)
    assert refusal.isprintable()


VALUES = st.one_of(
    st.text(max_size=40),
    st.from_regex(r"-?[0-9]{1,6}(\.[0-9])?(ms|s|m|h|d|KiB|MiB|)", fullmatch=True),
    st.from_regex(r"(redis|rediss|unix|postgresql|http)://([a-z%:@/\[\]]{0,8}@)?[a-z\[\]:0-9.]{0,9}(/[0-9a-z]{0,3})?", fullmatch=True),
    st.from_regex(r"[a-z0-9.\[\]:]{0,12}:[0-9]{1,6}", fullmatch=True),
)


@given(st.dictionaries(st.one_of(st.sampled_from([o.variable for o in OPTIONS]), st.text(max_size=12).map(P.__add__)), VALUES, max_size=4))
@settings(max_examples=500, deadline=None)
def test_fuzz_load(environ: dict[str, str]) -> None:
    refusal = ""
    try:
        repr(Settings.load(environ=environ))
    except ConfigurationError as error:
        refusal = str(error)
    assert refusal.isprintable()


@given(st.text(min_size=8, max_size=20).map(lambda text: "canary" + text), st.sampled_from(["redis", "postgresql", "rediss+cluster"]))
@settings(max_examples=300)
def test_fuzz_masks(password: str, scheme: str) -> None:
    assert "canary" not in mask_url(f"{scheme}://user:{password}@host/0")
    assert "canary" not in mask_url(f"{scheme}://host/0?password={password.replace('&', '').replace('#', '')}")
