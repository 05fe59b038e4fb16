"""`gateway start`, `stop`, `list` and `watch`: one caller of a running gateway."""

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import httpx
import msgspec

from gateway.terminal.access import Access, FailedError, UsageError, exit_code, fields_of
from gateway.terminal.answers import RecordingAnswer, RecordingsAnswer, StopsAnswer
from gateway.terminal.exit_codes import ExitCode
from gateway.terminal.screen import coloured, moment, note, printable, progress, show, table
from gateway.terminal.watch import Watch

__all__ = ["run"]

_IDS: Final = ("roomId", "participantId", "kind")
"""The fields that name a target, in the order of the command line; a mode has the first of them, or more."""
_PAGE: Final = 200
_FIRST: Final = (ExitCode.REFUSED, ExitCode.UNKNOWN, ExitCode.NOT_NOW)
"""Of several: what has to be changed stands before what only has to be asked again."""
_STATUSES: Final = {word: word for word in ("starting", "recording", "stopping", "stopped", "failed", "unknown")}


def run(chosen: argparse.Namespace) -> int:
    """Carry out a command, and say what became of it."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a letter shows its number.
        stream.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    try:
        return asyncio.run(_run(chosen))
    except UsageError as error:
        print(f"gateway {chosen.command}: {error}", file=sys.stderr)
        return ExitCode.USAGE
    except FailedError as error:
        _explain(error, chosen)
        return error.code
    except KeyboardInterrupt:
        if chosen.command in {"start", "stop"}:
            note("\nInterrupted. The gateway goes on with what was sent; `gateway list` shows what became of it.")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # What reads this has seen enough; Python must not complain of it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.DONE


async def _run(chosen: argparse.Namespace) -> int:
    access = Access.read(chosen.address, chosen.key_file, os.environ)
    match chosen.command:
        case "list":
            return await _list(access, chosen)
        case "watch":
            return await Watch(access, chosen.room, as_json=chosen.json).run()
        case _:
            return await _command(access, chosen)


async def _command(access: Access, chosen: argparse.Namespace) -> int:
    if len(chosen.ids) > len(_IDS):
        raise UsageError(f"at most {len(_IDS)} ids: ROOM PARTICIPANT KIND")
    headers = {} if chosen.wait is None else {"x-request-timeout-ms": f"{chosen.wait * 1000:.0f}"}
    if chosen.command == "stop" and (chosen.all or chosen.include_foreign):
        return await _stop_all(access, chosen, headers)
    body = dict(zip(_IDS, chosen.ids, strict=False))
    if chosen.command == "start":
        body |= fields_of(chosen.fields)
        if chosen.max_duration is not None:
            body["maxDurationSeconds"] = chosen.max_duration
    path = f"{access.address}/v1/recordings/{quote(chosen.mode, safe='')}/{chosen.command}"
    async with progress(f"gateway {chosen.command}: waiting for the gateway's answer"):
        answer = await access.ask(httpx.Request("POST", path, json=body, headers=headers), RecordingAnswer)
    status = answer.pop("")
    if chosen.json:
        _write(answer)
    else:
        show(_sentence(answer))
        show(_details(answer))
    # The gateway repeats a stop that was not answered, but whether it still records is not known yet.
    return ExitCode.UNKNOWN if status == 202 else ExitCode.DONE


async def _stop_all(access: Access, chosen: argparse.Namespace, headers: Mapping[str, str]) -> int:
    if not chosen.all or len(chosen.ids) > 1:
        raise UsageError("--all takes a ROOM alone, and --include-foreign stands beside it")
    path = f"{access.address}/v1/rooms/{quote(chosen.ids[0], safe='')}/recordings/stop"
    body = {"includeForeign": chosen.include_foreign}
    async with progress("gateway stop: waiting for the gateway's answer"):
        answer = await access.ask(httpx.Request("POST", path, json=body, headers=headers), StopsAnswer)
    del answer[""]
    if chosen.json:
        _write(answer)
    else:
        _show_stops(answer)
    codes = {_code_of(result) for result in answer["results"]}
    if not answer["complete"]:
        codes.add(ExitCode.UNKNOWN)
    return next((code for code in _FIRST if code in codes), ExitCode.DONE)


def _show_stops(answer: Mapping[str, Any]) -> None:
    results, left, complete = answer["results"], answer["foreignLeft"], answer["complete"]
    if results:
        heads = ("MODE", "PARTICIPANT", "KIND", "STATUS", "WHAT WAS DONE")
        show(table([heads, *map(_stopped, results)], _STATUSES, heads.index("STATUS")))
    elif complete and not left:
        note("Nothing recorded.")
    if left:
        note(f"Left alone: {left} started outside the gateway; --include-foreign stops them too.")
    if not complete:
        note("Something else may record: VideoSDK's list could not be had. The same command again is safe.")


def _stopped(result: Mapping[str, Any]) -> Sequence[str]:
    target: dict[str, Any] = result["target"]
    recording: dict[str, Any] = result.get("recording") or {}
    problem: dict[str, Any] = result.get("problem") or {}
    return (
        _text(target.get("mode")),
        _text(target.get("participantId")),
        _text(target.get("kind")),
        _text(recording.get("status")),
        _text(problem.get("title") or recording.get("outcome")).replace("_", " "),
    )


def _code_of(result: Mapping[str, Any]) -> ExitCode:
    if result["status"] < 400:
        return ExitCode.UNKNOWN if result["status"] == 202 else ExitCode.DONE
    return exit_code(result["status"], result.get("retryAfter"), commands=True)


async def _list(access: Access, chosen: argparse.Namespace) -> int:
    asked = {
        "roomId": chosen.room,
        "mode": chosen.mode,
        "participantId": chosen.participant,
        "kind": chosen.kind,
        "status": chosen.status,
        "limit": _PAGE,
    }
    query = {name: value for name, value in asked.items() if value is not None}
    recordings: list[dict[str, Any]] = []
    async with progress("gateway list: waiting for the gateway's answer"):
        while True:
            request = httpx.Request("GET", f"{access.address}/v1/recordings", params=query)
            page = await access.ask(request, RecordingsAnswer)
            recordings += page["recordings"]
            if not page["nextCursor"]:
                break
            query["cursor"] = page["nextCursor"]
    if chosen.json:
        _write({"recordings": recordings})
    elif recordings:
        heads = ("MODE", "PARTICIPANT", "KIND", "STATUS", "SINCE", "UNTIL", "BY", "FILES", "ENDED BECAUSE")
        show(table([heads, *map(_row, recordings)], _STATUSES, heads.index("STATUS")))
    else:
        note("No recordings.")
    return ExitCode.DONE


def _row(recording: Mapping[str, Any]) -> Sequence[str]:
    ended = recording.get("endedAt")
    return (
        _text(recording.get("mode")),
        _text(recording.get("participantId")),
        _text(recording.get("kind")),
        _text(recording.get("status")),
        moment(ended or recording.get("requestedAt") or recording.get("confirmedAt")),
        "" if ended else moment(recording.get("stopsAt")),
        _text(recording.get("requestedBy")),
        str(len(recording.get("files") or ())),
        _text(recording.get("endedBecause")),
    )


def _sentence(recording: Mapping[str, Any]) -> str:
    status = _text(recording.get("status"))
    target = " ".join(_text(recording[name]) for name in _IDS if recording.get(name))
    did = _text(recording.get("outcome")).replace("_", " ") or "nothing done"
    return f"{target}: {coloured(status, status)} ({did})"


def _details(recording: Mapping[str, Any]) -> str:
    requested = _text(recording.get("requestedBy"))
    rows = [
        ("id", _text(recording.get("id"))),
        ("requested", " by ".join(part for part in (moment(recording.get("requestedAt")), requested) if part)),
        ("confirmed", moment(recording.get("confirmedAt"))),
        ("until", "" if recording.get("endedAt") else moment(recording.get("stopsAt"))),
        ("ended", moment(recording.get("endedAt"))),
        ("because", _text(recording.get("endedBecause"))),
        (
            "files",
            "\n".join(_text(file.get("fileUrl") or file.get("filePath")) for file in recording.get("files") or ()),
        ),
        (
            "warning",
            "" if recording.get("coordinated", True) else "Redis did not answer; other replicas do not know of this",
        ),
    ]
    return table([(f"  {name}", value) for name, value in rows if value])


def _explain(error: FailedError, chosen: argparse.Namespace) -> None:
    """Say what went wrong: on standard output for a machine, else on standard error for a person."""
    document = error.document
    if chosen.json:
        _write({**document, "exitCode": int(error.code)})
        return
    lines = [f"gateway {chosen.command}: {coloured(_text(document.get('title')), 'bad', error=True)}"]
    if document.get("detail"):
        lines.append(f"  {_text(document['detail'])}")
    rows = [(f"  {_text(item.get('field'))}", _text(item.get("message"))) for item in document.get("errors") or ()]
    rows += [
        (f"  {name}", _text(document[name]))
        for name in ("rule", "bound", "upstreamStatus", "upstreamMessage")
        if document.get(name)
    ]
    if fields := document.get("fields"):
        rows.append(("  fields", ", ".join(map(_text, fields))))
    if error.retry_after is not None:
        rows.append(("  again in", f"{error.retry_after} s"))
    rows += [(f"  {name}", _text(document[name])) for name in ("requestId", "type") if document.get(name)]
    if document.get("status") == 401:
        rows.append(("  key", "GATEWAY_KEY, GATEWAY_KEY_FILE or --key-file; `gateway keys new NAME` makes one"))
    print("\n".join([*lines, *([table(rows)] if rows else [])]), file=sys.stderr)


def _write(document: Mapping[str, Any]) -> None:
    show(msgspec.json.encode(document).decode())


def _text(value: object) -> str:
    return "" if value is None else printable(value)
