"""The contract: one OpenAPI document, the same at `/openapi.json`, in `gateway openapi` and in `openapi/gateway.yaml`.

Litestar draws it from the routes and the wire structs. What it does not say, or not the way it is kept, is put right
here: headers, path parameters, what a body may hold, and an order that does not depend on luck.
"""

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, Final, cast

import msgspec
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Components, Contact, Example, License, Reference, SecurityScheme, Tag
from litestar.routes import HTTPRoute

from gateway import __version__
from gateway.api import openapi_texts
from gateway.api.admin import PENDING_QUERY, PendingRecording, ReleaseClaim, admin_routes
from gateway.api.batch import ACTIONS, MAX_ITEMS, RecordBatch, StopAllRecordings, batch_routes
from gateway.api.events import LAST_EVENT_HEADER, event_routes
from gateway.api.guards import DEADLINE_HEADER
from gateway.api.idempotency import KEY_HEADER
from gateway.api.me import me_routes
from gateway.api.pagination import QUERY
from gateway.api.problems import MAX_BODY_BYTES, PROBLEM_JSON
from gateway.api.recordings import recording_routes
from gateway.api.room_options import RoomConfig, RoomLayout, Summary, Transcription
from gateway.api.system import livez, readiness_route
from gateway.api.webhooks import webhook_route
from gateway.api.wire import BODIES, PATH_PARTS, ProblemDocument, RecordingBody
from gateway.auth.policy import Scope
from gateway.recordings import MODES, Mode
from gateway.videosdk.signatures import SIGNATURE_HEADER

__all__ = ["contract"]

_ITEM: Final = "BatchItem"
_REQUESTS: Final = (
    *(
        model.__name__
        for model in (
            *(body for bodies in BODIES.values() for body in bodies),
            *(RoomConfig, RoomLayout, Transcription, Summary),
            ReleaseClaim,
            RecordBatch,
            StopAllRecordings,
        )
    ),
    _ITEM,
)
_SCHEMAS: Final = "#/components/schemas/"
_NO_PART: Final[Any] = None
"""What routes call is not needed to describe them."""
_PART: Final = re.compile(r"{(\w+)}")
_METHODS: Final = frozenset({"get", "put", "post", "delete", "patch", "head", "options"})

_HEADERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "X-Request-Id": (
        "Names this request in the gateway's log: yours, if you sent one (up to 128 letters, digits, `.`, `_`, `-`).",
        {"type": "string"},
    ),
    "Location": ("The address of the recording.", {"type": "string", "format": "uri-reference"}),
    "Retry-After": ("Seconds after which a retry makes sense.", {"type": "integer", "minimum": 1}),
    "WWW-Authenticate": ("How to say who you are.", {"type": "string"}),
    "Link": (
        'The address that will show the truth, as `<…>; rel="describedby"`; with `outcome-unknown`.',
        {"type": "string"},
    ),
    "RateLimit-Policy": (
        'How many starts and stops are allowed, as `"caller";q=600;w=60` (draft-ietf-httpapi-ratelimit-headers).',
        {"type": "string"},
    ),
    "RateLimit": (
        'How many of them are left, and in how many seconds all are: `"caller";r=599;t=1`.',
        {"type": "string"},
    ),
    "Idempotency-Replayed": ("`true` where this is what an earlier request was answered.", {"type": "string"}),
}
_ANSWERED = frozenset({200, 201, 422})
"""Where an answer may be a replay."""
_HEADERS_OF: Final = {
    201: ("Location",),
    202: ("Location",),
    401: ("WWW-Authenticate",),
    409: ("Retry-After",),
    422: ("Retry-After",),
    429: ("Retry-After",),
    503: ("Retry-After",),
    504: ("Retry-After", "Link"),
}
_DEADLINE: Final = {
    "name": DEADLINE_HEADER,
    "in": "header",
    "description": "How long you want to wait, in milliseconds. The operation itself does not depend on it.",
    "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
}


_IDEMPOTENCY_KEY: Final = {
    "name": KEY_HEADER,
    "in": "header",
    "description": (
        "A name of your own for this request, the same for its retries and for nothing else: a UUID, quoted or bare. A "
        "retry is then answered what the request was answered, even if the recording has been stopped meanwhile."
    ),
    # No example: Swagger UI would send it with every try, and the second would get the first one's answer.
    "schema": {
        "type": "string",
        "pattern": r'^(?:[!#-+\--:<-\[\]-~]{1,255}|"(?:[!#-\[\]-~]|\\["\\]){1,255}")$',
    },
}


_STREAM_PARAMETERS: Final[list[dict[str, Any]]] = [
    {
        "name": LAST_EVENT_HEADER,
        "in": "header",
        "description": "The `id` of the event you saw last. What is no id that the room knows begins anew.",
        "schema": {"type": "string"},
    },
    {
        "name": "lastEventId",
        "in": "query",
        "description": "The same, for a new `EventSource`, which cannot send the header. The header counts more.",
        "schema": {"type": "string"},
    },
    {**_DEADLINE, "description": "After how many milliseconds the stream is to end; it may end earlier."},
]


_QUERIES: Final = {"listRecordings": QUERY, "listPendingRecordings": PENDING_QUERY}


@cache
def contract() -> dict[str, Any]:
    """Return the document, made of plain values."""
    document, handlers = _drawn()
    for path, operation in _operations(document):
        handler = handlers[operation["operationId"]]
        _finish(operation, path, handler)
        operation["responses"] = _referring(operation["responses"], handler.opt.get("mode"))
    for schema in document["components"]["schemas"].values():
        for name, member in schema.get("properties", {}).items():
            schema["properties"][name] = _referring(_flattened(member), None)
    document["components"]["schemas"] = _with_items(_by_mode(document["components"]["schemas"]))
    for name in _REQUESTS:
        document["components"]["schemas"][name]["additionalProperties"] = False
    # What a problem says beyond these members depends on its type: RFC 9457 has clients ignore what they do not know.
    document["components"]["schemas"][ProblemDocument.__name__]["additionalProperties"] = True
    document["components"]["headers"] = {
        name: {"description": text, "schema": schema} for name, (text, schema) in _HEADERS.items()
    }
    document["components"]["parameters"] = {"Deadline": _DEADLINE, "IdempotencyKey": _IDEMPOTENCY_KEY}
    return {"openapi": document.pop("openapi"), **document}


def _drawn() -> tuple[dict[str, Any], dict[str, HTTPRouteHandler]]:
    """Return what Litestar draws, and the handlers by their operation ids."""
    schemes: dict[str, SecurityScheme | Reference] = {
        name: SecurityScheme(type="http", scheme="bearer", bearer_format=form, description=text)
        for name, (form, text) in openapi_texts.IDENTITIES.items()
    }
    schemes["videosdkSignature"] = SecurityScheme(
        type="apiKey", name=SIGNATURE_HEADER, security_scheme_in="header", description=openapi_texts.WEBHOOK_SIGNATURE
    )
    schemes["eventsTicket"] = SecurityScheme(
        type="apiKey", name="ticket", security_scheme_in="query", description=openapi_texts.BY_TICKET
    )
    config = OpenAPIConfig(
        title="Recording gateway",
        version=__version__,
        summary="Starts and stops VideoSDK recordings, exactly once.",
        description=openapi_texts.DESCRIPTION,
        contact=Contact(name="The operator of this gateway"),
        license=License(name="MIT", identifier="MIT"),
        tags=[Tag(name, description) for name, description in openapi_texts.TAGS.items()],
        components=Components(security_schemes=schemes),
        use_handler_docstrings=True,
    )
    # An application of its own, which is never served: one that is served with such a configuration also serves pages
    # of Litestar's, and those load their scripts from elsewhere.
    app = Litestar(
        route_handlers=[
            recording_routes(_NO_PART, _NO_PART, 0),
            batch_routes(_NO_PART, _NO_PART, 0),
            *event_routes(_NO_PART, _NO_PART),
            me_routes(_NO_PART, _NO_PART, 0),
            admin_routes(_NO_PART, _NO_PART),
            webhook_route(_NO_PART),
            livez,
            readiness_route(_NO_PART, _NO_PART, _NO_PART),
        ],
        request_max_body_size=MAX_BODY_BYTES,
        logging_config=None,
        openapi_config=config,
    )
    handlers = {
        handler.operation_id: handler
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        if isinstance(handler.operation_id, str)
    }
    return cast("dict[str, Any]", msgspec.to_builtins(app.openapi_schema.to_schema())), handlers


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method in _METHODS:
                yield path, operation


def _flattened(member: dict[str, Any]) -> dict[str, Any]:
    """Take the only alternative out of a choice, which is what Litestar makes of a field that may be absent."""
    choice = member.get("oneOf", ())
    if len(choice) != 1:
        return member
    return {**choice[0], **{name: value for name, value in member.items() if name != "oneOf"}}


def _by_mode(schemas: dict[str, Any]) -> dict[str, Any]:
    """Make a schema for the recordings of each mode, with its ids and no others, out of the one that is drawn."""
    recording = schemas.pop(RecordingBody.__name__)
    own = {_name(mode): {**_with_ids(recording, [mode]), "title": _name(mode)} for mode in MODES}
    pending = _with_ids(schemas[PendingRecording.__name__], MODES)
    return dict(sorted({**schemas, **own, PendingRecording.__name__: pending}.items()))


def _with_items(schemas: dict[str, Any]) -> dict[str, Any]:
    """Add the schema of a batch's items, flat: a choice by action and mode is more than generated clients can do.

    What a member may be, and which members an item needs, depends on its action and mode.
    """
    members: dict[str, Any] = {
        "action": {"type": "string", "enum": list(ACTIONS), "description": "What is asked for."},
        "mode": {"$ref": f"{_SCHEMAS}{Mode.__name__}"},
    }
    for body in (body for bodies in BODIES.values() for body in bodies):
        for name, member in schemas[body.__name__]["properties"].items():
            known = members.setdefault(name, member)
            if member != known:
                members[name] = {"anyOf": [*(known.get("anyOf") or [known]), member]}
    members["kinds"] = {
        "type": "array",
        "items": PATH_PARTS["kind"],
        "minItems": 1,
        "uniqueItems": True,
        "description": "In the place of `kind`: one item for each.",
    }
    always = set[str].intersection(*(set(spec.ids) for spec in MODES.values()))
    item = {
        "title": _ITEM,
        "description": "One start or stop: `action`, `mode`, and what a single call of these takes.",
        "type": "object",
        "properties": dict(sorted(members.items())),
        "required": sorted({"action", "mode", *always}),
    }
    listed = {"type": "array", "items": {"$ref": _SCHEMAS + _ITEM}, "minItems": 1, "maxItems": MAX_ITEMS}
    schemas[RecordBatch.__name__]["properties"]["items"] = listed
    return dict(sorted({**schemas, _ITEM: item}.items()))


def _with_ids(schema: dict[str, Any], modes: Iterable[Mode]) -> dict[str, Any]:
    """Return a schema of what is about targets: the ids that all of these modes have must be there."""
    has = [MODES[mode].ids.keys() for mode in modes]
    absent = {name for name in PATH_PARTS if not any(name in ids for ids in has)}
    always = {name for name in PATH_PARTS if all(name in ids for ids in has)}
    return {
        **schema,
        "properties": {name: member for name, member in schema["properties"].items() if name not in absent},
        "required": sorted({*schema["required"], *always}),
    }


def _referring(node: Any, mode: Mode | None) -> Any:
    """Put the schema of a mode's recordings, or of all modes', in the place of the one that is drawn."""
    if isinstance(node, list):
        return [_referring(each, mode) for each in cast("list[Any]", node)]
    if not isinstance(node, dict):
        return node
    members = cast("dict[str, Any]", node)
    if members.get("$ref") == _SCHEMAS + RecordingBody.__name__:
        named = [{"$ref": _SCHEMAS + _name(each)} for each in ([mode] if mode else MODES)]
        beside = {name: member for name, member in members.items() if name != "$ref"}
        return (named[0] if len(named) == 1 else {"anyOf": named}) | beside
    return {name: _referring(member, mode) for name, member in members.items()}


def _name(mode: Mode) -> str:
    return f"{mode.capitalize()}Recording"


def _finish(operation: dict[str, Any], path: str, handler: HTTPRouteHandler) -> None:
    operation.pop("deprecated", None)
    operation.setdefault("security", [])
    scope = handler.opt.get("scope")
    if scope:
        # Beside the security requirements: these may name scopes of OAuth2 alone, as linters read it.
        operation["x-required-scopes"] = [scope.value]
        operation["description"] = f"{operation['description'].rstrip()}\n\nNeeds the scope `{scope}`.\n"
    if any_scope := sorted(handler.opt.get("any_scope", ())):
        needed = " or ".join(f"`{each}`" for each in any_scope)
        operation["description"] = f"{operation['description'].rstrip()}\n\nEach item needs its scope, {needed}.\n"
    if named := _PART.findall(path):
        operation["parameters"] = [
            {"name": name, "in": "path", "schema": PATH_PARTS[name], "required": True} for name in named
        ]
    if operation["operationId"] == "streamRoomEvents":
        operation["parameters"] += _STREAM_PARAMETERS
    if query := _QUERIES.get(operation["operationId"]):
        operation["parameters"] = [
            {"name": name, "in": "query", "required": required, "description": text, "schema": schema}
            for name, (required, text, schema) in query.items()
        ]
    if "examples" in handler.opt:
        operation["requestBody"]["content"]["application/json"]["examples"] = handler.opt["examples"]
    if operation["operationId"] == "receiveVideosdkWebhook":
        operation["requestBody"] = openapi_texts.WEBHOOK_BODY
    if _is_limited(handler):
        operation["parameters"] = [
            {"$ref": "#/components/parameters/IdempotencyKey"},
            {"$ref": "#/components/parameters/Deadline"},
        ]
    operation["parameters"] = [
        *operation.get("parameters", ()),
        *({"$ref": f"#/components/parameters/{name}"} for name in handler.opt.get("takes", ())),
    ]
    if not operation["parameters"]:
        del operation["parameters"]
    described = handler.responses or {}
    operation["responses"] = {
        status: _finished(response, int(status), path, described.get(int(status)), handler)
        for status, response in sorted(operation["responses"].items())
        # Litestar adds an error of its own, in a form of its own, wherever a path has parts.
        if status < "400" or PROBLEM_JSON in response["content"]
    }


def _finished(
    response: dict[str, Any], status: int, path: str, described: ResponseSpec | None, handler: HTTPRouteHandler
) -> dict[str, Any]:
    limited = _is_limited(handler)
    contents = response.get("content", {})
    for content in contents.values():
        if described is not None:
            # As they were written: Litestar drops what is null in them.
            content["examples"] = {example.id: _shown(example, path, handler) for example in described.examples or ()}
    names = ["X-Request-Id", *_HEADERS_OF.get(status, ())]
    if status == 429 or (limited and status not in {401, 403, 413, 415, 400}):
        names += ["RateLimit-Policy", "RateLimit"]
    if limited and status in _ANSWERED:
        names.append("Idempotency-Replayed")
    return {
        "description": response["description"],
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names},
        **({"content": contents} if contents else {}),
    }


def _is_limited(handler: HTTPRouteHandler) -> bool:
    return "mode" in handler.opt and handler.opt.get("scope") in {Scope.START, Scope.STOP}


def _shown(example: Example, path: str, handler: HTTPRouteHandler) -> dict[str, Any]:
    value = msgspec.to_builtins(example.value)
    if isinstance(value, dict) and "instance" in value:
        value["instance"] = path.format_map(openapi_texts.IDS)
        most = handler.resolve_request_max_body_size()
        value["detail"] = value["detail"].format(mode=handler.opt.get("mode"), bytes=most)
    return ({"summary": example.summary} if example.summary else {}) | {"value": value}
