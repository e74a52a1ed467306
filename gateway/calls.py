"""One call: what all its tries share, and what its caller is told while it waits and when nothing came."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Final

from gateway.connect import GatewayConnection
from gateway.deadline import Deadline, Stages
from gateway.errors import CallTimeout, GatewayError, Unavailable
from gateway.judging import ProfileState
from gateway.observe import CallRecord
from gateway.profiles import Profile
from gateway.progress import Waiting
from gateway.retry import Retry
from gateway.standing import has_crashed

_SILENT_HINT: Final = (
    "The server has not even said that it took too long: it, or the network, is slow or silent. Try again; "
    "`pg-gateway check` tries each step."
)


@dataclass(slots=True)
class Call:
    """What all tries of one call share.

    lost_at: when the try began whose connection was lost without a word, until it is known that the server lives.
    """

    profile: Profile
    state: ProfileState
    record: CallRecord
    deadline: Deadline
    stages: Stages
    lost_at: float | None = None

    def lost(self, error: GatewayError, *, began: float) -> None:
        """Take note of how a try ended that had begun at `began`."""
        if error.repeat == "unless_crashed" and self.lost_at is None:
            self.lost_at = began

    async def rule_out_a_crash(self, connection: GatewayConnection, retry: Retry) -> None:
        """Raise Unavailable if the server went down under this call's statement more than once: it may be the cause.

        A connection that ends without a word may have been cut on its way, or the server process may have died. A
        server that had died tells by its statistics. Costs a round trip or two, after such a loss only.
        """
        if self.lost_at is None:
            return
        if (
            await has_crashed(connection, self.profile, within_s=time.monotonic() - self.lost_at)
            and not retry.crashed()
        ):
            raise Unavailable(
                "the database server went down twice while this statement ran",
                hint="The statement may be the cause: tell the owner of the database, and do not repeat it.",
                profile=self.profile.name,
            )
        self.lost_at = None

    def waiting(self, retry: Retry | None = None, error: GatewayError | None = None) -> Waiting:
        """Return where the call stands, for a caller who asked; `retry` is about to try again because of `error`."""
        now = Waiting(profile=self.profile.name, deadline=self.deadline, stages=self.stages)
        if retry is None or error is None:
            return now
        until = Deadline.after(retry.time_left(error))
        return replace(now, retries=retry.retries, why=error.message, tried_until=until)


def say_what_was_waited_for(error: GatewayError, stages: Stages, retry: Retry) -> None:
    """Add to an error that came from waiting what was waited for at last, how long, and how often it was tried."""
    if error.code not in ("timeout", "unavailable", "busy"):
        return
    stages.enter(stages.now)
    error.details = {"waited_for": stages.now, "waited_s": round(stages.spent[stages.now], 1), **error.details}
    if retry.retries:
        error.message += f" (tried {retry.retries + 1} times in {sum(stages.spent.values()):.1f} s)"


def nothing_came(call: Call, *, is_over: bool, ended_by: float) -> GatewayError:
    """Return the error of a statement whose answer did not come.

    is_over: the call's time is up; else the driver has given the connection up, and there is time for another. A
    server ends by itself, and says so, what runs for longer than it may: when it has not, the query is not to blame.
    """
    name = call.profile.name
    if not is_over:
        return Unavailable("nothing came back from the database", hint=_SILENT_HINT, profile=name, repeat="always")
    is_silent = time.monotonic() >= ended_by
    return CallTimeout(
        f"the database did not answer within {call.deadline.budget_s:g} s: {call.stages.told()}",
        hint=_SILENT_HINT if is_silent else "The database or the network is slow: try again, or ask for less.",
        profile=name,
    )
