"""The life of one build, from Nix's question to the hook's exit status.

    settings → request → decide → connect → accept → upload → slot → build → download → exit

A Session serves one caller and does not know which process it runs in.  Up to `# accept` the way is in answering.py,
from there on in accepted.py.  Tested in test_session.py with scripted machines, and in the lab.
"""

from contextlib import closing

from hook.errors import EXIT_OK, AloneOnly, StockOnly
from hook.front.caller import Caller, Word
from hook.front.front import Front
from hook.front.request import Request
from hook.protocol.activity import Verbosity
from hook.session.answering import Answering
from hook.session.hub import Hub
from hook.session.services import Services, open_services
from hook.transfer.meter import Meter


class Session:
    """One conversation with Nix; `run` returns the hook's exit status."""

    def __init__(self, caller: Caller, hub: Hub) -> None:
        self._caller = caller
        self._hub = hub
        self._front = Front(caller)
        self._log = self._front.log
        self._meter = Meter()
        self._told = hub.ledger.conversation(self._meter)

    def run(self) -> int:
        """Answer requests until one is accepted and built, or Nix has no more."""
        if self._front.at_end():
            return EXIT_OK
        settings = self._front.read_settings(self._hub.preamble)
        request = self._front.read_request()
        try:
            services = open_services(settings, self._caller, self._hub.databases, self._log)
        except AloneOnly:
            self._caller.successor = Word.ALONE
            return EXIT_OK
        except StockOnly as reason:
            return self._leave_to_stock(request, reason)
        try:
            return self._converse(services, request)
        finally:
            # A broker does it later, when nobody waits.
            if not self._hub.lasting:
                self._hub.ledger.flush(services.private_dir)

    def _converse(self, services: Services, request: Request) -> int:
        try:
            with (
                closing(services),
                closing(Answering(self._front, self._hub, services, self._told, self._meter)) as answering,
                closing(self._told),
            ):
                self._keep_for_stock(services)
                while True:
                    accepted = answering.answer(request)
                    # Not before: Nix waited for that.
                    self._hub.ledger.meet(services.private_dir, answering.roster.in_use())
                    if accepted:
                        status = accepted.carry_out(self._front)
                        # A machine's remarks while outputs are copied are part of the log, too.
                        self._caller.settle_log()
                        return status
                    if self._front.at_end():
                        return EXIT_OK
                    request = self._front.read_request()
        except StockOnly as reason:
            self._keep_for_stock(services)
            return self._leave_to_stock(request, reason)

    def _keep_for_stock(self, services: Services) -> None:
        """Whatever becomes of us, the stock hook is not to stumble over a line or to use a machine that is disabled."""
        if (settings := services.stock_settings()) is not services.settings:
            self._front.keep_settings(settings)

    def _leave_to_stock(self, request: Request, reason: StockOnly) -> int:
        text = f"handing '{request.drv_path}' to the stock build hook: {reason.one_line}"
        self._log.message(Verbosity.TALKATIVE, text)
        self._caller.successor = Word.STOCK
        return EXIT_OK
