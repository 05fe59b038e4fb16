"""Everything the simulator had to invent, in one place.

VideoSDK documents neither its error bodies nor what it does in the cases below. On meeting the real service, compare
these first. The error classes follow the families of statuses that the vendor's Node package tells apart: 400
validation, 401 token, 403 permission, 402 and 404 not found, 409 conflict.
"""

from typing import Final

# Refusals: status, and the text that goes into `message` of an error object.
TOKEN_REFUSED: Final = (401, "Token is invalid or expired.")
ROLE_REFUSED: Final = (403, "Token has no permission for this API.")
INVALID: Final = (400, "Invalid request: {}.")
NO_SUCH_PATH: Final = (404, "Not found.")
NO_SUCH_ROOM: Final = (402, "Room was not found.")
NO_SUCH_SESSION: Final = (404, "Session was not found.")
NO_SUCH_RECORDING: Final = (404, "Recording was not found.")
# These three as the vendor's packages for Python and the browser met them; the others are by analogy.
NO_LIVE_SESSION: Final = (403, "No active session found")
PARTICIPANT_ABSENT: Final = (400, "participant is not yet joined the meeting")
NOT_RECORDING: Final = (400, "track recording is not started yet")
ALREADY_RECORDING: Final = (409, "Recording is already running.")
STILL_PROCESSING: Final = (409, "Previous recording is still being processed.")
STILL_OPEN: Final = (409, "Recording is still running.")

# Met by others, and how it comes about is not known: rows that stay open for ever (`rows_stay_open`), a participant who
# cannot be recorded for a moment (`joining_seconds`), a stop that ends one of two recordings (`stops`), and successes
# that something between the client and the service wrote (an error's `status` below 300).

# A room or participant counts as live as soon as a start names it, unless the simulator runs with strict_live.
AUTO_LIVE_NAME: Final = "sandbox"

# Lists: newest first; a page number or size below one is refused; sizes have an upper bound that no list meets.
DEFAULT_PER_PAGE: Final = 20
MAX_PER_PAGE: Final = 10_000

USER_ID: Final = "61d6e823783d6b03a026ac00"
REGION: Final = "sandbox001"
CDN: Final = "https://cdn.videosdk.live/"
VIDEO_SIZE: Final = (640, 360)
BYTES_PER_SECOND: Final = 36_000

# With a directory prefix the usual path follows it after one slash, and there is no public address.
STORAGE_ROOT: Final = "individual-recordings"

# One attempt for each webhook and destination. When a call names a webhookUrl and its room has a registered endpoint
# for the event, both get it; the same address gets it once.
WEBHOOK_TIMEOUT_SECONDS: Final = 5.0
