"""Texts that would like to be markup, script or something else than text: 200 of them."""

from __future__ import annotations

import base64
from urllib.parse import quote

CALLS = ("alert(1)", "confirm`1`", "top['al'+'ert'](document.domain)", "prompt(document.cookie)", "print()")
TEMPLATES = (
    "<script>{0}</script>",
    "<img src=x onerror={0}>",
    "<svg onload={0}>",
    "<svg/onload={0}//",
    "<iframe srcdoc='<script>parent.{0}</script>'>",
    "<iframe src=javascript:{0}>",
    "<a href=javascript:{0} autofocus onfocus={0}>click</a>",
    "javascript:{0}",
    "<details open ontoggle={0}>",
    "<video><source onerror={0}>",
    "<body onload={0}>",
    "<input autofocus onfocus={0}>",
    "<math><mi xlink:href=javascript:{0}>",
    "<object data=javascript:{0}>",
    "<embed src=javascript:{0}>",
    "<style>@import 'javascript:{0}'</style>",
    "<link rel=stylesheet href=javascript:{0}>",
    "<meta http-equiv=refresh content='0;url=javascript:{0}'>",
    "<base href=//evil.example><script>{0}</script>",
    "<form action=javascript:{0}><button>go</button></form>",
    "<template><script>{0}</script></template>",
    "</title><script>{0}</script>",
    "</script><script>{0}</script>",
    "</style><script>{0}</script>",
    "</textarea><script>{0}</script>",
    "</pre></bdi></td><script>{0}</script>",
    "--><script>{0}</script><!--",
    "]]><script>{0}</script>",
    "'\"><script>{0}</script>",
    "\"onmouseover={0} x=\"",
    "' autofocus onfocus={0} '",
    "`-{0}-`",
    "${{{0}}}",
    "{{{{constructor.constructor('{0}')()}}}}",
    "\\u003cscript\\u003e{0}\\u003c/script\\u003e",
    "&lt;script&gt;{0}&lt;/script&gt;",
)  # fmt: skip
SPECIAL = (
    "\u202e<script>alert(1)</script>\u202c",
    "\u2066\u202egnp.elif\u2069.exe",
    "\u200b\ufeffjava\u0001script:alert(1)",
    "<scr\u0130pt>alert(1)</scr\u0130pt>",
    "\x1b[31m\x1b]0;owned\x07",
    "a\r\nSet-Cookie: owned=1\r\n\r\n<script>alert(1)</script>",
    "%3Cscript%3Ealert(1)%3C/script%3E",
    "data:text/html;base64," + base64.b64encode(b"<script>alert(1)</script>").decode(),
    "#/batches/" + quote("<img src=x onerror=alert(1)>"),
    "__proto__",
    "constructor",
    "<" * 250,
    "😀" * 120,
    "e" + "\u0301" * 200,
    "\u0626\u064f" * 100,
    "null",
    "' OR 1=1 --",
    "../../../../etc/passwd",
    "<img src=/api/session>",
    "<img src=//evil.example/pixel.png>",
)  # fmt: skip

PAYLOADS = tuple([template.format(call) for call in CALLS for template in TEMPLATES] + list(SPECIAL))[-200:]
assert len(set(PAYLOADS)) == 200
