"""Lists are asked for together, and whoever waits for one hears what became of it."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec import structs

from gateway.coordinator import Record
from gateway.errors import ListIncomplete, MayHaveHappened, Refused, TooManyRequests, UpstreamError
from gateway.observability import metrics
from gateway.recordings.evidence import with_dead
from gateway.recordings.listings import Listing, ListingCache
from gateway.recordings.targets import Kind, Mode, Target
from gateway.sandbox.faults import Fault
from gateway.sandbox.shapes import Target as SimulatedTarget
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.webhooks import Signer
from gateway.secrets import Secret
from gateway.videosdk.client import VideoSDK
from gateway.videosdk.rows import ListedRow
from gateway.videosdk.tokens import FixedToken, MintedTokens, Tokens
from tests import harness
from tests.recordings.parts import Log

pytestmark = pytest.mark.anyio


class _NoToken(FixedToken):
    def __init__(self, meanwhile: Callable[[], None]) -> None:
        super().__init__(Secret("t"))
        self._meanwhile = meanwhile

    def current(self) -> str:
        self._meanwhile()
        raise RuntimeError("a mistake")


ROWS = [
    ListedRow(id=f"{mode}-{participant}-{kind}", participant_id=participant, kind=kind, mode=mode)
    for mode in ("track", "room")
    for participant in ("ada", "bob")
    for kind in ("audio", "video")
]


@pytest.mark.parametrize(
    ("participant", "kind", "found"),
    [
        ("ada", Kind.VIDEO, ["track-ada-video"]),
        ("bob", Kind.AUDIO, ["track-bob-audio"]),
        ("eve", Kind.AUDIO, []),
        ("ada", None, ["track-ada-audio", "track-ada-video"]),
        ("", Kind.AUDIO, ["track-ada-audio", "track-bob-audio"]),
    ],
)
def test_listing_of_a_target_holds_its_rows_only(participant: str, kind: Kind | None, found: list[str]) -> None:
    """Rows of its mode, its participant and its kind, as far as the target has one."""
    listed = Listing(ROWS, 0.0).of(Target(Mode.TRACK, "room", participant, kind))
    assert [row.id for row in listed] == found


def _open(name: str, *, session: str = "now", begun: int = 30, kind: str = "video") -> ListedRow:
    """Return a row that is open, and began so many seconds after noon."""
    start = f"2026-01-01T12:00:{begun:02d}Z"
    return ListedRow(id=name, session_id=session, participant_id="ada", kind=kind, mode="track", start=start)


_NOON_MS = 1_767_268_800_000


@pytest.mark.parametrize(
    ("record", "found"),
    [
        (Record(), ["newer", "older"]),
        (Record(evidence=with_dead("", "older")), ["newer"]),
        (Record(ended_at=_NOON_MS + 35_000), ["newer"]),
        (Record(ended_at=_NOON_MS + 34_000), ["newer", "older"]),
    ],
    ids=["nothing is known", "one is dead", "it has just ended", "it ended S ago"],
)
def test_listing_open_rows_leave_out_what_no_longer_records(record: Record, found: list[str]) -> None:
    """Dead rows, those of an earlier session, and for S after an end those that may just have ended, newest first."""
    earlier, older, newer = _open("earlier", session="before", begun=10), _open("older"), _open("newer", begun=38)
    rows = [earlier, older, newer, _open("audio", kind="audio")]
    ada = Target(Mode.TRACK, "room", "ada", Kind.VIDEO)
    listed = Listing(rows, 0.0, newest=newer).open_rows_of(ada, record, _NOON_MS + 39_000, 5)
    assert [row.id for row in listed] == found


def test_listing_open_targets_leave_out_what_has_ended_and_what_no_caller_could_name() -> None:
    """VideoSDK knows participants and kinds that are no part of any target here."""
    ended = structs.replace(_open("ended", kind="audio"), end="2026-01-01T12:00:40Z")
    unnamed = [_open("avatar", kind="avatar"), structs.replace(_open("no id"), participant_id="a/b")]
    listed = Listing([_open("one"), _open("again"), ended, *unnamed], 0.0)
    assert listed.open_targets("room") == {Target(Mode.TRACK, "room", "ada", Kind.VIDEO)}


async def test_list_that_fails_unexpectedly_fails_for_every_waiter() -> None:
    """Also those who came while it was made, and as what it is: to be cancelled is something else."""
    late: list[asyncio.Task[Listing]] = []

    def ask_late() -> None:
        if not late:
            late.append(asyncio.create_task(listings.ask("room", "late")))

    videosdk = VideoSDK("http://127.0.0.1:9", _NoToken(ask_late), timeout=harness.BOUND)
    listings = ListingCache(videosdk)
    async with asyncio.timeout(harness.BOUND):
        told = await asyncio.gather(
            *(listings.ask("room", f"p{number}") for number in range(2)), return_exceptions=True
        )
        told += await asyncio.gather(*late, return_exceptions=True)
    assert [type(error) for error in told] == [RuntimeError] * 3
    await videosdk.aclose()


class Paying:
    """The budget of a read that can pay for so many calls."""

    def __init__(self, calls: int = 1000) -> None:
        self.paid = 0
        self._most = calls

    async def admit(self) -> None:
        """Pay for one call."""
        if self.paid >= self._most:
            raise TooManyRequests("no more")
        self.paid += 1

    def spend(self, calls: int) -> None:
        """Pay for more."""
        self.paid += calls


@asynccontextmanager
async def listing(
    simulator: Simulator,
    *,
    max_unknown: int = 10_000,
    max_in_parts: int = 100,
    in_parts: float = 3600,
    few_pages: int = 100,
    tokens: Tokens | None = None,
    **bounds: Any,
) -> AsyncGenerator[ListingCache]:
    """Yield what asks a simulated VideoSDK for lists."""
    tokens = tokens or MintedTokens(harness.API_KEY, Secret(harness.SECRET))
    videosdk = VideoSDK(simulator.url, tokens, timeout=harness.BOUND, **bounds)
    listings = ListingCache(
        videosdk,
        max_remembered=2,
        max_unknown=max_unknown,
        max_in_parts=max_in_parts,
        in_parts=in_parts,
        few_pages=few_pages,
    )
    yield listings
    await listings.close()
    await videosdk.aclose()


def asked(simulator: Simulator) -> int:
    """Return how many lists were asked for."""
    return sum(call.endpoint == "list" for call in simulator.calls)


async def test_list_of_an_operation_does_not_wait_for_that_of_a_read(simulator: Simulator) -> None:
    """A read's list of the same room never ends: the operation's is asked beside it."""
    simulator.inject(Fault(action="hang_before", endpoint="list"))
    async with listing(simulator) as listings:
        read = asyncio.create_task(listings.ask("room", budget=Paying()))
        await harness.eventually(lambda: asked(simulator) == 1)
        async with asyncio.timeout(harness.BOUND):
            assert (await listings.ask("room")).rows == []
        assert not read.done()
        read.cancel()


@pytest.mark.parametrize(("places", "most"), [(4, 2), (2, 1), (1, 1)])
async def test_lists_of_readers_leave_places_to_operations(simulator: Simulator, places: int, most: int) -> None:
    """Of four places reads take two, however many they are; with one place they have to share it."""
    rooms = [f"room-{number}" for number in range(6)]
    simulator.inject(*(Fault(action="hang_before", endpoint="list", room_id=room, times=None) for room in rooms))
    async with listing(simulator, max_connections=places, max_for_reads=2) as listings:
        reads = [asyncio.create_task(listings.ask(room, budget=Paying())) for room in rooms]
        await harness.eventually(lambda: asked(simulator) == most)
        if places > 1:
            async with asyncio.timeout(harness.BOUND):
                await listings.ask("another")
            assert asked(simulator) == most + 1
        for read in reads:
            read.cancel()


async def test_reader_without_a_place_in_time_is_not_sent(simulator: Simulator) -> None:
    """It is told that nothing is known, which the metric counts."""
    simulator.inject(Fault(action="hang_before", endpoint="list", times=None))
    counted: Any = metrics._REFUSED.labels("reader-calls")
    before = counted._value.get()
    tokens = MintedTokens(harness.API_KEY, Secret(harness.SECRET))
    videosdk = VideoSDK(simulator.url, tokens, timeout=0.3, max_for_reads=1)
    listings = ListingCache(videosdk)
    slow = asyncio.create_task(listings.ask("slow", budget=Paying()))
    await harness.eventually(lambda: asked(simulator) == 1)
    # As long as a call may take: one of them may get the place of the slow one at that moment, and keeps it.
    answers = await asyncio.gather(
        slow, *(listings.ask(f"room-{number}", budget=Paying()) for number in range(3)), return_exceptions=True
    )
    assert all(isinstance(answer, UpstreamError) for answer in answers)
    assert counted._value.get() >= before + 2
    assert asked(simulator) <= 2
    await videosdk.aclose()


async def test_reader_pays_for_the_calls_that_it_causes(simulator: Simulator) -> None:
    """Three pages of tracks, one of participants and one of rooms: five calls; to join and to remember are free."""
    for number in range(250):
        simulator.account.start(_target(f"p{number}"), {}, None)
    one, other = Paying(), Paying()
    async with listing(simulator) as listings:
        simulator.inject(harness.delay("list", 0.05))
        first = asyncio.create_task(listings.ask("room", budget=one))
        await harness.turns(3)
        second = asyncio.create_task(listings.ask("room", budget=other))
        third = asyncio.create_task(listings.ask("room", budget=Paying(0)))
        assert len((await first).rows) == 250
        await asyncio.gather(second, third)
        await listings.ask("room", max_age=60, budget=Paying(0))
        assert (one.paid, other.paid, asked(simulator)) == (5, 5, 6)


async def test_reader_that_cannot_pay_causes_no_call(simulator: Simulator) -> None:
    """It is refused before it is queued, and takes nothing with it."""
    async with listing(simulator) as listings:
        with pytest.raises(TooManyRequests):
            await listings.ask("room", budget=Paying(0))
        assert asked(simulator) == 0
        assert (await listings.ask("room", budget=Paying())).rows == []


async def test_unknown_rooms_are_remembered_beside_the_others(simulator: Simulator) -> None:
    """Any number of made-up rooms pushes out no room that records, and each is asked for once."""
    simulator.account.start(_target("p"), {}, None)
    async with listing(simulator, max_unknown=5) as listings:
        await listings.ask("room", max_age=60)
        for _ in range(2):
            for number in range(5):
                await listings.ask(f"made-up-{number}", max_age=60)
        assert len((await listings.ask("room", max_age=60)).rows) == 1
        assert asked(simulator) == 6
        # Once too many, the first one is forgotten.
        await listings.ask("made-up-5", max_age=60)
        await listings.ask("made-up-0", max_age=60)
        assert asked(simulator) == 8
        listings.forget_unknown("made-up-0")
        await listings.ask("made-up-0", max_age=60)
        assert asked(simulator) == 9


async def test_row_of_an_earlier_session_is_superseded_by_the_newest(simulator: Simulator) -> None:
    """A room has one session at a time: a row that began in the last one tells that the others are over."""
    simulator.account.start(_target("p"), {}, None)
    simulator.account.start(_target("q"), {}, None)
    simulator.end_session("room", rows_stay_open=True)
    # VideoSDK tells moments in milliseconds.
    ended = time.time()
    await harness.eventually(lambda: time.time() > ended + 0.002)
    simulator.account.start(_target("p"), {}, None)
    async with listing(simulator) as listings:
        listed = await listings.ask("room")
    rows = sorted(listed.rows, key=lambda row: row.start or "")
    assert [listed.is_superseded(row) for row in rows] == [True, True, False]


async def test_room_that_videosdk_refuses_to_list_is_remembered(simulator: Simulator) -> None:
    """Reads are answered so again without a call; an operation, which needs the truth, asks."""
    simulator.inject(Fault(action="refuse", endpoint="list", room_id="room", status=404, times=None))
    async with listing(simulator) as listings:
        for _ in range(3):
            with pytest.raises(Refused):
                await listings.ask("room", max_age=60, budget=Paying())
        assert asked(simulator) == 1
        with pytest.raises(Refused):
            await listings.ask("room")
        assert asked(simulator) == 2
        simulator.clear_faults()
        listings.forget_unknown("room")
        assert (await listings.ask("room", max_age=60, budget=Paying())).rows == []


def _target(participant: str, room: str = "room") -> SimulatedTarget:
    return SimulatedTarget("track", room, participant, "video")


# --- rooms whose list cannot be read as a whole ----------------------------------------------------------------------


@pytest.fixture
async def long(signer: Signer) -> AsyncGenerator[Simulator]:
    """A simulated VideoSDK that puts two rows on a page, and has three tracks in each of two rooms."""
    async with harness.simulator(signer=signer, most_per_page=2) as simulator:
        for room in ("room", "other"):
            for participant in ("ada", "bob", "eve"):
                simulator.account.start(_target(participant, room), {}, None)
        yield simulator


def whose(simulator: Simulator, since: int = 0) -> list[str]:
    """Return of which participants lists of tracks were asked for, in alphabetical order; empty names all."""
    return sorted(call.participant_id or "" for call in simulator.calls[since:] if call.endpoint == "list")


async def ask_for(
    listings: ListingCache, *participants: str, room: str = "room", **options: Any
) -> list[list[str | None]]:
    """Ask for the tracks of participants at once, and return whose rows each was answered."""
    asking = (listings.ask(room, participant, Mode.TRACK, **options) for participant in participants)
    async with asyncio.timeout(harness.BOUND):
        return [[row.participant_id for row in listed.rows] for listed in await asyncio.gather(*asking)]


@pytest.mark.parametrize(("in_parts", "again"), [(3600, ["ada", "bob"]), (0, ["", "ada", "bob"])])
async def test_list_of_a_room_that_is_too_long_is_asked_for_by_participant(
    long: Simulator, in_parts: float, again: list[str]
) -> None:
    """Each gets the own rows; one call shows that the whole has too many pages, which is remembered for a while."""
    async with listing(long, max_pages=1, in_parts=in_parts) as listings:
        assert await ask_for(listings, "ada", "bob") == [["ada"], ["bob"]]
        assert whose(long) == ["", "ada", "bob"]
        before = len(long.calls)
        assert await ask_for(listings, "ada", "bob") == [["ada"], ["bob"]]
        assert whose(long, before) == again


async def test_list_by_participant_is_remembered_as_theirs_and_not_as_the_rooms(long: Simulator) -> None:
    """A read of one of them costs no call; for the whole room VideoSDK is asked, and its list still is too long."""
    async with listing(long, max_pages=1) as listings:
        await ask_for(listings, "ada", "bob")
        asked_before = len(long.calls)
        assert await ask_for(listings, "ada", max_age=60) == [["ada"]]
        assert await ask_for(listings, "bob", max_age=60) == [["bob"]]
        assert len(long.calls) == asked_before
        with pytest.raises(ListIncomplete):
            await listings.ask("room", max_age=60)


class _Busy(MintedTokens):
    """Tokens of a client in whose room another recording begins before each call."""

    def __init__(self, simulator: Simulator) -> None:
        super().__init__(harness.API_KEY, Secret(harness.SECRET))
        self._simulator = simulator
        self._begun = 0
        self.calm = False

    def current(self) -> str:
        if not self.calm:
            self._begun += 1
            self._simulator.account.start(_target(f"p{self._begun}"), {}, None)
        return super().current()


async def test_list_of_a_room_that_changes_while_it_is_read_is_asked_for_by_participant(long: Simulator) -> None:
    """After three readings of two pages that were not of one list; at the next look the whole is not tried."""
    async with listing(long, tokens=_Busy(long)) as listings:
        assert await ask_for(listings, "ada", "bob") == [["ada"], ["bob"]]
        assert whose(long) == ["", "", "", "", "", "", "ada", "bob"]
        before = len(long.calls)
        assert await ask_for(listings, "ada", "bob") == [["ada"], ["bob"]]
        assert whose(long, before) == ["ada", "bob"]


async def test_list_of_a_room_that_changed_is_tried_for_as_many_as_that_is_worth(long: Simulator) -> None:
    """Three readings of 2, 3 and 4 pages were in vain: nine participants are worth as much; then it is as before."""
    tokens = _Busy(long)
    async with listing(long, tokens=tokens) as listings:
        await ask_for(listings, "ada", "bob")
        tokens.calm = True
        for participants, asked_whole in ((2, False), (8, False), (9, True), (2, True)):
            before = len(long.calls)
            await ask_for(listings, *(f"p{number}" for number in range(participants)))
            assert ("" in whose(long, before)) is asked_whole


async def test_list_of_a_room_with_more_pages_than_participants_is_asked_for_by_participant(long: Simulator) -> None:
    """Three pages are not read for two participants, but for three they are, and for a reader of the whole room."""
    for participant in ("joe", "kim"):
        long.account.start(_target(participant), {}, None)
    async with listing(long, few_pages=1) as listings:
        for whole in (1, 0):
            before = len(long.calls)
            assert await ask_for(listings, "ada", "bob") == [["ada"], ["bob"]]
            assert whose(long, before) == [""] * whole + ["ada", "bob"]
        before = len(long.calls)
        assert [len(rows) for rows in await ask_for(listings, "ada", "bob", "eve")] == [5, 5, 5]
        assert whose(long, before) == ["", "", ""]
        before = len(long.calls)
        async with asyncio.timeout(harness.BOUND):
            room, ada = await asyncio.gather(
                listings.ask("room", None, Mode.TRACK), listings.ask("room", "ada", Mode.TRACK)
            )
        assert (len(room.rows), len(ada.rows)) == (5, 5)
        assert whose(long, before) == ["", "", ""]


async def test_log_tells_of_an_incomplete_list_only_where_it_leaves_a_question_open(long: Simulator) -> None:
    """Participants' own lists answer; a reader of the whole room gets none."""
    log = Log()
    async with listing(long, max_pages=1) as listings:
        await ask_for(listings, "ada", "bob")
        assert "upstream.list_failed" not in log.events()
        with pytest.raises(ListIncomplete):
            await listings.ask("room")
        assert log.events().count("upstream.list_failed") == 1


@pytest.mark.parametrize("remembered", [False, True])
async def test_list_of_a_whole_room_that_is_too_long_fails_for_who_needs_it_whole(
    long: Simulator, remembered: bool
) -> None:
    """Not for those who asked with them: for participants, nor for the room's own recordings, which are few."""
    async with listing(long, max_pages=1) as listings:
        if remembered:
            await ask_for(listings, "ada", "bob")
        before = len(long.calls)
        async with asyncio.timeout(harness.BOUND):
            whole, ada, bob = await asyncio.gather(
                listings.ask("room"),
                listings.ask("room", "ada", Mode.TRACK),
                listings.ask("room", "bob", Mode.TRACK),
                return_exceptions=True,
            )
        assert isinstance(whole, ListIncomplete)
        assert [isinstance(one, Listing) and len(one.rows) for one in (ada, bob)] == [1, 1]
        assert whose(long, before) == ["", "ada", "bob"]
        async with asyncio.timeout(harness.BOUND):
            room, ada = await asyncio.gather(
                listings.ask("room", None, Mode.ROOM), listings.ask("room", "ada", Mode.TRACK)
            )
        assert (room.rows, room.modes, len(ada.rows)) == ([], {Mode.ROOM}, 1)


async def test_list_of_one_participant_that_fails_leaves_the_others_theirs(long: Simulator) -> None:
    """What is asked for one by one fails one by one."""
    long.inject(Fault(action="refuse", endpoint="list", participant_id="ada", status=404))
    async with listing(long, max_pages=1) as listings:
        async with asyncio.timeout(harness.BOUND):
            ada, bob = await asyncio.gather(
                *(listings.ask("room", participant, Mode.TRACK) for participant in ("ada", "bob")),
                return_exceptions=True,
            )
        assert isinstance(ada, Refused)
        assert isinstance(bob, Listing)


async def test_list_by_participant_asks_for_no_recordings_that_have_none(long: Simulator) -> None:
    """Those of the room are no participant's: of every mode means tracks and participants."""
    async with listing(long, max_pages=1) as listings:
        async with asyncio.timeout(harness.BOUND):
            await asyncio.gather(*(listings.ask("room", participant) for participant in ("ada", "bob")))
        alone = sorted((call.endpoint, call.participant_id) for call in long.calls if call.participant_id)
        assert alone == [
            ("list", "ada"), ("list", "bob"), ("participant-list", "ada"), ("participant-list", "bob"),
        ]  # fmt: skip


async def test_reader_pays_for_the_lists_of_all_participants(long: Simulator) -> None:
    """The first of them does: for the whole that was too long, and for each list after it."""
    first = Paying()
    async with listing(long, max_pages=1) as listings:
        long.inject(harness.delay("list", 0.05))
        # The next query waits for this one, and its participants come together.
        before = asyncio.create_task(listings.ask("room", "eve", Mode.TRACK, budget=Paying()))
        await harness.turns(3)
        await asyncio.gather(
            *(
                listings.ask("room", participant, Mode.TRACK, budget=budget)
                for participant, budget in (("ada", first), ("bob", Paying(1)), ("eve", Paying(1)))
            )
        )
        await before
        assert first.paid == 4


async def test_lists_by_participant_leave_places_to_other_rooms(long: Simulator) -> None:
    """Of six participants whose lists never come four are asked for at once; the list of another room is."""
    names = [f"p{number}" for number in range(6)]
    long.inject(*(Fault(action="hang_before", endpoint="list", participant_id=name, times=None) for name in names))
    async with listing(long, max_pages=1, max_connections=5) as listings:
        asking = [asyncio.create_task(listings.ask("room", name, Mode.TRACK)) for name in names]
        await harness.eventually(lambda: asked(long) == 1 + 4)
        async with asyncio.timeout(harness.BOUND):
            assert (await listings.ask("elsewhere", None, Mode.TRACK)).rows == []
        assert asked(long) == 1 + 4 + 1
        for task in asking:
            task.cancel()


async def test_rooms_that_are_too_long_are_remembered_to_a_bound(long: Simulator) -> None:
    """With place for one, the room before it is tried as a whole again."""
    async with listing(long, max_pages=1, max_in_parts=1) as listings:
        for room, asked_whole in (("room", 1), ("room", 0), ("other", 1), ("other", 0), ("room", 1)):
            before = len(long.calls)
            await ask_for(listings, "ada", "bob", room=room)
            assert whose(long, before).count("") == asked_whole


async def test_whole_room_that_fails_otherwise_fails_for_all(long: Simulator) -> None:
    """An error says nothing about the list's length, and participants are not asked for instead."""
    long.inject(Fault(action="error", endpoint="list"))
    async with listing(long, max_pages=1) as listings:
        asking = (listings.ask("room", participant, Mode.TRACK) for participant in ("ada", "bob"))
        async with asyncio.timeout(harness.BOUND):
            told = await asyncio.gather(*asking, return_exceptions=True)
        assert [type(error) for error in told] == [MayHaveHappened] * 2
        assert whose(long) == [""]
        assert not listings.is_in_parts("room")


async def test_lists_are_given_up_at_the_end(simulator: Simulator) -> None:
    """Neither what VideoSDK is asked nor what waits for a place goes on: no call is made after that."""
    simulator.inject(Fault(action="hang_before", endpoint="list", times=None))
    async with listing(simulator, max_for_reads=1) as listings:
        asking = [asyncio.create_task(listings.ask(f"room-{number}", budget=Paying())) for number in range(3)]
        asking.append(asyncio.create_task(listings.ask("room-0")))
        await harness.eventually(lambda: asked(simulator) == 2)
        async with asyncio.timeout(harness.BOUND):
            await listings.close()
        assert all(
            isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*asking, return_exceptions=True)
        )
        assert asked(simulator) == 2
