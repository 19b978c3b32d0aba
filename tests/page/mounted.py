"""Somebody's own app, with the gateway mounted below a path of it."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.routing import Mount

from streamworker.gateway import app as progress

gateway = progress()
app = Starlette(routes=[Mount("/shop/progress", gateway)], lifespan=lambda _: gateway.router.lifespan_context(gateway))
