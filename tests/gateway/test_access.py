"""The door: Host, Origin, tokens, sessions and roles, on every route there is."""

from __future__ import annotations

import base64
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.routing import Route, WebSocketRoute

from streamworker.errors import ConfigurationError
from streamworker.gateway.application import build, routes
from streamworker.gateway.limits import Limits
from streamworker.gateway.sessions import SESSION_SECONDS
from streamworker.gateway.shield import POLICY
from tests.gateway.asgi import Answer, Headers, Socket, ask
from tests.gateway.conftest import HOST, OPERATOR_TOKEN, ORIGIN, READ_TOKEN, TOKENS, MakeApp, client_for, settings_for, submit
from tests.servers import RedisServer

BATCH = "0b1f6a52-5e1c-4f5e-9a57-0d6f3f1f2a10"
# Whatever else is a route needs a token where there is one.
OPEN = {("GET", "/"), ("GET", "/static/{name}"), ("GET", "/healthz"), *((method, "/api/session") for method in ("GET", "POST", "DELETE"))}
HTTP_ROUTES = sorted(
    (method, route.path) for route in routes() if isinstance(route, Route) for method in (route.methods or ()) if method != "HEAD"
)
SOCKET_ROUTES = sorted(route.path for route in routes() if isinstance(route, WebSocketRoute))
JSON = ("content-type", "application/json")


def filled(path: str, batch_id: object = BATCH) -> str:
    """A route's path with values in it."""
    return path.format(id=batch_id, position=0, entry="1-1", name="app.js")


def headers(*more: tuple[str, str], host: str = HOST, origin: str | None = ORIGIN) -> list[tuple[str, str]]:
    return [("host", host), JSON, *([("origin", origin)] if origin is not None else []), *more]


def bearer(token: str) -> tuple[str, str]:
    return ("authorization", f"Bearer {token}")


def cookie(text: str) -> tuple[str, str]:
    return ("cookie", f"other=1; streamworker_8080={text}; more=2")


def test_every_route_is_known_here() -> None:
    assert len(HTTP_ROUTES) == 21
    assert SOCKET_ROUTES == ["/ws"]
    assert set(HTTP_ROUTES) >= OPEN


class TestTokens:
    """Every route by every kind of credential."""

    @pytest.fixture
    async def app(self, looked_at: MakeApp) -> Starlette:
        self.now = 1_000_000.0
        return await looked_at(clock=lambda: self.now, **TOKENS)

    def good(self, app: Starlette) -> dict[str, list[tuple[tuple[str, str], str | None]]]:
        """By role: a credential, and the Origin that it needs."""
        keys = app.state.keys
        return {
            "operator": [(bearer(OPERATOR_TOKEN), None), (bearer(OPERATOR_TOKEN), ORIGIN), (cookie(keys.issue("operator")), ORIGIN)],
            "read": [(bearer(READ_TOKEN), None), (cookie(keys.issue("read")), ORIGIN)],
        }

    def bad(self, app: Starlette) -> list[tuple[str, str]]:
        """What opens nothing."""
        keys = app.state.keys
        genuine, revoked = keys.issue("operator"), keys.issue("operator")
        keys.revoke(keys.by_cookie(revoked))
        self.now -= SESSION_SECONDS
        expired = keys.issue("operator")
        self.now += SESSION_SECONDS
        role, expires, session, signature = genuine.split(".")
        forged = [
            f"operator.{int(expires) + 9}.{session}.{signature}",
            f"read.{expires}.{session}.{signature}",
            f"{role}.{expires}.{session}.{signature[:-2]}",
            f"{role}.{expires}.{session}.",
            f"{role}.{expires}.{session}",
            "....",
            "x" * 4000,
            OPERATOR_TOKEN,
            "\xe9",
        ]
        tokens = [
            "",
            "wrong",
            OPERATOR_TOKEN[:-1],
            OPERATOR_TOKEN + "x",
            OPERATOR_TOKEN.upper(),
            f"{OPERATOR_TOKEN} {OPERATOR_TOKEN}",
            genuine,
        ]
        other = [("authorization", OPERATOR_TOKEN), ("authorization", f"Basic {OPERATOR_TOKEN}"), ("x-token", OPERATOR_TOKEN)]
        return [cookie(text) for text in (revoked, expired, *forged)] + [bearer(token) for token in tokens] + other

    async def test_without_a_right_one_no_route_answers(self, app: Starlette) -> None:
        for method, path in HTTP_ROUTES:
            for credential in [("x-nothing", ""), *self.bad(app)]:
                answer = await ask(app, method, filled(path), headers(credential))
                assert (answer.status == 401) is ((method, path) not in OPEN) or path == "/api/session", (method, path, credential)
                if (method, path) not in OPEN:
                    assert answer.headers["www-authenticate"] == "Bearer"
                    assert set(answer.json) == {"error"}

    async def test_a_token_in_the_url_is_none(self, app: Starlette) -> None:
        for name in ("token", "access_token", "bearer"):
            assert (await ask(app, "GET", f"/api/batches?{name}={OPERATOR_TOKEN}", headers())).status == 401

    async def test_a_wrong_token_is_not_made_up_for_by_a_session(self, app: Starlette) -> None:
        session = cookie(app.state.keys.issue("operator"))
        assert (await ask(app, "GET", "/api/batches", headers(session, bearer("wrong")))).status == 401

    async def test_who_may_look_may_not_act(self, app: Starlette) -> None:
        for method, path in [route for route in HTTP_ROUTES if route not in OPEN]:
            for credential, origin in self.good(app)["read"]:
                answer = await ask(app, method, filled(path), headers(credential, origin=origin))
                assert (answer.status == 403) is (method != "GET"), (method, path, answer)
                assert answer.status != 401

    async def test_the_operator_may(self, app: Starlette) -> None:
        for method, path in [route for route in HTTP_ROUTES if route not in OPEN]:
            for credential, origin in self.good(app)["operator"]:
                answer = await ask(app, method, filled(path), headers(credential, origin=origin))
                assert answer.status in (200, 404), (method, path, answer)

    async def test_a_path_that_only_looks_open_is_not(self, app: Starlette) -> None:
        paths = [
            "//api/batches", "/api//batches", "///", "/%2e/api/batches", "/./api/batches", "/../api/batches", "/static", "/healthz/",
            "/healthz/../api/batches", "/api/session/../batches", "/api/session/", "/API/batches", "/api/batches/", "/api/batches/ready",
            "/api/batches/healthz", "/api/x/ready", "/api/batches%2fready", "/api%2fbatches", "/api/batches;/healthz", "/api/batches%00",
            "/metrics", "/livez", "/events/healthz", "/ws/../healthz", "http://127.0.0.1:8080/healthz", "*", "",
        ]  # fmt: skip
        for path in paths:
            for method in ("GET", "HEAD", "OPTIONS", "POST", "TRACE", "PROPFIND"):
                answer = await ask(app, method, path, headers())
                assert answer.status == 401, (method, path, answer)

    async def test_nothing_but_the_page_is_in_its_folder(self, app: Starlette) -> None:
        for name in ("../api/batches", "%2e%2e/api/batches", "..%2f..%2fpyproject.toml", "%2e%2e%2f__init__.py", "nothing.js", "", ".",
                     "..", "/etc/passwd", "%2fetc%2fpasswd", "..\\..\\x", "app.js%00.png", "app.js/", "APP.JS"):  # fmt: skip
            answer = await ask(app, "GET", f"/static/{name}", headers())
            assert answer.status == 404, (name, answer)

    async def test_other_methods(self, app: Starlette) -> None:
        for method, path in [route for route in HTTP_ROUTES if route not in OPEN and route[0] == "GET"]:
            assert (await ask(app, "HEAD", filled(path), headers())).status == 401
            assert (await ask(app, "OPTIONS", filled(path), headers())).status == 401
            answer = await ask(app, "OPTIONS", filled(path), headers(bearer(OPERATOR_TOKEN), origin=None))
            assert answer.status == 405, (method, path)
            assert not [name for name in answer.headers if name.startswith("access-control")]

    async def test_sockets(self, app: Starlette) -> None:
        good = self.good(app)
        for path in SOCKET_ROUTES:
            for credential in [("x-nothing", ""), *self.bad(app)]:
                async with Socket(app, path, headers(credential)) as socket:
                    assert await socket.outcome() == 4401, credential
            for credential, origin in good["operator"] + good["read"]:
                async with Socket(app, path, headers(credential, origin=origin)) as socket:
                    assert await socket.outcome() == 101, credential

    async def test_a_socket_may_bring_its_token_as_a_subprotocol(self, app: Starlette) -> None:
        for name, expected in [
            ("bearer.b3BlcmF0b3ItdG9rZW4tMDEyMzQ1Njc4OQ", 101),
            ("bearer.cmVhZC10b2tlbi0wMTIzNDU2Nzg5", 101),
            ("bearer.d3Jvbmc", 4401),
            ("bearer.", 4401),
            ("bearer.%%%", 4401),
            ("bearer.w6k", 4401),
        ]:
            async with Socket(app, "/ws", headers(), ["streamworker.v1", name]) as socket:
                accepted = await socket.next()
                assert accepted["subprotocol"] == "streamworker.v1"  # never the token
                second = await socket.next()
                assert (second.get("code") or 101) == expected, name
        async with Socket(app, "/ws", headers(origin="http://evil.com"), ["bearer.b3BlcmF0b3ItdG9rZW4tMDEyMzQ1Njc4OQ"]) as socket:
            assert await socket.outcome() == 403

    async def test_the_socket_says_which_role_it_has(self, app: Starlette) -> None:
        for role, ((credential, _), *_rest) in self.good(app).items():
            async with Socket(app, "/ws", headers(credential)) as socket:
                await socket.next()
                assert f'"role":"{role}"' in (await socket.next())["text"]


class TestSessions:
    @pytest.fixture
    async def app(self, looked_at: MakeApp) -> Starlette:
        self.now = 1_000_000.0
        return await looked_at(clock=lambda: self.now, **TOKENS)

    @pytest.fixture
    async def page(self, app: Starlette) -> Any:
        async with client_for(app, origin=ORIGIN) as client:
            yield client

    async def test_what_a_proxy_or_another_path_adds_does_not_hide_a_session(self, looked_at: MakeApp) -> None:
        app = await looked_at(**TOKENS)
        keys = app.state.keys
        good, old = cookie(keys.issue("operator"))[1], cookie("operator.1.x.y")[1]
        basic = ("authorization", "Basic dXNlcjpwYXNz")
        for given in (
            [basic, ("cookie", good)],
            [basic, bearer(OPERATOR_TOKEN)],
            [("cookie", f"{old}; {good}")],
            [("cookie", f"{good}; {old}")],
            [("cookie", f"a=b; {old}"), ("cookie", good)],
        ):
            assert (await ask(app, "GET", "/api/session", headers(*given))).json["role"] == "operator", given
        for given in ([basic], [("cookie", f"{old}; {old}")], [bearer(OPERATOR_TOKEN), bearer(READ_TOKEN)]):
            assert (await ask(app, "GET", "/api/session", headers(*given))).json["role"] is None, given

    async def test_a_token_is_changed_for_a_cookie(self, page: httpx.AsyncClient) -> None:
        assert (await page.get("/api/session")).json() == {"role": None, "token_required": True}
        answer = await page.post("/api/session", json={"token": OPERATOR_TOKEN})
        assert answer.json() == {"role": "operator", "token_required": True}
        set_cookie = answer.headers["set-cookie"]
        assert OPERATOR_TOKEN not in set_cookie
        assert {"HttpOnly", "Path=/", f"Max-Age={SESSION_SECONDS}", "SameSite=strict"} <= set(set_cookie.split("; "))
        assert set_cookie.startswith("streamworker_8080=")
        assert (await page.get("/api/session")).json()["role"] == "operator"
        assert (await page.post(f"/api/batches/{BATCH}/cancel", json={})).status_code == 404
        ended = await page.delete("/api/session")
        assert ended.json() == {"role": None, "token_required": True}
        assert (await page.get("/api/batches")).status_code == 401

    async def test_a_session_that_was_given_back_stays_back(self, app: Starlette, page: httpx.AsyncClient) -> None:
        await page.post("/api/session", json={"token": OPERATOR_TOKEN})
        kept = ("cookie", f"streamworker_8080={page.cookies['streamworker_8080']}")
        assert (await ask(app, "GET", "/api/batches", headers(kept))).status == 200
        await page.delete("/api/session")
        assert (await ask(app, "GET", "/api/batches", headers(kept))).status == 401

    async def test_it_ends_after_twelve_hours(self, page: httpx.AsyncClient) -> None:
        await page.post("/api/session", json={"token": READ_TOKEN})
        self.now += 12 * 3600 - 1
        assert (await page.get("/api/session")).json()["role"] == "read"
        self.now += 1
        assert (await page.get("/api/session")).json()["role"] is None

    async def test_wrong_words(self, page: httpx.AsyncClient) -> None:
        for body, status in [({"token": "wrong"}, 401), ({"token": ""}, 400), ({"token": 1}, 400), ({}, 400), ({"token": "x" * 2000}, 400),
                             ({"token": OPERATOR_TOKEN, "x": 1}, 400), ([OPERATOR_TOKEN], 400)]:  # fmt: skip
            answer = await page.post("/api/session", json=body)
            assert (answer.status_code, "set-cookie" in answer.headers) == (status, False)
            assert OPERATOR_TOKEN not in answer.text

    async def test_sockets_and_streams_end_with_it(self, app: Starlette, page: httpx.AsyncClient) -> None:
        await page.post("/api/session", json={"token": READ_TOKEN})
        kept = ("cookie", f"streamworker_8080={page.cookies['streamworker_8080']}")
        async with Socket(app, "/ws", headers(kept)) as first, Socket(app, "/ws", headers(bearer(READ_TOKEN))) as other:
            assert (await first.outcome(), await other.outcome()) == (101, 101)
            await page.delete("/api/session")
            assert await first.closed() == 4401
            assert other._outgoing.empty()

    async def test_an_open_socket_ends_when_its_time_is_over(self, app: Starlette) -> None:
        kept = cookie(app.state.keys.issue("read"))
        self.now += SESSION_SECONDS - 0.05
        async with Socket(app, "/ws", headers(kept)) as socket:
            assert await socket.outcome() == 101
            self.now += 1
            assert await socket.closed() == 4401

    async def test_a_change_of_tokens_ends_it_and_a_restart_does_not(self, app: Starlette, redis_url: str, database_url: str) -> None:
        session = app.state.keys.issue("operator")
        same = build(settings_for(redis_url, database_url, **TOKENS), clock=lambda: self.now)
        other = build(settings_for(redis_url, database_url, **{**TOKENS, "gateway_token": "another"}), clock=lambda: self.now)
        assert (same.state.keys.by_cookie(session).role, other.state.keys.by_cookie(session).role) == ("operator", None)

    async def test_behind_tls_the_cookie_is_for_tls_only(self, looked_at: MakeApp) -> None:
        app = await looked_at(gateway_hosts="jobs.example.com", gateway_origins="https://jobs.example.com", **TOKENS)
        body = f'{{"token": "{OPERATOR_TOKEN}"}}'.encode()
        answer = await ask(app, "POST", "/api/session", headers(host="jobs.example.com", origin="https://jobs.example.com"), body)
        assert answer.headers["set-cookie"].startswith("streamworker_session=")
        assert "Secure" in answer.headers["set-cookie"].split("; ")


class TestHost:
    @pytest.fixture
    async def app(self, looked_at: MakeApp) -> Starlette:
        return await looked_at(gateway_hosts="jobs.local:8080, 192.168.1.5", gateway_token=OPERATOR_TOKEN)

    async def test_names_of_ours(self, app: Starlette) -> None:
        for host in ("127.0.0.1:8080", "127.0.0.1", "localhost:9", "LOCALHOST:8080", "[::1]:8080", "[::1]", "jobs.local:8080",
                     "192.168.1.5", "192.168.1.5:99"):  # fmt: skip
            assert (await ask(app, "GET", "/healthz", [("host", host)])).status == 200, host

    async def test_any_other_is_refused_on_every_route(self, app: Starlette) -> None:
        others = ["evil.com", "evil.com:8080", "", " ", "127.0.0.1.evil.com", "localhost.evil.com:8080", "evil.com/127.0.0.1", "127.1",
                  "localhost@evil.com", "localhost#.evil.com", "127.0.0.1:8080:1", "2130706433", "0x7f.0.0.1", "0.0.0.0:8080", "[::1",
                  "::1", "[::]:8080", "jobs.local", "jobs.local:80", "localhost.", "local\xe9ost", "localhost\r\nx: y",
                  "127.0.0.1:8080, evil.com",
                  ]  # fmt: skip
        for host in others:
            assert (await ask(app, "GET", "/healthz", [("host", host)])).status == 421, host
            async with Socket(app, "/ws", [("host", host), ("origin", f"http://{host}")]) as socket:
                assert await socket.outcome() == 421, host
        for method, path in HTTP_ROUTES:
            answer = await ask(app, method, filled(path), headers(bearer(OPERATOR_TOKEN), host="evil.com", origin="http://evil.com"))
            assert answer.status == 421, path

    async def test_none_or_two_are_none(self, app: Starlette) -> None:
        for given in ([], [("host", HOST), ("host", HOST)], [("host", HOST), ("host", "evil.com")]):
            assert (await ask(app, "GET", "/healthz", given)).status == 421
        forwarded = [("host", "evil.com"), ("x-forwarded-host", HOST), ("forwarded", f"host={HOST}")]
        assert (await ask(app, "GET", "/healthz", forwarded)).status == 421

    async def test_bound_to_all_addresses_the_own_one_is_one(self, looked_at: MakeApp) -> None:
        app = await looked_at(gateway_address="0.0.0.0:8080", gateway_token=OPERATOR_TOKEN)
        for host, status in [("10.0.0.7:8080", 200), ("10.0.0.8:8080", 421), ("0.0.0.0:8080", 200), ("evil.com", 421)]:
            for address in ("10.0.0.7", "::ffff:10.0.0.7"):
                assert (await ask(app, "GET", "/healthz", [("host", host)], server=(address, 8080))).status == status, host


class TestElsewhere:
    """Without a token or a hook only this machine is let in, whatever the app that the gateway is mounted in listens on."""

    OTHERS = (("10.0.0.9", 1), ("2001:db8::1", 1), ("testclient", 1), ("", 1), None)

    @pytest.fixture
    async def app(self, looked_at: MakeApp) -> Starlette:
        return await looked_at()

    async def test_a_forged_host_opens_nothing(self, app: Starlette) -> None:
        forged = headers(host="localhost", origin="http://localhost")
        for method, path in HTTP_ROUTES:
            for client in self.OTHERS:
                answer = await ask(app, method, filled(path), forged, client=client)
                assert (answer.status == 403) is ((method, path) not in OPEN), (method, path, client)
                assert ("expected a client on this machine" in str(answer.body)) is ((method, path) not in OPEN)
        for client in self.OTHERS:
            assert (await ask(app, "GET", "/api/session", forged, client=client)).json["role"] is None
            async with Socket(app, "/ws", forged, more={"client": client}) as socket:
                assert await socket.outcome() == 403

    async def test_this_machine_is_let_in(self, app: Starlette) -> None:
        for client in (("127.0.0.1", 1), ("::1", 1), ("::ffff:127.0.0.1", 1)):
            assert (await ask(app, "GET", "/api/batches", headers(), client=client)).status == 200
        assert (await ask(app, "GET", "/api/batches", headers(), client=None, server=("/run/gateway.sock", None))).status == 200

    async def test_others_are_where_a_token_or_a_hook_says_who_may(self, looked_at: MakeApp) -> None:
        guarded, hooked = await looked_at(**TOKENS), await looked_at(authorise=lambda _connection, _batch_id: True)
        for client in self.OTHERS:
            assert (await ask(guarded, "GET", "/api/batches", headers(bearer(OPERATOR_TOKEN)), client=client)).status == 200
            assert (await ask(hooked, "GET", "/api/batches", headers(), client=client)).status == 200


EVIL_ORIGINS = [
    "null", "http://evil.com", "https://127.0.0.1:8080", "http://127.0.0.1", "http://127.0.0.1:80", "http://127.0.0.1:8081",
    "http://127.0.0.1:8080.evil.com", "http://127.0.0.1:80801", "http://127.0.0.1:8080/", "http://127.0.0.1:8080@evil.com",
    "http://evil.com/http://127.0.0.1:8080", "http://localhost:8080", "HTTP://127.0.0.1:8080", "", "file://", "chrome-extension://abc",
    "http://127.0.0.1:8080 http://evil.com", "http://127.0.0.1:8080, http://evil.com",
]  # fmt: skip


class TestOrigin:
    @pytest.fixture
    async def app(self, looked_at: MakeApp) -> Starlette:
        return await looked_at()

    async def test_another_site_reaches_no_route(self, app: Starlette) -> None:
        for method, path in HTTP_ROUTES:
            for origin in EVIL_ORIGINS[:4] if method == "GET" and path != "/events" else EVIL_ORIGINS:
                answer = await ask(app, method, filled(path), headers(origin=origin))
                assert answer.status == 403, (method, path, origin)

    async def test_nor_opens_a_socket(self, app: Starlette) -> None:
        for origin in [*EVIL_ORIGINS, None]:
            async with Socket(app, "/ws", headers(origin=origin)) as socket:
                assert await socket.outcome() == 403, origin
        async with Socket(app, "/ws", [*headers(), ("origin", "http://evil.com")]) as socket:
            assert await socket.outcome() == 403

    async def test_without_an_origin_one_may_look_and_not_act(self, app: Starlette) -> None:
        for method, path in HTTP_ROUTES:
            answer = await ask(app, method, filled(path), headers(origin=None))
            assert (answer.status == 403) is (method != "GET"), (method, path)

    async def test_a_token_without_one_is_a_program(self, looked_at: MakeApp) -> None:
        app = await looked_at(**TOKENS)
        for origin, status in [(None, 404), (ORIGIN, 404), ("http://evil.com", 403), ("null", 403)]:
            answer = await ask(app, "POST", f"/api/batches/{BATCH}/cancel", headers(bearer(OPERATOR_TOKEN), origin=origin))
            assert answer.status == status, origin

    async def test_what_the_browser_says_of_other_sites(self, app: Starlette) -> None:
        for site, path, status in [("same-origin", "/api/batches", 200), ("none", "/api/batches", 200), ("cross-site", "/api/batches", 403),
                                   ("same-site", "/api/batches", 403), ("cross-site", "/static/app.js", 403),
                                   ("cross-site", "/events", 403),
                                   ("cross-site", "/", 200), ("same-site", "/", 200)]:  # fmt: skip
            assert (await ask(app, "GET", path, headers(("sec-fetch-site", site), origin=None))).status == status, (site, path)

    async def test_origins_of_the_settings(self, looked_at: MakeApp) -> None:
        app = await looked_at(gateway_origins="https://app.example.com")
        for origin, expected in [("https://app.example.com", 101), ("http://app.example.com", 403),
                                 ("https://app.example.com.evil.com", 403),
                                 ("https://app.example.com:444", 403), (ORIGIN, 101)]:  # fmt: skip
            async with Socket(app, "/ws", headers(origin=origin)) as socket:
                assert await socket.outcome() == expected, origin

    async def test_behind_tls_the_same_host_without_it_is_another_site(self, looked_at: MakeApp) -> None:
        app = await looked_at(gateway_hosts="jobs.example.com", gateway_origins="https://jobs.example.com", **TOKENS)
        session = ("cookie", f"streamworker_session={app.state.keys.issue('operator')}")
        for origin, status in [("https://jobs.example.com", 404), ("http://jobs.example.com", 403)]:
            answer = await ask(app, "POST", f"/api/batches/{BATCH}/cancel", headers(session, host="jobs.example.com", origin=origin))
            assert answer.status == status, origin


async def test_a_form_of_another_site_cannot_pass_for_json(make_app: MakeApp, database: asyncpg.Connection) -> None:
    app, batch_id = await make_app(), await submit(database)
    kinds = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "application/jsonp", "text/json",
             "application/json, text/plain", "application/ json"]  # fmt: skip
    for kind in kinds:
        given = [("host", HOST), ("origin", ORIGIN), ("content-type", kind)]
        assert (await ask(app, "POST", f"/api/batches/{batch_id}/cancel", given)).status == 415, kind
    twice = [*headers(), ("content-type", "text/plain")]
    assert (await ask(app, "POST", f"/api/batches/{batch_id}/cancel", twice)).status == 415
    good = [("host", HOST), ("origin", ORIGIN), ("content-type", "Application/JSON; charset=utf-8")]
    assert (await ask(app, "POST", f"/api/batches/{batch_id}/cancel", good)).status == 200


async def test_every_answer_carries_the_headers(looked_at: MakeApp) -> None:
    app = await looked_at(**TOKENS)
    asked = [
        ("GET", "/"),
        ("GET", "/static/app.js"),
        ("GET", "/api/batches"),
        ("GET", "/healthz"),
        ("GET", "/nothing"),
        ("POST", "/api/session"),
    ]
    answers: list[Answer] = [await ask(app, method, path, headers()) for method, path in asked]
    answers += [await ask(app, "GET", "/", [("host", "evil.com")]), await ask(app, "GET", "/events", headers(bearer(READ_TOKEN)))]
    answers.append(await ask(app, "GET", f"/api/batches/{BATCH}", headers(bearer(READ_TOKEN))))
    for answer in answers:
        assert answer.headers["content-security-policy"] == POLICY
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-opener-policy"] == answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["cache-control"] in ("no-store", "no-cache")
        assert "server" not in answer.headers
    assert answers[2].headers["cache-control"] == "no-store"


class TestPage:
    async def test_it_is_there_and_asked_for_anew_only_when_it_changed(self, looked_at: MakeApp) -> None:
        app = await looked_at()
        page = await ask(app, "GET", "/", headers())
        assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert b"<script src=" in page.body or b'<script type="module" src=' in page.body
        for tag in (page.headers["etag"], f'"x", W/{page.headers["etag"]}', "*"):
            again = await ask(app, "GET", "/", headers(("if-none-match", tag)))
            assert (again.status, again.body) == (304, b"")
        assert (await ask(app, "GET", "/", headers(("if-none-match", '"x"')))).status == 200

    async def test_it_needs_nothing_inline_and_nothing_from_elsewhere(self, looked_at: MakeApp) -> None:
        app = await looked_at()
        for name, file in app.state.files.items():
            text = file.content.decode("utf-8", "replace")
            assert "https://" not in text, name
            if name.endswith(".html"):
                assert "style=" not in text, name
                assert " on" not in text.replace(" on ", ""), name


class TestAuthorise:
    """The hook of a mounted gateway: asked for each batch, on every route."""

    @pytest.fixture
    def asked(self) -> list[tuple[str, UUID | None]]:
        return []

    async def test_every_route_with_a_batch_asks_for_it(self, make_app: MakeApp, database: asyncpg.Connection) -> None:
        allowed, other = await submit(database), await submit(database)

        async def authorise(connection: HTTPConnection, batch_id: UUID | None) -> bool:
            assert connection.headers["host"] == HOST
            return batch_id in (allowed, None)

        app = await make_app(authorise=authorise)
        for method, path in [route for route in HTTP_ROUTES if "{id}" in route[1]]:
            answers = [await ask(app, method, filled(path, batch_id), headers()) for batch_id in (allowed, other, uuid4())]
            assert [answer.status for answer in answers][1:] == [403, 403], path
            assert answers[0].status == 200 or "thumbnail" in path, path

    async def test_lists_leave_out_what_may_not_be_seen(
        self, make_app: MakeApp, database: asyncpg.Connection, redis_server: RedisServer
    ) -> None:
        allowed, other = await submit(database), await submit(database)
        await database.execute("UPDATE streamworker.batches SET status = 'processing', worker = 'w',"
                               " lease_expires_at = clock_timestamp() + interval '15 s'")  # fmt: skip
        with redis_server.client() as redis:
            letters = [redis.xadd("batches:dead", {"batch_id": str(batch_id)}).decode() for batch_id in (allowed, other)]
        app = await make_app(authorise=lambda _connection, batch_id: batch_id != other)
        listed = (await ask(app, "GET", "/api/batches", headers())).json["batches"]
        assert [batch["id"] for batch in listed] == [str(allowed)]
        assert [letter["id"] for letter in (await ask(app, "GET", "/api/dead", headers())).json["letters"]] == letters[:1]
        assert (await ask(app, "POST", f"/api/dead/{letters[1]}/drop", headers())).status == 404
        (worker,) = (await ask(app, "GET", "/api/workers", headers())).json["workers"]
        assert [held["batch_id"] for held in worker["batches"]] == [str(allowed)]

    async def test_a_page_names_no_batch_that_may_not_be_seen(self, make_app: MakeApp, database: asyncpg.Connection) -> None:
        allowed, other = await submit(database), await submit(database)
        app = await make_app(authorise=lambda _connection, batch_id: batch_id in (None, allowed))
        first = (await ask(app, "GET", "/api/batches?limit=1", headers())).json
        assert first["batches"] == []
        raw = base64.urlsafe_b64decode(first["next"])
        assert str(other) not in first["next"] and other.bytes[:4] not in raw  # noqa: PT018
        then = (await ask(app, "GET", f"/api/batches?limit=1&before={first['next']}", headers())).json
        assert ([batch["id"] for batch in then["batches"]], then["next"]) == ([str(allowed)], None)

    async def test_a_letter_that_may_be_anybodys_is_not_shown(self, make_app: MakeApp, redis_server: RedisServer) -> None:
        mine, other = uuid4(), uuid4()
        lines = [[mine], [f" {mine}\n"], [mine, mine], [mine, other], [other, mine], ["zz", mine], [mine, "zz"], [f"{other}\n"], ["zz"], []]
        with redis_server.client() as redis:
            letters = [
                redis.execute_command(
                    "XADD", "batches:dead", "*", *(part for id in ids for part in ("batch_id", str(id))), "items", "[1]"
                ).decode()
                for ids in lines
            ]
        app = await make_app(authorise=lambda _connection, batch_id: batch_id in (None, mine))
        assert [letter["id"] for letter in (await ask(app, "GET", "/api/dead", headers())).json["letters"]] == letters[:3]
        for letter in letters[3:]:
            for what in ("requeue", "drop"):
                assert (await ask(app, "POST", f"/api/dead/{letter}/{what}", headers())).status == 404
        assert (await ask(app, "POST", f"/api/dead/{letters[1]}/drop", headers())).json == {"dropped": True}
        everybody = await make_app()
        assert len((await ask(everybody, "GET", "/api/dead", headers())).json["letters"]) == len(lines) - 1

    async def test_what_belongs_to_no_batch_is_asked_for_with_none(self, looked_at: MakeApp) -> None:
        app = await looked_at(authorise=lambda _connection, batch_id: batch_id is not None)
        for path in ("/api/batches", "/api/workers", "/api/queue", "/api/dead", "/events"):
            assert (await ask(app, "GET", path, headers())).status == 403, path
        assert (await ask(app, "POST", "/api/dead/1-1/drop", headers())).status == 403

    async def test_sockets_and_streams(self, make_app: MakeApp, database: asyncpg.Connection) -> None:
        allowed, other = await submit(database), await submit(database)
        app = await make_app(authorise=lambda _connection, batch_id: batch_id == allowed)
        assert (await ask(app, "GET", f"/events?batch_id={allowed}", headers())).status == 200
        assert (await ask(app, "GET", f"/events?batch_id={other}", headers())).status in (403, 404)
        async with Socket(app, f"/ws?batch_id={other}", headers()) as socket:
            assert await socket.closed() == 4404

    async def test_who_stays_is_asked_for_again(
        self, make_app: MakeApp, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        batch_id, rights = await submit(database), {"ann": True}
        app = await make_app(authorise=lambda connection, _batch_id: rights["ann"])
        monkeypatch.setattr(app.state.lasting, "_longest_trust", 0.1)
        async with Socket(app, f"/ws?batch_id={batch_id}", headers()) as socket:
            assert await socket.closed() == 1012
        rights["ann"] = False
        async with Socket(app, f"/ws?batch_id={batch_id}", headers()) as socket:
            assert await socket.closed() == 4404


class TestLimits:
    async def test_requests_that_come_too_fast(self, looked_at: MakeApp) -> None:
        app = await looked_at(limits=Limits(requests_a_second=0.001, burst=5))
        statuses = [(await ask(app, "GET", "/healthz", headers(), client=("10.0.0.9", 1))).status for _ in range(7)]
        assert statuses == [200] * 5 + [429] * 2
        async with Socket(app, "/ws", headers(), more={"client": ("10.0.0.9", 2)}) as socket:
            assert await socket.outcome() == 429
        for client in (("10.0.0.10", 1), ("127.0.0.1", 1), ("::1", 1), ("::ffff:127.0.0.1", 1), None):
            assert (await ask(app, "GET", "/healthz", headers(), client=client)).status == 200
        for number in range(6):  # of one network
            found = (await ask(app, "GET", "/healthz", headers(), client=(f"2001:db8::{number}:1", 1))).status
            assert found == (200 if number < 5 else 429)
        assert (await ask(app, "GET", "/healthz", headers(), client=("2001:db8:0:1::1", 1))).status == 200
        forged = headers(("x-forwarded-for", "127.0.0.1"))
        assert (await ask(app, "GET", "/healthz", forged, client=("10.0.0.9", 1))).status == 429

    async def test_guesses(self, looked_at: MakeApp) -> None:
        app = await looked_at(limits=Limits(wrong_tokens_a_minute=3), **TOKENS)
        elsewhere = {"client": ("10.0.0.9", 1)}
        for _ in range(3):
            assert (await ask(app, "GET", "/api/batches", headers(bearer("guess")), **elsewhere)).status == 401
        for given in (bearer("guess"), bearer(OPERATOR_TOKEN)):
            assert (await ask(app, "GET", "/api/batches", headers(given), **elsewhere)).status == 429
        body = f'{{"token": "{OPERATOR_TOKEN}"}}'.encode()
        assert (await ask(app, "POST", "/api/session", headers(), body, **elsewhere)).status == 429
        session: Headers = headers(cookie(app.state.keys.issue("read")))
        assert (await ask(app, "GET", "/api/batches", session, **elsewhere)).status == 200
        assert (await ask(app, "GET", "/api/batches", headers(bearer(OPERATOR_TOKEN)), client=("10.0.0.8", 1))).status == 200


def test_a_public_name_needs_a_token_or_somebody_who_asks() -> None:
    settings = settings_for("redis://localhost:6379/0", "postgresql://localhost/db", gateway_hosts="localhost,jobs.example.com")
    with pytest.raises(ConfigurationError, match=r"GATEWAY_TOKEN: not set although STREAMWORKER_GATEWAY_HOSTS names jobs\.example\.com"):
        build(settings)
    build(settings, authorise=lambda _connection, _batch_id: True)
