"""The operator's question what became of a message."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from twisted.web.iweb import IRequest

from imserver.chat.trace import Trace
from imserver.http.calls import Id, Refused, Reply, Route, json, query
from imserver.interfaces import IAccounts
from imserver.model import UserKey


class _Asked(msgspec.Struct, frozen=True):
    #: The number of a message.
    message: Id | None = None
    #: A user, and how many of their newest messages.
    appid: Id | None = None
    uid: Id | None = None
    last: Annotated[int, msgspec.Meta(ge=1, le=100)] = 10


class OperatorTrace:
    def __init__(self, trace: Trace | None, accounts: IAccounts) -> None:
        """
        Args:
            trace: None: nothing is traced.
        """
        self._trace = trace
        self._accounts = accounts

    def routes(self) -> Sequence[Route]:
        return (Route("GET", "/admin/trace", self._show),)

    async def _show(self, request: IRequest) -> Reply:
        asked = query(request, _Asked)
        trace = self._trace
        if trace is None:
            raise Refused(
                404, "nothing is traced: set [trace] messages in the configuration, and start the server again"
            )
        match asked:
            case _Asked(message=int(number), appid=None, uid=None):
                shown = trace.of_message(number)
                if shown is None:
                    raise Refused(
                        404, f"message {number} is not among the newest {trace.most} since the server started"
                    )
                return json(shown)
            case _Asked(message=None, appid=int(appid), uid=int(uid)):
                user = UserKey(appid, uid)
                await self._accounts.settings(user)  # 404 where there is no such app
                return json({"messages": trace.of_user(user, asked.last)})
            case _:
                raise Refused(400, "this takes either `message`, or `appid` and `uid`, in the query")
